"""Finetuning: what is drawn, what is trained and at what rate, which loss reaches what, and exact resume."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests import tiny
from tests.test_training_drafts import recogniser_directory
from thaitool.cli.finetune import _shares
from thaitool.config import AlignConfig, FinetuneConfig
from thaitool.data.loader import Batch, collate, load_audio
from thaitool.data.plan import make_plan
from thaitool.data.shards import read_thai_sup
from thaitool.errors import ConfigError, InputError, Interrupted, TrainingFailed
from thaitool.models.checkpoint import load_speech_lm
from thaitool.models.drafter import load_drafter
from thaitool.stages import align, finetune, finetune_show
from thaitool.training.finetune import Objective
from thaitool.training.finetune_data import repeats
from thaitool.training.ranks import on_main_first
from thaitool.training.run_dir import RunDir, resolve
from thaitool.training.task import Loss


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("finetune")


@pytest.fixture(scope="module")
def sup(base: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        # A third of the time, for pages that are not looked at.
        patch.setattr("thaitool.stages.synth.write_synth_report", lambda *_, **__: None)
        return tiny.thai_sup(base)


@pytest.fixture(scope="module")
def start(base: Path, sup: Path) -> Path:
    """An untrained projector between a tiny encoder and a tiny LLM."""
    config = tiny.make(
        AlignConfig,
        data=sup,
        encoder=tiny.encoder_directory(base / "encoder"),
        llm=tiny.llm_directory(base / "llm"),
        out=base / "start",
        method="none",
        projector_hidden_size=24,
        train=training(1),
    )
    return align.run(config).out


@pytest.fixture(autouse=True)
def _without_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than these trainings, and reports have tests of their own."""
    monkeypatch.setattr(finetune, "write_finetune_report", lambda *_: None)


@pytest.fixture(scope="module")
def recogniser(base: Path) -> Path:
    return recogniser_directory(base / "recogniser")


def training(updates: int, **changes: Any) -> dict[str, Any]:
    values = {
        "updates": updates,
        "batch_s": 20.0,
        "learning_rate": 1e-2,
        "eval_every": updates,
        "save_every": updates,
        "device": "cpu",
        "trackers": [],
    }
    return {**values, **changes}


def tuning(sup: Path, start: Path, out: Path, updates: int = 2, **changes: Any) -> FinetuneConfig:
    values = {
        "data": sup,
        "model": start,
        "out": out,
        "lora_rank": 2,
        "judge_items": 2,
        "max_new_tokens": 2,
        "train": training(updates),
    }
    return tiny.make(FinetuneConfig, **{**values, **changes})


def moved(before: Path, after: Path) -> set[str]:
    """Parts of the front end whose weights differ."""
    old, new = (load_file(resolve(path) / "front_end.safetensors") for path in (before, after))
    assert old.keys() == new.keys()
    return {name for name in old if not torch.equal(old[name], new[name])}


def test_tasks_are_drawn_by_their_weights_and_counted(
    sup: Path, start: Path, tmp_path: Path
) -> None:
    config = tuning(
        sup, start, tmp_path / "run", 6, tasks=["asr", "ic"], weights={"asr": 1, "ic": 3}
    )
    result = finetune.run(config)
    rows = RunDir(config.out).metrics()
    for row in rows:
        assert row["rows_asr"] + row["rows_ic"] > 0
    drawn = result.drawn
    assert sum(drawn.values()) == result.training.done["utterances"]
    assert drawn["ic"] / drawn["asr"] == pytest.approx(3, rel=0.35)
    assert drawn["asr"] == sum(row["rows_asr"] for row in rows)


def test_weights_are_shares_of_what_is_drawn() -> None:
    part = np.repeat([0, 1, 2], [10, 70, 20])
    found = repeats(part, [1.0, 1.0, 2.0])
    assert found == pytest.approx([2.5, 25 / 70, 2.5])
    plan = make_plan(np.full(100, 1.0), batch_s=10.0, seed=0, part=part, repeat=found)
    drawn = np.zeros(3)
    for epoch in range(40):
        drawn += np.bincount(part[plan.epoch(epoch).utterances], minlength=3)
    assert drawn / drawn.sum() == pytest.approx([0.25, 0.25, 0.5], abs=1e-3)
    assert drawn.sum() == 40 * 100


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": {"asr": 1.0}}, r"weights must name every task once \(asr, ic\)"),
        ({"weights": {"asr": 1.0, "ic": 0.0}}, "weights must be above 0"),
        ({"tasks": ["asr", "asr"]}, "must name every task once"),
        ({"unfreeze_encoder": True, "unfreeze_layers": 1}, "unfreeze_layers must be null"),
        ({"unfreeze_layers": 1, "feature_cache": "x"}, "feature_cache must be null"),
        ({"ctc_first_updates": 1}, "set ctc_weight above 0"),
        ({"ctc_first_updates": 2, "ctc_weight": 1.0}, r"below train\.updates \(2\)"),
    ],
)
def test_what_does_not_go_together_is_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        tuning(tmp_path, tmp_path, tmp_path, **{"tasks": ["asr", "ic"], **changes})


def test_weights_on_the_command_line_name_each_task_once() -> None:
    assert _shares("asr=1, ic = 2.5") == {"asr": 1.0, "ic": 2.5}
    for text, message in (
        ("asr=1,asr=2", "names asr twice"),
        ("asr", "has 'asr'"),
        ("asr=x", "has 'asr=x'"),
    ):
        with pytest.raises(ConfigError, match=message):
            _shares(text)


def test_upper_layers_train_at_their_own_rate(sup: Path, start: Path, tmp_path: Path) -> None:
    config = tuning(sup, start, tmp_path / "run", unfreeze_layers=1, tasks=["ic"])
    finetune.run(config)
    changed = moved(start, config.out)
    tower = {name for name in changed if name.startswith("audio_tower.")}
    assert tower
    assert all(name.startswith("audio_tower.encoder.layers.1.") for name in tower)
    assert any(name.startswith("multi_modal_projector.") for name in changed)
    with pytest.raises(InputError, match="unfreeze_layers is 3, but the encoder has 2 layers"):
        finetune.run(tuning(sup, start, tmp_path / "x", unfreeze_layers=3))
    assert not (tmp_path / "x").exists()


def test_the_gradient_report_is_kept_and_says_what_moves_what(
    sup: Path, start: Path, tmp_path: Path
) -> None:
    config = tuning(sup, start, tmp_path / "run", ctc_weight=0.5, unfreeze_layers=1, tasks=["asr"])
    told: list[tuple[str, str]] = []
    finetune.run(config, announce=told.extend)
    norms = json.loads((config.out / finetune.GRADIENTS).read_text("utf-8"))["norms"]
    assert (
        norms["answers"].keys()
        == norms["ctc"].keys()
        == {"lora", "projector", "encoder", "ctc_head"}
    )
    assert all(norms["answers"][part] > 0 for part in ("lora", "projector", "encoder"))
    assert norms["answers"]["ctc_head"] == norms["ctc"]["lora"] == 0
    assert all(norms["ctc"][part] > 0 for part in ("projector", "encoder", "ctc_head"))
    lines = dict(told)
    assert "lora none" in lines["gradient of ctc"]
    assert lines["training"].startswith("asr ")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        # The head alone learns from it: a monitor, taken for training elsewhere.
        (
            {"ctc_weight": 1.0, "train_projector": False},
            r"The loss ctc reaches no part .*\(lora\), only ctc_head, its own head",
        ),
        ({"lora_rank": 0, "train_projector": False}, "Nothing would be trained"),
    ],
)
def test_a_loss_that_trains_nothing_is_an_error(
    changes: dict[str, Any], message: str, sup: Path, start: Path, tmp_path: Path
) -> None:
    with pytest.raises((InputError, TrainingFailed), match=message):
        finetune.run(tuning(sup, start, tmp_path / "run", **changes))


def test_ctc_comes_first_if_asked_for(
    sup: Path, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tuning(
        sup, start, tmp_path / "run", 4, ctc_weight=0.3, ctc_first_updates=2, tasks=["asr", "ic"]
    )
    asked: list[int] = []
    answers = Objective._answers

    def noted(self: Objective, batch: Any, heard: Any, step: Any) -> Any:
        if step is not None:
            asked.append(step.update)
        return answers(self, batch, heard, step)

    monkeypatch.setattr(Objective, "_answers", noted)
    result = finetune.run(config)
    # Once at update 0 by the gradient report; in training the LLM runs from update 2 on.
    assert asked == [0, 2, 3]
    rows = RunDir(config.out).metrics()
    assert ["answer_nats" in row for row in rows] == [False, False, True, True]
    assert all(row["ctc_nats"] > 0 for row in rows)
    for row in rows:  # the tiny encoder has 25 embeddings a second, enough for any of these texts
        assert row["ctc_unalignable"] == 0
    assert rows[0]["loss"] == pytest.approx(rows[0]["ctc_nats"])
    last = rows[-1]
    assert last["loss"] > last["answer_nats"]
    assert result.training.done["unused"] == 0
    path = resolve(config.out)
    assert (path / "ctc_head.safetensors").is_file()
    # A run that goes on from there has the same head.
    before = load_file(path / "ctc_head.safetensors")
    after = tuning(
        sup, path, tmp_path / "more", 1, ctc_weight=0.3, train=training(1, learning_rate=1e-30)
    )
    after = after.model_copy(update={"ctc_learning_rate": 1e-30, "projector_learning_rate": 1e-30})
    finetune.run(after)
    kept = load_file(resolve(after.out) / "ctc_head.safetensors")
    assert all(torch.equal(before[name], kept[name]) for name in before)


def test_lora_stands_still_while_ctc_trains_alone(sup: Path, start: Path, tmp_path: Path) -> None:
    train = training(3, save_every=1, keep=3, weight_decay=0.5)
    config = tuning(
        sup, start, tmp_path / "run", ctc_weight=1.0, ctc_first_updates=2, tasks=["ic"], train=train
    )
    finetune.run(config)
    first, second, third = (
        load_file(config.out / f"checkpoint-{n}" / "adapter" / "adapter_model.safetensors")
        for n in (1, 2, 3)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], third[name]) for name in first)
    # What is damaged is said in a sentence.
    os.truncate(config.out / "checkpoint-3" / "adapter" / "adapter_model.safetensors", 600)
    with pytest.raises(InputError, match=r"adapter must hold readable safetensors, but is damaged"):
        load_speech_lm(config.out / "checkpoint-3")


@pytest.mark.slow  # test_training_finetune has the quick one
def test_gradient_checkpointing_changes_no_gradient(sup: Path, start: Path, tmp_path: Path) -> None:
    """With a frozen embedding table and embeddings as input, the reentrant kind gives LoRA none at all."""
    found = []
    for checkpointing in (False, True):
        config = tuning(
            sup,
            start,
            tmp_path / f"run-{checkpointing}",
            gradient_checkpointing=checkpointing,
            tasks=["ic"],
            train=training(2, learning_rate=1e-3),
        )
        finetune.run(config)
        norms = json.loads((config.out / finetune.GRADIENTS).read_text("utf-8"))["norms"]
        found.append((norms["answers"], [row["loss"] for row in RunDir(config.out).metrics()]))
    assert min(found[0][0].values()) > 0
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-5)
    assert found[1][1] == pytest.approx(found[0][1], rel=1e-5)


def test_a_killed_run_goes_on_bit_for_bit(
    sup: Path, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wanted(name: str) -> FinetuneConfig:
        return tuning(
            sup,
            start,
            tmp_path / name,
            4,
            ctc_weight=0.3,
            ctc_first_updates=1,
            unfreeze_layers=1,
            gradient_checkpointing=True,
            tasks=["asr", "ic"],
            weights={"asr": 1, "ic": 2},
            train=training(4, save_every=2),
        )

    whole = finetune.run(wanted("whole"))
    forward = Objective.forward

    def dies(self: Objective, batch: Any, step: Any) -> Loss:
        if step is not None and step.update == 3:
            raise KeyboardInterrupt
        return forward(self, batch, step)

    monkeypatch.setattr(Objective, "forward", dies)
    with pytest.raises((KeyboardInterrupt, Interrupted)):
        finetune.run(wanted("killed"))
    monkeypatch.undo()
    resumed = finetune.run(wanted("killed"))
    assert resumed.training.resumed_from == 2
    assert resumed.drawn == whole.drawn
    times = {"train_s", "processor_s"}
    rows = [
        [
            {k: v for k, v in row.items() if k not in times and "_s" not in k}
            for row in RunDir(r.out).metrics()
        ]
        for r in (whole, resumed)
    ]
    for one, two in zip(*rows, strict=True):
        assert one["loss"] == two["loss"]
        assert one["grad_norm"] == two["grad_norm"]
    assert moved(whole.out, resumed.out) == set()


def test_show_prints_what_is_trained_and_leaves_nothing(
    sup: Path, start: Path, tmp_path: Path
) -> None:
    config = tuning(sup, start, tmp_path / "run")
    shown = finetune_show.show(config)
    assert not config.out.exists()
    assert [row.task for row in shown] != []
    assert {row.task for row in shown} == {"asr", "ic", "ner", "sr"}
    by_id = {(u.id, u.task): u for u in read_thai_sup(sup, split="train")}
    for row in shown:
        utterance = by_id[row.id, row.task]
        assert row.answer == utterance.label
        assert row.ends
        assert row.pieces[-1] == "<|end|>"
        assert row.audio is not None
        first, last = row.audio
        assert last - first + 1 == row.placeholders > 0
        assert row.loss is not None
        assert row.loss[1] == row.tokens - 1
        assert row.loss[0] > last
        assert "".join(row.pieces) == f"{row.answer}<|end|>"
        assert f"[{row.placeholders} x " in row.prompt
        assert any("in the loss" in line for line in row.lines())


def test_show_says_what_it_cannot_show(
    sup: Path, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tuning(sup, start, tmp_path / "run", tasks=["asr", "ic"])

    def broken(cursor: int, epoch: int, rows: Any, **more: Any) -> Batch:
        batch = collate(cursor, epoch, rows, **more)
        return replace(batch, utterances=()) if rows[0].task == "ic" else batch

    monkeypatch.setattr(finetune_show, "collate", broken)
    with pytest.raises(InputError, match="No row of ic can be shown: the first epoch has none"):
        finetune_show.show(config)


def test_show_drafts_as_training_does(
    sup: Path, start: Path, recogniser: Path, tmp_path: Path
) -> None:
    config = tuning(sup, start, tmp_path / "run", tasks=["asr"], drafter=recogniser)
    (row,) = finetune_show.show(config)
    (utterance,) = (u for u in read_thai_sup(sup, split="train") if u.id == row.id)
    (draft,) = load_drafter(recogniser)([load_audio(utterance)])
    assert draft
    assert draft.replace("\ufffd", "<unk>") in row.prompt  # which the tiny LLM does not know


def test_drafts_go_into_every_prompt_and_bind_the_checkpoint(
    sup: Path, start: Path, recogniser: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tuning(sup, start, tmp_path / "run", 1, tasks=["ic"], drafter=recogniser)
    prompts: list[str] = []
    asked = Objective.asked

    def noted(self: Objective, batch: Any, step: Any) -> Any:
        found = asked(self, batch, step)
        prompts.extend(found[0])
        return found

    monkeypatch.setattr(Objective, "asked", noted)
    told: list[tuple[str, str]] = []
    finetune.run(config, announce=told.extend)
    drafts = {
        row["text"]
        for row in map(json.loads, (config.out / "drafts.jsonl").read_text().split("\n")[:-1])
    }
    assert prompts
    assert all(any(draft in prompt for draft in drafts) for prompt in prompts)
    assert any(name == "drafts, training" for name, _ in told)
    bound = json.loads((resolve(config.out) / "drafter.json").read_text("utf-8"))
    assert bound["recogniser"] == str(recogniser)


def test_all_processes_hear_of_drafts_that_are_wrong(
    sup: Path, start: Path, recogniser: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check fails where `on_main_first` tells the others; raised after it, they would wait for ever."""
    told: list[str] = []

    def watched(accelerator: Any, work: Any) -> Any:
        try:
            return on_main_first(accelerator, work)
        except TrainingFailed as error:
            told.append(str(error))
            raise

    def wrong(*_: Any, **__: Any) -> Any:
        raise TrainingFailed("Drafts are wrong.")

    monkeypatch.setattr(finetune, "on_main_first", watched)
    monkeypatch.setattr(finetune, "check_drafts", wrong)
    config = tuning(sup, start, tmp_path / "run", 1, tasks=["ic"], drafter=recogniser)
    with pytest.raises(TrainingFailed, match="Drafts are wrong"):
        finetune.run(config)
    assert told == ["Drafts are wrong."]

"""Held-out evaluation of finetune: a fixed sample, nats against a sum by hand, models that listen and that do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch.nn import functional

from tests import tiny
from thaitool.config import FinetuneConfig
from thaitool.data.loader import load_audio
from thaitool.data.manifest import Manifest, from_utterances
from thaitool.errors import InputError
from thaitool.models import generate
from thaitool.models.processor import IGNORED
from thaitool.records import AudioRef, Utterance
from thaitool.reports.predictions import read_predictions
from thaitool.text.tasks import BUILT_IN, TaskSpec
from thaitool.training import finetune_evaluate
from thaitool.training.examples import asked
from thaitool.training.finetune import Objective
from thaitool.training.finetune_evaluate import evaluate, require_changeable
from thaitool.training.finetune_held_out import HeldOut, closed_sets, hold_out
from thaitool.training.finetune_judge import remark
from thaitool.training.run_dir import RunDir

RATE_HZ = 16_000
TASKS = BUILT_IN | {"mood": TaskSpec("mood", ("อารมณ์",), "label", "ic", ("สุข", "เศร้า"))}
SAID = ("เปิดไฟ", "ปิดไฟ", "ตั้งปลุก", "ฟังเพลง")
N = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings whose loudest sample stands where the number of its sentence says."""
    path = tmp_path_factory.mktemp("held-out")
    for k in range(N):
        rng = np.random.default_rng(k)
        samples = 0.05 * rng.standard_normal(5_000 + 100 * (k % 7))
        samples[1_000 * (1 + k % len(SAID))] = 0.9
        soundfile.write(path / f"{k}.wav", samples, RATE_HZ)
    tiny.llm_directory(path / "llm")
    return path


def dev_rows(folder: Path, tasks: Sequence[str] = ("asr", "ic")) -> Manifest:
    return from_utterances(
        Utterance(
            f"{task}-{k}",
            AudioRef(str(folder / f"{k}.wav")),
            (5_000 + 100 * (k % 7)) / RATE_HZ,
            RATE_HZ,
            text=SAID[k % len(SAID)] + "ที่บ้าน",
            task=task,
            label=SAID[k % len(SAID)] + ("ที่บ้าน" if task == "asr" else ""),
            split="dev",
        )
        for task in tasks
        for k in range(N)
    )


def config(folder: Path, **changes: Any) -> FinetuneConfig:
    values = {
        "data": [str(folder)],
        "model": str(folder),
        "out": str(folder / "out"),
        "tasks": ["asr", "ic"],
        "judge_items": 16,
        "max_new_tokens": 8,
        "lora_rank": 0,
        "train": {"updates": 1, "batch_s": 4.0, "learning_rate": 1e-3},
    }
    return FinetuneConfig.model_validate(values | changes)


def held_out(folder: Path, settings: FinetuneConfig) -> HeldOut:
    rows = dev_rows(folder, settings.tasks)
    return hold_out(rows, settings, TASKS, closed_sets=closed_sets(rows, rows, TASKS))


@pytest.fixture(scope="module")
def objective(folder: Path) -> Objective:
    model, processor = tiny.speech_lm(folder / "llm")
    found = Objective(model, processor, config(folder), TASKS)
    found.update = 7
    return found.eval()


def run_dir(path: Path) -> RunDir:
    run = RunDir(path / "run")
    run.path.mkdir(parents=True)
    return run


def test_two_evaluations_are_one(folder: Path, objective: Objective, tmp_path: Path) -> None:
    settings, run = config(folder), run_dir(tmp_path)
    held = held_out(folder, settings)
    with torch.no_grad():
        first = evaluate(objective, held, settings, run)
        kept = (run.path / "predictions-7.jsonl").read_text("utf-8")
        assert evaluate(objective, held, settings, run) == first
    assert (run.path / "predictions-7.jsonl").read_text("utf-8") == kept
    predictions = read_predictions(run.path / "predictions-7.jsonl")
    assert len(predictions) == 32
    assert {(p.id, p.task) for p in predictions} == {
        (u.id, task.name) for task in held.tasks for u in task.rows
    }
    assert len(read_predictions(run.path / "predictions-7.shuffled.jsonl")) == 32
    assert first["error"] == (first["asr_error"] + first["ic_error"]) / 2
    assert all(isinstance(value, float) for value in first.values())
    assert remark(first)


@dataclass
class Process:
    """What `evaluate` asks an Accelerator."""

    process_index: int
    num_processes: int

    @property
    def is_main_process(self) -> bool:
        return self.process_index == 0


def test_other_processes_write_nothing(
    folder: Path, objective: Objective, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, run = config(folder, judge_items=2), run_dir(tmp_path)
    monkeypatch.setattr(finetune_evaluate, "gathered", lambda _, mine: [mine])
    with torch.no_grad():
        evaluate(objective, held_out(folder, settings), settings, run, Process(1, 2))
    assert list(run.path.iterdir()) == []


def test_processes_share_the_rows_and_get_the_figures_of_all(
    folder: Path, objective: Objective, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, alone = config(folder, judge_items=6), run_dir(tmp_path / "alone")
    held = held_out(folder, settings)
    with torch.no_grad():
        expected = evaluate(objective, held, settings, alone)
    met: list[Any] = []
    answered = []
    real = generate.answer

    def begun(process: Process, mine: Any) -> list[Any]:
        met.append(mine)
        raise InterruptedError  # goes on below, when all processes have come so far

    def counted(*given: Any, **named: Any) -> Any:
        answered.append(len(given[4]))
        return real(*given, **named)

    monkeypatch.setattr(finetune_evaluate, "gathered", begun)
    monkeypatch.setattr(generate, "answer", counted)
    run = run_dir(tmp_path / "shared")

    def one(rank: int) -> dict[str, float]:
        with torch.no_grad():
            return evaluate(objective, held, settings, run, Process(rank, 3))

    for rank in range(3):
        with pytest.raises(InterruptedError):
            one(rank)
    assert sum(answered) == 2 * 2 * 6  # each row once, and once with other audio
    monkeypatch.setattr(finetune_evaluate, "gathered", lambda *_: met)
    found = [one(rank) for rank in range(3)]
    assert found[0] == found[1] == found[2]
    assert found[0] == pytest.approx(expected, rel=1e-4)
    for name in ("predictions-7.jsonl", "predictions-7.shuffled.jsonl"):
        assert (run.path / name).read_text("utf-8") == (alone.path / name).read_text("utf-8")


def test_nats_are_those_of_each_row_alone(
    folder: Path, objective: Objective, tmp_path: Path
) -> None:
    """By hand: one row at a time, the whole score matrix, without our loss."""
    settings = config(folder, judge_items=1)
    with torch.no_grad():
        found = evaluate(objective, held_out(folder, settings), settings, run_dir(tmp_path))
        sums = {"asr": 0.0, "ic": 0.0}
        tokens = {"asr": 0, "ic": 0}
        rows = dev_rows(folder)
        for row in (rows[k] for k in range(len(rows))):
            samples = torch.from_numpy(load_audio(row))
            samples = (samples - samples.mean()) / (samples.var(unbiased=False) + 1e-7).sqrt()
            (instruction,), (answer,) = asked([row], TASKS, seed=None)
            made = objective.processor.tokens([instruction], [len(samples)], [answer])
            out = objective.model(
                input_ids=made.input_ids,
                attention_mask=made.attention_mask,
                input_values=samples[None],
                input_lengths=torch.tensor([len(samples)]),
            )
            assert made.labels is not None
            wanted, task = made.labels[0, 1:], row.task or ""
            sums[task] += float(
                functional.cross_entropy(
                    out.logits[0, :-1], wanted, ignore_index=IGNORED, reduction="sum"
                )
            )
            tokens[task] += int((wanted != IGNORED).sum())
    for task, nats in sums.items():
        assert found[f"answer_nats_{task}"] == pytest.approx(nats / tokens[task], rel=1e-4)
    whole = sum(sums.values()) / sum(tokens.values())
    assert found["answer_nats"] == pytest.approx(whole, rel=1e-4)


def listens(audio: torch.Tensor, instruction: str) -> str:
    word = SAID[int(audio.abs().argmax()) // 1_000 - 1]
    return word if "เจตนา" in instruction else word + "ที่บ้าน"


def is_deaf(audio: torch.Tensor, instruction: str) -> str:
    return SAID[len(instruction) % len(SAID)]


@pytest.mark.parametrize(("model", "hears"), [(listens, True), (is_deaf, False)])
def test_a_model_that_listens_is_told_from_one_that_does_not(
    folder: Path,
    objective: Objective,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: Any,
    hears: bool,
) -> None:
    def answer(*given: Any, max_new_tokens: int) -> list[tuple[str, bool]]:
        assert max_new_tokens == 8
        _, _, audio, _, instructions = given
        return [(model(row, text), True) for row, text in zip(audio, instructions, strict=True)]

    monkeypatch.setattr(generate, "answer", answer)
    settings = config(folder, judge_items=24)
    with torch.no_grad():
        found = evaluate(objective, held_out(folder, settings), settings, run_dir(tmp_path))
    ignores = [line for line in remark(found) if "ignores the audio" in line]
    if hears:
        assert found["asr_cer"] == found["ic_error"] == 0
        assert found["ic_accuracy_shuffled_audio"] == 0  # the other audio never has the same answer
        assert not remark(found)
    else:
        assert found["ic_accuracy"] == found["ic_accuracy_shuffled_audio"] == 0.25
        assert [line[:4] for line in ignores] == ["asr:", "ic: "]


def test_the_other_audio_has_another_answer_and_a_like_length(folder: Path) -> None:
    for task in held_out(folder, config(folder, judge_items=24)).tasks:
        answers = {
            u.audio: reference for u, reference in zip(task.rows, task.references, strict=True)
        }
        for row, other, reference in zip(task.rows, task.others, task.references, strict=True):
            assert (other.id, other.label) == (row.id, row.label)
            assert answers[other.audio] != reference
        gaps = [
            abs(u.duration_s - o.duration_s) for u, o in zip(task.rows, task.others, strict=True)
        ]
        assert np.median(gaps) <= 100 / RATE_HZ


def test_the_sample_is_the_same_for_a_seed(folder: Path) -> None:
    settings = config(folder)
    one, two = (held_out(folder, settings).tasks for _ in range(2))
    assert one == two
    train = settings.train.model_copy(update={"seed": 1})
    other = held_out(folder, settings.model_copy(update={"train": train})).tasks
    assert [u.id for u in one[0].rows] != [u.id for u in other[0].rows]


def test_rows_that_cannot_be_heard_are_left_out_and_none_is_an_error(
    folder: Path, objective: Objective, tmp_path: Path
) -> None:
    settings, run = config(folder, tasks=["asr"], judge_items=N), run_dir(tmp_path)
    rows = [dev_rows(folder, ["asr"])[k] for k in range(N)]
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF")
    gone = Utterance("gone", AudioRef(str(broken)), 0.4, RATE_HZ, text="ก", task="asr", label="ก")
    held = hold_out(from_utterances([*rows[:3], gone]), settings, TASKS, closed_sets={})
    with torch.no_grad():
        assert evaluate(objective, held, settings, run)["asr_items"] == 3
        assert "broken.wav" in run.quarantine.read_text("utf-8")
        nobody = HeldOut(
            from_utterances(rows[:1]),
            hold_out(from_utterances([gone]), settings, TASKS, closed_sets={}).tasks,
        )
        with pytest.raises(InputError, match="none of the 1 could be read"):
            evaluate(objective, nobody, settings, run)


def test_what_cannot_be_scored_is_told_before_training(folder: Path) -> None:
    rows = dev_rows(folder)
    with pytest.raises(InputError, match="no row of it for task ner"):
        hold_out(rows, config(folder, tasks=["ner"]), TASKS, closed_sets={})
    with pytest.raises(InputError, match="which is none of its 1 labels"):
        hold_out(rows, config(folder), TASKS, closed_sets={"ic": ["เปิดไฟ"]})
    with pytest.raises(InputError, match="label that cannot be scored"):
        ner = dev_rows(folder, ["ner"])
        hold_out(ner, config(folder, tasks=["ner"]), TASKS, closed_sets={})


def test_closed_sets_are_the_tasks_own_or_those_of_the_data(folder: Path) -> None:
    rows = dev_rows(folder, ["ic", "mood"])
    found = closed_sets(rows, rows, TASKS)
    assert {*found} == {"ic", "mood"}
    assert sorted(found["ic"]) == sorted(SAID)
    assert sorted(found["mood"]) == ["สุข", "เศร้า"]


def test_a_metric_that_cannot_change_is_refused(folder: Path, objective: Objective) -> None:
    settings = config(folder)
    held = held_out(folder, settings)
    projector = list(objective.model.multi_modal_projector.parameters())
    require_changeable(settings, held, objective, projector)
    aside = [torch.nn.Parameter(torch.zeros(3))]  # as of a CTC head
    with pytest.raises(InputError, match="select is answer_nats, which cannot change"):
        require_changeable(settings, held, objective, aside)
    with pytest.raises(InputError, match="select must be a metric"):
        require_changeable(config(folder, select="loss"), held, objective, projector)
    flat = [replace(dev_rows(folder, ["asr"])[k], text="มา", label="มา") for k in range(3)]
    toneless = hold_out(from_utterances(flat), config(folder, tasks=["asr"]), TASKS, closed_sets={})
    with pytest.raises(InputError, match=r"asr_tone_error, but the 3 .* nothing that it counts"):
        asked_for = config(folder, tasks=["asr"], select="asr_tone_error")
        require_changeable(asked_for, toneless, objective, projector)
    same = from_utterances(u for k in range(2 * N) if (u := dev_rows(folder)[k]).label != "x")
    only = from_utterances(
        [dev_rows(folder, ["ic"])[k] for k in range(N) if k % len(SAID) == 0]
        + [same[k] for k in range(N)]
    )
    one = hold_out(only, settings, TASKS, closed_sets={"ic": SAID})
    assert not one.tasks[1].others
    require_changeable(settings, one, objective, projector)
    with pytest.raises(InputError, match="have the label 'เปิดไฟ'"):
        require_changeable(config(folder, select="ic_accuracy"), one, objective, projector)

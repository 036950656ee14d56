"""Which transcripts are trained on, the objective of a recogniser, its masks, and the monitor of blanks."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import tiny
from tests import toy_transcripts as toy
from thaitool.audio.augment import change_speed
from thaitool.config import Training
from thaitool.data.loader import Batch, pad
from thaitool.data.manifest import Manifest, from_utterances
from thaitool.models.ctc import frames_needed
from thaitool.models.encoder import frame_lengths
from thaitool.models.encoders.interface import new_speech_encoder
from thaitool.models.recogniser import Recogniser
from thaitool.records import AudioRef, Utterance
from thaitool.stages import finetune_asr
from thaitool.text.units import Vocabulary, build_vocabulary
from thaitool.training.asr import BlankWatch, Objective, blank_watch
from thaitool.training.schedule import learning_rate_share
from thaitool.training.task import Loss, Step
from thaitool.training.transcripts import texts_of, training_vocabulary, usable
from thaitool.training.watch import Limits

VOCABULARY = build_vocabulary(["กข คน้ำ btso5 1"])


def frames(samples: int) -> int:
    return frame_lengths([400], [320], samples)


def rows(*texts: str | None, duration_s: float = 1.0) -> Manifest:
    return from_utterances(
        Utterance(f"u{k}", AudioRef(f"/audio/u{k}.wav"), duration_s, 16_000, text=text)
        for k, text in enumerate(texts)
    )


def look(manifest: Manifest, **changes: Any) -> Any:
    options: dict[str, Any] = {"longest_s": 20.0, "speeds": [1.0], "frames": frames}
    return usable(manifest, VOCABULARY, **{**options, **changes})


def test_every_row_is_used_or_has_a_reason() -> None:
    """The issue's list of bad input. One second is 49 frames."""
    texts = (
        *(None, "", " \u200b", '"...!"', "😀", "ฮฮ"),
        *("ก" * 26, "กข" * 25, "กข" * 24 + "ก"),
        *("น้ำ ข5", "น\u0e4d\u0e49า", "BTS ๑ 😀 กข", "ก"),
    )
    found = look(rows(*texts))
    reasons = {r.item: r.reason for r in found.rejected}
    assert reasons == {
        "/audio/u0.wav": "no_text",
        "/audio/u1.wav": "empty_text",
        "/audio/u2.wav": "empty_text",
        "/audio/u3.wav": "empty_text",
        "/audio/u4.wav": "unknown_text",
        "/audio/u5.wav": "unknown_text",
        "/audio/u6.wav": "too_long_for_audio",  # 26 and 25 blanks between them are 51
        "/audio/u7.wav": "too_long_for_audio",  # 50 without repeats
    }
    assert np.flatnonzero(found.keep).tolist() == [8, 9, 10, 11, 12]
    details = {r.item: r.detail for r in found.rejected}
    assert details["/audio/u6.wav"] == (
        "26 units with 25 repeats need 51 frames, and 1.00 s are 49"
    )
    assert "nothing is left of '\"...!\"' in the form thai-v1" in details["/audio/u3.wav"]
    (mixed,) = found.unknown
    assert (mixed.item, mixed.units, mixed.of) == ("/audio/u11.wav", ("😀",), 10)
    account = found.account(len(texts))
    assert account["used"] + sum(Counter(reasons.values()).values()) == account["rows"] == 13
    assert account["commonest_unknown_units"] == {"😀": 1}


def test_text_is_normalised_first_and_the_vocabulary_says_so() -> None:
    texts = rows("ก๑!", "น\u0e4d\u0e49า", None, "BTS")
    assert list(texts_of(texts)) == ["ก1", "น้ำ", None, "bts"]
    vocabulary = training_vocabulary(texts, kind="thai", min_frequency=1)
    assert vocabulary.normalizer == "thai-v1"
    assert set(vocabulary.units) == {"ก", "1", "น้", "ำ", "b", "t", "s"}
    plain = training_vocabulary(texts, kind="characters", min_frequency=1)
    assert set(plain.units) == {"ก", "1", "น", "\u0e49", "ำ", "b", "t", "s"}


def test_long_recordings_and_held_out_rows() -> None:
    long = rows("ก", duration_s=20.5)
    assert [r.reason for r in look(long).rejected] == ["too_long"]
    # What is scored is scored, although nobody could get it right.
    impossible = rows("ก" * 60, "ฮ", None)
    found = look(impossible, held_out=True)
    assert found.keep.tolist() == [True, True, False]
    assert [r.reason for r in found.rejected] == ["no_text"]


@pytest.mark.parametrize("speeds", [[1.0], [0.9, 1.0, 1.1], [1.1]])
def test_a_row_is_used_if_any_of_its_speeds_leaves_frames_enough(speeds: list[float]) -> None:
    """Against audio that is really changed."""
    rng = np.random.default_rng(0)
    some = 0
    for _ in range(60):
        samples = int(rng.integers(1_700, 16_000))
        size = max(1, frames(samples) + int(rng.integers(-6, 6)))
        text = "".join(rng.choice(list("กข"), size=size))
        audio, lengths = torch.zeros(1, samples), torch.tensor([samples])
        fits = [
            frames(int(change_speed(audio, lengths, [s])[1][0]))
            >= frames_needed(VOCABULARY.encode(text).ids)
            for s in speeds
        ]
        found = look(rows(text, duration_s=samples / 16_000), speeds=speeds)
        assert bool(found.keep[0]) == any(fits)
        assert found.limited == (0 < sum(fits) < len(speeds))
        some += any(fits)
    assert 0 < some < 60


def recogniser(
    head: str = "ctc", vocabulary: Vocabulary = VOCABULARY, **changes: Any
) -> tuple[Recogniser, Any]:
    config = toy.config(Path("l"), Path("o"), 10, head=head, **changes)
    torch.manual_seed(0)
    encoder = new_speech_encoder(finetune_asr._new_encoder(config.encoder_shape))
    decoder = config.decoder if head == "aed" else None
    return Recogniser(encoder, vocabulary, decoder=decoder), config


def batch(*lengths: int, texts: tuple[str, ...], epoch: int = 0) -> Batch:
    rng = np.random.default_rng(0)
    utterances = tuple(
        Utterance(f"u{k}", AudioRef(f"/audio/u{k}.wav"), n / 16_000, 16_000, text=text)
        for k, (n, text) in enumerate(zip(lengths, texts, strict=True))
    )
    clips = [rng.standard_normal(n).astype(np.float32) for n in lengths]
    return Batch(0, epoch, utterances, *pad(clips), ())


def alone(whole: Batch, row: int) -> Batch:
    n = int(whole.audio_lengths[row])
    return Batch(
        *(0, whole.epoch, whole.utterances[row : row + 1]),
        *(whole.audio[row : row + 1, :n], whole.audio_lengths[row : row + 1], ()),
    )


def step(update: int = 0, seed: int = 1) -> Step:
    return Step(update, 0.0, seed)


@pytest.mark.parametrize("head", ["ctc", "aed"])
def test_the_loss_of_a_batch_is_the_sum_of_its_rows(head: str, tmp_path: Path) -> None:
    model, config = recogniser(head, speeds=[0.9, 1.0, 1.1], decoder={"dropout": 0.0})
    objective = Objective(model, config, tmp_path / "ledger")
    whole = batch(16_000, 8_000, 12_345, texts=("กขก", "ข", "น้ำ"))
    with torch.no_grad():
        together: Loss = objective(whole, step())
        parts: list[Loss] = [objective(alone(whole, row), step()) for row in range(3)]
    assert float(together.total) == pytest.approx(sum(float(p.total) for p in parts), rel=1e-5)
    assert together.weight == sum(p.weight for p in parts) == 6
    assert together.used == 3
    for name, (numerator, denominator) in together.logs.items():
        sums = [sum(float(p.logs[name][k]) for p in parts) for k in (0, 1)]
        assert float(numerator) == pytest.approx(sums[0], rel=1e-5)
        assert denominator == sums[1]


def test_attention_and_ctc_are_weighed(tmp_path: Path) -> None:
    whole = batch(16_000, 8_000, texts=("กขก", "ข"))
    losses = []
    for weight in (0.0, 0.3, 1.0):
        model, config = recogniser("aed", ctc_weight=weight, decoder={"dropout": 0.0})
        losses.append(Objective(model, config, tmp_path / "ledger")(whole, step()))
    attention, both, ctc = (float(loss.total.detach()) for loss in losses)
    assert both == pytest.approx(0.3 * ctc + 0.7 * attention, rel=1e-5)
    assert ctc == pytest.approx(float(losses[1].logs["ctc_nats"][0]), rel=1e-6)
    assert attention == pytest.approx(float(losses[1].logs["attention_nats"][0]), rel=1e-6)
    assert losses[1].logs["attention_nats"][1] == 6  # four units and two ends


def test_audio_shorter_than_promised_is_listed_and_left_out(tmp_path: Path) -> None:
    model, config = recogniser()
    objective = Objective(model, config, tmp_path / "ledger")
    whole = batch(16_000, 1_000, 8_000, texts=("กขก", "กขกขก", "ข"))
    loss: Loss = objective(whole, step())
    assert (loss.used, loss.weight) == (2, 4)
    rows_alone = [objective(alone(whole, row), step()).total for row in (0, 2)]
    wanted = sum(float(total.detach()) for total in rows_alone)
    assert float(loss.total.detach()) == pytest.approx(wanted, rel=1e-5)
    (line,) = map(json.loads, (tmp_path / "ledger").read_text("utf-8").splitlines())
    assert (line["item"], line["reason"]) == ("/audio/u1.wav", "too_long_for_audio")
    assert line["detail"] == "5 units need 5 frames, and the decoded audio gives 1"
    # A batch of nothing else makes no step, and still has a gradient for every process that waits for one.
    nothing: Loss = objective(alone(whole, 1), step())
    assert (nothing.used, nothing.weight, float(nothing.total.detach())) == (0, 0.0, 0.0)
    nothing.total.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("family", ["wav2vec2", "wav2vec2-bert"])
@pytest.mark.parametrize("masks", [{"mask_prob": 0.5}, {"channel_mask_prob": 0.4}])
def test_masks_are_drawn_from_the_step_alone(
    family: str, masks: dict[str, float], tmp_path: Path
) -> None:
    shape = toy.SMALL | {"family": family}
    whole = batch(16_000, 8_000, texts=("กขก", "ข"))

    states = itertools.count()

    def loss(seed: int, **changes: Any) -> float:
        model, config = recogniser(encoder_shape=shape, channel_mask_span=8, **changes)
        torch.manual_seed(next(states))
        out = Objective(model, config, tmp_path / "ledger")(whole, step(seed=seed))
        return float(out.total.detach())

    assert loss(1, **masks) == loss(1, **masks)
    assert len({loss(seed, **masks) for seed in (1, 2, 3)} | {loss(1)}) == 4


def test_a_frozen_encoder_has_zero_gradients_and_the_head_has_not(tmp_path: Path) -> None:
    model, config = recogniser(encoder=Path("given"), freeze_updates=5)
    objective = Objective(model, config, tmp_path / "ledger")
    whole = batch(16_000, 8_000, texts=("กขก", "ข"))
    for update, moves in ((4, False), (5, True)):
        model.zero_grad()
        objective(whole, step(update)).total.backward()
        gradients = [p.grad for p in model.encoder.parameters() if p.grad is not None]
        assert any(bool(g.any()) for g in gradients) == moves
        assert gradients
        assert model.ctc.weight.grad is not None
        assert bool(model.ctc.weight.grad.any())


def metrics(update: int, emitted: float) -> dict[str, float]:
    return {
        "update": update,
        "blank_share": 1.0 - emitted / 10,
        "emitted_share": emitted,
        "ctc_nats": 3.0,
    }


def test_blanks_for_too_long_are_a_finding_and_one_word_is_none() -> None:
    watch = BlankWatch(Limits(), patience=20, after=5)
    for update in range(1, 25):
        assert watch.judge(metrics(update, 0.0)) is None
    kept = watch.snapshot()
    finding = watch.judge(metrics(25, 0.005))
    assert finding is not None
    assert finding.sentence.startswith("Since update 6 the model emits blanks only: 99.95%")
    assert "20 updates in a row, at a CTC loss of 3.000 nats a unit" in finding.sentence
    assert "transcripts belong to their audio" in finding.advice
    resumed = BlankWatch(Limits(), patience=20, after=5)
    resumed.restore(kept)
    assert resumed.judge(metrics(25, 0.0)) == BlankWatch(
        Limits(), patience=20, after=5, state=kept
    ).judge(metrics(25, 0.0))
    watch.restore(kept)
    assert watch.judge(metrics(25, 0.2)) is None
    assert all(watch.judge(metrics(update, 0.0)) is None for update in range(26, 45))


def test_the_monitor_waits_for_the_warm_up_and_for_a_frozen_encoder() -> None:
    config = toy.config(Path("l"), Path("o"), 2_000, encoder=Path("e"), freeze_updates=700)
    assert (blank_watch(config).patience, blank_watch(config).after) == (1_000, 700)
    config = toy.config(Path("l"), Path("o"), 100, train={"warmup_share": 0.2})
    assert (blank_watch(config).patience, blank_watch(config).after) == (200, 20)
    found = blank_watch(config).judge({"update": 1, "ctc_nats": math.nan})
    assert found is not None
    assert "ctc_nats is nan" in found.sentence


def test_tristage_is_warm_up_hold_and_exponential_decay() -> None:
    values = {"updates": 1000, "batch_s": 1.0, "learning_rate": 1.0, "warmup_share": 0.1}
    config = tiny.make(Training, schedule="tristage", **values)
    share = [learning_rate_share(u, config) for u in range(1000)]
    assert share[:100] == [(u + 1) / 101 for u in range(100)]
    assert share[100:501] == [1.0] * 401
    assert share[750] == pytest.approx(math.sqrt(0.05))
    assert share[999] == pytest.approx(0.05, rel=0.01)
    ratios = np.array(share[502:]) / np.array(share[501:-1])
    np.testing.assert_allclose(ratios, 0.05 ** (1 / 500), rtol=1e-9)

"""Drafts by a recogniser: made once, checked before training, put into contexts, and bound to their recogniser."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from rapidfuzz.distance import Levenshtein

from tests import tiny
from thaitool.data.loader import load_audio
from thaitool.data.manifest import Manifest, from_utterances
from thaitool.errors import InputError, TrainingFailed
from thaitool.models.decoding import transcribe
from thaitool.models.drafter import Drafter, drafter_of, load_drafter, save_drafter
from thaitool.models.encoder import new_config
from thaitool.models.encoders.interface import new_speech_encoder
from thaitool.models.recogniser import Recogniser, load_recogniser, save_recogniser
from thaitool.records import AudioRef, Utterance, silent
from thaitool.text.context import Context, context_text, parse_context
from thaitool.text.normalize import compact
from thaitool.text.tasks import BUILT_IN
from thaitool.text.units import build_vocabulary
from thaitool.training import drafts as drafting
from thaitool.training.drafts import LEDGER, check_drafts, draft_all
from thaitool.training.examples import asked

RATE_HZ = 16_000


def recogniser_directory(path: Path, seed: int = 0) -> Path:
    """An untrained recogniser whose outputs differ from clip to clip."""
    torch.manual_seed(seed)
    vocabulary = build_vocabulary(["เปิดไฟ ปิดไฟ", "ตั้งปลุก"])
    model = Recogniser(new_speech_encoder(new_config(**tiny.SHAPE), layer="last"), vocabulary)
    torch.nn.init.normal_(model.ctc.weight, std=3.0)
    save_recogniser(path, model.eval())
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("drafts")
    recogniser_directory(path / "ctc" / "checkpoint-9")
    for k in range(6):
        n = 4_000 + 2_500 * k
        tone = np.sin(np.arange(n) * 0.02 * (k + 1)) * np.linspace(0.1, 0.6, n)
        noise = 0.05 * np.random.default_rng(k).standard_normal(n)
        soundfile.write(path / f"{k}.wav", tone + noise, RATE_HZ)
    return path


def rows(place: Path, *numbers: int, text: str = "เปิดไฟ") -> Manifest:
    return from_utterances(
        Utterance(
            f"u{k}",
            AudioRef(str(place / f"{k}.wav")),
            (4_000 + 2_500 * k) / RATE_HZ,
            RATE_HZ,
            text=text,
            task="asr",
            label=text,
            context=context_text(Context(scene="ที่บ้าน")) if k == 1 else None,
        )
        for k in numbers
    )


def made(place: Path, ledger: Path, *sets: Manifest) -> drafting.Drafts:
    return draft_all(place / "ctc" / "checkpoint-9", sets, ledger, batch_s=3.0, progress=silent)


def test_drafts_are_what_the_recogniser_says_to_each_clip_alone(
    place: Path, tmp_path: Path
) -> None:
    train, dev = rows(place, 0, 1, 2, 3), rows(place, 4, 5)
    drafts = made(place, tmp_path / LEDGER, train, dev)
    model = load_recogniser(drafts.path)
    said = set()
    for row in [*(train[k] for k in range(4)), dev[0], dev[1]]:
        samples = torch.from_numpy(load_audio(row))
        samples = (samples - samples.mean()) / (samples.var(unbiased=False) + 1e-7).sqrt()
        (alone,) = transcribe(model, samples[None], torch.tensor([len(samples)]))
        assert drafts.texts[row.place] == alone
        said.add(alone)
    assert len(said) > 3  # or nothing was shown
    lines = dict(check_drafts(drafts, {"training": train, "held out": dev}))
    wanted = compact("เปิดไฟ")
    edits = sum(Levenshtein.distance(wanted, compact(drafts.texts[dev[k].place])) for k in (0, 1))
    rate = f"{edits / 2 / len(wanted):.1%}"
    assert lines["drafts, held out"].startswith(f"character error rate {rate} on 2 rows")
    assert "they say little" in lines["drafts, held out"]
    assert lines["drafts, alone"].startswith("6 of 6 recordings")


def test_the_run_of_the_recogniser_stands_beside(place: Path, tmp_path: Path) -> None:
    drafts = made(place, tmp_path / LEDGER, rows(place, 0))
    result = place / "ctc" / "result.json"
    result.write_text('{"metrics": {"cer": 0.471}}')
    lines = dict(check_drafts(drafts, {"training": rows(place, 0)}))
    result.unlink()
    assert lines["drafts, by its own run"] == "character error rate 47.1% held out"


def test_drafts_are_made_once(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = tmp_path / LEDGER
    first = made(place, ledger, rows(place, 0, 1, 2))
    with ledger.open("a") as file:
        file.write('{"item": "half')  # as a kill leaves it
    heard: list[int] = []
    real = Drafter.__call__

    def counted(self: Drafter, clips: Any) -> list[str]:
        heard.append(len(clips))
        return real(self, clips)

    monkeypatch.setattr(Drafter, "__call__", counted)
    assert made(place, ledger, rows(place, 0, 1, 2)) == first
    assert heard == []
    more = made(place, ledger, rows(place, 0, 1, 2, 3))
    assert sum(heard) == 1
    assert more.texts.items() > first.texts.items()
    assert made(place, ledger, rows(place, 0, 1, 2, 3)) == more
    assert sum(heard) == 1
    other = recogniser_directory(tmp_path / "other", seed=1)
    again = draft_all(other, [rows(place, 0)], ledger, batch_s=3.0, progress=silent)
    assert sum(heard) == 2
    assert again.sha256 != first.sha256
    assert made(place, ledger, rows(place, 0, 1, 2)).texts == more.texts


def test_a_draft_joins_the_context_of_its_row(place: Path, tmp_path: Path) -> None:
    both = rows(place, 1, 2)
    drafts = made(place, tmp_path / LEDGER, both)
    put = [drafts.put(both[k]) for k in (0, 1)]
    context = parse_context(put[0].context)
    assert context == Context(scene="ที่บ้าน", draft=drafts.texts[both[0].place])
    instructions, answers = asked(put, BUILT_IN, seed=None)
    for k in (0, 1):
        assert drafts.texts[both[k].place].strip() in instructions[k]
    assert answers == ["เปิดไฟ", "เปิดไฟ"]
    with pytest.raises(InputError, match="has no draft"):
        drafts.put(rows(place, 5)[0])


def test_other_audio_comes_with_its_own_draft(place: Path, tmp_path: Path) -> None:
    """What a row is asked with the audio of another must not give its own audio away."""
    both = rows(place, 1, 2)
    drafts = made(place, tmp_path / LEDGER, both)
    swapped = replace(both[0], audio=both[1].audio)
    assert parse_context(drafts.put(swapped).context).draft == drafts.texts[both[1].place]


def test_what_cannot_be_read_has_none(place: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF")
    bad = Utterance("bad", AudioRef(str(broken)), 1.0, RATE_HZ, text="ก", task="asr", label="ก")
    everything = from_utterances([rows(place, 0)[0], bad])
    drafts = made(place, tmp_path / LEDGER, everything)
    assert drafts.unreadable == {str(broken)}
    assert drafts.put(bad) == bad
    assert made(place, tmp_path / LEDGER, everything) == drafts
    nothing = made(place, tmp_path / "none.jsonl", from_utterances([bad]))
    with pytest.raises(InputError, match="No recording could be drafted"):
        check_drafts(nothing, {"training": from_utterances([bad])})


def test_wrong_drafts_stop_before_training(place: Path, tmp_path: Path) -> None:
    """As if lengths of another layer had cut them: two thirds of each are missing."""
    train = rows(place, 0, 1, 2, 3, 4, 5)
    drafts = made(place, tmp_path / LEDGER, train)
    cut = {item: text[: len(text) // 3] for item, text in drafts.texts.items()}
    with pytest.raises(TrainingFailed, match="drafted otherwise alone"):
        check_drafts(replace(drafts, texts=cut), {"training": train})


def test_a_checkpoint_hears_with_its_own_recogniser_only(place: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    assert drafter_of(checkpoint) is None
    mine = place / "ctc" / "checkpoint-9"
    with pytest.raises(InputError, match="was trained without drafts"):
        drafter_of(checkpoint, mine)
    save_drafter(checkpoint, mine, load_drafter(mine).sha256)
    found = drafter_of(checkpoint)
    assert found is not None
    clip = load_audio(rows(place, 3)[0])
    assert found([clip]) == load_drafter(mine)([clip])
    assert found([]) == []
    other = recogniser_directory(tmp_path / "other", seed=1)
    with pytest.raises(InputError, match="Name the right one"):
        drafter_of(checkpoint, other)
    told = json.loads((checkpoint / "drafter.json").read_text())
    (checkpoint / "drafter.json").write_text(json.dumps({**told, "recogniser": "/nowhere"}))
    with pytest.raises(InputError, match="which is not there"):
        drafter_of(checkpoint)
    (checkpoint / "drafter.json").write_text("{")
    with pytest.raises(InputError, match="is damaged"):
        drafter_of(checkpoint)
    with pytest.raises(InputError, match="but is none"):
        load_drafter(tmp_path)

"""`scan` and what `pretrain` makes of it: manifests for many runs, parts, weights, replay, held-out speakers."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tests import tiny
from tests.conftest import Tone
from thaitool.config import PretrainConfig, ScanConfig
from thaitool.data.loader import load_audio
from thaitool.data.manifest import from_utterances, open_manifest
from thaitool.errors import InputError, QuarantineError
from thaitool.records import AudioRef, Utterance
from thaitool.stages import pretrain, scan
from thaitool.training.pretraining import held_out
from thaitool.training.run_dir import RunDir

TRAIN = {
    "updates": 4,
    "batch_s": 4.0,
    "learning_rate": 1e-3,
    "eval_every": 2,
    "save_every": 2,
    "probe_every": 2,
    "device": "cpu",
}


def pretraining(out: Path, *data: Path, **values: Any) -> PretrainConfig:
    return PretrainConfig.model_validate(
        {
            "data": list(data),
            "out": out,
            "encoder": tiny.SHAPE,
            "dev_share": 0.2,
            "train": TRAIN,
            **values,
        }
    )


def test_a_scan_is_a_manifest_a_ledger_and_a_summary(tmp_path: Path, tone: Tone) -> None:
    audio = tiny.clips(tmp_path / "audio", 5)
    soundfile.write(audio / "long.wav", tone(50.0), 16_000)
    soundfile.write(audio / "again.wav", tone(50.0), 16_000)
    (audio / "broken.flac").write_bytes(b"no sound")
    config = tiny.make(
        ScanConfig, data=[audio], out=tmp_path / "scan", longest_s=15.0, max_rejected_share=0.3
    )
    found = scan.run(config)
    manifest = open_manifest(found.manifest)
    # 50 s are four equal pieces of at most 15 s.
    assert found.utterances == len(manifest) == 5 + 4
    assert found.hours == pytest.approx(manifest.hours)
    assert found.duration_s["max"] == 12.5
    assert found.rejected == {"duplicate": 1, "unreadable": 1}
    assert found.sample_rates_hz == {"16000": 9}
    ledger = (tmp_path / "scan" / "quarantine.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["reason"] for line in ledger) == ["duplicate", "unreadable"]
    summary = json.loads((tmp_path / "scan" / "summary.json").read_text())
    assert (summary["utterances"], summary["digest"]) == (9, manifest.digest())
    assert scan.run(config) == found
    (tmp_path / "scan" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="holds other files"):
        scan.run(config)
    with pytest.raises(QuarantineError, match="1 of 7 recordings are unusable"):
        strict = config.model_copy(update={"max_rejected_share": 0.1, "out": tmp_path / "strict"})
        scan.run(strict)
    assert [p.name for p in (tmp_path / "strict").iterdir()] == ["quarantine.jsonl"]
    assert len((tmp_path / "strict" / "quarantine.jsonl").read_text().splitlines()) == 2


def test_a_scan_that_fails_leaves_the_ledger_that_says_why_or_nothing(
    tmp_path: Path, tone: Tone
) -> None:
    audio = tiny.clips(tmp_path / "audio", 2)
    same = tiny.clips(tmp_path / "same", 2)
    with pytest.raises(InputError, match=r"Nothing of .*same is left to use \(2 duplicate\)"):
        scan.run(tiny.make(ScanConfig, data=[audio, same], out=tmp_path / "scan"))
    assert [p.name for p in (tmp_path / "scan").iterdir()] == ["quarantine.jsonl"]
    ledger = (tmp_path / "scan" / "quarantine.jsonl").read_text().splitlines()
    assert [json.loads(line)["item"] for line in ledger] == [
        str(same / "clip-00.flac"),
        str(same / "clip-01.flac"),
    ]
    with pytest.raises(InputError, match="does not exist"):
        scan.run(tiny.make(ScanConfig, data=[tmp_path / "nowhere"], out=tmp_path / "other"))
    assert not (tmp_path / "other").exists()


def test_a_cache_holds_the_same_sound(tmp_path: Path, tone: Tone) -> None:
    audio = tiny.clips(tmp_path / "audio", 3)
    soundfile.write(audio / "fast.wav", tone(1.0, 48_000), 48_000)
    plain = open_manifest(
        scan.run(tiny.make(ScanConfig, data=[audio], out=tmp_path / "plain")).manifest
    )
    config = tiny.make(ScanConfig, data=[audio], out=tmp_path / "cached", cache=tmp_path / "cache")
    cached = open_manifest(scan.run(config).manifest)
    assert [cached[i].id for i in range(4)] == [plain[i].id for i in range(4)]
    for i in range(4):
        assert cached[i].audio.path.endswith(".pcm16")
        np.testing.assert_allclose(load_audio(cached[i]), load_audio(plain[i]), atol=1e-4)


def test_pretraining_from_a_manifest_is_pretraining_from_its_audio(tmp_path: Path) -> None:
    audio = tiny.clips(tmp_path / "audio", 20)
    found = scan.run(tiny.make(ScanConfig, data=[audio], out=tmp_path / "scan"))
    for name, data in (("a", audio), ("b", found.manifest)):
        pretrain.run(pretraining(tmp_path / name, data))
    a, b = (RunDir(tmp_path / name).metrics() for name in ("a", "b"))
    assert len(a) == 4
    assert [row["loss"] for row in a] == [row["loss"] for row in b]


def test_weights_and_replay_decide_what_an_epoch_hears(tmp_path: Path) -> None:
    one, two, other = (tiny.clips(tmp_path / n, 20, seed=k) for k, n in enumerate("abc"))
    told: list[dict[str, str]] = []
    config = pretraining(
        tmp_path / "run", one, two, weights=[1.0, 0.5], replay=[other], replay_share=0.25
    )
    result = pretrain.run(config, announce=lambda rows: told.append(dict(rows)))
    manifest = open_manifest(tmp_path / "run" / "manifest.arrow")
    assert manifest.part.tolist() == [0] * 20 + [1] * 20 + [2] * 20
    is_dev = np.concatenate(
        [
            held_out(manifest.select(manifest.part < 2), share=0.2, limit_s=1e9),
            held_out(manifest.select(manifest.part == 2), share=0.2, limit_s=1e9),
        ]
    )
    assert [int(is_dev[:40].sum()), int(is_dev[40:].sum())] == [8, 4]
    heard_s = manifest.duration_s * ~is_dev
    of_data = heard_s[:20].sum() + 0.5 * heard_s[20:40].sum()
    (rows,) = told
    hours = of_data / 0.75 / 3600  # replay is a quarter of the whole
    assert rows["audio to hear"].endswith(f"epochs of {hours:,.2f} h")
    assert {"contrastive_nats", "replay_contrastive_nats"} <= result.training.metrics.keys()


def test_a_continued_run_says_whose_shape_it_has(tmp_path: Path) -> None:
    audio = tiny.clips(tmp_path / "audio", 20)
    first = pretraining(tmp_path / "first", audio)
    told: list[dict[str, str]] = []
    pretrain.run(first, announce=lambda rows: told.append(dict(rows)))
    more = pretraining(tmp_path / "more", audio, init=tmp_path / "first")
    narrow = more.model_copy(
        update={"encoder": first.encoder.model_copy(update={"hidden_size": 16})}
    )
    pretrain.run(narrow, announce=lambda rows: told.append(dict(rows)))
    assert "continues" not in told[0]
    assert told[1]["continues"] == f"{tmp_path / 'first'}; its shape counts, not that in `encoder`"
    assert told[1]["model"] == told[0]["model"]


def test_held_out_are_whole_speakers_and_no_more_than_asked_for() -> None:
    def spoken(k: int) -> Utterance:
        return Utterance(f"u{k}", AudioRef("a.wav"), 10.0, 16_000, speaker=f"s{k % 8}")

    manifest = from_utterances(spoken(k) for k in range(80))
    mask = held_out(manifest, share=0.25, limit_s=1e9)
    speakers = np.arange(80) % 8
    assert set(speakers[mask]) & set(speakers[~mask]) == set()
    assert len(set(speakers[mask])) == 2
    assert len(set(speakers[held_out(manifest, share=0.9, limit_s=250.0)])) == 2
    assert len(set(speakers[held_out(manifest, share=0.9, limit_s=1.0)])) == 1
    assert not held_out(manifest, share=0.0, limit_s=1.0).any()
    assert held_out(manifest, share=1.0, limit_s=1e9).sum() == 70  # somebody is left to train on


def test_a_run_ends_with_a_page_of_its_monitors(tmp_path: Path) -> None:
    audio = tiny.clips(tmp_path / "audio", 20)
    pretrain.run(pretraining(tmp_path / "run", audio))
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    for name in ("code_perplexity_g0", "prob_perplexity_g1", "probe_effective_rank", "grad_norm"):
        assert f'alt="{name} by update"' in page


def test_pauses_of_a_long_recording_are_listed_and_are_no_unusable_recordings(
    tmp_path: Path, tone: Tone
) -> None:
    """Half of a lecture is silence: the cache leaves those pieces out, and the share of bad files stays 0."""
    (tmp_path / "audio").mkdir()
    spoken, silence = tone(30.0), np.zeros(16_000 * 60, np.float32)
    soundfile.write(tmp_path / "audio" / "long.wav", np.r_[spoken, silence, spoken], 16_000)
    config = tiny.make(
        ScanConfig,
        data=[tmp_path / "audio"],
        out=tmp_path / "scan",
        longest_s=15.0,
        cache=tmp_path / "cache",
    )
    found = scan.run(config)
    assert found.rejected == {"pause": 4}
    assert found.utterances == 4
    lines = (tmp_path / "scan" / "quarantine.jsonl").read_text().splitlines()
    items = [json.loads(line)["item"].rpartition("@")[2] for line in lines]
    assert items == ["30000-45000", "45000-60000", "60000-75000", "75000-90000"]


def test_a_source_of_which_nothing_is_left_is_an_error(tmp_path: Path) -> None:
    one = tiny.clips(tmp_path / "one", 10)
    same = tiny.clips(tmp_path / "same", 10)
    with pytest.raises(InputError, match=r"Nothing of .*same is left to use \(10 duplicate\)"):
        pretrain.run(pretraining(tmp_path / "run", one, replay=[same]))
    assert not (tmp_path / "run").exists()
    pretrain.run(pretraining(tmp_path / "run", one, replay=[same], duplicates="keep"))


def test_a_pipe_as_a_source_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(InputError, match=r"pipe.wav must be a directory or a file, but is a pipe"):
        scan.run(tiny.make(ScanConfig, data=[tmp_path / "pipe.wav"], out=tmp_path / "scan"))


def test_limits_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match=r"longest_s must be min_s \(1\) at least"):
        tiny.make(ScanConfig, data=[Path("a")], out=Path("b"), longest_s=0.5, min_s=1.0)
    for wrong in ({"dev_share": 1.0}, {"mask_prob": 0.0}, {"weights": [1.0, 2.0]}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            pretraining(Path("b"), Path("a"), **wrong)


def test_held_out_audio_that_vanishes_costs_no_update(tmp_path: Path) -> None:
    audio = tiny.clips(tmp_path / "audio", 20)
    config = pretraining(tmp_path / "run", audio, train={**TRAIN, "updates": 6, "eval_every": 4})

    class Vanishing:
        def __init__(self) -> None:
            self.seen = 0

        def __call__(self, steps: int = 1, note: str = "") -> None:  # noqa: ARG002
            self.seen += 1
            if self.seen == 3:
                manifest = open_manifest(tmp_path / "run" / "manifest.arrow")
                mask = held_out(manifest, share=0.2, limit_s=1e9)
                for index in np.flatnonzero(mask):
                    Path(manifest[int(index)].audio.path).unlink()

    @contextmanager
    def progress(description: str, total: int, done: int = 0) -> Any:
        yield Vanishing()

    with pytest.raises(InputError, match="None of the 4 held-out recordings could be read"):
        pretrain.run(config, progress)
    assert RunDir(tmp_path / "run").last_update == 4
    assert [row["update"] for row in RunDir(tmp_path / "run").metrics()] == [1, 2, 3, 4]

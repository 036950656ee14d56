"""Rooms and noise on clips: exact ratios, measured reverberation, draws by seed and id, and nothing when off."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from numpy.typing import NDArray
from pydantic import ValidationError

from tests.tiny import ROOT
from thaitool.audio.decode import SAMPLE_RATE_HZ, decode, encode_flac
from thaitool.config import SynthConfig
from thaitool.config.synth_effects import Effects
from thaitool.config.synth_gates import Gates
from thaitool.errors import InputError
from thaitool.records import Rejected
from thaitool.stages import synth
from thaitool.synth import voicing
from thaitool.synth.backends.espeak import EspeakTts
from thaitool.synth.calls import Endpoint, Limits
from thaitool.synth.effects import (
    PEAK_LEVEL,
    coloured_noise,
    mixed,
    noise_digest,
    open_acoustics,
    room_response,
)
from thaitool.synth.espeak import VOICES, speak
from thaitool.synth.gates.panel import ClipGates

RNG = np.random.default_rng


def effects(**changes: Any) -> Effects:
    return Effects.model_validate(changes)


@pytest.fixture(scope="module")
def clip() -> NDArray[np.float32]:
    return speak("พรุ่งนี้ที่เชียงใหม่ฝนจะตกไหม", VOICES[0]).samples


def applied(
    clip: NDArray[np.float32], name: str = "IC-1", seed: int = 0, **changes: Any
) -> tuple[NDArray[np.float32], dict[str, Any]]:
    acoustics = open_acoustics(effects(**changes), seed)
    assert acoustics is not None
    heard, done = acoustics.applied(clip, name)
    return heard, json.loads(done)


def rms(samples: NDArray[Any]) -> float:
    return float(np.sqrt(np.square(samples, dtype=np.float64).mean()))


def energy_decay_rt60(response: NDArray[np.float64]) -> float:
    """Seconds for 60 dB, from the slope of the backward integral between -5 and -35 dB (ISO 3382-1, T30)."""
    tail = response[1:]  # the direct sound is no part of the decay
    tail = tail[np.flatnonzero(tail)[0] :]
    decay_db = 10 * np.log10(np.cumsum(np.square(tail)[::-1])[::-1] / np.square(tail).sum())
    within = np.flatnonzero((decay_db <= -5) & (decay_db >= -35))
    slope = np.polyfit(within / SAMPLE_RATE_HZ, decay_db[within], 1)[0]
    return float(-60 / slope)


@pytest.mark.parametrize("rt60_s", [0.15, 0.3, 0.6, 1.2])
@pytest.mark.parametrize("direct_db", [-3.0, 0.0, 12.0])
def test_a_room_has_the_reverberation_and_the_direct_sound_it_is_asked_for(
    rt60_s: float, direct_db: float
) -> None:
    measured = []
    for seed in range(8):
        response = room_response(rt60_s, direct_db, RNG(seed))
        assert response[0] == 1
        assert 10 * math.log10(1 / np.square(response[1:]).sum()) == pytest.approx(direct_db)
        assert not response[1 : round(0.0025 * SAMPLE_RATE_HZ)].any()
        measured.append(energy_decay_rt60(response))
    # The noise makes one response's slope uncertain, its mean over some less so.
    assert measured == pytest.approx([rt60_s] * 8, rel=0.15)
    assert np.mean(measured) == pytest.approx(rt60_s, rel=0.04)


@pytest.mark.parametrize("colour", ["white", "pink", "brown"])
@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 7.3, 30.0])
def test_noise_lies_as_far_below_the_speech_as_asked(
    clip: NDArray[np.float32], colour: str, snr_db: float
) -> None:
    speech = clip.astype(np.float64)
    out = mixed(speech, coloured_noise(len(clip), colour, RNG(1)), snr_db)
    assert 20 * math.log10(rms(speech) / rms(out - speech)) == pytest.approx(snr_db, abs=0.01)


def test_the_ratio_survives_gain_rounding_and_the_record_tells_it(
    clip: NDArray[np.float32],
) -> None:
    for n in range(20):
        heard, done = applied(clip, f"IC-{n}", noise=1.0, snr_db=[-2.0, 20.0])
        assert -2 <= done["noise"]["snr_db"] <= 20
        stored = np.round(heard * 32767) / 32767  # as 16 bits hold it
        gain = 10 ** (done["gain_db"] / 20)
        noise = stored / gain - clip
        assert 20 * math.log10(rms(clip) / rms(noise)) == pytest.approx(
            done["noise"]["snr_db"], abs=0.1
        )


@pytest.mark.parametrize(("colour", "halvings"), [("white", 0), ("pink", 1), ("brown", 2)])
def test_colours_fall_as_their_names_say(colour: str, halvings: int) -> None:
    noise = coloured_noise(SAMPLE_RATE_HZ * 20, colour, RNG(3))
    power = np.square(np.abs(np.fft.rfft(noise)))
    hz = np.fft.rfftfreq(len(noise), 1 / SAMPLE_RATE_HZ)
    edges = [125 * 2**n for n in range(6)]  # octaves from 125 to 4,000 Hz, and the one above
    means = [10 * math.log10(power[(hz >= low) & (hz < 2 * low)].mean()) for low in edges]
    per_octave_db = -10 * math.log10(2) * halvings
    assert np.diff(means) == pytest.approx([per_octave_db] * 5, abs=0.4)
    assert abs(noise.mean()) < 1e-9


def test_length_and_level_stay_and_peaks_do_not_clip(clip: NDArray[np.float32]) -> None:
    kinds: list[dict[str, Any]] = [
        {"room": 1.0}, {"noise": 1.0}, {"room": 1.0, "noise": 1.0},
    ]  # fmt: skip
    for changes in kinds:
        heard, done = applied(clip, **changes)
        assert heard.dtype == np.float32
        assert heard.shape == clip.shape
        assert set(done) - {"gain_db"} == set(changes)
        assert rms(heard) == pytest.approx(rms(clip), rel=1e-4)
    loud = (clip * np.float32(0.99 / np.abs(clip).max())).astype(np.float32)
    heard, _ = applied(loud, room=1.0, direct_db=[-10.0, -10.0], rt60_s=[2.0, 2.0])
    assert np.abs(heard).max() <= PEAK_LEVEL + 1e-6
    assert not np.array_equal(heard, loud)


def test_off_changes_nothing_and_shares_are_kept(clip: NDArray[np.float32]) -> None:
    assert open_acoustics(effects(), 0) is None
    acoustics = open_acoustics(effects(room=0.3, noise=0.2, rt60_s=[0.05, 0.05]), 5)
    assert acoustics is not None
    short = clip[:4000]
    found = [acoustics.applied(short, f"NER-{n}") for n in range(1000)]
    untouched = [heard is short and not done for heard, done in found]
    assert all(heard is short for (heard, done) in found if not done)
    room = sum("room" in done for _, done in found)
    noise = sum("noise" in done for _, done in found)
    # Standard deviations of 14.5, 12.6 and 15.7 rows.
    assert abs(room - 300) < 58
    assert abs(noise - 200) < 51
    assert abs(sum(untouched) - 560) < 63


def test_the_seed_and_the_id_decide_alone(clip: NDArray[np.float32]) -> None:
    both: dict[str, Any] = {"room": 1.0, "noise": 1.0}
    heard, done = applied(clip, **both)
    applied(clip, "IC-2", **both)
    again, the_same = applied(clip, **both)
    assert np.array_equal(heard, again)
    assert done == the_same
    for other, changed in (applied(clip, "IC-2", **both), applied(clip, seed=1, **both)):
        assert not np.array_equal(heard, other)
        assert done != changed


def noise_directory(folder: Path) -> Path:
    (folder / "street").mkdir(parents=True)
    for number, (name, seconds, rate_hz) in enumerate(
        (("fan.wav", 6.0, 16_000), ("street/cars.flac", 0.4, 44_100))
    ):
        samples = 0.1 * RNG(number).standard_normal(int(seconds * rate_hz))
        soundfile.write(folder / name, samples, rate_hz)
    (folder / "readme.txt").write_text("none of it is sound")
    return folder


def test_recordings_of_noise_are_cut_repeated_and_named(
    clip: NDArray[np.float32], tmp_path: Path
) -> None:
    folder = noise_directory(tmp_path / "noise")
    seen = set()
    for n in range(12):
        heard, done = applied(clip, f"IC-{n}", noise=1.0, noise_dir=folder, snr_db=[3.0, 3.0])
        seen.add(done["noise"]["file"])
        noise = heard / 10 ** (done["gain_db"] / 20) - clip
        assert 20 * math.log10(rms(clip) / rms(noise)) == pytest.approx(3, abs=0.05)
        if done["noise"]["file"] == "fan.wav":
            original, _ = soundfile.read(folder / "fan.wav")
            at = round(done["noise"]["start_s"] * SAMPLE_RATE_HZ)
            piece = original[at : at + len(clip)]
            assert np.corrcoef(piece, noise)[0, 1] > 0.999
    assert seen == {"fan.wav", "street/cars.flac"}


def test_the_fingerprint_sees_other_recordings(tmp_path: Path) -> None:
    folder = noise_directory(tmp_path / "noise")
    settings = effects(noise=0.5, noise_dir=folder)
    before = noise_digest(open_acoustics(settings, 0))
    assert before == noise_digest(open_acoustics(settings, 1))
    soundfile.write(folder / "third.wav", np.full(4000, 0.1), 16_000)
    more = noise_digest(open_acoustics(settings, 0))
    assert more != before
    soundfile.write(folder / "third.wav", np.full(4000, 0.2), 16_000)  # as long, but another sound
    assert noise_digest(open_acoustics(settings, 0)) not in {more, before}
    assert noise_digest(open_acoustics(effects(noise=0.5), 0)) is None


def test_wrong_noise_is_named(clip: NDArray[np.float32], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(InputError, match="must hold sound files"):
        open_acoustics(effects(noise=1.0, noise_dir=tmp_path), 0)
    soundfile.write(tmp_path / "still.wav", np.zeros(32_000), 16_000)
    with pytest.raises(InputError, match=r"8 stretches .* were silent .*still\.wav"):
        applied(clip, noise=1.0, noise_dir=tmp_path)
    (tmp_path / "broken.wav").write_bytes(b"RIFF not a sound file")
    with pytest.raises(InputError, match=r"broken\.wav: unreadable"):
        open_acoustics(effects(noise=1.0, noise_dir=tmp_path), 0)


@pytest.mark.parametrize(
    ("wrong", "phrase"),
    [
        ({"snr_db": [10.0, 5.0]}, "10 is above 5"),
        ({"rt60_s": [0.0, 1.0]}, "must lie within 0.05 and 5 s"),
        ({"rt60_s": [0.5]}, "at least 2 items"),
        ({"room": 1.5}, "less than or equal to 1"),
        ({"noise_colours": ["red"]}, "'white', 'pink' or 'brown'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any], phrase: str) -> None:
    with pytest.raises(ValidationError, match=phrase):
        effects(**wrong)


def test_a_clip_that_is_too_quiet_in_its_room_is_refused(clip: NDArray[np.float32]) -> None:
    spoken = voicing.Clip(encode_flac(clip), len(clip) / SAMPLE_RATE_HZ, "")
    strict = ClipGates(Gates.model_validate({"min_level_dbfs": -10.0}))
    acoustics = open_acoustics(effects(room=1.0), 0)
    booth = voicing.Booth(EspeakTts(()), Endpoint("e", Limits()), None, acoustics, strict)
    refused = voicing._heard(spoken, booth, "IC-1")
    assert isinstance(refused, Rejected)
    assert (refused.item, refused.reason) == ("IC-1", "level")
    assert "rt60_s" in refused.detail
    kept = voicing._heard(spoken, replace(booth, gates=ClipGates(Gates.model_validate({}))), "IC-1")
    assert not isinstance(kept, Rejected)
    assert kept[0].flac != spoken.flac
    assert kept[0].duration_s == spoken.duration_s
    assert voicing._heard(spoken, replace(booth, acoustics=None), "IC-1") == (spoken, "")


def test_a_data_set_with_effects_has_the_same_rows_otherwise(tmp_path: Path) -> None:
    source = tmp_path / "source.jsonl"
    lines = (ROOT / "examples" / "alpaca.jsonl").read_text("utf-8").splitlines(keepends=True)
    source.write_text("".join(lines[::8]), "utf-8")
    values = {"source": source, "variants": 1, "tasks": ["ic"], "shard_rows": 50}
    plain, changed, again = (
        synth.run(SynthConfig.model_validate({**values, "out": tmp_path / name, "effects": chosen}))
        for name, chosen in (("plain", {}), ("a", {"noise": 0.5}), ("b", {"noise": 0.5}))
    )
    assert plain.counts == changed.counts == again.counts
    files = sorted(p.relative_to(changed.out) for p in changed.out.rglob("*.parquet"))
    assert all((changed.out / p).read_bytes() == (again.out / p).read_bytes() for p in files)
    heard, clean = rows_of(changed.out), rows_of(plain.out)
    assert heard.keys() == clean.keys()
    noisy = 0
    for name, (flac, done) in heard.items():
        clean_flac, nothing = clean[name]
        assert nothing == ""
        assert (flac == clean_flac) == (done == "")
        if done:
            noisy += 1
            told = json.loads(done)
            speech = decode(clean_flac, name)
            noise = decode(flac, name) / 10 ** (told["gain_db"] / 20) - speech
            assert 20 * math.log10(rms(speech) / rms(noise)) == pytest.approx(
                told["noise"]["snr_db"], abs=0.1
            )
    assert 0.2 * len(heard) < noisy < 0.8 * len(heard)


def rows_of(out: Path) -> dict[str, tuple[bytes, str]]:
    """FLAC and record of effects of each row, by id."""
    provenance = pq.read_table(out / "provenance", columns=["data_id", "effects"]).to_pylist()
    effects_of = {row["data_id"]: row["effects"] for row in provenance}
    shards = [p for p in out.rglob("*.parquet") if p.parent.name != "provenance"]
    return {
        row["data_id"]: (row["audio_flac"], effects_of[row["data_id"]])
        for shard in shards
        for row in pq.read_table(shard, columns=["data_id", "audio_flac"]).to_pylist()
    }

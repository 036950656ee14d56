"""Long recordings become pieces: by the clock or at pauses, in place, the same for any number of workers."""

from __future__ import annotations

import math
import os
import signal
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.test_audio_silence import RATE_HZ, babble, speech_with_gaps, wav
from thaitool.data.loader import load_audio
from thaitool.data.manifest import Manifest, from_utterances, open_manifest, write_manifest
from thaitool.data.split import LEEWAY, split_long
from thaitool.errors import EnvironmentProblem
from thaitool.records import AudioRef, Utterance

if TYPE_CHECKING:
    from collections.abc import Sequence


def utterance(
    name: str, duration_s: float, path: str = "x.wav", start_s: float = 0.0, part: int = 0
) -> Utterance:
    end_s = start_s + duration_s if start_s else None
    return Utterance(
        name, AudioRef(path), duration_s, RATE_HZ, start_s, end_s, "ก", "asr", "ก", "p", part=part
    )


def rows(manifest: Manifest) -> list[Utterance]:
    return [manifest[i] for i in range(len(manifest))]


def span_s(u: Utterance) -> tuple[float, float]:
    return u.start_s, u.start_s + u.duration_s if u.end_s is None else u.end_s


@settings(max_examples=40, deadline=None, derandomize=True, print_blob=True)
@given(
    durations_s=st.lists(st.floats(0.1, 3_000.0), min_size=1, max_size=6),
    starts_s=st.lists(st.sampled_from([0.0, 0.5, 1234.5678]), min_size=6, max_size=6),
    longest_s=st.floats(5.0, 60.0),
)
def test_fixed_windows_cover_everything_in_order(
    durations_s: Sequence[float], starts_s: Sequence[float], longest_s: float
) -> None:
    given_rows = [
        utterance(f"u{k}", d, f"{k}.wav", s, k)
        for k, (d, s) in enumerate(zip(durations_s, starts_s, strict=False))
    ]
    manifest, rejected = split_long(from_utterances(given_rows), how="fixed", longest_s=longest_s)
    assert rejected == []
    made = rows(manifest)
    assert len({u.id for u in made}) == len(made)
    assert [u.part for u in made] == sorted(u.part for u in made)
    for old in given_rows:
        new = [u for u in made if u.part == old.part]
        if old.duration_s <= LEEWAY * longest_s:
            assert new == [old]
            continue
        assert len(new) == math.ceil(old.duration_s / longest_s)
        spans = [span_s(u) for u in new]
        assert spans[0][0] == old.start_s
        assert spans[-1][1] == pytest.approx(old.start_s + old.duration_s)
        assert all(end == start for (_, end), (start, _) in pairwise(spans))
        for u, (start, end) in zip(new, spans, strict=True):
            assert u.duration_s == pytest.approx(old.duration_s / len(new))
            assert u.duration_s <= longest_s * (1 + 1e-9)
            assert u.id == f"{old.id}@{1000 * start:.0f}-{1000 * end:.0f}"
            # What was said in the whole is not what is said in a piece; who says it is.
            assert (u.text, u.task, u.label, u.speaker) == (None, None, None, "p")
            assert u.audio == old.audio


def test_none_and_short_rows_change_nothing() -> None:
    manifest = from_utterances([utterance("a", 100.0), utterance("b", 3.0)])
    assert split_long(manifest, how="none", longest_s=10.0) == (manifest, [])
    assert split_long(manifest, how="fixed", longest_s=70.0) == (manifest, [])


def test_a_view_of_a_file_is_split_in_place(tmp_path: Path) -> None:
    names = [utterance(n, s) for n, s in (("a", 9), ("b", 40), ("c", 9), ("d", 25), ("e", 9))]
    write_manifest(from_utterances(names), tmp_path / "m.arrow")
    view = open_manifest(tmp_path / "m.arrow").select([True, True, False, True, True])
    manifest, _ = split_long(view, how="fixed", longest_s=15.0)
    ids = [u.id for u in rows(manifest)]
    assert ids == ["a", "b@0-13333", "b@13333-26667", "b@26667-40000", *["d@0-12500"], *ids[5:]]
    assert ids[5:] == ["d@12500-25000", "e"]
    assert manifest.hours == pytest.approx(view.hours)
    assert manifest.duration_s.tolist() == [u.duration_s for u in rows(manifest)]
    # Written and read again it is the same, and nothing is left to split.
    write_manifest(manifest, tmp_path / "n.arrow")
    again = open_manifest(tmp_path / "n.arrow")
    assert again.digest() == manifest.digest()
    assert split_long(again, how="fixed", longest_s=15.0)[0] is again


def recordings(folder: Path) -> list[Utterance]:
    """A short one and two long ones with known pauses (file, row of a parquet file), a silent, a broken, a gone one."""
    samples, _ = speech_with_gaps([(3.0, 0.6)] * 8, seed=1)
    soundfile.write(folder / "long.flac", samples, RATE_HZ)
    soundfile.write(folder / "silent.wav", np.zeros(30 * RATE_HZ), RATE_HZ)
    broken = wav(babble(30.0, 0), form="FLAC")
    (folder / "broken.flac").write_bytes(broken[: len(broken) // 2])
    pq.write_table(pa.table({"audio": [wav(samples)]}), folder / "x.parquet")
    long_s = len(samples) / RATE_HZ
    return [
        utterance("short", 3.0, str(folder / "long.flac")),
        utterance("long", long_s, str(folder / "long.flac")),
        replace(utterance("row", long_s), audio=AudioRef(str(folder / "x.parquet"), 0)),
        utterance("part", 18.0, str(folder / "long.flac"), start_s=7.2),
        utterance("silent", 30.0, str(folder / "silent.wav")),
        utterance("broken", 30.0, str(folder / "broken.flac")),
        utterance("gone", 30.0, str(folder / "gone.flac")),
        replace(utterance("no row", 30.0), audio=AudioRef(str(folder / "x.parquet"), 7)),
    ]


def test_pieces_at_pauses(tmp_path: Path) -> None:
    given_rows = recordings(tmp_path)
    manifest, rejected = split_long(from_utterances(given_rows), how="silence", longest_s=8.0)
    reasons = {Path(r.item).name: r.reason for r in rejected}
    assert reasons.pop("broken.flac") in {"truncated", "unreadable"}
    assert reasons == {
        "silent.wav": "silent",
        "gone.flac": "unreadable",
        "x.parquet#7": "unreadable",
    }
    made = rows(manifest)
    assert made[0] == given_rows[0]
    by_old = {old.id: [u for u in made if u.id.startswith(f"{old.id}@")] for old in given_rows[1:4]}
    # Nothing is used of a recording that broke.
    assert len(made) == 1 + sum(map(len, by_old.values()))
    gaps = [(3.6 * k + 3.0, 3.6 * k + 3.6) for k in range(8)]
    for name, new in by_old.items():
        assert [len(new)] == [{"long": 4, "row": 4, "part": 3}[name]]
        inner = [t for u in new for t in span_s(u)][1:-1]
        assert all(any(a - 0.05 <= t <= b + 0.05 for a, b in gaps) for t in inner)
        for u in new:
            start, end = span_s(u)
            assert u.duration_s == pytest.approx(end - start)
            assert u.duration_s <= 8.0
            assert len(load_audio(u)) == pytest.approx(u.duration_s * RATE_HZ, abs=2)
    first, last = by_old["part"][0], by_old["part"][-1]
    assert first.start_s >= 7.2
    assert span_s(last)[1] <= 25.2
    assert [span_s(u) for u in by_old["long"]] == [span_s(u) for u in by_old["row"]]


def test_workers_change_nothing(tmp_path: Path) -> None:
    manifest = from_utterances(recordings(tmp_path))
    alone, rejected = split_long(manifest, how="silence", longest_s=8.0)
    shared, rejected_too = split_long(manifest, how="silence", longest_s=8.0, workers=3)
    assert shared.digest() == alone.digest()
    assert rejected_too == rejected


def test_many_rows_cost_no_objects() -> None:
    base = from_utterances([utterance("a", 20_000.0), utterance("b", 5.0)])
    table = pa.concat_tables([base.table] * 200)
    manifest, _ = split_long(Manifest(table), how="fixed", longest_s=10.0)
    assert len(manifest) == 200 * (2_000 + 1)
    assert manifest[2_000].id == "b"
    assert manifest[2_001].id == "a@0-10000"
    assert manifest[1_999].end_s == pytest.approx(20_000.0)


def test_a_killed_process_is_an_error_and_no_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thaitool.data.split._pauses_of", die)
    manifest = from_utterances([utterance(f"u{k}", 100.0) for k in range(9)])
    with pytest.raises(EnvironmentProblem, match=r"One of the 2 processes .* was killed"):
        split_long(manifest, how="silence", longest_s=8.0, workers=2)


def die(u: Utterance, longest_s: float) -> None:
    """What the system does to a process that takes too much memory."""
    os.kill(os.getpid(), signal.SIGKILL)

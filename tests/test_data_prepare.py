"""From sources to what is trained on: everything that a step sets aside is told, and counts, whichever step it was."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile

from tests import tiny
from tests.recordings import ids, reasons, write_good
from thaitool.config import ScanConfig
from thaitool.data.prepare import prepare
from thaitool.errors import InputError, QuarantineError

if TYPE_CHECKING:
    from tests.conftest import Tone
    from thaitool.data.manifest import Manifest
    from thaitool.records import Rejected


def prepared(*sources: Path, share: float, **options: Any) -> tuple[Manifest, list[Rejected]]:
    config = tiny.make(ScanConfig, data=list(sources), out=Path("unused"), **options)
    return prepare(config, sources, max_rejected_share=share)


@pytest.fixture
def mixed(tmp_path: Path, tone: Tone) -> Path:
    """Ten recordings. The scan refuses one, cutting at silence another, and the cache a third."""
    folder = tmp_path / "audio"
    write_good(folder, tone, *(f"good-{k}.wav" for k in range(7)))
    (folder / "a-text.wav").write_text("no sound")
    soundfile.write(folder / "b-long.flac", np.tile(tone(1.0), 40), 16_000)
    whole = (folder / "b-long.flac").read_bytes()
    (folder / "b-long.flac").write_bytes(whole[: len(whole) // 2])
    soundfile.write(folder / "c-silent.wav", 0 * tone(0.5), 16_000)
    return folder


def test_every_step_adds_to_one_ledger(mixed: Path, tmp_path: Path) -> None:
    manifest, rejected = prepared(mixed, share=0.3, split="silence", cache=tmp_path / "cache")
    assert ids(manifest) == [f"good-{k}.wav" for k in range(7)]
    assert list(reasons(rejected)) == ["a-text.wav", "b-long.flac", "c-silent.wav"]


@pytest.mark.parametrize(
    ("share", "listed", "count"),
    [
        (0.09, ["a-text.wav"], "1 of 10"),
        (0.19, ["a-text.wav", "b-long.flac"], "2 of 10"),
        (0.29, ["a-text.wav", "b-long.flac", "c-silent.wav"], "3 of 10"),
    ],
    ids=["the scan", "cutting", "the cache"],
)
def test_what_is_unusable_counts_whichever_step_finds_it(
    mixed: Path, tmp_path: Path, share: float, listed: list[str], count: str
) -> None:
    """No step alone goes above the share; the one that does brings the lines of those before it."""
    with pytest.raises(QuarantineError, match=f"{count} recordings are unusable") as caught:
        prepared(mixed, share=share, split="silence", cache=tmp_path / "cache")
    assert list(reasons(list(caught.value.rejected))) == listed


def test_a_source_of_which_nothing_is_left_brings_its_ledger(tmp_path: Path, tone: Tone) -> None:
    write_good(tmp_path / "one", tone, "a.wav", "b.wav")
    write_good(tmp_path / "two", tone, "a.wav", "b.wav")
    with pytest.raises(
        InputError, match=r"Nothing of .*two is left to use \(2 duplicate\)"
    ) as caught:
        prepared(tmp_path / "one", tmp_path / "two", share=0.1)
    assert not isinstance(caught.value, QuarantineError)
    assert [r.reason for r in caught.value.rejected] == ["duplicate", "duplicate"]


def test_a_cache_of_which_nothing_is_left_brings_its_ledger(tmp_path: Path, tone: Tone) -> None:
    (tmp_path / "audio").mkdir()
    for name in "ab":
        soundfile.write(tmp_path / "audio" / f"{name}.wav", 0 * tone(0.5), 16_000)
    (tmp_path / "audio" / "c.wav").write_bytes(b"")
    with pytest.raises(InputError, match=r"Nothing of .* \(2 silent, 1 empty\)") as caught:
        prepared(tmp_path / "audio", share=1.0, cache=tmp_path / "cache", duplicates="keep")
    assert Counter(r.reason for r in caught.value.rejected) == {"silent": 2, "empty": 1}

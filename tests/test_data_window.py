"""What encoders ask of the data: audio at its own level, and no longer than they can hear."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile
import torch

from tests import tiny
from thaitool.data.loader import batches, in_order
from thaitool.data.plan import make_plan
from thaitool.data.scan import scan
from thaitool.data.window import within_window
from thaitool.errors import QuarantineError

if TYPE_CHECKING:
    from pathlib import Path

    from thaitool.data.manifest import Manifest


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return scan([tiny.clips(tmp_path / "clips", 6)])[0]


def test_audio_keeps_its_level_where_that_is_wanted(manifest: Manifest) -> None:
    plan = make_plan(manifest.duration_s, batch_s=2.0, seed=0)
    planned = batches(manifest, plan, range(plan.batches_per_epoch), normalised=False)
    heard: dict[str, int] = {}
    for batch in (*planned, *in_order(manifest, batch_s=2.0, normalised=False)):
        for utterance, audio, n in zip(
            batch.utterances, batch.audio, batch.audio_lengths.tolist(), strict=True
        ):
            stored, _ = soundfile.read(utterance.audio.path, dtype="float32")
            np.testing.assert_array_equal(audio[:n].numpy(), stored)
            assert not audio[n:].any()
            heard[utterance.id] = heard.get(utterance.id, 0) + 1
    assert set(heard.values()) == {2}
    (batch,) = in_order(manifest, batch_s=60.0)
    spread = torch.stack([a[:n].std() for a, n in zip(batch.audio, batch.audio_lengths)])  # noqa: B905
    torch.testing.assert_close(spread, torch.ones(6), rtol=0, atol=1e-3)


def test_longer_recordings_are_listed_and_left_out(manifest: Manifest) -> None:
    duration_s = np.sort(manifest.duration_s)
    longest = round(16_000 * duration_s[3])
    kept, rejected = within_window(manifest, longest, max_rejected_share=0.5)
    assert sorted(kept.duration_s) == list(duration_s[:4])
    assert [r.reason for r in rejected] == ["too_long"] * 2
    assert f"{duration_s[5]:.2f} s, the encoder hears at most" in "".join(
        r.detail for r in rejected
    )
    assert within_window(manifest, None, max_rejected_share=0.0) == (manifest, [])
    with pytest.raises(QuarantineError, match="too_long"):
        within_window(manifest, longest, max_rejected_share=0.1)

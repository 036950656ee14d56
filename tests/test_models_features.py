"""Kept frames: what is read is what was computed, and nothing stale or damaged is ever read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from tests import encoders, tiny
from thaitool.errors import InputError
from thaitool.models.features import FeatureCache

if TYPE_CHECKING:
    from pathlib import Path

    from thaitool.models.encoders.interface import SpeechEncoder

LENGTHS = (16_000, 9_001, 3_200)


def refuse(*_: Any, **__: Any) -> None:
    raise AssertionError("The encoder was asked, but the frames were there.")


def files(path: Path) -> list[Path]:
    return sorted(path.rglob("*.safetensors"))


@pytest.mark.parametrize("family", ["wav2vec2", "whisper"])
def test_frames_are_computed_once(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = encoders.encoder(family)
    audio, lengths = tiny.ragged_audio(*LENGTHS, 100)
    with torch.no_grad():
        direct, counts = encoder(audio, lengths)
    first, first_counts = FeatureCache(tmp_path, encoder).encode(audio, lengths)
    assert first_counts.tolist() == counts.tolist()
    assert first.dtype == torch.float32
    # float16 has 11 bits: half a unit in the last place of the largest frames.
    torch.testing.assert_close(first, direct, rtol=2**-11, atol=1e-6)
    assert torch.equal(first, direct.half().float())
    monkeypatch.setattr(type(encoder), "forward", refuse)
    again = FeatureCache(tmp_path, encoder)
    assert torch.equal(again.encode(audio, lengths)[0], first)
    # Other padding and other company, the same clips.
    longer = torch.nn.functional.pad(audio[1:2], (0, 5_000))
    alone, count = again.encode(longer, lengths[1:2])
    assert alone.shape[1] == encoder.output_lengths(longer.shape[1])
    assert torch.equal(alone[0, : count[0]], first[1, : count[0]])
    assert not alone[0, count[0] :].any()
    assert len(files(tmp_path)) == 4


def test_only_what_is_new_is_written(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, encoders.encoder("wav2vec2"))
    audio, lengths = tiny.ragged_audio(*LENGTHS)
    cache.encode(audio[:2], lengths[:2])
    stamps = {f: f.stat().st_mtime_ns for f in files(tmp_path)}
    frames, _ = cache.encode(audio, lengths)
    assert len(files(tmp_path)) == 3
    assert all(f.stat().st_mtime_ns == stamp for f, stamp in stamps.items())
    assert torch.equal(cache.encode(audio, lengths)[0], frames)


def test_anything_that_frames_depend_on_is_another_entry(tmp_path: Path) -> None:
    audio, lengths = tiny.ragged_audio(8_000)
    moved = encoders.encoder("wav2vec2")
    with torch.no_grad():
        next(p for p in moved.parameters() if p.dim() == 1).view(-1)[0].add_(1e-3)
    configured = encoders.encoder("whisper")
    configured.config.pad_to_window = False
    made: list[tuple[SpeechEncoder, dict[str, Any]]] = [
        (encoders.encoder("wav2vec2"), {}),
        (encoders.encoder("wav2vec2"), {"precision": "bf16"}),
        (encoders.encoder("wav2vec2", layer=2), {}),
        (moved, {}),
        (encoders.encoder("whisper"), {}),
        (configured, {}),
    ]
    for number, (encoder, options) in enumerate(made, 1):
        FeatureCache(tmp_path, encoder, **options).encode(audio, lengths)
        assert len(files(tmp_path)) == number
    cache = FeatureCache(tmp_path, made[0][0])
    quieter = audio.clone()
    quieter[0, 17] += 1e-7
    for other in (quieter, audio[:, :7_999]):
        cache.encode(other, torch.tensor([other.shape[1]]))
    assert len(files(tmp_path)) == len(made) + 2


def test_damage_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, encoders.encoder("wav2vec2"))
    audio, lengths = tiny.ragged_audio(8_000)
    first, _ = cache.encode(audio, lengths)
    (file,) = files(tmp_path)
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[-3] ^= 1
    for broken in (whole[:-10], whole[:5], b"", bytes(flipped)):
        file.write_bytes(broken)
        with pytest.raises(InputError, match=rf"{file.name}.*is damaged.*Delete this file"):
            cache.encode(audio, lengths)
    file.unlink()
    assert torch.equal(cache.encode(audio, lengths)[0], first)


def test_what_cannot_be_kept_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="learned layer mix"):
        FeatureCache(tmp_path, encoders.encoder("whisper", layer="mix"))
    large = encoders.encoder("whisper")
    with torch.no_grad():
        large.model.layer_norm.weight.fill_(1e6)
    with pytest.raises(InputError, match="larger than 65504"):
        FeatureCache(tmp_path, large).encode(*tiny.ragged_audio(8_000))
    assert not files(tmp_path)

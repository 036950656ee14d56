"""Frames of a frozen encoder on disk, so that each clip is encoded once: by content, memory-mapped, float16.

The name of a clip's file is a hash of its samples and of everything that the frames depend on (weights, configuration,
layer, precision, this code), so that a stale entry cannot be found. Evicts nothing and trains nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
import zlib
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch.nn import functional

from thaitool.errors import InputError
from thaitool.files import disk_full_is_explained

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from thaitool.models.encoders.interface import SpeechEncoder

#: Raise it with every change that makes encoders give other frames.
CODE_VERSION = 1
STORED = torch.float16


def encoder_sha256(encoder: SpeechEncoder, *, precision: str) -> str:
    """Hash of all that frames depend on besides the audio: weights by name, configuration, layer, precision, code."""
    settings = {
        "code": CODE_VERSION,
        "config": encoder.config.to_dict(),
        "layer": encoder.layer,
        "precision": precision,
        "stored": str(STORED),
    }
    sha = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, value in sorted(encoder.state_dict().items()):
        whole = value.detach().cpu().contiguous()
        sha.update(f"{name} {whole.dtype} {tuple(whole.shape)}\n".encode())
        sha.update(whole.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


class FeatureCache:
    """A directory of frames, one file a clip; any number of processes and runs may share it."""

    def __init__(self, path: Path, encoder: SpeechEncoder, *, precision: str = "no") -> None:
        """Below `path`; `precision` is the `mixed_precision` that the encoder runs in.

        Raises:
            InputError: the encoder mixes its layers by weights that are learned, so that its frames change.
        """
        if encoder.mix is not None:
            raise InputError(
                "Frames of a learned layer mix change in training and cannot be kept; choose a layer by number, or"
                " leave feature_cache out."
            )
        self.encoder = encoder
        self.path = path / encoder_sha256(encoder, precision=precision)[:32]

    def encode(self, audio: Tensor, audio_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """What the encoder makes of a batch, rounded to float16, and true counts: read, or computed and kept.

        Args:
            audio: Shape (B, N), on the CPU, as the encoder wants it.
            audio_lengths: Shape (B,), on the CPU.

        Returns:
            Frames (B, I, D) in float32, zero after each count, and counts (B,); on the encoder's device.

        Raises:
            InputError: a file is damaged, or a frame is too large for float16.
        """
        device = next(self.encoder.parameters()).device
        lengths = audio_lengths.tolist()
        files = [self._file(row[:n]) for row, n in zip(audio, lengths, strict=True)]
        counts = self.encoder.output_lengths(audio_lengths)
        kept = [_read(file) for file in files]
        if any(frames is None for frames in kept):
            # The whole batch: in a run that was interrupted each clip is then computed among the same others.
            with torch.no_grad():
                made, _ = self.encoder(audio.to(device), audio_lengths)
            made = made.to(STORED).cpu()
            for i, (file, count) in enumerate(zip(files, counts.tolist(), strict=True)):
                if kept[i] is None:
                    kept[i] = made[i, :count]
                    _write(file, made[i, :count])
        I = self.encoder.output_lengths(audio.shape[1])  # noqa: E741
        rows = [functional.pad(f, (0, 0, 0, I - len(f))) for f in kept if f is not None]
        return torch.stack(rows).to(device).float(), counts.to(device)

    def _file(self, samples: Tensor) -> Path:
        name = hashlib.blake2b(samples.contiguous().numpy().data, digest_size=20).hexdigest()
        return self.path / name[:2] / f"{name}.safetensors"


def _read(file: Path) -> Tensor | None:
    """Frames (I, D), or None if the file is not there."""
    try:
        with safe_open(file, framework="pt") as stored:
            frames: Tensor = stored.get_tensor("frames")
            told = (stored.metadata() or {}).get("crc32")
    except FileNotFoundError:
        return None
    except SafetensorError as error:
        raise InputError(_damaged(file, str(error))) from error
    if told != _checksum(frames):
        raise InputError(_damaged(file, "its checksum is another"))
    return frames


def _write(file: Path, frames: Tensor) -> None:
    if not bool(frames.isfinite().all()):
        raise InputError(
            f"The encoder gives frames that {STORED} cannot hold (NaN, or larger than 65504), so they cannot be kept"
            " in feature_cache; leave it out, or choose another layer."
        )
    with disk_full_is_explained(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f".{file.stem}.{os.getpid()}.{uuid.uuid4().hex}.tmp")
        try:
            temporary.write_bytes(
                save({"frames": frames.contiguous()}, metadata={"crc32": _checksum(frames)})
            )
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)


def _checksum(frames: Tensor) -> str:
    return f"{zlib.crc32(frames.contiguous().numpy().data):08x}"


def _damaged(file: Path, why: str) -> str:
    return f"{file}, kept frames of an encoder, is damaged: {why}. Delete this file, and the frames are computed again."

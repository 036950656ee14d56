"""Encoder speech recognisers: an encoder, a CTC head, if wanted an attention decoder, and their directory on disk.

Trains nothing and searches nothing. A directory holds all that is needed: weights, configuration, vocabulary and the
form of its audio. Weights that are missing or left over are errors, as transformers would start the missing ones at
random.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig

from thaitool.config import DecoderShape
from thaitool.errors import InputError
from thaitool.files import disk_full_is_explained, write_json
from thaitool.models.aed import AttentionDecoder
from thaitool.models.encoder import damage_is_explained, feature_extractor, read_model_type
from thaitool.models.encoders.interface import SpeechEncoder, new_speech_encoder
from thaitool.text.units import Vocabulary, load_vocabulary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from torch import Tensor

MODEL_TYPE = "thaitool_recogniser"
CONFIG, WEIGHTS, VOCABULARY = "config.json", "model.safetensors", "vocabulary.json"
PREPROCESSOR = "preprocessor_config.json"


class Recogniser(nn.Module):
    """Speech to units. The CTC head is linear on the encoder's frames; the decoder, if there is one, reads them too."""

    def __init__(
        self,
        encoder: SpeechEncoder,
        vocabulary: Vocabulary,
        *,
        decoder: DecoderShape | None = None,
    ) -> None:
        """Heads start at random; `decoder` is its shape, None is CTC alone."""
        super().__init__()
        self.vocabulary = vocabulary
        self.encoder = encoder
        self.ctc = nn.Linear(encoder.hidden_size, len(vocabulary))
        self.decoder: AttentionDecoder | None = None
        if decoder is not None:
            self.decoder = AttentionDecoder(len(vocabulary), encoder.hidden_size, decoder)

    @property
    def head(self) -> Literal["ctc", "aed"]:
        """Which heads it has: aed is CTC and attention."""
        return "ctc" if self.decoder is None else "aed"

    def forward(
        self,
        audio: Tensor,
        audio_lengths: Tensor,
        *,
        time_mask: Tensor | None = None,
        channel_mask: Tensor | None = None,
        augment: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Frames (B, I, D), their true counts (B,), and CTC scores (B, I, V) before the softmax.

        Args:
            audio: Shape (B, N), 16 kHz, zero after each row's length; normalised if `encoder.normalises`.
            audio_lengths: Shape (B,), in samples.
            time_mask: As in `SpeechEncoder.forward`, and so are the others; for training.
            channel_mask: Channels that are zero.
            augment: Of log-mel features.
        """
        frames, lengths = self.encoder(
            audio, audio_lengths, time_mask=time_mask, channel_mask=channel_mask, augment=augment
        )
        return frames, lengths, self.ctc(frames)


def save_recogniser(
    path: Path, model: Recogniser, weights: dict[str, Tensor] | None = None
) -> None:
    """Writes a directory that `load_recogniser` reads; the last file to appear is `config.json`.

    Args:
        path: The directory; made if it is not there.
        model: What to write.
        weights: Its weights by name, if not its own (averaged ones, for instance).
    """
    decoder = model.decoder
    config: dict[str, Any] = {
        "model_type": MODEL_TYPE,
        "head": model.head,
        "layer": model.encoder.layer,
        "encoder": model.encoder.config.to_dict(),
        "decoder": None if decoder is None else decoder.shape.model_dump(),
    }
    tensors = model.state_dict() if weights is None else weights
    with disk_full_is_explained(path):
        path.mkdir(parents=True, exist_ok=True)
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
            path / WEIGHTS,
        )
        model.vocabulary.save(path / VOCABULARY)
        feature_extractor(model.encoder.config).save_pretrained(path)
    write_json(path / CONFIG, config)


def is_recogniser(path: Path) -> bool:
    """Whether a directory is one of `save_recogniser`, rather than a speech LLM or no model at all."""
    return (path / CONFIG).is_file() and read_model_type(path) == MODEL_TYPE


def load_recogniser(path: Path) -> Recogniser:
    """A recogniser from its directory, on the CPU, in evaluation mode.

    Raises:
        InputError: it is no such directory, or its files are damaged, missing, or do not fit each other.
    """
    if (found := read_model_type(path)) != MODEL_TYPE:
        raise InputError(
            f"{path} must be a recogniser made by `thaitool finetune --head`, but its model_type is {found!r}."
        )
    for name in (WEIGHTS, VOCABULARY, PREPROCESSOR):
        if not (path / name).is_file():
            raise InputError(f"{path} must hold {name}, but does not. Copy or make it again.")
    vocabulary = load_vocabulary(path / VOCABULARY)
    model = _from_config(path / CONFIG, vocabulary)
    with damage_is_explained(path / WEIGHTS):
        tensors = load_file(path / WEIGHTS)
    _require_fit(path, tensors, model.state_dict())
    model.load_state_dict(tensors)
    return model.eval()


def _from_config(file: Path, vocabulary: Vocabulary) -> Recogniser:
    """A recogniser of the configured shape, with random weights."""
    config = json.loads(file.read_text("utf-8"))
    if (head := config.get("head")) not in {"ctc", "aed"}:
        raise InputError(f"{file}: head must be ctc or aed, but is {head!r}.")
    try:
        nested, layer = dict(config["encoder"]), config["layer"]
        encoder_config = AutoConfig.for_model(nested.pop("model_type"), **nested)
        shape = None if head == "ctc" else DecoderShape.model_validate(config["decoder"])
    except (KeyError, TypeError, ValueError) as error:
        detail = " ".join(str(error).split())
        raise InputError(
            f"{file} is damaged: {type(error).__name__}: {detail}. Copy or make the checkpoint again."
        ) from error
    # Random numbers would be drawn for every weight, and the caller's generator would move on by them.
    with torch.random.fork_rng(devices=[]):
        encoder = new_speech_encoder(encoder_config, layer=layer)
        return Recogniser(encoder, vocabulary, decoder=shape)


def _require_fit(path: Path, found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Raises `InputError` where names or shapes of weights differ from what the configuration asks for."""
    missing, left_over = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    if missing or left_over:
        raise InputError(
            f"{path / WEIGHTS} must hold the weights that {CONFIG} describes, but {_some(missing)} missing and"
            f" {_some(left_over)} left over. The two files belong to different models."
        )
    for name, tensor in wanted.items():
        if found[name].shape != tensor.shape:
            raise InputError(
                f"{path / WEIGHTS}: {name} must have shape {tuple(tensor.shape)} by {CONFIG} and {VOCABULARY}, but"
                f" has {tuple(found[name].shape)}. The files belong to different models."
            )


def _some(names: Iterable[str]) -> str:
    """`3 (a, b, …) are`, or `none is`."""
    listed = list(names)
    if not listed:
        return "none is"
    more = ", …" if len(listed) > 2 else ""
    return f"{len(listed)} ({', '.join(listed[:2])}{more}) {'is' if len(listed) == 1 else 'are'}"

"""Any speech encoder as one module: audio to frames with true lengths, from the last layer, an inner one or a mix.

Does not train; what is frozen is decided by `set_trained`. Families: wav2vec 2.0 (XLS-R), HuBERT, WavLM (Baevski et al.
2020; Hsu et al. 2021; Chen et al. 2022), wav2vec2-bert (Seamless Communication 2023), Whisper (Radford et al. 2022).
The mix of layers is that of SUPERB (Yang et al. 2021).
"""

from __future__ import annotations

import json
from collections import deque
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn
from torch.nn import functional
from transformers import (
    AutoConfig,
    HubertModel,
    Wav2Vec2BertModel,
    Wav2Vec2Model,
    WavLMModel,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from thaitool.errors import InputError
from thaitool.models.encoder import (
    Length,
    damage_is_explained,
    length_mask,
    normalises,
    output_lengths,
    read_model_type,
)
from thaitool.models.encoders import w2v_bert, wav2vec2, whisper
from thaitool.models.encoders.frames import Heard

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor
    from transformers.configuration_utils import PreTrainedConfig

Layer = int | Literal["last", "mix"]

_MODELS: dict[str, Any] = {
    "wav2vec2": Wav2Vec2Model,
    "hubert": HubertModel,
    "wavlm": WavLMModel,
    "wav2vec2-bert": Wav2Vec2BertModel,
    "whisper": WhisperEncoder,
}
#: `models.recogniser.MODEL_TYPE`, which is made of encoders and cannot be imported here.
_RECOGNISER = "thaitool_recogniser"
_FAMILIES: dict[str, Any] = {
    "wav2vec2": wav2vec2,
    "hubert": wav2vec2,
    "wavlm": wav2vec2,
    "wav2vec2-bert": w2v_bert,
    "whisper": whisper,
}


class SpeechEncoder(nn.Module):
    """Audio to frames, one family or another.

    `model` is transformers' module and keeps its names; `mix` are the logits of the learned layer mix, or None.
    """

    def __init__(self, model: Any, layer: Layer = "last") -> None:
        """Takes the model over: layers above an inner `layer` are dropped, as is the norm after the last one."""
        super().__init__()
        _require_known(model.config)
        self.model, self.layer = model, layer
        self.config = model.config
        self.family: str = model.config.model_type
        self._family = _FAMILIES[self.family]
        self.mix: nn.Parameter | None = None
        stack = self._family.layers(model)
        if layer == "mix":
            self.mix = nn.Parameter(torch.zeros(len(stack) + 1))
        elif layer != "last":
            if not 1 <= layer <= len(stack):
                raise InputError(
                    f"The encoder has layers 1 to {len(stack)}, so layer must be one of them, last or mix, but is"
                    f" {layer}."
                )
            del stack[layer:]
        place = self._family.norm_place(model)
        if place is not None and layer != "last":
            owner, name = place
            setattr(owner, name, nn.Identity())

    @property
    def normalises(self) -> bool:
        """True: audio must have zero mean and unit variance; False: it must be at its own level."""
        return normalises(self.config)

    @property
    def longest_samples(self) -> int | None:
        """Samples of the longest clip that it can hear, None if there is no limit; 30 s in published Whisper models."""
        return whisper.longest_samples(self.config) if self.family == "whisper" else None

    @property
    def hidden_size(self) -> int:
        """Width D of the frames."""
        return int(self.config.hidden_size)

    @property
    def stack(self) -> nn.ModuleList:
        """The transformer layers in use, lowest first."""
        found: nn.ModuleList = self._family.layers(self.model)
        return found

    @property
    def layers(self) -> int:
        """Number of transformer layers in use."""
        return len(self.stack)

    def output_lengths(self, samples: Length) -> Length:
        """Frames for `samples` samples at 16 kHz."""
        return output_lengths(self.config, samples)

    def parts(self) -> dict[str, nn.Module]:
        """Parts by name that can be frozen on their own, e.g. "convolutions" and "transformer"."""
        found: dict[str, nn.Module] = self._family.parts(self.model)
        return found

    def forward(
        self,
        audio: Tensor,
        audio_lengths: Tensor,
        *,
        time_mask: Tensor | None = None,
        channel_mask: Tensor | None = None,
        augment: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Frames (B, I, D), I = output_lengths(N), zero after each row's count; and these counts (B,).

        Padding changes no valid frame.

        Args:
            audio: Shape (B, N), 16 kHz mono, zero after each row's length; zero mean and unit variance if `normalises`.
            audio_lengths: Shape (B,), in samples, on any device.
            time_mask: Shape (B, I), true for frames that the transformer is not to see: they become the learned
                embedding of masked frames, or zero in families that have none.
            channel_mask: Shape (B, D), true for channels that are zero in all frames before the transformer.
            augment: Changes log-mel features (B, T, bins) of true lengths (B,).

        Raises:
            InputError: `augment` for a family that hears samples, or a clip longer than `longest_samples`.
        """
        if augment is not None and self._family is wav2vec2:
            raise InputError(
                f"The encoder ({self.family}) hears samples and has no log-mel features that could be changed; mask its"
                " channels instead."
            )
        samples = audio_lengths.to(audio.device)
        counts, I = self.output_lengths(samples), self.output_lengths(audio.shape[1])  # noqa: E741
        if I == 0:
            return audio.new_zeros(len(audio), 0, self.hidden_size), counts
        valid = length_mask(counts.clamp_min(1), I)
        heard = Heard(audio, samples, valid, time_mask, channel_mask, augment)
        frames = self._frames(heard)[:, :I]
        return frames.masked_fill(~length_mask(counts, I)[..., None], 0.0), counts

    def _frames(self, heard: Heard) -> Tensor:
        states = self._family.states(self.model, heard)
        if self.mix is not None:
            shares = self.mix.softmax(0)
            frames = shares.new_zeros(())
            for share, state in zip(shares, states, strict=True):
                frames = frames + share * _unscaled(state)
            return frames
        (last,) = deque(states, maxlen=1)  # keeps one state at a time
        if self.layer != "last":
            return _unscaled(last)
        place = self._family.norm_place(self.model)
        return last if place is None else getattr(*place)(last)  # type: ignore[no-any-return]


def _unscaled(state: Tensor) -> Tensor:
    """Zero mean and unit variance over D: what passes pre-norm encoders grows from layer to layer."""
    return functional.layer_norm(state, state.shape[-1:])


def new_speech_encoder(config: PreTrainedConfig, *, layer: Layer = "last") -> SpeechEncoder:
    """An encoder with random weights.

    Raises:
        InputError: a family that is not known, or no such layer.
    """
    _require_known(config)
    return SpeechEncoder(_MODELS[config.model_type](config), layer)


def load_speech_encoder(
    path: Path, *, layer: Layer = "last", pad_to_window: bool = True
) -> SpeechEncoder:
    """The encoder of a transformers directory, without any heads, in float32 and evaluation mode.

    Args:
        path: Directory of config.json and safetensors, e.g. a checkpoint of `pretrain`; or a recogniser of `finetune
            --head`, whose encoder is taken with the layer that it was trained with.
        layer: "last" is what the encoder puts out; n is the output of transformer layer n (1 is the lowest), normed
            over D, and layers above are not kept; "mix" a learned weighted mean of the input of the first layer and
            the outputs of all, each normed over D (SUPERB, section 3; its toolkit leaves out the norm by default).
        pad_to_window: Of Whisper: pad every clip to 30 s, see `encoders.whisper`. A directory that says no stays so.

    Raises:
        InputError: no model of a known family, a weight is missing, or no such layer.
    """
    model_type = read_model_type(path)
    if model_type == _RECOGNISER:
        return _of_recogniser(path, layer, pad_to_window=pad_to_window)
    if model_type not in _MODELS:
        raise InputError(
            f"{path} must hold a speech encoder ({', '.join(_MODELS)}), but its model_type is {model_type!r}."
        )
    if not any(path.glob("*.safetensors")) and not (path / "pytorch_model.bin").is_file():
        raise InputError(
            f"{path} must hold weights (safetensors or pytorch_model.bin), but has none."
        )
    config = AutoConfig.from_pretrained(path)
    preprocessor = path / "preprocessor_config.json"
    if (
        _FAMILIES[model_type] is wav2vec2
        and preprocessor.is_file()
        and json.loads(preprocessor.read_text("utf-8")).get("do_normalize") is False
    ):
        config.do_normalize = False
    if model_type == "whisper" and not pad_to_window:
        config.pad_to_window = False
    with damage_is_explained(path):
        model, report = _MODELS[model_type].from_pretrained(
            path,
            config=config,
            dtype=torch.float32,
            key_mapping={r"^(model\.)?encoder\.": ""} if model_type == "whisper" else None,
            output_loading_info=True,
        )
    if report["missing_keys"]:
        raise InputError(
            f"{path} must hold all encoder weights, but lacks {len(report['missing_keys'])}, e.g."
            f" {min(report['missing_keys'])}."
        )
    return SpeechEncoder(model, layer).eval()


def _of_recogniser(path: Path, layer: Layer, *, pad_to_window: bool) -> SpeechEncoder:
    from thaitool.models.recogniser import load_recogniser  # it is made of encoders

    encoder = load_recogniser(path).encoder
    if encoder.layer != layer:
        raise InputError(
            f"{path} is a recogniser whose encoder was trained with layer {encoder.layer}, but layer {layer} was asked"
            f" for; set the layer to {encoder.layer}."
        )
    if encoder.config.model_type == "whisper" and not pad_to_window:
        encoder.config.pad_to_window = False
    return encoder


def _require_known(config: Any) -> None:
    if config.model_type not in _MODELS:
        raise InputError(
            f"A speech encoder must be one of {', '.join(_MODELS)}, but the configuration's model_type is"
            f" {config.model_type!r}."
        )
    if getattr(config, "add_adapter", False):
        raise InputError(
            "The encoder's configuration has add_adapter: true, convolutions after the encoder that shorten its"
            " output once more; thaitool has its own. Take the encoder from before they were added."
        )


def set_trained(
    encoder: SpeechEncoder, *, transformer: bool, convolutions: bool = False, masks: bool = False
) -> list[nn.Parameter]:
    """Says which weights ask for a gradient, and returns these.

    Args:
        encoder: Changed in place. The logits of a layer mix are always trained.
        transformer: Train the transformer and what feeds it.
        convolutions: Train the convolutions too.
        masks: Frames will be masked in training: the embedding of masked frames is trained with the transformer.
            Without masking nothing would use it, and DDP would wait for its gradient.
    """
    encoder.requires_grad_(False)
    for name, part in encoder.parts().items():
        part.requires_grad_(transformer and (convolutions or name != "convolutions"))
    embedding = getattr(encoder.model, "masked_spec_embed", None)
    if embedding is not None:
        embedding.requires_grad_(transformer and masks)
    if encoder.mix is not None:
        encoder.mix.requires_grad_(True)
    return [p for p in encoder.parameters() if p.requires_grad]

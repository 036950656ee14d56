"""The speech LLM in transformers form: any speech encoder, projector, any causal LLM. Trains nothing itself.

Module names follow transformers' audio models (`audio_tower`, `multi_modal_projector`, `language_model`). Audio
embeddings replace placeholder tokens by `masked_scatter`; a count that differs is an error, never a shift.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.nn import functional
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationMixin,
    PreTrainedModel,
)
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec
from transformers.modeling_outputs import CausalLMOutputWithPast

from thaitool.errors import InputError
from thaitool.models.encoder import length_mask
from thaitool.models.encoders.interface import SpeechEncoder, new_speech_encoder
from thaitool.models.processor import IGNORED
from thaitool.models.projector import Projector

if TYPE_CHECKING:
    from torch import Tensor


class ThaiSpeechConfig(PreTrainedConfig):
    """Configuration: the encoder's and the LLM's, nested, which layer is heard, and the projector's two numbers."""

    model_type = "thaitool_speech"
    sub_configs_defaults = {  # noqa: RUF012 (the attribute that transformers reads)
        "audio_config": SubConfigSpec(config_class=AutoConfig, model_type="wav2vec2"),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="llama"),
    }

    audio_config: dict[str, Any] | PreTrainedConfig | None = None
    text_config: dict[str, Any] | PreTrainedConfig | None = None
    audio_layer: int | Literal["last", "mix"] = "last"
    audio_token_id: int = 0
    projector_factor: int = 2
    projector_hidden_size: int = 256


class ThaiSpeechForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """Speech and text in, text out."""

    config_class = ThaiSpeechConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    _supports_sdpa = True
    _supports_attention_backend = True
    supports_gradient_checkpointing = True

    def __init__(
        self,
        config: ThaiSpeechConfig,
        audio_tower: SpeechEncoder | None = None,
        language_model: Any = None,
    ) -> None:
        super().__init__(config)
        audio, text = config.audio_config, config.text_config
        self.audio_tower = (
            audio_tower
            if audio_tower is not None
            else new_speech_encoder(audio, layer=config.audio_layer)
        )
        self.language_model = (
            language_model if language_model is not None else AutoModelForCausalLM.from_config(text)
        )
        self.multi_modal_projector = Projector(
            audio.hidden_size,  # type: ignore[union-attr]
            text.hidden_size,  # type: ignore[union-attr]
            factor=config.projector_factor,
            hidden_width=config.projector_hidden_size,
        )
        if audio_tower is None and language_model is None:
            self.post_init()
        else:
            self.generation_config = self.language_model.generation_config

    def _init_weights(self, module: Any) -> None:
        """Nothing: the parts come initialised, and transformers must not touch loaded ones."""

    def get_input_embeddings(self) -> Any:
        """The LLM's token table."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: Any) -> None:
        """Replaces the LLM's token table."""
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> Any:
        """The LLM's output layer."""
        return self.language_model.get_output_embeddings()

    def encode(self, input_values: Tensor, input_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encoder frames (B, I, D_audio) of audio (B, N), and their true counts (B,)."""
        found: tuple[Tensor, Tensor] = self.audio_tower(input_values, input_lengths)
        return found

    def get_audio_features(
        self, input_values: Tensor, input_lengths: Tensor
    ) -> tuple[Tensor, Tensor]:
        """LLM input embeddings (B, I, D) of audio (B, N), and their true counts (B,)."""
        return self._projected(*self.encode(input_values, input_lengths))

    def _projected(self, frames: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        projector = self.multi_modal_projector
        return projector(frames), projector.output_lengths(counts)

    def embed(
        self,
        input_ids: Tensor,
        input_values: Tensor | None,
        input_lengths: Tensor | None,
        audio_frames: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Token embeddings (B, J, D) with audio, or its encoder frames and counts, in place of the placeholders.

        Raises:
            InputError: the placeholders of the text and the embeddings of the audio differ in number.
        """
        embeds = self.get_input_embeddings()(input_ids)
        if audio_frames is not None:
            features, lengths = self._projected(*audio_frames)
        elif input_values is not None and input_lengths is not None:
            features, lengths = self.get_audio_features(input_values, input_lengths)
        else:
            return embeds  # type: ignore[no-any-return]
        slots = input_ids == self.config.audio_token_id
        if not torch.equal(slots.sum(1), lengths.to(slots.device)):
            raise InputError(
                "Every clip needs as many audio placeholders as it has embeddings; the text has"
                f" {slots.sum(1).tolist()}, the audio {lengths.tolist()}. Build both with ThaiSpeechProcessor."
            )
        valid = features[length_mask(lengths, features.shape[1])].to(embeds.dtype)
        return embeds.masked_scatter(slots[..., None], valid)  # type: ignore[no-any-return]

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        input_values: Tensor | None = None,
        input_lengths: Tensor | None = None,
        labels: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        num_items_in_batch: int | None = None,
        audio_frames: tuple[Tensor, Tensor] | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """One pass.

        Args:
            input_ids: Shape (B, J), audio placeholders expanded.
            attention_mask: Shape (B, J).
            input_values, input_lengths: Audio (B, N) and its true lengths (B,) in samples; first generation step only.
            labels: Shape (B, J), -100 where unsupervised. With labels, logits are computed for supervised positions
                only (a 151k vocabulary in fp32 decides the batch size otherwise), and `logits` is None.
            num_items_in_batch: Divides the summed loss; default is the number of supervised tokens given.
            audio_frames: What `encode` would give, (B, I, D) and (B,), instead of the audio.
        """
        if inputs_embeds is None:
            if input_ids is None:
                raise InputError("The model needs input_ids or inputs_embeds, but got neither.")
            inputs_embeds = self.embed(input_ids, input_values, input_lengths, audio_frames)
        if labels is None:
            out: CausalLMOutputWithPast = self.language_model(
                inputs_embeds=inputs_embeds, attention_mask=attention_mask, **kwargs
            )
            return out
        peft = hasattr(self.language_model, "get_base_model")
        causal = self.language_model.get_base_model() if peft else self.language_model
        hidden = causal.model(
            inputs_embeds=inputs_embeds, attention_mask=attention_mask, use_cache=False
        )
        supervised = labels[:, 1:] != IGNORED
        if not bool(supervised.any()):
            raise InputError(
                "A training batch must supervise at least one token, but its labels are all ignored."
            )
        logits = causal.get_output_embeddings()(hidden.last_hidden_state[:, :-1][supervised])
        loss = functional.cross_entropy(logits.float(), labels[:, 1:][supervised], reduction="sum")
        return CausalLMOutputWithPast(loss=loss / (num_items_in_batch or int(supervised.sum())))

    def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Audio enters the first step only; later steps have it in the cache."""
        audio = {k: kwargs.pop(k, None) for k in ("input_values", "input_lengths")}
        first = kwargs.get("is_first_iteration", False)
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(*args, **kwargs)
        return {**inputs, **audio} if first or kwargs.get("use_cache") is False else inputs


AutoConfig.register(ThaiSpeechConfig.model_type, ThaiSpeechConfig)
AutoModelForCausalLM.register(ThaiSpeechConfig, ThaiSpeechForConditionalGeneration)

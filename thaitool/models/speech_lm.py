"""The speech LLM in transformers form: any speech encoder, projector, any causal LLM. Trains nothing itself.

Module names follow transformers' audio models (`audio_tower`, `multi_modal_projector`, `language_model`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.nn import functional
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    AutoProcessor,
    GenerationConfig,
    GenerationMixin,
    PreTrainedModel,
)
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightRenaming
from transformers.modeling_outputs import CausalLMOutputWithPast

from thaitool.errors import InputError
from thaitool.models.answer_loss import answer_loss
from thaitool.models.encoders.interface import SpeechEncoder, new_speech_encoder
from thaitool.models.hearing import Hearing
from thaitool.models.packing import (
    encode_by_length,
    packed_states,
    packing_of,
    require_isolation,
)
from thaitool.models.processor import IGNORED, ThaiSpeechProcessor
from thaitool.models.projector import Form, Projector, ProjectorSettings

if TYPE_CHECKING:
    from torch import Tensor


#: Parts that stay in float32 whatever the LLM is loaded in: they are small, and the alignment was trained so.
_FLOAT32 = ["audio_tower", "multi_modal_projector"]
#: What `AutoModel…` adds to a caller's arguments.
_OF_AUTO = {"config", "trust_remote_code", "_from_auto", "adapter_kwargs", "code_revision"}


class ThaiSpeechConfig(PreTrainedConfig):
    """Configuration: the encoder's and the LLM's, nested, which layer is heard, and the projector's form and size."""

    model_type = "thaitool_speech"
    sub_configs_defaults = {  # noqa: RUF012 (the attribute that transformers reads)
        "audio_config": SubConfigSpec(config_class=AutoConfig, model_type="wav2vec2"),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="llama"),
    }

    audio_config: dict[str, Any] | PreTrainedConfig | None = None
    text_config: dict[str, Any] | PreTrainedConfig | None = None
    audio_layer: int | Literal["last", "mix"] = "last"
    audio_token_id: int = 0
    projector: Form = "conv"
    projector_factor: int = 2
    projector_hidden_size: int = 256
    projector_layers: int = 2
    projector_window: int = 16

    def projector_settings(self) -> ProjectorSettings:
        """Form and size of the projector.

        Raises:
            InputError: they make no projector.
        """
        return ProjectorSettings(
            self.projector,
            self.projector_factor,
            self.projector_hidden_size,
            self.projector_layers,
            self.projector_window,
        )


#: Settings by which some LLMs change the scores after their output layer, and the values that change nothing.
_PLAIN = {
    "final_logit_softcapping": (None, 0),
    "logits_scaling": (None, 1),
    "logit_scale": (None, 1),
    "lm_head_multiplier": (None, 1),
}


def require_plain_head(config: Any, llm: Any) -> None:
    """Raises `InputError` for what is no causal LLM, and for one whose scores are more than its output layer.

    The training loss computes scores at supervised positions only, from the output layer alone.
    """
    if not hasattr(config, "hidden_size") or not hasattr(config, "vocab_size"):
        raise InputError(
            f"{llm} must hold a causal LLM of text, but is a {config.model_type}. Choose the LLM inside it, saved on"
            " its own."
        )
    for name, neutral in _PLAIN.items():
        if getattr(config, name, None) not in neutral:
            raise InputError(
                f"{llm} has {name}: {getattr(config, name)}, which changes its scores after the output layer; the loss"
                " does not do this. Choose an LLM without it (Llama, Qwen, Mistral, …)."
            )


class ThaiSpeechForConditionalGeneration(Hearing, PreTrainedModel, GenerationMixin):
    """Speech and text in, text out."""

    config_class = ThaiSpeechConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    input_modalities = ("audio", "text")
    _supports_sdpa = True
    _supports_attention_backend = True
    _keep_in_fp32_modules_strict = _FLOAT32
    supports_gradient_checkpointing = True

    def __init__(
        self,
        config: ThaiSpeechConfig,
        audio_tower: SpeechEncoder | None = None,
        language_model: Any = None,
    ) -> None:
        super().__init__(config)
        text = config.text_config
        self.audio_tower, self.multi_modal_projector = _front_end(config, audio_tower)
        self.language_model = (
            language_model if language_model is not None else AutoModelForCausalLM.from_config(text)
        )
        if audio_tower is None and language_model is None:
            self.post_init()
        self._isolating: set[str] = set()
        """Attention implementations in which packed rows were seen not to hear each other."""
        self.generation_config = _generation_config(
            self.language_model.generation_config, config.audio_token_id
        )

    @classmethod
    def from_pretrained(cls, place: Any, *arguments: Any, **named: Any) -> Any:
        """As in transformers; also from a checkpoint of `align` or `finetune`, which only names its LLM.

        Args:
            place: A directory, or a hub id of a whole model.
            arguments, named: What transformers takes. Of a checkpoint only `llm`, where its LLM lies now, and `dtype`
                of the LLM (default float32).

        Raises:
            InputError: as `checkpoint.load_speech_lm`, or another argument was given for a checkpoint.
        """
        from thaitool.models.checkpoint import BASE, load_speech_lm

        if not (Path(place) / BASE).is_file():
            return super().from_pretrained(place, *arguments, **named)
        llm, dtype = named.pop("llm", None), named.pop("dtype", None)
        given = sorted(k for k, v in named.items() if k not in _OF_AUTO and v not in (None, False))
        if given:
            raise InputError(
                f"{place} is a checkpoint without its LLM, so that only llm and dtype can be chosen, but"
                f" {', '.join(given)} was given. Make it a whole model by `thaitool convert merge` first."
            )
        model, _ = load_speech_lm(
            Path(place), llm=None if llm is None else Path(llm), dtype=dtype or torch.float32
        )
        return model

    def save_pretrained(self, *arguments: Any, **named: Any) -> None:
        """As in transformers: the whole model.

        Raises:
            InputError: the LLM has an adapter, under whose names nothing would find the LLM's weights again.
        """
        if hasattr(self.language_model, "peft_config"):
            raise InputError(
                "A model with an adapter must be merged before it is saved as a whole; use `thaitool convert merge`, or"
                " checkpoint.save_checkpoint for the adapter alone."
            )
        super().save_pretrained(*arguments, **named)

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
        packed: bool = False,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """One pass.

        Args:
            input_ids: Shape (B, J), audio placeholders expanded.
            attention_mask: Shape (B, J).
            input_values, input_lengths: Audio (B, N) and its true lengths (B,) in samples; first generation step only.
            labels: Shape (B, J), -100 where unsupervised. With labels, logits are computed for supervised positions
                only, some at a time (a 151k vocabulary in fp32 decides the batch size otherwise), `logits` is None, and
                what is returned is an `AnswerLoss`.
            num_items_in_batch: Divides the summed loss; default is the number of supervised tokens given.
            audio_frames: What `encode` would give, (B, I, D) and (B,), instead of the audio.
            packed: With labels only: compute the same loss without the padding of the rows, and encode clips of like
                length together. See `models.packing`.

        Raises:
            InputError: nothing is supervised, or this LLM cannot be trained on packed rows.
        """
        if packed and audio_frames is None and input_values is not None:
            assert input_lengths is not None  # noqa: S101 (they come together; narrows the type)
            audio_frames = encode_by_length(self.encode, input_values, input_lengths)
        if inputs_embeds is None:
            if input_ids is None:
                raise InputError("The model needs input_ids or inputs_embeds, but got neither.")
            inputs_embeds = self.embed(input_ids, input_values, input_lengths, audio_frames)
        if labels is None:
            out: CausalLMOutputWithPast = self.language_model(
                inputs_embeds=inputs_embeds, attention_mask=attention_mask, **kwargs
            )
            return out
        supervised = functional.pad(labels[:, 1:] != IGNORED, (0, 1))
        if not bool(supervised.any()):
            raise InputError(
                "A training batch must supervise at least one token, but its labels are all ignored."
            )
        peft = hasattr(self.language_model, "get_base_model")
        causal = self.language_model.get_base_model() if peft else self.language_model
        states = self._states(
            causal.get_decoder(), inputs_embeds, attention_mask, supervised, packed=packed, **kwargs
        )
        return answer_loss(states, labels, supervised, causal, num_items_in_batch)

    def _states(
        self,
        decoder: Any,
        embeds: Tensor,
        mask: Tensor | None,
        supervised: Tensor,
        *,
        packed: bool,
        **kwargs: Any,
    ) -> Tensor:
        """Last hidden states before supervised tokens, row after row."""
        if not packed:
            out = decoder(
                inputs_embeds=embeds, attention_mask=mask, **{**kwargs, "use_cache": False}
            )
            return out.last_hidden_state[supervised]  # type: ignore[no-any-return]
        attention = str(decoder.config._attn_implementation)  # noqa: SLF001 (has no other name)
        if attention not in self._isolating:
            require_isolation(decoder, embeds.device)
            self._isolating.add(attention)
        mask = torch.ones_like(supervised, dtype=torch.long) if mask is None else mask
        packing = packing_of(decoder, mask)
        return packed_states(decoder, embeds, mask, supervised, packing=packing, **kwargs)

    def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Audio enters the first step only; later steps have it in the cache."""
        audio = {k: kwargs.pop(k, None) for k in ("input_values", "input_lengths")}
        first = kwargs.get("is_first_iteration", False)
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(*args, **kwargs)
        return {**inputs, **audio} if first or kwargs.get("use_cache") is False else inputs


class ThaiSpeechModel(Hearing, PreTrainedModel):
    """The model without the LLM's output layer, as transformers' `AutoModel` and servers build it.

    Reads the files of the whole model; `language_model` is the LLM's decoder. Trained is the other one.
    """

    config_class = ThaiSpeechConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ("audio", "text")
    _supports_sdpa = True
    _supports_attention_backend = True
    _keep_in_fp32_modules_strict = _FLOAT32

    def __init__(self, config: ThaiSpeechConfig) -> None:
        super().__init__(config)
        self.audio_tower, self.multi_modal_projector = _front_end(config)
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()

    def _init_weights(self, module: Any) -> None:
        """Nothing, as above."""

    def get_input_embeddings(self) -> Any:
        """The LLM's token table."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: Any) -> None:
        """Replaces the LLM's token table."""
        self.language_model.set_input_embeddings(value)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        input_values: Tensor | None = None,
        input_lengths: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """The decoder's output, `last_hidden_state` (B, J, D) first; arguments as of the model with a head.

        `kwargs` reach the LLM's attention: servers pass theirs that way.
        """
        if inputs_embeds is None:
            if input_ids is None:
                raise InputError("The model needs input_ids or inputs_embeds, but got neither.")
            inputs_embeds = self.embed(input_ids, input_values, input_lengths)
        return self.language_model(
            inputs_embeds=inputs_embeds, attention_mask=attention_mask, **kwargs
        )


def _generation_config(of_llm: GenerationConfig, audio_token_id: int) -> GenerationConfig:
    """Greedy; of the LLM's own only the special tokens and the length.

    Its sampling and penalties are for chat. A penalty on repetition (Qwen) also counts the prompt: it would forbid
    words of a transcript, change with the padding, and look up scores of placeholders, which may have none.
    """
    return GenerationConfig(
        bos_token_id=of_llm.bos_token_id,
        eos_token_id=of_llm.eos_token_id,
        pad_token_id=of_llm.pad_token_id,
        max_length=of_llm.max_length,
        max_new_tokens=of_llm.max_new_tokens,
        # An answer cannot hold a clip; a placeholder in it would be taken for one.
        suppress_tokens=[audio_token_id],
    )


def _front_end(
    config: ThaiSpeechConfig, audio_tower: SpeechEncoder | None = None
) -> tuple[SpeechEncoder, Projector]:
    audio, text = config.audio_config, config.text_config
    if audio_tower is None:
        audio_tower = new_speech_encoder(audio, layer=config.audio_layer)
    projector = Projector(
        audio_tower.hidden_size,
        text.hidden_size,  # type: ignore[union-attr]
        config.projector_settings(),
    )
    return audio_tower, projector


AutoConfig.register(ThaiSpeechConfig.model_type, ThaiSpeechConfig)
AutoModel.register(ThaiSpeechConfig, ThaiSpeechModel)
AutoModelForCausalLM.register(ThaiSpeechConfig, ThaiSpeechForConditionalGeneration)
AutoModelForMultimodalLM.register(ThaiSpeechConfig, ThaiSpeechForConditionalGeneration)
AutoProcessor.register(ThaiSpeechConfig, ThaiSpeechProcessor)
# The files have the LLM as a causal LM; the model without head has its decoder in that place.
register_checkpoint_conversion_mapping(
    ThaiSpeechModel.__name__, [WeightRenaming(r"^language_model\.model\.", "language_model.")]
)

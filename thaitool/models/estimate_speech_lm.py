"""What finetuning a speech LLM will need, before it starts: memory by what takes it. Allocates nothing.

An estimate, and printed as one: activations are counted by formula (compared with what autograd keeps in
tests/test_models_estimate_speech_lm.py), for attention in tiles (sdpa). Time is not guessed: it is measured on the
first updates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from thaitool.models.answer_loss import SCORES_AT_ONCE
from thaitool.models.estimate import activation_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

GIB = 2**30
#: float32 scores, their softmax and its gradient.
SCORE_BYTES = 12
#: Gradient and two AdamW moments, float32.
TRAINED_BYTES = 12


@dataclass(frozen=True)
class SpeechLmEstimate:
    """Needs of one process, in bytes."""

    weights: dict[str, int]
    """Of the encoder, the projector and the LLM with its adapter."""
    trained_parameters: int
    casts: int
    """Copies of float32 weights in the half precision that the forward pass runs in."""
    llm_activations: int
    encoder_activations: int
    scores: int
    """Of answer positions, as many as exist at once."""
    disk: int
    """Checkpoints at once, while a new one is written."""

    @property
    def state(self) -> int:
        """What is there for certain: weights, gradients and moments."""
        return sum(self.weights.values()) + TRAINED_BYTES * self.trained_parameters

    @property
    def total(self) -> int:
        """All together."""
        parts = (self.state, self.casts, self.llm_activations, self.encoder_activations)
        return sum(parts) + self.scores


def llm_activation_bytes(
    config: Any,
    tokens: int,
    *,
    lora: bool,
    checkpointing: bool,
    half: bool,
    query_norms: bool = False,
) -> int:
    """What autograd keeps of the LLM's layers for `tokens` tokens, padding included.

    Per layer and token: about 17 bytes for each of D (norms and residuals, mostly in float32 whatever the precision of
    the pass), three tensors of the feed-forward width F and two of keys and values; `query_norms` of some LLMs keep
    queries and keys once more. LoRA also keeps what enters its matrices. With checkpointing the input of every layer,
    and one layer in full while it is computed again.
    """
    D, width = config.hidden_size, 2 if half else 4
    heads = config.num_attention_heads
    head_width = getattr(config, "head_dim", None) or D // heads
    keys = head_width * (getattr(config, "num_key_value_heads", None) or heads)
    F = getattr(config, "intermediate_size", None) or 4 * D
    layer = 17 * D + width * (3 * F + 2 * keys)
    if query_norms:
        layer += 4 * (heads * head_width + keys)
    if lora:
        layer += 9 * D + width * F
    layers = config.num_hidden_layers
    if checkpointing:
        return int(tokens * (layers * D * width + layer))
    return int(tokens * layers * layer)


def encoder_activation_bytes(
    encoder: Any, audio_s: float, *, layers: int | None, whole: bool, half: bool
) -> int:
    """What autograd keeps of the encoder for `audio_s` padded seconds: of its upper `layers`, or of the whole of it.

    A frozen encoder keeps nothing. Families other than wav2vec 2.0 are counted as if they had its layers, without their
    convolutions.
    """
    if not whole and not layers:
        return 0
    if whole and hasattr(encoder.config, "conv_dim"):
        return activation_bytes(encoder.config, audio_s, checkpointing=False, bf16=half)
    width = 2 if half else 4
    D = encoder.hidden_size
    F = getattr(encoder.config, "intermediate_size", None) or 4 * D
    frames = encoder.output_lengths(int(audio_s * 16_000))
    per_layer = D * (7 * width + 16) + 2 * F * width
    return int(frames * (encoder.layers if whole else layers or 0) * per_layer)


def estimate_speech_lm(
    model: Any,
    *,
    trained_parameters: int,
    tokens: int,
    text_tokens: int,
    audio_s: float,
    lora: bool,
    unfrozen_layers: int | None,
    unfrozen_encoder: bool,
    checkpointing: bool,
    autocast: bool,
    keep: int,
) -> SpeechLmEstimate:
    """Needs of a run.

    Args:
        model: The speech LLM with its adapter, on any device.
        trained_parameters: How many parameters are trained.
        tokens: Tokens of the largest micro-batch, padding included where rows are padded.
        text_tokens: Those of them that are no audio; the answers are among them.
        audio_s: Padded seconds of audio of a micro-batch.
        lora, unfrozen_layers, unfrozen_encoder: What is trained besides the projector.
        checkpointing: Whether the LLM's layers are computed again.
        autocast: Whether the forward pass runs in bfloat16.
        keep: Checkpoints that are kept.
    """
    text = model.config.text_config
    parts = {
        "encoder": model.audio_tower,
        "projector": model.multi_modal_projector,
        "LLM": model.language_model,
    }
    sizes = {name: _bytes(part) for name, part in parts.items()}
    single = sum(p.numel() for p in model.language_model.parameters() if p.element_size() == 4)
    half = autocast or next(iter(model.language_model.parameters())).element_size() == 2
    llm = llm_activation_bytes(
        text,
        tokens,
        lora=lora,
        checkpointing=checkpointing,
        half=half,
        query_norms=any(n.endswith("q_norm") for n, _ in model.language_model.named_modules()),
    )
    encoder = encoder_activation_bytes(
        model.audio_tower, audio_s, layers=unfrozen_layers, whole=unfrozen_encoder, half=autocast
    )
    front = sizes["encoder"] + sizes["projector"]
    return SpeechLmEstimate(
        weights=sizes,
        trained_parameters=trained_parameters,
        # Autograd holds on to the copy that each product used; computed again, they are gone after it.
        casts=2 * single if autocast and not checkpointing else 0,
        llm_activations=llm,
        encoder_activations=encoder,
        scores=SCORE_BYTES * min(text_tokens * text.vocab_size, SCORES_AT_ONCE),
        # `keep` newest, the best one, and the one being written; what is trained once more, and its moments.
        disk=(keep + 2) * (front + (4 + TRAINED_BYTES) * trained_parameters),
    )


def _bytes(module: Any) -> int:
    return int(sum(p.numel() * p.element_size() for p in module.parameters()))


def describe_speech_lm(e: SpeechLmEstimate, *, tokens: int) -> Sequence[tuple[str, str]]:
    """Rows for people. `tokens`: of the largest micro-batch."""
    weights = ", ".join(f"{name} {_size(n)}" for name, n in e.weights.items())
    trained = TRAINED_BYTES * e.trained_parameters
    casts = f", {_size(e.casts)} copies in bfloat16" if e.casts else ""
    return (
        (
            "memory",
            f"about {_size(e.total)}: weights {_size(sum(e.weights.values()))} ({weights}), gradients and optimizer"
            f" {_size(trained)}{casts}, activations {_size(e.llm_activations)} of the LLM ({tokens:,} tokens) and"
            f" {_size(e.encoder_activations)} of the encoder, scores of answers at most {_size(e.scores)}",
        ),
        ("disk", f"{_size(e.disk)} of checkpoints"),
    )


def _size(n_bytes: int) -> str:
    if n_bytes == 0:
        return "0"
    return f"{n_bytes / GIB:.2f} GiB" if n_bytes >= GIB / 10 else f"{n_bytes / 2**20:.1f} MiB"

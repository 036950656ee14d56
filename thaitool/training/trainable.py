"""What of a speech LLM `finetune` trains, at which rates: freezes, adds LoRA, saves memory. Runs nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from thaitool.errors import InputError
from thaitool.models.encoders.interface import set_trained

if TYPE_CHECKING:
    from torch import nn

    from thaitool.config import FinetuneConfig
    from thaitool.training.auxiliary import CtcHead

#: Name of the CTC head's group: it only serves its own loss.
CTC_HEAD = "ctc_head"


def make_trainable(
    model: Any, config: FinetuneConfig, ctc: CtcHead | None = None
) -> list[dict[str, Any]]:
    """Freezes all but what the configuration asks for; returns the optimizer groups.

    Raises:
        InputError: the LLM has an adapter of another rank, scale or place, no layer that `lora_targets` names, or the
            encoder fewer layers than `unfreeze_layers`.
    """
    model.requires_grad_(False)
    groups: list[dict[str, Any]] = []
    first = config.ctc_first_updates  # of the LLM, nothing changes before
    if config.lora_rank:
        lora = _lora(model, config)
        rate = config.train.learning_rate
        groups.append({"name": "lora", "params": lora, "lr": rate, "from_update": first})
    if config.train_projector:
        projector = list(model.multi_modal_projector.requires_grad_(True).parameters())
        rate = config.projector_learning_rate
        groups.append({"name": "projector", "params": projector, "lr": rate})
    if encoder := _encoder(model.audio_tower, config):
        groups.append({"name": "encoder", "params": encoder, "lr": config.encoder_learning_rate})
    if ctc is not None:
        head = list(ctc.parameters())
        groups.append({"name": CTC_HEAD, "params": head, "lr": config.ctc_learning_rate})
    if not groups:
        raise InputError(
            "Nothing would be trained: lora_rank is 0, train_projector false, and the encoder is frozen. Set one of"
            " them."
        )
    if config.gradient_checkpointing:
        # Not the reentrant way: it gives no gradient where the input asks for none, as of a frozen LLM's embeddings.
        model.language_model.activation_checkpointing_enable({"use_reentrant": False})
    return groups


def _lora(model: Any, config: FinetuneConfig) -> list[nn.Parameter]:
    from peft import LoraConfig, get_peft_model

    if not hasattr(model.language_model, "peft_config"):
        settings = LoraConfig(
            r=config.lora_rank,
            lora_alpha=config.lora_alpha,
            target_modules=config.lora_targets,
            task_type="CAUSAL_LM",
        )
        try:
            model.language_model = get_peft_model(model.language_model, settings)
        except ValueError as error:
            raise InputError(
                f"lora_targets must name linear layers of the LLM, but {config.lora_targets!r} does not:"
                f" {str(error).splitlines()[0]}"
            ) from error
    has = model.language_model.peft_config["default"]
    for key, name, value in (
        ("lora_rank", "rank", has.r),
        ("lora_alpha", "alpha", has.lora_alpha),
        ("lora_targets", "targets", has.target_modules),
    ):
        wanted = getattr(config, key)
        # Layers that are listed one by one, by another tool, are what they are.
        if wanted != value and isinstance(value, int | float | str):
            raise InputError(
                f"{config.model} has a LoRA adapter of {name} {value}, which goes on being trained, but {key} is"
                f" {wanted}; set it to {value}."
            )
    lora = [p for n, p in model.language_model.named_parameters() if "lora_" in n]
    for p in lora:
        p.requires_grad_(True)
    return lora


def _encoder(encoder: Any, config: FinetuneConfig) -> list[nn.Parameter]:
    if config.unfreeze_encoder:
        return set_trained(encoder, transformer=True, convolutions=True)
    layers = upper_layers(encoder, config)
    if len(layers) < (config.unfreeze_layers or 0):
        raise InputError(
            f"unfreeze_layers is {config.unfreeze_layers}, but the encoder has {encoder.layers} layers in use; set it"
            " to that at most."
        )
    for layer in layers:
        layer.requires_grad_(True)
    return [p for layer in layers for p in layer.parameters()]


def upper_layers(encoder: Any, config: FinetuneConfig) -> list[nn.Module]:
    """The uppermost layers that `unfreeze_layers` asks for; none without it."""
    return list(encoder.stack)[-config.unfreeze_layers :] if config.unfreeze_layers else []

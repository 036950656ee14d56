"""Audio to embeddings in an LLM's input: what the model with the LLM's output layer and the one without share.

Holds no weights of its own. Audio embeddings replace placeholder tokens by `masked_scatter`; a count that differs is an
error, never a shift.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling

from thaitool.errors import InputError
from thaitool.models.encoder import length_mask

# Not for types only: transformers evaluates the annotations of a model's classes.
from thaitool.models.encoders.interface import SpeechEncoder
from thaitool.models.projector import Projector

if TYPE_CHECKING:
    from torch import Tensor


class Hearing:
    """Audio to embeddings of the LLM, for the model with the LLM's head and for the one without."""

    config: Any
    audio_tower: SpeechEncoder
    multi_modal_projector: Projector

    def encode(self, input_values: Tensor, input_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encoder frames (B, I, D_audio) of audio (B, N), and their true counts (B,)."""
        dtype = next(self.audio_tower.parameters()).dtype
        if dtype == torch.float32:  # under whatever precision training runs
            found: tuple[Tensor, Tensor] = self.audio_tower(input_values, input_lengths)
            return found
        # A server has all weights in half precision. Log-mel features stay in float32 all the same.
        with torch.autocast(input_values.device.type, dtype):
            frames, counts = self.audio_tower(input_values.float(), input_lengths)
        return frames.to(dtype), counts

    def get_audio_features(
        self, input_values: Tensor, input_lengths: Tensor, **_: Any
    ) -> BaseModelOutputWithPooling:
        """LLM input embeddings of audio (B, N) with lengths (B,) in samples.

        Returns:
            `last_hidden_state`: the encoder's frames (B, I, D_audio); `pooler_output`: the embeddings of all clips one
            after the other, without padding (sum of their counts, D), which is what servers expect.
        """
        frames, counts = self.encode(input_values, input_lengths)
        features, lengths = self.project(frames, counts)
        valid = features[length_mask(lengths, features.shape[1])]
        return BaseModelOutputWithPooling(last_hidden_state=frames, pooler_output=valid)

    def project(self, frames: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings (B, I', D) of encoder frames (B, I, D_audio), and their true counts (B,)."""
        projector = self.multi_modal_projector
        return projector(frames, counts), projector.output_lengths(counts)

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
        slots = input_ids == self.config.audio_token_id
        # The placeholder may have been added to the tokenizer, and have no row in the table.
        embeds = self.get_input_embeddings()(input_ids.masked_fill(slots, 0))  # type: ignore[attr-defined]
        if audio_frames is None and input_values is not None and input_lengths is not None:
            audio_frames = self.encode(input_values, input_lengths)
        if audio_frames is None:
            # Not in single steps, where looking would cost a wait for the device and a placeholder cannot be.
            if input_ids.shape[1] > 1 and bool(slots.any()):
                raise InputError(
                    f"The text has {int(slots.sum())} audio placeholders, but no audio came with it. Give input_values"
                    " and input_lengths."
                )
            return embeds  # type: ignore[no-any-return]
        features, lengths = self.project(*audio_frames)
        if not torch.equal(slots.sum(1), lengths.to(slots.device)):
            raise InputError(
                "Every clip needs as many audio placeholders as it has embeddings; the text has"
                f" {slots.sum(1).tolist()}, the audio {lengths.tolist()}. Build both with ThaiSpeechProcessor."
            )
        valid = features[length_mask(lengths, features.shape[1])].to(embeds.dtype)
        return embeds.masked_scatter(slots[..., None], valid)  # type: ignore[no-any-return]

    @classmethod
    def from_pretrained(cls, place: Any, *arguments: Any, **named: Any) -> Any:
        """As in transformers, but weights that are missing are an error: they would be whatever memory held.

        Raises:
            InputError: the files lack weights, or have some of another shape.
        """
        wanted = named.pop("output_loading_info", False)
        model, report = super().from_pretrained(  # type: ignore[misc]
            place, *arguments, output_loading_info=True, **named
        )
        # A tuple of the name and both shapes, where a shape differs.
        lacking = [
            str(n) for n in (*sorted(report["missing_keys"]), *report.get("mismatched_keys", ()))
        ]
        if lacking:
            raise InputError(
                f"{place} must hold all weights of the model, but lacks {len(lacking)}, e.g. {lacking[0]}. Copy it"
                " again, or make it again by `thaitool convert merge`."
            )
        return (model, report) if wanted else model

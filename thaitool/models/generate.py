"""Answers of the speech LLM, token by token, for clips that come and go; each ends by itself or at its limit.

Scores nothing. What an answer is depends on its own clip, instruction and settings alone: see `models.rows`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from thaitool.models import rows as packed_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from thaitool.models.processor import ThaiSpeechProcessor

#: Tokens of new prompts that enter one step, so that a rush of them does not fill the memory.
_PROMPT_TOKENS = 4096


class Form(Protocol):
    """What answers may look like."""

    @property
    def least_tokens(self) -> int:
        """That an answer must be allowed to have, its end included."""
        ...

    def allowed(self, tokens: Sequence[int], left: int) -> Tensor:
        """The ids that may follow an answer's tokens, shape (n,), n > 0; `left` more are allowed, the end included."""
        ...


@dataclass(frozen=True)
class Choice:
    """How the next token is chosen: the best one at temperature 0, else drawn from the nucleus (Holtzman et al. 2020).

    The draw of each token depends on the seed and its number in the answer alone.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    max_new_tokens: int = 128
    form: Form | None = None


@dataclass
class Row:
    """One answer on its way."""

    embeds: Tensor
    """Of the tokens that the LLM has not seen yet, shape (n, D); empty once it has ended."""
    choice: Choice
    memory: packed_rows.Memory
    tokens: list[int] = field(default_factory=list)
    stopped: bool = False
    done: bool = False


class Decoder:
    """A speech LLM that gives many rows one more token at a time. Rows may join and leave between any two steps."""

    def __init__(self, model: Any, processor: ThaiSpeechProcessor) -> None:
        """Takes `ThaiSpeechForConditionalGeneration` in evaluation mode, and its processor."""
        self.model, self.processor = model, processor
        self.packs = packed_rows.can_pack(model.language_model)
        self.end = int(processor.tokenizer.eos_token_id)

    @torch.inference_mode()
    def start(self, audio: Tensor, instruction: str, choice: Choice) -> Row:
        """A row for one clip; the encoder hears it now, the LLM at the next step.

        Args:
            audio: Shape (N,), 16 kHz, normalised if `audio_tower.normalises`.
            instruction: What is asked.
            choice: How its tokens are chosen.

        Raises:
            InputError: the instruction holds the audio placeholder.
        """
        ids = self.processor.tokens([instruction], [len(audio)]).input_ids
        device = self.model.device
        # A clip is heard alone: in a padded batch its frames would differ in the last bits.
        embeds = self.model.embed(
            ids.to(device), audio[None].to(device), torch.tensor([len(audio)], device=device)
        )[0]
        return Row(embeds, choice, packed_rows.Memory(len(embeds) + choice.max_new_tokens))

    @torch.inference_mode()
    def step(self, rows: Sequence[Row]) -> list[Row]:
        """Gives running rows one more token each, as many as fit into a pass; returns those that got one."""
        chosen: list[Row] = []
        n_new = 0
        for row in (r for r in rows if not r.done):
            if chosen and n_new + len(row.embeds) > _PROMPT_TOKENS:
                continue
            chosen.append(row)
            n_new += len(row.embeds)
        if not chosen:
            return []
        scores = packed_rows.forward(
            self.model.language_model, [(r.memory, r.embeds) for r in chosen], packed=self.packs
        )
        # An answer cannot hold a clip; a placeholder in it would be taken for one.
        if self.processor.audio_token_id < scores.shape[1]:
            scores[:, self.processor.audio_token_id] = -torch.inf
        best = scores.argmax(1).tolist()
        for row, row_scores, first in zip(chosen, scores, best, strict=True):
            self._append(row, _next_token(row, row_scores, first))
        alive = [r for r in chosen if not r.done]
        if alive:
            ids = torch.tensor([r.tokens[-1] for r in alive], device=self.model.device)
            table = self.model.get_input_embeddings()(ids)
            for number, row in enumerate(alive):
                row.embeds = table[number : number + 1]
        return chosen

    def text(self, row: Row) -> str:
        """What a row says so far."""
        decoded: str = self.processor.tokenizer.decode(row.tokens, skip_special_tokens=True)
        return decoded.strip()

    def _append(self, row: Row, token: int) -> None:
        row.stopped = token == self.end
        if not row.stopped:
            row.tokens.append(token)
        row.done = row.stopped or len(row.tokens) == row.choice.max_new_tokens
        if row.done:
            row.embeds = row.embeds[:0]
            row.memory = packed_rows.Memory(0)


def _next_token(row: Row, scores: Tensor, best: int) -> int:
    """The token that a row chooses, of scores (V,) of which `best` is the greatest."""
    choice = row.choice
    if choice.form is None:
        return best if choice.temperature == 0 else _drawn(scores, row)
    left = choice.max_new_tokens - len(row.tokens)
    ids = choice.form.allowed(row.tokens, left).to(scores.device)
    some = scores[ids]
    if choice.temperature == 0:
        return int(ids[int(some.argmax())])
    return int(ids[_drawn(some, row)])


def _drawn(scores: Tensor, row: Row) -> int:
    choice = row.choice
    probabilities = (scores.double().cpu() / choice.temperature).softmax(-1)
    ordered, order = probabilities.sort(descending=True, stable=True)
    total = ordered.cumsum(-1)
    # The first whose sum reaches top_p is the last of the nucleus.
    last = int(torch.searchsorted(total, torch.tensor(choice.top_p, dtype=torch.float64)))
    nucleus = total[: min(last, len(total) - 1) + 1]
    uniform = np.random.default_rng([choice.seed, len(row.tokens)]).random() * float(nucleus[-1])
    at = int(torch.searchsorted(nucleus, torch.tensor(uniform, dtype=torch.float64), right=True))
    return int(order[min(at, len(nucleus) - 1)])


def answer(
    model: Any,
    processor: ThaiSpeechProcessor,
    audio: Tensor,
    audio_lengths: Tensor,
    instructions: Sequence[str],
    *,
    max_new_tokens: int,
) -> list[tuple[str, bool]]:
    """The best (text, stopped by itself) for each clip.

    Args:
        model: `ThaiSpeechForConditionalGeneration` in evaluation mode.
        processor: Its processor.
        audio: Shape (B, N), 16 kHz, right-padded, normalised if `audio_tower.normalises`.
        audio_lengths: Shape (B,), in samples.
        instructions: One per clip.
        max_new_tokens: Length limit of an answer.
    """
    decoder = Decoder(model, processor)
    choice = Choice(max_new_tokens=max_new_tokens)
    started = [
        decoder.start(clip[:n], instruction, choice)
        for clip, n, instruction in zip(audio, audio_lengths.tolist(), instructions, strict=True)
    ]
    while decoder.step(started):
        pass
    return [(decoder.text(row), row.stopped) for row in started]

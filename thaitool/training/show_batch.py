"""What a training row really is, read back from its token ids, so that a person can check it. Trains nothing.

Wrong label masks, answers without an end and prompts overwritten by sound cost weeks elsewhere: losses look the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from thaitool.audio.decode import SAMPLE_RATE_HZ
from thaitool.models.processor import IGNORED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from thaitool.models.processor import ThaiSpeechProcessor
    from thaitool.records import Utterance


@dataclass(frozen=True)
class ShownRow:
    """One row; places count its tokens from 0 and include both ends, None where there are none."""

    id: str
    task: str
    audio_s: float
    tokens: int
    audio: tuple[int, int] | None
    """First and last audio placeholder."""
    placeholders: int
    prompt: str
    """Everything before the answer as the LLM reads it, the placeholders as a count."""
    answer: str
    """What is supervised, without the end token."""
    end_token: str
    """The last token of the row."""
    ends: bool
    """Whether it is the end of sequence, and in the loss."""
    loss: tuple[int, int] | None
    """First and last token in the loss."""
    in_loss: int
    pieces: tuple[str, ...]
    """The tokens in the loss, one by one."""

    def lines(self) -> list[str]:
        """For people."""
        audio = "none" if self.audio is None else f"tokens {self.audio[0]} to {self.audio[1]}"
        loss = "none" if self.loss is None else f"tokens {self.loss[0]} to {self.loss[1]}"
        end = "in the loss" if self.ends else "NOT the end of sequence in the loss"
        return [
            f"{self.id}: {self.task}, {self.audio_s:.2f} s of audio, {self.tokens} tokens",
            f"  audio   {audio}, {self.placeholders} placeholders",
            f"  prompt  {self.prompt!r}",
            f"  answer  {self.answer!r}",
            f"  end     {self.end_token!r}, {end}",
            f"  loss    {loss}, {self.in_loss} of {self.tokens}: {' | '.join(self.pieces)}",
        ]


def show_rows(
    processor: ThaiSpeechProcessor,
    utterances: Sequence[Utterance],
    samples: Sequence[int],
    asked: tuple[Sequence[str], Sequence[str]],
) -> list[ShownRow]:
    """The rows as training makes them.

    Args:
        processor: The one that training uses.
        utterances: Rows.
        samples: Length of each clip at 16 kHz.
        asked: Instructions and answers, one of each for a row.
    """
    instructions, answers = asked
    tokens = processor.tokens(instructions, samples, answers)
    assert tokens.labels is not None  # noqa: S101 (answers were given; narrows the type)
    rows = zip(
        utterances, samples, tokens.input_ids, tokens.attention_mask, tokens.labels, strict=True
    )
    return [
        _row(processor, utterance, n, ids[mask.bool()].tolist(), labels[mask.bool()].tolist())
        for utterance, n, ids, mask, labels in rows
    ]


def _row(
    processor: Any, utterance: Utterance, samples: int, ids: list[int], labels: list[int]
) -> ShownRow:
    tokenizer, slot = processor.tokenizer, processor.audio_token_id
    places = [i for i, token in enumerate(ids) if token == slot]
    learned = [i for i, label in enumerate(labels) if label != IGNORED]
    first = learned[0] if learned else len(ids)
    before, said = ids[:first], [ids[i] for i in learned]
    if places:
        # Written once: hundreds of placeholders would bury the prompt. Apart, should they not be side by side.
        at = places[0]
        head, tail = before[:at], [t for t in before[at:] if t != slot]
        apart = "" if places[-1] - at + 1 == len(places) else ", NOT side by side"
        count = f"[{len(places)} x {processor.audio_token}{apart}]"
        prompt = f"{tokenizer.decode(head)}{count}{tokenizer.decode(tail)}"
    else:
        prompt = tokenizer.decode(before)
    end = tokenizer.eos_token_id
    ends = bool(learned) and learned[-1] == len(ids) - 1 and ids[-1] == end
    return ShownRow(
        id=utterance.id,
        task=utterance.task or "asr",
        audio_s=samples / SAMPLE_RATE_HZ,
        tokens=len(ids),
        audio=(places[0], places[-1]) if places else None,
        placeholders=len(places),
        prompt=prompt,
        answer=tokenizer.decode(said[:-1] if ends else said),
        end_token=tokenizer.convert_ids_to_tokens(ids[-1]),
        ends=ends,
        loss=(learned[0], learned[-1]) if learned else None,
        in_loss=len(learned),
        pieces=tuple(tokenizer.decode([token]) for token in said),
    )

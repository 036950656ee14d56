"""Training rows packed into few sequences that do not hear each other: less padding, the same loss.

Builds no prompt and decides no batch: `processor` makes the padded rows, `data.plan` chooses which rows meet.

A row keeps its own positions, from 0, and transformers' masks are made from them: where positions start again, another
row begins (block-diagonal for eager, sdpa and flex attention, lengths of variable size for flash attention). Not every
LLM does so, and one that does not would mix rows without a word; `require_isolation` looks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional
from transformers.utils.generic import is_flash_attention_requested

from thaitool.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from thaitool.models.processor import ThaiSpeechProcessor

#: Answers that `row_tokens` gives to the tokenizer at a time.
_ROWS_AT_ONCE = 10_000
#: Share of a group of clips that may be padding before shorter clips make a group of their own.
MOST_PADDING = 0.1
#: A layer multiplies every token with about 12 D x D weights, and attention its query with W keys and W values of D:
#: a token costs as much as 6 D + W, whatever is masked.
_LINEAR = 6
#: Effect of another row, in units of the effect of a row's own beginning, that is rounding.
_HEARD = 0.01
#: The same for the difference between a packed row and the row alone; kernels of half precision round differently.
_MOVED = 0.1


@dataclass(frozen=True)
class Packing:
    """Where the tokens of padded rows lie in packed sequences."""

    sequences: int
    width: int
    places: Tensor
    """Of every token that is not padding, row after row, its place in the flattened (sequences, width); shape (T,)."""
    position_ids: Tensor
    """Position of each token in its row, shape (sequences, width); what fills a sequence up counts as another row."""

    def embeddings(self, embeds: Tensor, mask: Tensor) -> Tensor:
        """Packed embeddings (sequences, width, D) of padded ones (B, J, D) with their mask (B, J)."""
        empty = embeds.new_zeros(self.sequences * self.width, embeds.shape[-1])
        packed = empty.index_copy(0, self.places, embeds[mask.bool()])
        return packed.view(self.sequences, self.width, -1)

    def taken(self, hidden: Tensor, mask: Tensor, wanted: Tensor) -> Tensor:
        """Of packed states (sequences, width, D) those of `wanted` tokens (B, J), in the order of the padded rows."""
        token = mask.flatten().cumsum(0) - 1
        return hidden.flatten(0, 1)[self.places[token[wanted.flatten()]]]


def pack(lengths: Sequence[int], device: Any = None, *, hidden_size: int, flat: bool) -> Packing:
    """Lays rows out; depends on nothing but its arguments.

    Args:
        lengths: Tokens of each row, 1 at least.
        device: Of the tensors.
        hidden_size: D of the LLM: where linear layers are cheap, long sequences cost more by their attention.
        flat: One sequence of all rows, for attention whose cost is that of the rows alone.
    """
    bins = [list(range(len(lengths)))] if flat else _cheapest(lengths, _LINEAR * hidden_size)
    width = max(sum(lengths[row] for row in rows) for rows in bins)
    sizes = np.asarray(lengths, dtype=np.int64)
    starts = np.zeros(len(sizes), dtype=np.int64)
    position_ids = np.empty((len(bins), width), dtype=np.int64)
    for number, rows in enumerate(bins):
        at = 0
        for row in rows:
            starts[row] = number * width + at
            position_ids[number, at : at + lengths[row]] = np.arange(lengths[row])
            at += lengths[row]
        position_ids[number, at:] = np.arange(width - at)
    within = np.arange(sizes.sum()) - np.repeat(sizes.cumsum() - sizes, sizes)
    places = torch.from_numpy(np.repeat(starts, sizes) + within)
    return Packing(len(bins), width, places.to(device), torch.from_numpy(position_ids).to(device))


def _cheapest(lengths: Sequence[int], linear: float) -> list[list[int]]:
    """Rows of each sequence: the number of sequences whose padded size and attention cost least."""
    longest, total = max(lengths), sum(lengths)
    best: tuple[float, list[list[int]]] | None = None
    for capacity in _capacities(longest, total):
        if best is not None and total * (linear + capacity) >= best[0]:
            break  # longer sequences cost more even without any padding
        bins = _first_fit(lengths, capacity)
        width = max(sum(lengths[row] for row in rows) for rows in bins)
        cost = len(bins) * width * (linear + width)
        if best is None or cost < best[0]:
            best = cost, bins
    assert best is not None  # noqa: S101 (there is a capacity: the longest row)
    return best[1]


def _capacities(longest: int, total: int) -> list[int]:
    """The longest row, and equal shares of everything that are longer, with a little room for what does not divide."""
    shares = {longest}
    for sequences in range(1, total // longest + 1):
        share = -(-total // sequences)
        shares |= {max(longest, round(share * room)) for room in (1.0, 1.02, 1.05, 1.1)}
    return sorted(shares)


def _first_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """First-fit decreasing (Johnson 1973): longest row first, each into the first sequence that has room."""
    bins: list[list[int]] = []
    room: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        size = lengths[row]
        fit = next((number for number, left in enumerate(room) if left >= size), None)
        if fit is None:
            bins.append([])
            room.append(capacity)
            fit = len(bins) - 1
        bins[fit].append(row)
        room[fit] -= size
    return bins


def packed_states(
    decoder: Any, embeds: Tensor, mask: Tensor, wanted: Tensor, *, packing: Packing, **named: Any
) -> Tensor:
    """The decoder's last states of `wanted` tokens, computed without most of the padding of the rows.

    Args:
        decoder: A causal LLM without its output layer.
        embeds: Shape (B, J, D), padded at either side.
        mask: Shape (B, J), 1 for tokens.
        wanted: Shape (B, J), bool; of tokens only.
        packing: Of rows as long as those of the mask.
        named: More for the decoder.

    Returns:
        Shape (number of wanted tokens, D), row after row.
    """
    hidden = decoder(
        inputs_embeds=packing.embeddings(embeds, mask),
        # None: a mask of any other form would be taken instead of what the positions say.
        attention_mask=None,
        position_ids=packing.position_ids,
        **{**named, "use_cache": False},
    ).last_hidden_state
    return packing.taken(hidden, mask, wanted)


def packing_of(decoder: Any, mask: Tensor) -> Packing:
    """How the rows of a mask (B, J) are packed for a decoder: for flash attention in one sequence.

    transformers looks for rows inside a sequence only then (`_is_packed_sequence`: a batch of 1).
    """
    flat = is_flash_attention_requested(decoder.config)
    lengths = mask.sum(1).tolist()
    return pack(lengths, mask.device, hidden_size=decoder.config.hidden_size, flat=flat)


def require_isolation(decoder: Any, device: Any) -> None:
    """Runs a decoder on two short packed rows, without dropout, gradients or any draw from the random state.

    Raises:
        InputError: a row hears the other one, or its positions do not start again.
    """
    modes = [(module, module.training) for module in decoder.modules()]
    decoder.eval()
    try:
        with torch.no_grad():
            heard, moved = _between_rows(decoder, device)
    finally:
        for module, mode in modes:
            module.training = mode
    if not (heard < _HEARD and moved < _MOVED):  # NaN is no proof
        raise InputError(
            f"Packed rows must not change each other, but in this {decoder.config.model_type} another row has"
            f" {heard:.1%} of the effect of the row's own beginning, and packing itself {moved:.1%}; set"
            " packing: false."
        )


def _between_rows(decoder: Any, device: Any) -> tuple[float, float]:
    """Effect of a row on the next one, and of being packed, as shares of the effect of the row's own beginning."""
    table = decoder.get_input_embeddings()
    sample = table(torch.arange(min(32, table.num_embeddings), device=device))
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(4, 6, sample.shape[-1], generator=generator)
    rows = (noise * float(sample.float().std())).to(device, sample.dtype)
    first, other, second = rows[0], rows[1], rows[2]
    changed = torch.cat([rows[3, :1], second[1:]])

    # Not flat: beside another sequence, as some releases of transformers look for rows in a single one only.
    flat = is_flash_attention_requested(decoder.config)

    def states(*packed: Tensor) -> Tensor:
        """Of the last row, without its first token."""
        one = pack([6] * len(packed), device, hidden_size=sample.shape[-1], flat=True)
        embeds = torch.stack(packed)
        if not flat:
            embeds = embeds.repeat(2, 1, 1)
            places = torch.cat([one.places, one.places + one.width])
            one = Packing(2, one.width, places, one.position_ids.repeat(2, 1))
        mask = torch.ones(embeds.shape[:2], dtype=torch.long, device=device)
        wanted = torch.zeros_like(mask, dtype=torch.bool)
        wanted[-1, 1:] = True
        return packed_states(decoder, embeds, mask, wanted, packing=one).float()

    alone = states(second)
    own = float((states(changed) - alone).norm()) or math.nan
    after = states(first, second)
    heard, moved = (after - states(other, second)).norm(), (after - alone).norm()
    return float(heard) / own, float(moved) / own


def encode_by_length(
    encode: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    input_values: Tensor,
    input_lengths: Tensor,
) -> tuple[Tensor, Tensor]:
    """Encoder frames of clips of very unlike length, without computing most of their padding.

    Args:
        encode: From audio (B, N) and lengths (B,) to frames (B, I, D) and counts (B,), padding without effect.
        input_values: Audio, shape (B, N).
        input_lengths: Shape (B,), in samples.

    Returns:
        What `encode` gives for all clips at once, (B, I, D) with zeros after each clip's group, and (B,).
    """
    groups = like_lengths(input_lengths.tolist())
    if len(groups) == 1:
        return encode(input_values, input_lengths)
    found = []
    for rows in groups:
        lengths = input_lengths[rows]
        found.append(encode(input_values[rows, : int(lengths.max())], lengths))
    width = max(frames.shape[1] for frames, _ in found)
    frames = torch.cat([functional.pad(f, (0, 0, 0, width - f.shape[1])) for f, _ in found])
    # Where in the order of the groups each row is.
    order = torch.tensor([row for rows in groups for row in rows]).argsort()
    counts = torch.cat([c for _, c in found])
    return frames[order.to(frames.device)], counts[order.to(counts.device)]


def like_lengths(lengths: Sequence[int]) -> list[list[int]]:
    """Rows in groups, longest first, of which at most `MOST_PADDING` is padding; few rows may be a group."""
    groups: list[list[int]] = []
    total = 0
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        size = lengths[row]
        if (
            groups
            and total + size >= (1 - MOST_PADDING) * (len(groups[-1]) + 1) * lengths[groups[-1][0]]
        ):
            groups[-1].append(row)
            total += size
        else:
            groups.append([row])
            total = size
    return groups


def row_tokens(
    processor: ThaiSpeechProcessor,
    instructions: Sequence[str],
    samples: Sequence[int],
    answers: Sequence[str],
) -> NDArray[np.int32]:
    """Tokens of each training row, as `ThaiSpeechProcessor.tokens` will make it, end token included; shape (N,).

    Millions of rows: an instruction that occurs again is looked up, and no placeholder is written out.

    Raises:
        InputError: an instruction holds the audio placeholder.
    """
    asked: dict[tuple[str, bool], int] = {}
    found = np.empty(len(samples), np.int32)
    for i, (instruction, n) in enumerate(zip(instructions, samples, strict=True)):
        audio = processor.audio_tokens(int(n))
        key = instruction, audio > 0
        if key not in asked:
            # With one placeholder, not with none: text on both sides of it is not merged into tokens.
            text = processor.prompt(instruction, int(audio > 0))
            ids = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
            asked[key] = len(ids) - int(audio > 0)
        found[i] = asked[key] + audio
    for at in range(0, len(answers), _ROWS_AT_ONCE):
        chunk = list(answers[at : at + _ROWS_AT_ONCE])
        # As text, as in the processor; and the end token.
        ids = processor.tokenizer(chunk, add_special_tokens=False, split_special_tokens=True)
        found[at : at + len(chunk)] += [len(row) + 1 for row in ids["input_ids"]]
    return found

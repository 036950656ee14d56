"""The order of training: which utterances make batch k, a pure function of (durations or tokens, parts, seed, epoch).

Nothing here reads audio or keeps state: resuming a run needs one integer, the number of batches already taken, and the
order is the same for every number of processes (process r of W takes batches r, r + W, ...).

A batch holds utterances of like duration, so that little of it is padding. There are no fixed buckets: in each epoch
every utterance draws a place a little above its own duration, and neighbours in that order make a batch. Who may meet
whom is thus a window around each utterance, not a box with walls, which matters for sets of a few thousand.

Where rows are packed (`models.packing`), unlike lengths cost nothing, and a mixed plan gives every batch the same mix.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from thaitool.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

#: Share of its duration by which an utterance is shuffled away from its place. Uniform noise of this width costs half
#: of it in padding at most, 0.75 %, and still lets an utterance of 6 s meet what is 5.91 to 6.09 s long.
SPREAD = 0.015
#: A set too small for SPREAD to reach anyone shuffles over this many batches to either side instead.
REACH_BATCHES = 1
#: Places that have a batch size of their own fill this many batches at least; fewer would be the same batches forever.
FEW_BATCHES = 4
#: A mixed batch has room for this many of its longest row; longer rows meet their like.
FEW_ROWS = 8
#: Utterances handled at a time, so that temporaries stay small beside the plan.
_CHUNK = 1 << 20
#: Streams of random bits: 0 places of utterances, 1 order of batches, 2 order among equal durations of a fraction,
#: 3 batches of utterances in a mixed plan.
_PLACES, _TURNS, _TIES, _DEALS = range(4)


@dataclass(frozen=True)
class EpochOrder:
    """The batches of one epoch, in order. Batch k is a view: no array exists per batch."""

    utterances: NDArray[np.int32]
    """Utterance indices, batch after batch."""
    starts: NDArray[np.int32]
    """Where each batch starts in `utterances`, and the end of the last."""
    turns: NDArray[np.int32]
    """Which of those batches comes k-th."""

    def __len__(self) -> int:
        return len(self.turns)

    def __getitem__(self, k: int) -> NDArray[np.int32]:
        turn = self.turns[k]
        return self.utterances[self.starts[turn] : self.starts[turn + 1]]

    def __iter__(self) -> Iterator[NDArray[np.int32]]:
        return (self[k] for k in range(len(self)))


@dataclass(frozen=True)
class Fraction:
    """A part of which an epoch takes `len(places)` of `len(members)` utterances, each in its turn."""

    members: NDArray[np.int32]
    """Utterance indices, longest first."""
    places: NDArray[np.int32]
    """Which slots of the plan they fill."""

    def pick(self, epoch: int) -> NDArray[np.int32]:
        """Utterances of an epoch, longest first, all different.

        Every (members / places)-th, one further in each epoch: over any number of epochs the counts of two utterances
        differ by one at most, and the k-th longest is never longer than the k-th longest of epoch 0.
        """
        n, k = len(self.members), len(self.places)
        ranks = np.arange(k, dtype=np.int64)
        ranks *= n
        ranks //= k
        ranks += epoch % n
        ranks %= n
        ranks.sort()
        return self.members[ranks]


@dataclass(frozen=True)
class BatchPlan:
    """Slots for utterances, longest first, cut into batches of at most so many padded seconds or tokens.

    What is fixed: the slots, how many slots make a batch in each stretch of them, and the number of mixed batches. What
    an epoch draws: the order within each stretch, the batch of each mixed slot, the order of the batches, and which
    utterances of a fractional part take its slots.
    """

    cost: NDArray[np.float32]
    """Of every utterance: seconds, rounded up, or tokens."""
    slots: NDArray[np.int32]
    """Utterance of each slot, longest first."""
    stretches: tuple[tuple[int, int, int], ...]
    """First slot, end, and slots per batch."""
    fractions: tuple[Fraction, ...]
    seed: int
    mixed: int = 0
    """Batches that share all slots after the last stretch."""

    @property
    def batches_per_epoch(self) -> int:
        """Batches that one epoch has, whichever it is."""
        return self.mixed + sum(-(-(end - first) // size) for first, end, size in self.stretches)

    def epoch(self, epoch: int) -> EpochOrder:
        """All batches of an epoch. Seconds for millions of utterances; nothing of other epochs is computed."""
        slots = self.slots
        if self.fractions:
            slots = slots.copy()
            for fraction in self.fractions:
                slots[fraction.places] = fraction.pick(epoch)
        bits = _bits(self.seed, epoch, _PLACES)
        utterances = np.empty_like(slots)
        for first, end, size in self.stretches:
            _shuffle(slots[first:end], self.cost, size, bits, utterances[first:end])
        edges = [np.arange(first, end, size, dtype=np.int32) for first, end, size in self.stretches]
        if self.mixed:
            rest = self.stretches[-1][1] if self.stretches else 0
            dealt = _bits(self.seed, epoch, _DEALS)
            edges.append(rest + _deal(slots[rest:], self.mixed, dealt, utterances[rest:]))
        starts = np.concatenate([*edges, np.array([len(slots)], np.int32)])
        return EpochOrder(
            utterances, starts, _permutation(self.seed, epoch, _TURNS, len(starts) - 1)
        )


def make_plan(
    duration_s: NDArray[np.float64],
    *,
    batch_s: float,
    seed: int,
    part: NDArray[np.integer] | None = None,
    repeat: Sequence[float] | None = None,
) -> BatchPlan:
    """Plans batches of at most `batch_s` seconds after padding (a single longer utterance makes its own batch).

    Args:
        duration_s: Of every utterance as it will be in the batch (after cropping), shape (N,).
        batch_s: Padded seconds of a batch.
        seed: Decides the order, with the epoch.
        part: Which part of the data each utterance belongs to, shape (N,); None is one part.
        repeat: By part, how many times an epoch takes each utterance. 0.3 takes a fresh 30 % in each epoch, 2.5 all
            twice and a fresh half; a share above 0 takes one utterance at least. None takes everything once.

    Raises:
        InputError: there is nothing to plan, or a duration, part or repeat that cannot be planned with.
    """
    if len(duration_s) == 0:
        raise InputError("A batch plan needs at least one utterance, but the manifest is empty.")
    return _planned(_rounded_up(duration_s), batch_s, seed, part, repeat, mixed=False)


def make_token_plan(
    tokens: NDArray[np.integer],
    *,
    batch_tokens: int,
    seed: int,
    part: NDArray[np.integer] | None = None,
    repeat: Sequence[float] | None = None,
    mixed: bool = False,
) -> BatchPlan:
    """Plans batches of at most `batch_tokens` tokens (a single longer row makes its own batch).

    Args:
        tokens: Of every row, audio and text together, shape (N,).
        batch_tokens: Tokens of a batch, after padding; of a mixed batch the sum, as its rows are packed.
        seed, part, repeat: As in `make_plan`.
        mixed: Every batch holds the same mix of short and long rows: the rows, longest first, are cut into as many as
            there are batches, and each batch gets one of each cut, drawn anew in each epoch. Rows of which fewer than
            `FEW_ROWS` fit into a batch still meet their like.

    Raises:
        InputError: there is nothing to plan, or a count, part or repeat that cannot be planned with.
    """
    if len(tokens) == 0:
        raise InputError("A batch plan needs at least one row, but there is none.")
    if not 0 < int(tokens.min()) <= int(tokens.max()) < 1 << 24:
        raise InputError(
            f"Every row must have 1 to {(1 << 24) - 1:,} tokens, but they have {tokens.min()} to {tokens.max()}."
        )
    exact = tokens.astype(np.float32)
    return _planned(exact, float(batch_tokens), seed, part, repeat, mixed=mixed)


def _planned(
    cost: NDArray[np.float32],
    bound: float,
    seed: int,
    part: NDArray[np.integer] | None,
    repeat: Sequence[float] | None,
    *,
    mixed: bool,
) -> BatchPlan:
    items, fractions = _takes(cost, part, repeat, seed)
    if len(items) >= 2**31:
        raise InputError(
            f"An epoch may take 2,147,483,647 utterances at most, but this one takes {len(items)}; lower `weights`."
        )
    slot_of = _longest_first(cost, items)
    filled = tuple(
        Fraction(members, np.flatnonzero((slot_of >= first) & (slot_of < end)).astype(np.int32))
        for members, first, end in fractions
    )
    slots = items[slot_of]
    if not mixed:
        return BatchPlan(cost, slots, _stretches(cost, slots, bound), filled, seed)
    long = bisect.bisect_left(
        range(len(slots)), x=True, key=lambda slot: float(cost[slots[slot]]) * FEW_ROWS <= bound
    )
    stretches = _stretches(cost, slots[:long], bound)
    return BatchPlan(cost, slots, stretches, filled, seed, _fewest(cost[slots[long:]], bound))


def _fewest(cost: NDArray[np.float32], bound: float) -> int:
    """Mixed batches that slots, longest first, need so that none can cost more than the bound."""
    # The costliest batch that can be dealt has the first slot of every cut.
    return bisect.bisect_left(
        range(len(cost)),
        x=True,
        lo=min(1, len(cost)),
        key=lambda n: float(cost[::n].sum(dtype=np.float64)) <= bound,
    )


def _deal(
    slots: NDArray[np.int32], batches: int, bits: np.random.PCG64, out: NDArray[np.int32]
) -> NDArray[np.int32]:
    """Writes slots to `out` batch by batch, one of each cut to each batch; returns where batches start."""
    batch_of = np.empty(len(slots), np.int32)
    for first in range(0, len(slots), batches):
        keys = bits.random_raw(batches) & np.uint64(0xFFFFFFFF << 32)
        dealt = _sorted_low_halves(keys | np.arange(batches, dtype=np.uint64))
        batch_of[first : first + batches] = dealt[: len(slots) - first]
    np.take(slots, np.argsort(batch_of, kind="stable"), out=out)
    ends = np.bincount(batch_of, minlength=batches).cumsum()
    return np.concatenate([[0], ends[:-1]]).astype(np.int32)


def _rounded_up(duration_s: NDArray[np.float64]) -> NDArray[np.float32]:
    # Up, so that a batch that fits by these numbers fits by the true ones.
    rounded = duration_s.astype(np.float32)
    for at in range(0, len(rounded), _CHUNK):
        chunk, exact = rounded[at : at + _CHUNK], duration_s[at : at + _CHUNK]
        if not (np.isfinite(chunk).all() and exact.min() > 0):
            bad = at + int(np.flatnonzero(~(np.isfinite(chunk) & (exact > 0)))[0])
            raise InputError(
                f"Every duration must be above 0 s and finite, but that of utterance {bad} is {duration_s[bad]};"
                " scan the data again."
            )
        short = chunk < exact
        chunk[short] = np.nextafter(chunk[short], np.float32(np.inf))
    return rounded


def _takes(
    cost: NDArray[np.float32],
    part: NDArray[np.integer] | None,
    repeat: Sequence[float] | None,
    seed: int,
) -> tuple[NDArray[np.int32], list[tuple[NDArray[np.int32], int, int]]]:
    """Utterances of epoch 0, and for each fraction its members and where its utterances stand among them."""
    if repeat is None:
        return np.arange(len(cost), dtype=np.int32), []
    parts = np.zeros(len(cost), np.int16) if part is None else part
    if int(parts.min()) < 0 or int(parts.max()) >= len(repeat):
        raise InputError(
            f"Every part needs a repeat, but the parts go from {parts.min()} to {parts.max()} and there are"
            f" {len(repeat)} repeats."
        )
    if any(not 0 <= r < float("inf") for r in repeat):
        raise InputError(f"Repeats must be 0 or more and finite, but are {list(repeat)}.")
    taken: list[NDArray[np.int32]] = []
    fractions: list[tuple[NDArray[np.int32], int, int]] = []
    total = 0
    for number, times in enumerate(repeat):
        members = np.flatnonzero(parts == number).astype(np.int32)
        whole, share = divmod(times, 1)
        taken.append(np.repeat(members, int(whole)))
        total += len(taken[-1])
        n = min(len(members), max(1, round(share * len(members)))) if share > 0 else 0
        if n:
            members = members[_permutation(seed, number, _TIES, len(members))]
            members = members[_longest_first(cost, members)]
            taken.append(Fraction(members, np.zeros(n, np.int32)).pick(0))
            fractions.append((members, total, total + n))
            total += n
    if total == 0:
        raise InputError(
            f"A batch plan needs at least one utterance, but the repeats {list(repeat)} take none of"
            f" {len(cost)}."
        )
    return np.concatenate(taken), fractions


def _longest_first(cost: NDArray[np.float32], items: NDArray[np.int32]) -> NDArray[np.int32]:
    """Positions in `items`, that of the longest first; of equals, the first first."""
    # One integer per item, all different: any sorting algorithm gives the same order, on every machine. The bits of
    # positive floats sort as the floats do.
    keys = np.empty(len(items), np.uint64)
    for at in range(0, len(items), _CHUNK):
        bits = cost[items[at : at + _CHUNK]].view(np.uint32)
        high = (~bits).astype(np.uint64) << np.uint64(32)
        keys[at : at + _CHUNK] = high | np.arange(at, at + len(bits), dtype=np.uint64)
    return _sorted_low_halves(keys)


def _stretches(
    cost: NDArray[np.float32], slots: NDArray[np.int32], batch_s: float
) -> tuple[tuple[int, int, int], ...]:
    """Cuts the slots where another utterance fits into a batch; only the last batch of all may be short."""

    def fits(slot: int) -> int:
        return max(1, int(batch_s // float(cost[slots[slot]])))

    found: list[tuple[int, int, int]] = []
    first, n_slots = 0, len(slots)
    while first < n_slots:
        size = fits(first)
        end = bisect.bisect_right(range(n_slots), size, lo=first, key=fits)
        end = first + -(-max(end - first, FEW_BATCHES * size) // size) * size
        if end >= n_slots or n_slots - end < FEW_BATCHES * fits(end):
            end = n_slots
        found.append((first, end, size))
        first = end
    return tuple(found)


def _shuffle(
    slots: NDArray[np.int32],
    cost: NDArray[np.float32],
    size: int,
    bits: np.random.PCG64,
    out: NDArray[np.int32],
) -> None:
    """Writes a stretch of slots to `out` in the order of their costs plus noise."""
    n = len(slots)
    # Keys are whole numbers with the slot in the low bits: all different, see `_longest_first`. Noise at most doubles
    # a cost that is at most `longest`, so the exponent of 2 * longest leaves no overflow.
    low = n.bit_length()
    longest = float(cost[slots].max()) if n <= _CHUNK else float(cost[slots[0]])
    scale = 2.0 ** (62 - low - int(np.frexp(2 * longest)[1]))
    keys = np.empty(n, np.int64)
    halo = REACH_BATCHES * size
    for at in range(0, n, _CHUNK):
        end = min(at + _CHUNK, n)
        before, after = max(at - halo, 0), min(end + halo, n)
        around = cost[slots[before:after]].astype(np.float64)
        index = np.arange(at - before, end - before)
        higher = around[np.maximum(index - halo, 0)]
        lower = around[np.minimum(index + halo, len(around) - 1)]
        here = around[at - before : end - before]
        noise = bits.random_raw(end - at) * 2.0**-64
        place = here + noise * np.maximum(np.abs(higher - lower), SPREAD * here)
        keys[at:end] = (place * scale).astype(np.int64) << low
        keys[at:end] |= np.arange(at, end)
    keys.sort()
    for at in range(0, n, _CHUNK):
        out[at : at + _CHUNK] = slots[keys[at : at + _CHUNK] & ((1 << low) - 1)]


def _permutation(seed: int, number: int, stream: int, n: int) -> NDArray[np.int32]:
    keys = _bits(seed, number, stream).random_raw(n) & np.uint64(0xFFFFFFFF << 32)
    keys |= np.arange(n, dtype=np.uint64)
    return _sorted_low_halves(keys)


def _sorted_low_halves(keys: NDArray[np.uint64]) -> NDArray[np.int32]:
    keys.sort()
    low = np.empty(len(keys), np.int32)
    for at in range(0, len(keys), _CHUNK):
        low[at : at + _CHUNK] = keys[at : at + _CHUNK] & np.uint64(0xFFFFFFFF)
    return low


def _bits(seed: int, number: int, stream: int) -> np.random.PCG64:
    # Raw bits: numpy promises that they never change, and does not promise it of `permutation` and `random` (NEP 19).
    return np.random.PCG64(np.random.SeedSequence([seed, number, stream]))

"""The alignment by looking at every path of a small grid. No dynamic programme, no gradient.

Costs must be exact in any order of addition (small integers, or multiples of 2**-10), so that two
paths tie here exactly if they tie in the kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from functools import cache
from itertools import combinations, pairwise
from typing import NamedTuple

import torch
from torch import Tensor

DIAGONAL, FRAME, TOKEN = 0, 1, 2
STEPS = {(1, 1): DIAGONAL, (1, 0): FRAME, (0, 1): TOKEN}
MATCHED, DROPPED = 0, 1

Cell = tuple[int, int]


class Alignment(NamedTuple):
    """A path in order: its cells, and the frames that it leaves out."""

    cells: tuple[Cell, ...]
    dropped: tuple[int, ...] = ()


class Table(NamedTuple):
    """All alignments of a grid, the winner of a tie before the loser; how often each uses what."""

    alignments: list[Alignment]
    cells: Tensor  # float64 [P, I * J]
    dropped: Tensor  # float64 [P, I]


def all_paths(frames: int, tokens: int, *, monotonic: bool) -> Iterator[tuple[Cell, ...]]:
    """Every path, found forwards from (0, 0)."""

    def extend(path: tuple[Cell, ...]) -> Iterator[tuple[Cell, ...]]:
        i, j = path[-1]
        if (i, j) == (frames - 1, tokens - 1):
            yield path
        for (di, dj), step in STEPS.items():
            if i + di < frames and j + dj < tokens and not (monotonic and step == TOKEN):
                yield from extend((*path, (i + di, j + dj)))

    yield from extend(((0, 0),))


def all_alignments(
    frames: int, tokens: int, *, monotonic: bool, drops: bool
) -> Iterator[Alignment]:
    """Every path over every non-empty subset of the frames; over all frames without `drops`."""
    for kept in range(1 if drops else frames, frames + 1):
        paths = list(all_paths(kept, tokens, monotonic=monotonic))
        for chosen in combinations(range(frames), kept):
            left_out = tuple(i for i in range(frames) if i not in chosen)
            for path in paths:
                yield Alignment(tuple((chosen[i], j) for i, j in path), left_out)


def tie_key(alignment: Alignment, frames: int) -> list[int]:
    """Decisions seen from the end; the smaller key wins a tie.

    Matched before dropped where a frame is met for the first time, then the step into the cell.
    """
    key: list[int] = []
    cells = list(alignment.cells)
    for i in reversed(range(frames)):
        if i in alignment.dropped:
            key.append(DROPPED)
            continue
        key.append(MATCHED)
        while cells and cells[-1][0] == i:
            last = cells.pop()
            if not cells:
                key.append(DIAGONAL)  # the path begins here
            else:
                step = (int(cells[-1][0] < last[0]), last[1] - cells[-1][1])
                key.append(STEPS[step])
    return key


def steps_of(cells: list[Cell]) -> set[int]:
    """Kinds of steps of a path without dropped frames; a KeyError is not a path."""
    return {STEPS[b[0] - a[0], b[1] - a[1]] for a, b in pairwise(cells)}


def admits(cell: Cell, frames: int, tokens: int, band: Fraction) -> bool:
    """The documented band, in exact arithmetic."""
    if min(frames, tokens) == 1:
        return True
    offset = Fraction(cell[0], frames - 1) - Fraction(cell[1], tokens - 1)
    return abs(offset) <= max(band, Fraction(1, 2 * (min(frames, tokens) - 1)))


@cache
def table(
    frames: int, tokens: int, *, monotonic: bool, drops: bool, band: Fraction = Fraction(1)
) -> Table:
    """All alignments inside the band, by tie rule."""
    found = [
        alignment
        for alignment in all_alignments(frames, tokens, monotonic=monotonic, drops=drops)
        if all(admits(cell, frames, tokens, band) for cell in alignment.cells)
    ]
    found.sort(key=lambda alignment: tie_key(alignment, frames))
    cells = torch.zeros(len(found), frames * tokens, dtype=torch.float64)
    dropped = torch.zeros(len(found), frames, dtype=torch.float64)
    for p, alignment in enumerate(found):
        cells[p, [i * tokens + j for i, j in alignment.cells]] = 1
        dropped[p, list(alignment.dropped)] = 1
    return Table(found, cells, dropped)


def cheapest(
    paths: Table, cost: Tensor, drop_cost: Tensor | None = None, penalty: Tensor | None = None
) -> tuple[list[Alignment], Tensor]:
    """For costs [N, I, J] the alignments that the definition asks for, and their sums float64 [N].

    `drop_cost` [N, I]; `penalty` [I, J] selects and is not part of the sum.
    """
    sums = cost.double().flatten(1) @ paths.cells.T
    if drop_cost is not None:
        sums = sums + drop_cost.double() @ paths.dropped.T
    selecting = sums if penalty is None else sums + paths.cells @ penalty.double().flatten()
    best = selecting.argmin(1)  # of equal sums the first, which wins the tie
    return [paths.alignments[p] for p in best.tolist()], sums.gather(1, best[:, None])[:, 0]


def intervals_of(alignment: Alignment, frames: int) -> list[list[int]]:
    """Tokens start..end of each frame; a dropped frame has an empty one behind the last token met."""
    found = []
    last = 0
    for i in range(frames):
        tokens = [j for frame, j in alignment.cells if frame == i]
        last = tokens[-1] if tokens else last
        found.append([tokens[0], tokens[-1] + 1] if tokens else [last, last])
    return found

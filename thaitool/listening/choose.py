"""Which rows of a data set people listen to: a sample that has tasks, voices and durations in their shares.

Opens no audio.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc

from thaitool.errors import InputError
from thaitool.reports.items import NOTHING, rows_of_split, slice_values

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from thaitool.data.manifest import Manifest

#: Shorter clips are no sentence, longer ones are nothing that a person rates as a whole.
SHORTEST_S, LONGEST_S = 0.4, 20.0


def fit_to_hear(manifest: Manifest, split: str | None) -> NDArray[np.int64]:
    """Numbers of the rows with a text, of `SHORTEST_S` to `LONGEST_S`, of one split or (None) of all."""
    has_text = pc.fill_null(
        pc.not_equal(pc.utf8_trim_whitespace(manifest.column("text")), ""), False
    )
    kept = has_text.to_numpy().astype(bool)
    kept &= (manifest.duration_s >= SHORTEST_S) & (manifest.duration_s <= LONGEST_S)
    if split is not None:
        kept &= rows_of_split(manifest, split)
    return np.flatnonzero(kept)


def sample(
    manifest: Manifest,
    rows: NDArray[np.int64],
    count: int,
    rng: np.random.Generator,
    *,
    what: str = "clips",
) -> NDArray[np.int64]:
    """`count` of `rows`, in no order: every k-th by task, voice and duration, from a random start.

    So each task has its share, each voice its share of the task, and the durations are spread within both; a mean over
    the sample is a mean over the data. (Systematic sampling of an ordered list; W. G. Cochran, Sampling Techniques,
    1977, chapter 8.) `what` names them in messages.

    Raises:
        InputError: there are fewer than `count`.
    """
    if count > len(rows):
        raise InputError(
            f"{count} {what} are wanted, but only {len(rows)} rows have a text and {SHORTEST_S:g} to {LONGEST_S:g} s of"
            " speech; ask for fewer, or give more data."
        )
    tasks, voices = (
        np.array([value or NOTHING for value in manifest.column(name).to_pylist()])[rows]
        for name in ("task", "speaker")
    )
    order = rows[np.lexsort((rng.random(len(rows)), manifest.duration_s[rows], voices, tasks))]
    step = len(rows) / max(1, count)
    places = ((np.arange(count) + rng.random()) * step).astype(np.int64)
    return rng.permutation(order[places])


def length_names(manifest: Manifest) -> list[str]:
    """The bucket of duration of each row, as in the reports of `eval`."""
    return slice_values(manifest, "length")

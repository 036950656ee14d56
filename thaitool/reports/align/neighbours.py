"""Whether projected frames lie among token embeddings: numbers by nearest neighbours, and a t-SNE map. Draws nothing.

A map alone proves nothing: t-SNE keeps neighbours and loses distances, so the numbers are of the vectors themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from thaitool.models.align_shown import Vectors

#: Nearest neighbours that a point is judged by.
NEIGHBOURS = 10
#: Points of each kind on a map.
ON_MAP = 300


@dataclass(frozen=True, slots=True)
class Mix:
    """How two kinds of points lie together."""

    mixing: float
    """Neighbours of the other kind, over what there would be without any difference: 0 is apart, about 1 is mixed."""
    own: float
    """Share of frames whose nearest token is one that their clip says."""
    own_by_chance: float
    """The same of other clips' transcripts."""
    frames: int
    tokens: int


def mix_of(vectors: Vectors) -> Mix:
    """The numbers of one run; both kinds must be there."""
    text, frames = vectors.text, vectors.frames
    near = (frames @ text.T).argmax(1)
    said = np.zeros((len(vectors.said), len(text)), bool)
    for clip, tokens in enumerate(vectors.said):
        said[clip, list(tokens)] = True
    # Of every other transcript, and not of one drawn: exact.
    others = (said.sum(0)[near] - said[vectors.clip, near]) / max(1, len(said) - 1)
    return Mix(
        mixing(text, frames),
        float(said[vectors.clip, near].mean()),
        float(others.mean()),
        len(frames),
        len(text),
    )


def mixing(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Neighbours of the other kind among the `NEIGHBOURS` nearest by cosine, over what chance gives.

    The mean over both kinds, each weighing the same, so that the number of points does not matter.

    Args:
        a, b: Unit vectors (N, D) and (M, D).
    """
    every = np.concatenate([a, b])
    kind = np.arange(len(every)) >= len(a)
    closeness = every @ every.T
    np.fill_diagonal(closeness, -np.inf)
    k = min(NEIGHBOURS, len(every) - 1)
    nearest = np.argpartition(-closeness, k - 1, axis=1)[:, :k]
    other = (kind[nearest] != kind[:, None]).mean(1)
    chance = np.where(kind, len(a), len(b)) / (len(every) - 1)
    shares = other / chance
    return float((shares[~kind].mean() + shares[kind].mean()) / 2)


def can_map() -> bool:
    """Whether scikit-learn is there."""
    return find_spec("sklearn") is not None


def tsne(kinds: Sequence[NDArray[np.float32]], seed: int) -> tuple[NDArray[np.float32], ...]:
    """Places (n, 2) of at most `ON_MAP` vectors of each kind; the same for the same seed and machine.

    t-SNE by cosine from the first principal components, perplexity 30 (van der Maaten and Hinton 2008; scikit-learn).
    """
    from sklearn.manifold import TSNE

    draw = np.random.default_rng(seed)
    chosen = [k[np.sort(draw.permutation(len(k))[:ON_MAP])] for k in kinds]
    every = np.concatenate(chosen)
    method = TSNE(
        metric="cosine",
        init="pca",
        perplexity=min(30.0, (len(every) - 1) / 3),
        random_state=seed,
        n_jobs=1,
    )
    places = method.fit_transform(every)
    ends = np.cumsum([len(k) for k in chosen])
    return tuple(np.split(places.astype(np.float32), ends[:-1]))

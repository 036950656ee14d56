"""What a report shows of an alignment: some clips with their paths, and some vectors; as values and as a directory.

Draws nothing and computes no figure of a model. The directory holds shown.json, vectors.npz and a FLAC file a clip.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import numpy as np

from thaitool.errors import InputError
from thaitool.files import writing_directory

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

FOLDER = "figures"
_VALUES, _VECTORS = "shown.json", "vectors.npz"
_FORMAT = "thaitool-align-shown-1"
#: What readers of JSON and of NumPy's archives raise for files that are cut short or overwritten.
_DAMAGE = (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile, zlib.error)


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of text and when it is said."""

    text: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class ShownAlignment:
    """One clip and its path."""

    id: str
    text: str
    duration_s: float
    cost: float
    """Mean cost of the plain path, 0 to 2; chance is about 1."""
    one_frame_share: float
    pieces: tuple[Span, ...]
    """Tokens by the path; those that share a character are one piece."""
    peaks: tuple[float, ...]
    """Largest level of equal parts of the clip, 0 to 1."""
    words: tuple[Span, ...] = ()
    """True times, where they are known."""
    audio: bytes = field(default=b"", repr=False)
    """A FLAC file."""


@dataclass(frozen=True)
class Vectors:
    """Centred token embeddings and projected frames of some clips, as the alignment compares them."""

    tokens: tuple[str, ...]
    """The T distinct tokens of the clips' transcripts."""
    text: NDArray[np.float32]
    """Their embeddings (T, D)."""
    frames: NDArray[np.float32]
    """Some frames (F, D)."""
    clip: NDArray[np.int64]
    """Which clip each frame is of (F,)."""
    said: tuple[tuple[int, ...], ...]
    """Places in `tokens` of each clip's transcript."""


@dataclass(frozen=True)
class Shown:
    """All of it, at one update."""

    update: int
    alignments: tuple[ShownAlignment, ...]
    vectors: Vectors


def path_spans(intervals: Sequence[tuple[int, int]], tokens: int, hop_s: float) -> list[Span]:
    """When each token is said, by a path.

    Tokens that share a frame divide it evenly, so that spans follow each other without gaps or overlaps.

    Args:
        intervals: Tokens start..end of each frame, end exclusive, as DTW gives them.
        tokens: How many there are.
        hop_s: Seconds from one frame to the next.

    Returns:
        One span without text a token.
    """
    starts, ends = [float("inf")] * tokens, [0.0] * tokens
    for frame, (first, end) in enumerate(intervals):
        for place, token in enumerate(range(first, end)):
            share = 1 / (end - first)
            starts[token] = min(starts[token], (frame + place * share) * hop_s)
            ends[token] = max(ends[token], (frame + (place + 1) * share) * hop_s)
    return [Span("", start, end) for start, end in zip(starts, ends, strict=True)]


def as_pieces(
    text: str, offsets: Sequence[tuple[int, int]], spans: Sequence[Span]
) -> tuple[Span, ...]:
    """Spans of tokens with their text; tokens of parts of one character (byte-level tokenizers) become one piece.

    Args:
        text: The transcript.
        offsets: Start and end of each token in it, in characters.
        spans: When each is said.
    """
    pieces: list[tuple[int, int, float, float]] = []
    for (first, end), span in zip(offsets, spans, strict=True):
        if pieces and first < pieces[-1][1]:
            start, _, start_s, _ = pieces.pop()
            pieces.append((start, end, start_s, span.end_s))
        else:
            pieces.append((first, end, span.start_s, span.end_s))
    return tuple(Span(text[a:b], start_s, end_s) for a, b, start_s, end_s in pieces)


def peaks(samples: NDArray[np.float32], parts: int) -> tuple[float, ...]:
    """Largest absolute value of each of `parts` equal parts of samples (N,), the largest of all being 1."""
    if not len(samples):
        return ()
    edges = np.linspace(0, len(samples), min(parts, len(samples)) + 1).astype(int)[:-1]
    found = np.maximum.reduceat(np.abs(samples), edges)
    return tuple(round(float(v), 3) for v in found / max(1e-9, float(found.max())))


def write_shown(folder: Path, shown: Shown) -> None:
    """Writes the directory, whole or not at all; an older one is replaced."""
    told = {
        "format": _FORMAT,
        "update": shown.update,
        "alignments": [asdict(one) for one in shown.alignments],
        "tokens": shown.vectors.tokens,
        "said": shown.vectors.said,
    }
    with writing_directory(folder) as path:
        for number, one in enumerate(told["alignments"]):  # type: ignore[arg-type, var-annotated]
            (path / f"clip-{number}.flac").write_bytes(one.pop("audio"))
        (path / _VALUES).write_text(json.dumps(told, ensure_ascii=False), "utf-8")
        v = shown.vectors
        np.savez_compressed(
            path / _VECTORS,
            text=v.text.astype(np.float16),
            frames=v.frames.astype(np.float16),
            clip=v.clip,
        )


def read_shown(folder: Path) -> Shown | None:
    """What `write_shown` wrote; None if there is no such directory.

    Raises:
        InputError: it is damaged, or of another version.
    """
    if not folder.is_dir():
        return None
    try:
        told = json.loads((folder / _VALUES).read_text("utf-8"))
        if told["format"] != _FORMAT:
            raise InputError(f"{folder} is of the form {told['format']}, but must be {_FORMAT}.")
        with np.load(folder / _VECTORS) as stored:
            arrays = {name: stored[name] for name in ("text", "frames", "clip")}
        alignments = tuple(
            ShownAlignment(
                **{
                    **one,
                    "pieces": _spans(one["pieces"]),
                    "words": _spans(one["words"]),
                    "peaks": tuple(one["peaks"]),
                    "audio": (folder / f"clip-{number}.flac").read_bytes(),
                }
            )
            for number, one in enumerate(told["alignments"])
        )
        vectors = Vectors(
            tuple(told["tokens"]),
            arrays["text"].astype(np.float32),
            arrays["frames"].astype(np.float32),
            arrays["clip"],
            tuple(tuple(row) for row in told["said"]),
        )
        return Shown(told["update"], alignments, vectors)
    except _DAMAGE as error:
        raise InputError(
            f"{folder} is damaged ({error}); delete it and evaluate the run again, or leave this run out."
        ) from error


def _spans(rows: list[dict[str, float | str]]) -> tuple[Span, ...]:
    return tuple(Span(**row) for row in rows)  # type: ignore[arg-type]

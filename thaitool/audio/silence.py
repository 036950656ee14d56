"""Where a recording is quiet, and where to cut it into pieces. Keeps levels, not samples; writes no sound.

Levels are the power of 20 ms frames, decoded in blocks. What is speech is relative to the recording's own noise floor,
so a hiss under all of it is no speech.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from thaitool.audio.decode import SILENCE_PEAK, opened_sound, twice, where_to_start
from thaitool.audio.headers import BadAudio

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

FRAME_S = 0.02
#: A pause up to this long stays at the border of a piece; a longer one is trimmed to `MARGIN_S`.
PAUSE_S = 1.0
#: What a trimmed border keeps, so that a soft onset is not cut off.
MARGIN_S = 0.2
#: A longer pause is never inside a piece.
LONG_PAUSE_S = 2.0
#: No piece is shorter, nor than a third of the longest.
SHORTEST_S = 1.0
#: Samples are decoded in blocks of this length. What stays is 4 bytes per frame: 0.7 MB an hour.
_BLOCK_S = 10.0
#: The least level that counts: 16-bit rounding alone is at -98 dB.
_LOWEST_DB = -80.0
#: The noise floor is the level that this share of the frames stays under.
_FLOOR_SHARE = 0.1
#: A recording whose loudest 0.2 s are closer to the floor has no pauses that could be told from speech.
_LEAST_RANGE_DB = 6.0
#: Speech is what is this share of that range above the floor, within bounds: noise of 20 ms frames varies by 1 or 2 dB,
#: and soft consonants of clean recordings are 40 dB below vowels.
_SPEECH_SHARE, _SPEECH_LEAST_DB, _SPEECH_MOST_DB = 0.3, 3.0, 10.0
#: Levels are averaged over twice this before a cut is placed, so that it falls into a pause and not into the closure of
#: a stop consonant (50 to 100 ms).
_SMOOTH_FRAMES = 5
#: What one more piece costs, in dB of the place where it is cut: longer pieces win against slightly quieter places.
_PIECE_DB = 6.0
#: What a cut inside speech costs on top: more than any number of pieces that can replace it.
_SPEECH_CUT_DB = 1000.0


@dataclass(frozen=True)
class Levels:
    """The level of each frame in dB of full scale, shape (T,); a frame lasts `frame_s`, the last one may be shorter."""

    db: NDArray[np.float32]
    frame_s: float


def measure(
    source: str | bytes,
    item: str,
    *,
    start_s: float = 0.0,
    end_s: float | None = None,
    offset: int | None = None,
    n_bytes: int | None = None,
) -> Levels:
    """Decodes a stretch in blocks, at its own rate, and keeps the level of each frame of the mono mix.

    Args: as `decode`.

    Raises:
        BadAudio: it is unreadable, empty, truncated, bad_length, silent or not_finite, wherever in the stretch.
    """

    def read() -> Levels:
        with opened_sound(source, item, offset=offset, n_bytes=n_bytes) as file:
            return _levels(file, item, start_s, end_s)

    return twice(read, item)


def _levels(file: Any, item: str, start_s: float, end_s: float | None) -> Levels:
    rate_hz = int(file.samplerate)
    first = min(round(start_s * rate_hz), file.frames)
    last = file.frames if end_s is None else min(file.frames, round(end_s * rate_hz))
    n_frame = max(1, round(FRAME_S * rate_hz))
    powers: list[NDArray[np.float32]] = []
    peak, n_read = 0.0, 0
    for mono in _mono_blocks(file, first, last, n_frame * round(_BLOCK_S / FRAME_S)):
        high, low = float(mono.max()), float(mono.min())
        if not np.isfinite(high - low):
            raise BadAudio(item, "not_finite", "it contains NaN or infinite samples")
        peak = max(peak, high, -low)
        powers.append(_powers(mono, n_frame))
        n_read += len(mono)
    # A lossy coder may be a frame off its header; a file cut in transfer is off by much more.
    if n_read < 0.98 * (last - first) - 0.1 * rate_hz:
        detail = f"{n_read} of {last - first} samples could be decoded"
        raise BadAudio(item, "truncated", detail)
    if peak < SILENCE_PEAK:
        raise BadAudio(item, "silent", f"the peak of its mono mix is below {SILENCE_PEAK}")
    return Levels(10 * np.log10(np.maximum(np.concatenate(powers), 1e-12)), n_frame / rate_hz)


def _mono_blocks(file: Any, first: int, last: int, size: int) -> Iterator[NDArray[np.float32]]:
    seekable, at = file.seekable(), 0
    while not seekable and at < first and (skipped := len(file.read(min(size, first - at)))):
        at += skipped
    at = first
    while at < last:
        # Each block like a recording of its own: soundfile seeks after every read, which an MP3 does not stand.
        start = where_to_start(file, at) if seekable else at
        if seekable:
            file.seek(start)
        n_frames = at - start + min(size, last - at)
        block = file.read(n_frames, dtype="float32", always_2d=True)[at - start :]
        if not len(block):
            return
        at += len(block)
        mono = block[:, 0]
        if block.shape[1] > 1:
            # Channel by channel: numpy's mean over an axis of length 2 takes forty times as long.
            mono = sum((block[:, c] for c in range(1, block.shape[1])), mono) / block.shape[1]
        yield mono


def _powers(mono: NDArray[np.float32], n_frame: int) -> NDArray[np.float32]:
    """The variance of each frame (an offset of the samples is no sound), shape (ceil(len(mono) / n_frame),)."""
    n_whole = len(mono) // n_frame
    frames = mono[: n_whole * n_frame].reshape(n_whole, n_frame)
    centred = frames - frames.mean(axis=1, keepdims=True)
    powers = np.einsum("tn,tn->t", centred, centred) / np.float32(n_frame)
    rest = mono[n_whole * n_frame :]
    return np.append(powers, rest.var()) if len(rest) else powers


def speech_threshold(levels: Levels) -> float:
    """The level above which a frame is speech; the lowest there is, if there are no pauses to tell from it."""
    db = np.maximum(levels.db, _LOWEST_DB)
    floor = _floor(db)
    span = float(_smoothed(db).max()) - floor
    if span < _LEAST_RANGE_DB:
        return _LOWEST_DB
    return floor + min(max(_SPEECH_SHARE * span, _SPEECH_LEAST_DB), _SPEECH_MOST_DB)


def pieces(levels: Levels, longest_s: float) -> list[tuple[int, int]]:
    """Where to cut a recording: half-open stretches of frames, in order, disjoint.

    They hold all frames above `speech_threshold`, last at most `longest_s` and, if the recording does, at least
    `SHORTEST_S`. Pauses of more than `LONG_PAUSE_S` are left out; more than `PAUSE_S` at a border is trimmed to
    `MARGIN_S`. Within that, as few cuts as possible fall into speech, and then pieces are long and cuts are quiet: the
    cuts have the least sum of costs (dynamic programming over frames).
    """
    n_frames = len(levels.db)
    longest = max(3, int(longest_s / levels.frame_s))
    shortest = min(round(SHORTEST_S / levels.frame_s), longest // 3)
    db = np.maximum(levels.db, _LOWEST_DB)
    threshold = speech_threshold(levels)
    speech = np.flatnonzero(db > threshold)
    if not len(speech):
        return []
    trim = _Trim(
        speech, round(PAUSE_S / levels.frame_s), round(MARGIN_S / levels.frame_s), shortest
    )
    # A stretch between the middles of two long pauses.
    ends = np.flatnonzero(np.diff(speech) - 1 > round(LONG_PAUSE_S / levels.frame_s))
    middles = [int(speech[e] + 1 + speech[e + 1]) // 2 for e in ends]
    costs = _cut_costs(db, threshold)
    found: list[tuple[int, int]] = []
    for start, stop in zip([0, *middles], [*middles, n_frames], strict=True):
        island = trim(start, stop)
        bounds = _bounds(costs, *island, shortest, longest) if island else []
        # Between two cuts in one pause there is no speech.
        found.extend(piece for a, b in pairwise(bounds) if (piece := trim(a, b)) is not None)
    return found


@dataclass(frozen=True)
class _Trim:
    """Shortens a stretch to its speech; None if it has none."""

    speech: NDArray[np.int64]
    pause: int
    margin: int
    shortest: int

    def __call__(self, start: int, stop: int) -> tuple[int, int] | None:
        first, last = np.searchsorted(self.speech, [start, stop])
        if first == last:
            return None
        begin, end = int(self.speech[first]), int(self.speech[last - 1]) + 1
        begin = begin - self.margin if begin - start > self.pause else start
        end = end + self.margin if stop - end > self.pause else stop
        missing = max(0, self.shortest - (end - begin))
        before = min(missing, begin - start)
        return begin - before, min(stop, end + missing - before)


def _floor(db: NDArray[np.float32]) -> float:
    return float(np.quantile(db, _FLOOR_SHARE))


def _smoothed(db: NDArray[np.float32]) -> NDArray[np.float64]:
    """The mean power around each boundary between frames, in dB, shape (T + 1,); index f is the start of frame f."""
    power = np.concatenate([[0.0], np.cumsum(10.0 ** (db.astype(np.float64) / 10))])
    at = np.arange(len(db) + 1)
    left, right = np.maximum(at - _SMOOTH_FRAMES, 0), np.minimum(at + _SMOOTH_FRAMES, len(db))
    # Sums of many powers cancel to a little below the least level.
    mean = np.maximum((power[right] - power[left]) / (right - left), 10.0 ** (_LOWEST_DB / 10))
    smooth: NDArray[np.float64] = 10 * np.log10(mean)
    return smooth


def _cut_costs(db: NDArray[np.float32], threshold: float) -> NDArray[np.float64]:
    """What a cut at each boundary costs in dB, shape (T + 1,)."""
    smooth = _smoothed(db)
    return np.maximum(smooth - _floor(db), 0) + _PIECE_DB + _SPEECH_CUT_DB * (smooth > threshold)


def _bounds(
    costs: NDArray[np.float64], start: int, stop: int, shortest: int, longest: int
) -> list[int]:
    """`start`, the cuts of least cost between pieces of `shortest` to `longest` frames, `stop`."""
    n = stop - start
    if n <= longest:
        return [start, stop]
    cost = costs[start : stop + 1].tolist()
    cost[n] = 0.0
    best, came_from = [0.0] + [np.inf] * n, [0] * (n + 1)
    # Cuts that a piece ending at `j` can start from, best first: each is worse and later than the one before it.
    window: deque[int] = deque()
    for j in range(shortest, n + 1):
        fresh = j - shortest
        while window and best[window[-1]] >= best[fresh]:
            window.pop()
        window.append(fresh)
        if window[0] < j - longest:
            window.popleft()
        best[j] = best[window[0]] + cost[j]
        came_from[j] = window[0]
    bounds = [n]
    while bounds[-1]:
        bounds.append(came_from[bounds[-1]])
    return [start + b for b in reversed(bounds)]

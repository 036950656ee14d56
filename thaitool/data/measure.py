"""How long the recordings of some utterances are, by their headers, in one process or several. Decodes nothing."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from thaitool.audio.headers import BadAudio, Header, ask_libsndfile, parse_header
from thaitool.data.duplicates import content, content_key, head_of, is_file
from thaitool.data.pool import ahead
from thaitool.data.readers.lines import is_utf8
from thaitool.records import AudioRef, Rejected, Utterance

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

#: A listed duration may be off by rounding, and by the frames of a lossy coder.
TOLERANCE_S, TOLERANCE_SHARE = 0.1, 0.02
#: Utterances that a process measures at a time: some 50 ms of work.
CHUNK = 2_000


_Chunk: TypeAlias = tuple[Utterance | Rejected, ...]


@dataclass
class Measured:
    """Columns for the utterances that can be used, and why the others cannot."""

    kept: list[int] = field(default_factory=list)
    """Positions of those that can be used."""
    duration_s: list[float] = field(default_factory=list)
    sample_rate_hz: list[int] = field(default_factory=list)
    key: list[int] = field(default_factory=list)
    """What equal content has in common (`duplicates.content_key`); 0 where the content was not looked at."""
    rejected: list[Rejected] = field(default_factory=list)


def measure(entries: Sequence[Utterance | Rejected], min_s: float) -> Measured:
    """Probes every utterance; what the source says about duration and rate is checked or filled in.

    What the source itself rejected passes through, so that the ledger keeps the order of the source.
    """
    found = Measured()
    # Stretches of one recording mostly follow each other.
    headers: dict[AudioRef, tuple[Header, int]] = {}
    for position, u in enumerate(entries):
        if isinstance(u, Rejected):
            found.rejected.append(u)
            continue
        try:
            duration_s, rate_hz, key = _measure(u, headers)
            if duration_s < min_s:
                raise BadAudio(u.id, "too_short", f"{duration_s:.3f} s is under {min_s:g} s")
        except BadAudio as bad:
            found.rejected.append(Rejected(u.place, bad.reason, bad.detail))
        except OSError as error:
            gone = isinstance(error, FileNotFoundError) and not Path(u.audio.path).is_symlink()
            reason = "vanished" if gone else "unreadable"
            found.rejected.append(Rejected(u.place, reason, error.strerror or str(error)))
        else:
            found.kept.append(position)
            found.duration_s.append(duration_s)
            found.sample_rate_hz.append(rate_hz)
            found.key.append(key)
    return found


def _measure(u: Utterance, headers: dict[AudioRef, tuple[Header, int]]) -> tuple[float, int, int]:
    """Duration, rate and content key of one utterance."""
    ref = u.audio
    if not is_utf8(ref.path):
        # Arrow, and most tools that read our JSON, take UTF-8 only.
        raise BadAudio(ref.path, "bad_name", "its path is not UTF-8; rename it")
    if not is_utf8("".join(filter(None, (u.id, u.text, u.label, u.speaker, u.source_id)))):
        raise BadAudio(ref.path, "bad_name", "its id, text or speaker is not UTF-8")
    if ref.row is not None and math.isfinite(u.duration_s) and u.sample_rate_hz > 0:
        # The audio of a parquet file lies in compressed pages: looking at its header would read all of it.
        return u.duration_s, u.sample_rate_hz, 0
    if u.start_s == 0 and u.end_s is None:
        header, key = _look(ref)
        duration_s = header.duration_s
    else:
        if ref not in headers:
            headers[ref] = _look(ref)
        header, key = headers[ref]
        duration_s = _stretch_s(u, header.duration_s)
    slack_s = max(TOLERANCE_S, TOLERANCE_SHARE * duration_s)
    if math.isfinite(u.duration_s) and abs(u.duration_s - duration_s) > slack_s:
        detail = f"it is listed with {u.duration_s:.3f} s, but has {duration_s:.3f} s"
        raise BadAudio(ref.path, "wrong_duration", detail)
    return duration_s, header.sample_rate_hz, key


def _stretch_s(u: Utterance, whole_s: float) -> float:
    end_s = whole_s if u.end_s is None else u.end_s
    slack_s = max(TOLERANCE_S, TOLERANCE_SHARE * whole_s)
    if not 0 <= u.start_s < end_s <= whole_s + slack_s:
        detail = f"it is listed from {u.start_s:g} to {end_s:g} s of a recording of {whole_s:.3f} s"
        raise BadAudio(u.audio.path, "wrong_duration", detail)
    return min(end_s, whole_s) - u.start_s


def _look(ref: AudioRef) -> tuple[Header, int]:
    """Header and content key of a recording."""
    head, n_bytes = head_of(ref)
    header = parse_header(head, n_bytes, str(ref))
    if header is None:
        source = ref.path if is_file(ref) else content(ref)
        header = ask_libsndfile(source, n_bytes, str(ref))
    return header, content_key(header, head, n_bytes)


def measured(
    entries: Iterable[Utterance | Rejected], min_s: float, workers: int
) -> Iterator[tuple[list[Utterance], Measured]]:
    """The usable ones among many utterances, in order and in chunks, with their columns.

    Args:
        entries: Read on while the headers of earlier ones are being read.
        min_s: Shorter ones are rejected.
        workers: Processes that read headers; the result is the same for any number.

    Raises:
        EnvironmentProblem: a process was killed.
    """
    work = partial(measure, min_s=min_s)
    for chunk, found in ahead(work, _chunks(entries), workers, doing="read headers"):
        yield [u for k in found.kept if isinstance(u := chunk[k], Utterance)], found


def _chunks(entries: Iterable[Utterance | Rejected]) -> Iterator[_Chunk]:
    iterator = iter(entries)
    while chunk := tuple(itertools.islice(iterator, CHUNK)):
        yield chunk

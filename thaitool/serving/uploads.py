"""An uploaded sound: what its header says, and the stretches that a model can hear at once. Keeps no upload."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from os import SEEK_END
from typing import IO, TYPE_CHECKING, Any

from thaitool.audio.decode import decode
from thaitool.audio.headers import (
    HEAD_BYTES,
    MIN_DURATION_S,
    BadAudio,
    ask_libsndfile,
    parse_header,
)
from thaitool.inference.recordings import stretches
from thaitool.serving.refusal import Refusal, invalid

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Larger uploads are decoded from a file, so that many at once do not fill the memory.
_MOST_BYTES_IN_MEMORY = 8_000_000
#: A silent channel is a few bytes in Ogg, but takes as long to decode as a recording of its own.
_MOST_CHANNELS = 8


@dataclass(frozen=True)
class Upload:
    """A sound that has a header one can believe."""

    source: str | bytes
    """Path or content."""
    name: str
    """What the client calls it."""
    duration_s: float
    copy: IO[Any] | None = None
    """The file at that path, if it is ours."""

    def close(self) -> None:
        """Deletes the copy."""
        if self.copy is not None:
            self.copy.close()

    def stretches(self, longest_s: float) -> list[tuple[float, float]]:
        """Start and end of the parts that are answered about one by one; one, if it is no longer than `longest_s`.

        Raises:
            Refusal: it is damaged, or silent.
        """
        if self.duration_s <= longest_s:
            return [(0.0, self.duration_s)]
        try:
            return stretches(self.source, self.name, longest_s)
        except BadAudio as bad:
            raise _unreadable(bad) from bad

    def samples(self, start_s: float, end_s: float) -> NDArray[np.float32]:
        """Samples of a stretch, shape (N,), mono, 16 kHz.

        Raises:
            Refusal: it is damaged, too short or silent.
        """
        try:
            # To the end where that is meant: the header's length is rounded to a sample at another rate.
            is_whole = (start_s, end_s) == (0.0, self.duration_s)
            return decode(
                self.source, self.name, start_s=start_s, end_s=None if is_whole else end_s
            )
        except BadAudio as bad:
            raise _unreadable(bad) from bad


def upload(content: bytes | IO[bytes], name: str, longest_s: float) -> Upload:
    """Looks at the header, before anything is decoded: some kilobytes can hold hours of silence.

    Args:
        content: Of the sound file; an open file is read from its start.
        name: What to call it in messages.
        longest_s: Of a whole upload.

    Raises:
        Refusal: it is no sound file, or too short or too long.
    """
    if isinstance(content, bytes):
        return Upload(content, name, _duration_s(content, content, len(content), name, longest_s))
    n_bytes = content.seek(0, SEEK_END)
    content.seek(0)
    if n_bytes <= _MOST_BYTES_IN_MEMORY:
        return upload(content.read(), name, longest_s)
    copy = tempfile.NamedTemporaryFile(prefix="thaitool-upload-")  # noqa: SIM115 (closed by `Upload.close`)
    try:
        shutil.copyfileobj(content, copy, 1 << 20)
        copy.flush()
        content.seek(0)
        duration_s = _duration_s(content.read(HEAD_BYTES), copy.name, n_bytes, name, longest_s)
    except BaseException:
        copy.close()
        raise
    return Upload(copy.name, name, duration_s, copy)


def _duration_s(
    head: bytes, source: str | bytes, n_bytes: int, name: str, longest_s: float
) -> float:
    try:
        if not n_bytes:
            raise BadAudio(name, "empty", "it has 0 bytes")
        header = parse_header(head[:HEAD_BYTES], n_bytes, name)
        header = header or ask_libsndfile(source, n_bytes, name)
        if header.duration_s < MIN_DURATION_S:
            detail = f"{header.duration_s:.3f} s is under {MIN_DURATION_S} s"
            raise BadAudio(name, "too_short", detail)
        if header.channels > _MOST_CHANNELS:
            detail = f"it must have {_MOST_CHANNELS} channels at most, but has {header.channels}"
            raise BadAudio(name, "channels", detail)
    except BadAudio as bad:
        raise _unreadable(bad) from bad
    if header.duration_s > longest_s:
        raise Refusal(
            413,
            f"A recording must last {longest_s:,.0f} s at most here, but {name} lasts {header.duration_s:,.0f} s. Send"
            " parts of it.",
            "too_long",
            param="file",
        )
    return header.duration_s


def _unreadable(bad: BadAudio) -> Refusal:
    return invalid(
        f"{bad.item} must be a usable recording in WAV, FLAC, OGG, Opus or MP3, but is not: {bad.reason}:"
        f" {bad.detail.rstrip('.')}.",
        "file",
        bad.reason,
    )

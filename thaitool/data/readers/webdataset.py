"""WebDataset tars: members of one key lie together, sound beside its .txt or .json. Extracts nothing; no compression.

Sound is referred to by the bytes of its member, so that the tar is read in place.
"""

from __future__ import annotations

import json
import math
import os
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thaitool.audio.headers import EXTENSIONS
from thaitool.data.readers.fields import SPEAKER, TEXT
from thaitool.data.readers.lines import is_utf8
from thaitool.errors import InputError
from thaitool.records import AudioRef, Rejected, Utterance

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: A longer .txt or .json is no transcript.
_LONGEST_TEXT = 16 << 20


@dataclass
class _Sample:
    key: str
    sounds: list[tarfile.TarInfo] = field(default_factory=list)
    text: str | None = None
    about: dict[str, Any] = field(default_factory=dict)
    wrong: tuple[str, str] | None = None


def read_webdataset(
    tars: Sequence[Path], root: Path, prefix: str = ""
) -> Iterator[Utterance | Rejected]:
    """The utterances of some tars; an id is `prefix`, the tar's path below `root` without `.tar`, and the key.

    A tar that is cut short yields the samples that are whole and one `Rejected` for the rest.

    Raises:
        InputError: a file is no tar at all, or cannot be read.
    """
    for path in tars:
        try:
            name = prefix + path.relative_to(root).with_suffix("").as_posix()
            yield from _read_tar(path, name)
        except OSError as error:
            raise InputError(
                f"{path} must be a file that can be read, but is not: {error.strerror or error}."
            ) from error


def _read_tar(path: Path, name: str) -> Iterator[Utterance | Rejected]:
    place, n_bytes = str(path.resolve()), path.stat().st_size
    try:
        tar = tarfile.open(path, "r:")  # noqa: SIM115
    except tarfile.ReadError as error:
        if not n_bytes:
            yield Rejected(str(path), "empty", "the file has 0 bytes")
            return
        raise InputError(
            f"{path} must be an uncompressed tar, but is not: {error}. Fetch or make it again."
        ) from error
    with tar:
        sample: _Sample | None = None
        whole_until = 0
        while (member := _next(tar, whole_until, n_bytes)) is not None:
            whole_until = member.offset_data + member.size
            if member.isdir():
                continue
            key, extension = _split(member.name)
            if sample is None or sample.key != key:
                if sample is not None:
                    yield _outcome(sample, path, place, name)
                sample = _Sample(key)
            _add(sample, extension, member, tar)
        if sample is not None:
            yield _outcome(sample, path, place, name)
    if not _ends_with_zeros(path, whole_until):
        yield Rejected(str(path), "truncated", f"no whole member follows byte {whole_until}")


def _next(tar: tarfile.TarFile, whole_until: int, n_bytes: int) -> tarfile.TarInfo | None:
    """The next member that is whole; None at the end, where the file was cut, or where a header is damaged."""
    try:
        member = tar.next()
    except (tarfile.TarError, ValueError, ArithmeticError, EOFError, RecursionError):
        return None
    tar.members.clear()  # type: ignore[attr-defined]  # or it would keep every member it has seen
    if member is None or member.offset_data + member.size > n_bytes:
        return None
    # A damaged size can be negative, and would lead back to members that were read before, for ever.
    if member.size < 0 or member.offset < whole_until:
        return None
    return member


def _ends_with_zeros(path: Path, whole_until: int) -> bool:
    """Whether the block after the last member is the end-of-archive mark (a tar that was cut has none)."""
    with path.open("rb") as file:
        file.seek(-(-whole_until // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE)
        block = file.read(tarfile.BLOCKSIZE)
    return len(block) == tarfile.BLOCKSIZE and not any(block)


def _split(name: str) -> tuple[str, str]:
    """Key and extension: WebDataset cuts the file name at its first dot."""
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return (folder + slash + stem).removeprefix("./"), extension.lower()


def _add(sample: _Sample, extension: str, member: tarfile.TarInfo, tar: tarfile.TarFile) -> None:
    if "." + extension.rpartition(".")[2] in EXTENSIONS:
        if not member.isreg() or member.issparse():
            sample.wrong = ("unreadable", f"{member.name} is a link or sparse, not plain bytes")
        sample.sounds.append(member)
    elif extension in {"txt", "json"} and member.isreg():
        if member.size > _LONGEST_TEXT:
            sample.wrong = ("bad_text", f"{member.name} has {member.size} bytes")
            return
        file = tar.extractfile(member)
        content = file.read() if file else b""
        try:
            text = content.decode("utf-8-sig")
            about = json.loads(text) if extension == "json" else {}
            json.dumps(about, ensure_ascii=False).encode()  # half a surrogate pair is not UTF-8
        except (ValueError, RecursionError) as error:
            sample.wrong = ("bad_text", f"{member.name} cannot be read: {error}")
            return
        if extension == "txt":
            sample.text = text.strip()
        elif isinstance(about, dict):
            sample.about = about


def _outcome(sample: _Sample, path: Path, place: str, name: str) -> Utterance | Rejected:
    item = f"{path}#{sample.key}"
    if not is_utf8(item):
        return Rejected(item, "bad_name", "its name is not UTF-8; rename it")
    if sample.wrong:
        return Rejected(item, *sample.wrong)
    if len(sample.sounds) != 1:
        reason = "several_sounds" if sample.sounds else "no_audio"
        detail = f"{len(sample.sounds)} of its members are sound, not 1"
        if not sample.sounds:
            detail += "; members of one key must lie together (tar --sort=name)"
        return Rejected(item, reason, detail)
    sound = sample.sounds[0]
    text = sample.text or _first_text(sample.about, TEXT)
    return Utterance(
        id=f"{name}/{sample.key}",
        audio=AudioRef(place, offset=sound.offset_data, n_bytes=sound.size),
        duration_s=math.nan,
        sample_rate_hz=0,
        text=text or None,
        speaker=_first_text(sample.about, SPEAKER),
        source=str(path),
        source_id=sample.key,
    )


def _first_text(about: dict[str, Any], keys: Sequence[str]) -> str | None:
    values = (about.get(key) for key in keys)
    return next((str(v) for v in values if isinstance(v, str | int) and v != ""), None)


def is_tar(path: Path, head: bytes) -> bool:
    """Whether the first block is a tar header (POSIX and GNU write `ustar`; older ones only add up)."""
    if head[257:262] == b"ustar":
        return True
    if len(head) < tarfile.BLOCKSIZE or os.path.splitext(path.name)[1].lower() != ".tar":  # noqa: PTH122
        return False
    try:
        tarfile.TarInfo.frombuf(head[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True

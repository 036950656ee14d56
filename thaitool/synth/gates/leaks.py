"""Sentences of evaluation sets, which must not be made again as training data. Reads and compares; `metrics` judges."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from thaitool.data.scan import scan
from thaitool.errors import InputError
from thaitool.metrics.leakage import Line, TestItems
from thaitool.synth.gates.clips import Fault

if TYPE_CHECKING:
    from thaitool.data.manifest import Manifest

#: Files that hold one sentence a line; everything else is what `scan` reads.
TEXT_SUFFIXES = (".txt",)
_ROWS = 1 << 16


def read_known(paths: Sequence[Path]) -> tuple[TestItems, str]:
    """The sentences of evaluation sets, indexed, and a digest of them.

    Raises:
        InputError: a path cannot be read, or the sets hold no text.
    """
    lines = [line for path in paths for line in _lines(path)]
    texts = [line for line in lines if line.text.strip()]
    if paths and not texts:
        raise InputError(
            f"gates.against must name evaluation sets with text, but {', '.join(map(str, paths))} hold none."
        )
    digest = hashlib.sha256()
    for line in lines:
        digest.update(f"{line.id}\x1f{line.text}\x1e".encode("utf-8", "surrogatepass"))
    return TestItems(lines), digest.hexdigest()


def leak_fault(known: TestItems, source_id: str, text: str) -> Fault | None:
    """How an evaluation set knows a sentence, or the recording that `source_id` names; None if it does not."""
    leaks = (leak for _, leak in known.leaks_of(Line(source_id, text)))
    leak = min(leaks, key=lambda found: (*found.order, found.test_id), default=None)
    if leak is None:
        return None
    return Fault(f"leaked_{leak.kind}", f"{text!r} is {leak.test_id} ({leak.likeness:.2f})")


def _lines(path: Path) -> Iterator[Line]:
    if path.suffix not in TEXT_SUFFIXES:
        yield from _rows(scan([path])[0])
        return
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} must be UTF-8 text, one sentence a line, but: {error}."
        ) from error
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield Line(f"{path.name}:{number}", line.strip())


def _rows(manifest: Manifest) -> Iterator[Line]:
    ids, texts = manifest.column("id"), manifest.column("text")
    for start in range(0, len(manifest), _ROWS):
        block = (column.slice(start, _ROWS).to_pylist() for column in (ids, texts))
        for item, text in zip(*block, strict=True):
            yield Line(item, text or "")

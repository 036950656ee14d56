"""A report directory belongs to one evaluation: the same comes back to it, any other is turned away.

Decides nothing about scores: those may be made again with other draws or slices.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from thaitool.errors import InputError
from thaitool.files import write_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from thaitool.records import Reference

IDENTITY = "eval.json"


def claim(
    out: Path, settings: Mapping[str, object], answers_sha256: str, asked: Iterable[Reference]
) -> None:
    """Makes the directory, or returns to that of the same evaluation.

    Raises:
        InputError: it holds something else.
    """
    digest = hashlib.sha256()
    for r in asked:
        # Backslashreplace: an id may come from a file name that is not UTF-8.
        digest.update(f"{r.id}/{r.task}/{r.text}\n".encode("utf-8", "backslashreplace"))
    identity = {
        "settings": dict(settings),
        "answers": answers_sha256,
        "references": digest.hexdigest(),
    }
    file = out / IDENTITY
    if file.is_file():
        if json.loads(file.read_text("utf-8")) != identity:
            raise InputError(
                f"{out} holds the report of another model, data set or setting; choose another --out."
            )
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} must be new, but holds other files; choose another --out.")
    out.mkdir(parents=True, exist_ok=True)
    write_json(file, identity)


def file_sha256(path: Path) -> str:
    """The digest of a file of predictions.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(
            f"{path} must be a JSONL file of predictions, but cannot be read: {error.strerror or error}."
        ) from error

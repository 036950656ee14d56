"""Writing so that a reader sees a whole file or none, and a full disk is a sentence. Reads nothing."""

from __future__ import annotations

import errno
import json
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from thaitool.errors import EnvironmentProblem

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def write_json(path: Path, value: Any) -> None:
    """Writes JSON through a temporary name, so that a reader never sees half a file."""
    with disk_full_is_explained(path):
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False, default=str), "utf-8")
        temporary.replace(path)


@contextmanager
def disk_full_is_explained(path: Path) -> Iterator[None]:
    """Turns ENOSPC and EDQUOT into a sentence."""
    try:
        yield
    except Exception as error:
        if _is_disk_full(error):
            raise EnvironmentProblem(
                f"{path} could not be written, the disk is full. What was written before is intact; free some space"
                " and run the same command again."
            ) from error
        raise


def _is_disk_full(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
            return True
        # safetensors writes from Rust, where the number survives in the text only.
        if f"os error {errno.ENOSPC}" in str(error) or f"os error {errno.EDQUOT}" in str(error):
            return True
        # sqlite has a code of its own, which Python keeps as text.
        if "database or disk is full" in str(error):
            return True
        # torch.save raises a RuntimeError while the OSError of its file is being handled.
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def writing_directory(final: Path) -> Iterator[Path]:
    """A temporary directory that becomes `final` when the block succeeds, and vanishes when it fails."""
    temporary = final.with_name(f".{final.name}.tmp")
    if temporary.exists():
        shutil.rmtree(temporary)
    with disk_full_is_explained(final):
        temporary.mkdir(parents=True)
        try:
            yield temporary
            if final.exists():
                shutil.rmtree(final)
            temporary.replace(final)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise

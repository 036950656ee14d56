"""Writes report.json, report.md, report.html and per_item.jsonl, each whole or not at all. Renders nothing itself."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from thaitool.errors import InputError
from thaitool.reports.html import to_html
from thaitool.reports.json_form import to_json
from thaitool.reports.markdown import to_markdown
from thaitool.reports.per_item import PER_ITEM, lines
from thaitool.reports.report import Report


def write_report(report: Report, out_dir: str | Path) -> tuple[Path, ...]:
    """Write the files of `report` into `out_dir` (made if need be) and return their paths.

    per_item.jsonl (see `per_item`) is written when the tasks hold items; a file of that name from an earlier report is
    removed otherwise.

    Raises:
        InputError: `out_dir` is a file or cannot be written.
    """
    files = {
        "report.json": to_json(report),
        "report.md": to_markdown(report),
        "report.html": to_html(report),
    }
    written = write_texts(files, out_dir)
    folder = Path(out_dir)
    if any(task.items for task in report.tasks):
        return (*written, *write_texts({PER_ITEM: lines(report)}, folder))
    (folder / PER_ITEM).unlink(missing_ok=True)
    return written


def write_texts(files: Mapping[str, str | Iterable[str]], out_dir: str | Path) -> tuple[Path, ...]:
    """Write texts, or texts in parts, by file name.

    Raises:
        InputError: `out_dir` is a file or cannot be written.
    """
    folder = Path(out_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            _write_whole(folder / name, [text] if isinstance(text, str) else text)
    except OSError as problem:
        raise InputError(
            f"The report cannot be written to {folder}: {problem}. Name a folder that can be "
            "written, with free space."
        ) from problem
    return tuple(folder / name for name in files)


def _write_whole(path: Path, parts: Iterable[str]) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # Backslashreplace: a lone surrogate (an id from a file name that is not UTF-8) must not end a report.
        with part.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)

"""Writes report.json, report.md, report.html and per_item.jsonl, each whole or not at all.

The HTML is one file without network access: plots and players are embedded, and a content policy
forbids everything else. Text from data is escaped by the template engine; plots are images, so
nothing in them can run.
"""

from __future__ import annotations

import base64
import json
import os
from dataclasses import asdict
from importlib import resources
from pathlib import Path

from thaitool.errors import InputError
from thaitool.reports import report as shown
from thaitool.reports.json_form import to_json
from thaitool.reports.markdown import to_markdown
from thaitool.reports.plots import curve_svg, scores_svg
from thaitool.reports.report import Report, monitor_rows, score_rows


def write_report(report: Report, out_dir: str | Path) -> tuple[Path, ...]:
    """Write the files of `report` into `out_dir` (made if need be) and return their paths.

    per_item.jsonl (id, task, reference, hypothesis, error per line) is written when the tasks hold
    items; a file of that name from an earlier report is removed otherwise.

    Raises:
        InputError: `out_dir` is a file or cannot be written.
    """
    folder = Path(out_dir)
    items = [item for task in report.tasks for item in task.items]
    lines = "".join(json.dumps(asdict(item), ensure_ascii=False) + "\n" for item in items)
    contents = {
        "report.json": to_json(report),
        "report.md": to_markdown(report),
        "report.html": to_html(report),
    }
    if items:
        contents["per_item.jsonl"] = lines
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in contents.items():
            _write_whole(folder / name, text)
        if not items:
            (folder / "per_item.jsonl").unlink(missing_ok=True)
    except OSError as problem:
        raise InputError(
            f"The report cannot be written to {folder}: {problem}. Name a folder that can be "
            "written, with free space."
        ) from problem
    return tuple(folder / name for name in contents)


def to_html(report: Report) -> str:
    """The text of report.html."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = resources.files("thaitool.reports").joinpath("report.html.j2")
    template = environment.from_string(source.read_text(encoding="utf-8"))
    rows = score_rows(report)
    return template.render(
        report=report,
        rows=rows,
        monitors=monitor_rows(report),
        with_shuffled=bool(report.shuffled),
        tables=[
            (heading, shown.flat(table))
            for heading, table in (
                ("Accounting", report.accounting),
                ("Settings", report.settings),
                ("Versions", report.versions),
            )
            if table
        ],
        scores_image=_data_url(scores_svg(rows).encode(), "image/svg+xml") if rows else "",
        curves=[
            (name, _data_url(curve_svg(points).encode(), "image/svg+xml"))
            for name, points in report.curves.items()
        ],
        players={
            number: _data_url(example.audio, example.audio_type)
            for number, example in enumerate(report.examples)
            if example.audio
        },
        percent=shown.percent,
        interval=shown.interval,
        counts=shown.counts,
    )


def _data_url(content: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


def _write_whole(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with part.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)

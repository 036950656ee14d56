"""What ratings say, as report.json, report.md, report.html and tables for the terminal. Computes no score."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import jinja2

from thaitool.listening.key import ITEM
from thaitool.listening.scoring import LEAST_CANARIES
from thaitool.reports.html import environment
from thaitool.reports.markdown import escape, markdown_table
from thaitool.reports.view import ViewTable, rows_of
from thaitool.reports.write import write_texts

if TYPE_CHECKING:
    from pathlib import Path

    from thaitool.listening.key import Key
    from thaitool.listening.scoring import Heard, RaterLine
    from thaitool.records import Score

FORMAT = "thaitool-listening-1"
_COLUMNS = ("mos", "tones_right", "tones_unsure", "cer")


def write_result(heard: Heard, key: Key, out: Path, *, created: str) -> tuple[Path, ...]:
    """The three files in `out`.

    Raises:
        InputError: they cannot be written.
    """
    title, facts = f"Listening to {key.data}", f"{created} · pack {key.pack}"
    tables, told = result_tables(heard), notes(heard)
    own = environment().overlay(
        loader=jinja2.ChoiceLoader(
            [jinja2.PackageLoader(name, "") for name in ("thaitool.listening", "thaitool.reports")]
        )
    )
    parts = [f"# {escape(title)}", escape(facts), *(f"> {escape(note)}" for note in told)]
    for table in tables:
        parts += [f"## {escape(table.heading)}", markdown_table(table.columns, table.rows)]
    page = own.get_template("scores.html.j2")
    return write_texts(
        {
            "report.json": result_json(heard, key, created=created),
            "report.md": "\n\n".join(parts) + "\n",
            "report.html": page.render(title=title, facts=facts, tables=tables, notes=told),
        },
        out,
    )


def result_json(heard: Heard, key: Key, *, created: str) -> str:
    """Format "thaitool-listening-1": groups, agreement and raters, every score with its sums and interval."""
    value = {
        "format": FORMAT,
        "created": created,
        "pack": key.pack,
        "data": key.data,
        "groups": [
            {
                "by": group.by,
                "value": group.value,
                "clips": group.clips,
                "scores": [_plain(score) for score in group.scores],
            }
            for group in heard.groups
        ],
        "agreement": [{"of": what, **_plain(score)} for what, score in heard.agreement],
        "raters": [{**asdict(line), "failed": line.failed} for line in heard.raters],
        "raters_without_file": list(heard.without_file),
        "missing": heard.missing,
        "notes": list(notes(heard)),
    }
    return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=1) + "\n"


def result_tables(heard: Heard) -> tuple[ViewTable, ...]:
    """Kinds, parts of the data set, agreement and raters, as people read them."""
    kinds = [
        (group.value, str(group.clips), *(_cell(group.scores, name) for name in _COLUMNS))
        for group in heard.groups
        if group.by == "kind"
    ]
    parts = [
        (group.by, group.value, str(group.clips), *(_cell(group.scores, n) for n in _COLUMNS))
        for group in heard.groups
        if group.by != "kind"
    ]
    alphas = [
        (what, score.name, _alpha(score.value), _range(score.low, score.high, 1, 3), score.note)
        for what, score in heard.agreement
    ]
    raters = [
        (
            line.rater,
            str(line.clips),
            str(line.missing),
            "-" if line.mos is None else f"{line.mos:.2f}",
            f"{line.canaries_right} of {line.canaries_told}",
            _verdict(line) + (", left out" if line.excluded else ""),
        )
        for line in heard.raters
    ]
    names = ("MOS, 1 to 5", "tones right, %", "unsure, %", "CER, %")
    return (
        ViewTable("Kinds of clips", ("kind", "clips", *names), rows_of(kinds)),
        ViewTable("Parts of the data set", ("by", "value", "clips", *names), rows_of(parts), 2),
        ViewTable(
            "Agreement of raters, Krippendorff's alpha",
            ("question, clips", "alpha", "value", "95 %", "note"),
            rows_of(alphas),
            2,
        ),
        ViewTable(
            "Raters",
            ("rater", "clips", "unanswered", "MOS", "spoilt clips told", "verdict"),
            rows_of(raters),
        ),
    )


def notes(heard: Heard) -> tuple[str, ...]:
    """What must be read with the scores."""
    told = []
    failed = [line.rater for line in heard.raters if line.failed]
    if failed:
        left = all(line.excluded for line in heard.raters if line.failed)
        told.append(
            f"{', '.join(failed)} took more than {1 - LEAST_CANARIES:.0%} of the spoilt clips for good ones, and"
            f" {'is left out of all scores' if left else 'is in all scores; --exclude-failed leaves such raters out'}."
        )
    sour = [line.rater for line in heard.raters if line.canaries_told and not line.finds_good]
    if sour:
        told.append(
            f"{', '.join(sour)} called no clip good, so that the spoilt clips cannot show whether they listened."
        )
    if heard.without_file:
        told.append(f"No file of ratings was given from {', '.join(heard.without_file)}.")
    heard_from = [line.rater for line in heard.raters if not line.excluded]
    if len(heard_from) == 1:
        told.append(
            f"All scores are of {heard_from[0]} alone: the intervals say nothing about other people, and there is no"
            " agreement to measure."
        )
    if heard.missing:
        told.append(f"{heard.missing} clips of the given files lack an answer; no score counts it.")
    own = next(group for group in heard.groups if group.value == ITEM and group.by == "kind")
    weak = dict.fromkeys(s.note for s in own.scores if s.note)
    names = {note: ", ".join(s.name for s in own.scores if s.note == note) for note in weak}
    return (*told, *(f"{names[note]}: {note}." for note in weak))


def _verdict(line: RaterLine) -> str:
    if not line.canaries_told or not line.finds_good:
        return "not tested"
    return "failed" if line.failed else "passed"


def _cell(scores: tuple[Score, ...], name: str) -> str:
    score = next((s for s in scores if s.name == name), None)
    if score is None or score.value is None:
        return ""
    factor = 1 if name == "mos" else 100
    reach = _range(score.low, score.high, factor, 2 if name == "mos" else 1)
    text = f"{factor * score.value:.{2 if name == 'mos' else 1}f}"
    return f"{text} ({reach})" if reach else text


def _range(low: float | None, high: float | None, factor: int, digits: int) -> str:
    if low is None or high is None:
        return ""
    return f"{factor * low:.{digits}f} to {factor * high:.{digits}f}"


def _alpha(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _plain(score: Score) -> dict[str, object]:
    return {**asdict(score), "value": score.value}

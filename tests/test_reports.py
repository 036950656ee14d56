"""Reports: what is written can be read back, nothing from data can run, files are whole."""

from __future__ import annotations

import base64
import json
import math
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from thaitool.errors import InputError
from thaitool.metrics.tasks import ItemScore, TaskScores, score_tasks
from thaitool.records import Prediction, Reference, Score
from thaitool.reports.html import to_html
from thaitool.reports.json_form import read_report
from thaitool.reports.markdown import escape
from thaitool.reports.plots import curve_svg
from thaitool.reports.report import Example, Report, flat, worst_examples
from thaitool.reports.table import render_table
from thaitool.reports.write import write_report

EVIL = '<script>alert("x")</script>|[bold]*a*`b`&amp;'
FILES = ["per_item.jsonl", "report.html", "report.json", "report.md"]


def scores() -> tuple[TaskScores, ...]:
    references = [Reference(f"a{i}", "asr", f"ไปบ้าน{EVIL}", f"s{i}", "p") for i in range(6)]
    references += [Reference(f"i{i}", "ic", "โทรออก", f"s{i}", "p") for i in range(6)]
    said = {"asr": f"ไปบ้าน{EVIL}", "ic": "เปิดเพลง"}
    predictions = [
        Prediction(r.id, r.task, said[r.task] if r.id != "a2" else f"{EVIL}ผิด") for r in references
    ]
    return score_tasks(references, predictions, closed_set=["โทรออก", "เปิดเพลง"], draws=50)


def full_report() -> Report:
    tasks = scores()
    return Report(
        title=f"ผลการทดสอบ {EVIL}",
        stage="eval",
        created="2026-11-20T10:00:00Z",
        tasks=tasks,
        shuffled=tuple(replace(task, items=()) for task in tasks),
        normalizer="thai-v1",
        normalizer_sha256="ab" * 32,
        seed=17,
        versions={"thaitool": "0.1.0", EVIL: EVIL},
        settings={"model": EVIL, "beam": 4},
        accounting={"updates": {"planned": 10, "done": 10}, "hours": 0.5, "dropped": None},
        examples=worst_examples(tasks, 2, {"a2": b"fLaC\x00\xff"}),
        curves={EVIL: ((1, 2.0), (2, math.inf), (3, 1.0)), "loss $x$ ก": ((1, 1.0),)},
        notes=(f"ระวัง {EVIL}",),
    )


class _Page(HTMLParser):
    """What a browser would see: tags, attributes, and the text outside of style."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def test_round_trip_of_json(tmp_path: Path) -> None:
    report = full_report()
    paths = write_report(report, tmp_path / "new" / "folder")
    assert sorted(path.name for path in paths) == FILES
    back = read_report(tmp_path / "new" / "folder" / "report.json")
    assert math.isnan(back.curves[EVIL][1][1])
    same = replace(
        report,
        tasks=tuple(replace(task, items=()) for task in report.tasks),
        examples=tuple(replace(example, audio=b"") for example in report.examples),
        curves={},
    )
    assert replace(back, curves={}) == same
    assert back.curves["loss $x$ ก"] == ((1, 1.0),)


def test_json_is_strict_and_says_its_values(tmp_path: Path) -> None:
    write_report(full_report(), tmp_path)
    text = (tmp_path / "report.json").read_text(encoding="utf-8")
    assert "NaN" not in text
    assert "Infinity" not in text
    value = json.loads(text)
    assert value["curves"][EVIL] == [[1, 2.0], [2, None], [3, 1.0]]
    accuracy = value["tasks"][1]["scores"][0]
    assert accuracy["name"] == "ic_accuracy"
    assert (accuracy["value"], accuracy["numerator"], accuracy["denominator"]) == (0, 0, 6)
    assert accuracy["high"] == pytest.approx(0.3903, abs=5e-5)
    lines = (tmp_path / "per_item.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 12
    assert json.loads(lines[2])["hypothesis"] == f"{EVIL}ผิด"


def test_nothing_from_data_can_run_in_the_page() -> None:
    page = _Page(to_html(full_report()))
    assert page.tags["script"] == 0
    assert page.tags["bold"] == 0
    assert page.text.count(EVIL) >= 7
    assert page.tags["del"] + page.tags["ins"] > 0  # the marks are ours, not the data's
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    policy = [value for name, value in page.attributes if name == "content" and value]
    assert any(value.startswith("default-src 'none'") for value in policy)


def test_page_needs_no_network() -> None:
    page = _Page(to_html(full_report()))
    sources = [value or "" for name, value in page.attributes if name in {"src", "href"}]
    loaded = [source for source in sources if not source.startswith("#")]
    assert len(loaded) == 4  # an empty icon, two curves, one player
    assert all(source.startswith("data:") for source in loaded)
    anchors = {value for name, value in page.attributes if name == "id"}
    assert {source[1:] for source in sources if source.startswith("#")} == anchors
    assert "@import" not in page.text
    assert "url(" not in page.text


def test_page_shows_scores_players_and_plots() -> None:
    markup = to_html(full_report())
    page = _Page(markup)
    assert page.tags["audio"] == 1
    assert base64.b64encode(b"fLaC\x00\xff").decode() in markup
    assert "0.00 to 39.03" in page.text
    assert "0 / 6" in page.text
    assert "sha256 " + "ab" * 32 in page.text
    assert "updates.planned" in page.text
    drawings = [
        base64.b64decode(image).decode()
        for image in re.findall(r"data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)", markup)
    ]
    assert len(drawings) == 2
    assert all("update" in drawing and "script" not in drawing for drawing in drawings)
    # Dots of the scores: accuracy 0 of 6 is at the left end, its interval 39 % wide.
    assert '<i class="range" style="left: 0.0%; width: 39.03%"></i>' in markup


def test_same_report_same_bytes() -> None:
    assert to_html(full_report()) == to_html(full_report())


def test_curve_breaks_where_it_is_not_finite() -> None:
    points = [(i, float(i % 5)) for i in range(60)]
    broken = [(u, math.nan if u == 30 else v) for u, v in points]
    strokes = [
        max(re.findall(r'<path d="([^"]+)"', curve_svg(p)), key=len).count("M")
        for p in (points, broken)
    ]
    assert strokes == [1, 2]
    assert curve_svg([(1, math.nan)]).rstrip().endswith("</svg>")
    assert curve_svg([]).rstrip().endswith("</svg>")


def test_markdown_keeps_rows_whole(tmp_path: Path) -> None:
    write_report(full_report(), tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "<script>" not in text
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1
    assert "| 0.00 to 39.03 |" in text


def test_markdown_escape() -> None:
    assert escape("a|b\n*c* <b> _d_ cer_raw") == r"a\|b \*c\* &lt;b&gt; \_d\_ cer_raw"


def test_table_prints_markup_as_text() -> None:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(render_table(full_report()))
    text = captured.get()
    assert "[bold]" in text
    assert "ic_accuracy" in text
    assert "0.00 to 39.03" in text
    assert "shuffled audio" in text
    task = TaskScores("[red]t[/red]", 1, (Score("[b]s[/b]", 1, 2),))
    with console.capture() as captured:
        console.print(render_table(replace(full_report(), tasks=(task,), shuffled=())))
    assert "[red]t[/red]" in captured.get()
    assert "[b]s[/b]" in captured.get()
    assert "shuffled audio" not in captured.get()


def test_report_without_scores_has_curves_only(tmp_path: Path) -> None:
    """As pretraining writes it; an old per_item.jsonl does not survive beside it."""
    write_report(full_report(), tmp_path)
    report = Report("XLSR-Thai", "pretrain", "2026-11-20", curves={"loss": ((1, 2.0), (2, 1.0))})
    write_report(report, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES[1:]
    assert read_report(tmp_path / "report.json") == report
    page = _Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert (page.tags["img"], page.tags["table"]) == (1, 0)


def test_scores_without_values_are_dashes() -> None:
    task = TaskScores("ner", 3, (Score("ner_acc_org", 0, 0, note="0 predicted"),))
    page = _Page(to_html(Report("t", "eval", "", tasks=(task,))))
    assert "ner_acc_org-" in re.sub(r"\s", "", page.text)


def test_worst_examples_are_the_worst_and_only_wrong_ones() -> None:
    items = tuple(ItemScore(str(i), "asr", "ก", "ข", e) for i, e in enumerate([0, 0.5, 2, 0.5, 0]))
    task = TaskScores("asr", 5, (), items=items)
    assert [example.id for example in worst_examples([task], 2)] == ["2", "1"]
    assert [example.id for example in worst_examples([task], 9)] == ["2", "1", "3"]


def test_flat_tables() -> None:
    assert flat({"a": 1, "b": {"c": None, "d": 2.5}}) == [("a", 1), ("b.c", None), ("b.d", 2.5)]


@pytest.mark.parametrize("step", ["os.fsync", "pathlib.Path.replace"])
def test_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    write_report(full_report(), tmp_path)
    before = (tmp_path / "report.json").read_bytes()

    def full_disk(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(step, full_disk)
    with pytest.raises(InputError, match=r"cannot be written to .*No space left"):
        write_report(replace(full_report(), title="new"), tmp_path)
    assert (tmp_path / "report.json").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES


def test_out_dir_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    with pytest.raises(InputError, match="Name a folder"):
        write_report(Report("t", "eval", ""), tmp_path / "x")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as a report"),
        ("{}", "its format must be thaitool-report-2"),
        ('{"format": "thaitool-report-2"}', "lacks a part"),
    ],
)
def test_bad_report_files(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "report.json").write_text(content)
    with pytest.raises(InputError, match=message):
        read_report(tmp_path / "report.json")


def test_player_only_for_examples_with_audio() -> None:
    examples = (
        Example("a", "asr", "ก", "ข", 1.0, b"RIFF", "audio/wav"),
        Example("b", "asr", "ก", "ข", 1.0),
    )
    page = _Page(to_html(Report("t", "eval", "", examples=examples)))
    assert page.tags["audio"] == 1
    assert ("src", "data:audio/wav;base64,UklGRg==") in page.attributes

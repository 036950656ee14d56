"""The report of alignments: charts, neighbours and spans against hand counts, runs by their files, the page."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from tests import tiny
from thaitool.config import load
from thaitool.config.report import ReportConfig
from thaitool.errors import ConfigError, InputError
from thaitool.metrics.tasks import TaskScores
from thaitool.models.align_shown import (
    FOLDER,
    Shown,
    ShownAlignment,
    Span,
    Vectors,
    as_pieces,
    path_spans,
    peaks,
    read_shown,
    write_shown,
)
from thaitool.records import Score
from thaitool.reports.align.boundaries import boundary_errors, word_places
from thaitool.reports.align.build import build_align_report
from thaitool.reports.align.charts import Axis, Line, axis_of, chart, scatter, si
from thaitool.reports.align.form import report_json, write_align_report
from thaitool.reports.align.neighbours import mix_of, mixing, tsne
from thaitool.reports.align.page import report_html
from thaitool.reports.report import Report
from thaitool.training.align_shown import read_word_times

if TYPE_CHECKING:
    from pathlib import Path


def test_axes_end_outside_of_all_values_and_have_round_ticks() -> None:
    axis = axis_of([0.2, 0.9, math.nan], zero=True)
    assert axis.low == 0
    assert axis.high > 0.9
    assert axis.ticks() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
    log = axis_of([3e9, 7e12], log=True)
    assert log.share(math.sqrt(log.low * log.high)) == pytest.approx(0.5)
    assert all(f"{tick:.0e}"[0] in "125" for tick in log.ticks())
    assert 3 <= len(log.ticks()) <= 8
    assert Axis(0, 10).ticks() == [0, 2, 4, 6, 8, 10]
    for narrow in ([3e12], [3e12, 3.2e12], [6.1e3]):
        assert len(axis_of(narrow, log=True).ticks()) >= 3
    for values in ([], [5.0], [0.0]):
        assert axis_of(values, log=True).low < axis_of(values, log=True).high
        assert axis_of(values).low < axis_of(values).high
    assert [si(v) for v in (3, 950, 2_340, 22.79e9, 9.999e11, 1e21)] == [
        *("3", "950", "2.34 k", "22.8 G", "1 T", "1 Z")
    ]


def test_a_chart_draws_each_point_where_it_lies() -> None:
    points = ((10.0, 0.0), (20.0, 0.5), (30.0, math.nan), (40.0, 1.0))
    drawn = chart([Line("a<b", points, "#123456")], x_name="update", percent=True, limits=(0.15,))
    root = ET.fromstring(str(drawn))  # noqa: S314  (made here)
    (line,) = root.iter("polyline")
    at = [tuple(map(float, pair.split(","))) for pair in line.attrib["points"].split()]
    assert len(at) == 3  # the gap has no point
    assert at[1][0] - at[0][0] == pytest.approx((at[2][0] - at[0][0]) / 3, abs=0.2)
    assert at[0][1] - at[1][1] == pytest.approx(at[1][1] - at[2][1], abs=0.2)
    assert "100%" in drawn
    assert "a<b" not in drawn  # names are the page's
    drawn = scatter([Line("t", ((0, 0),), "red"), Line("s", ((1, 1), (2, 0)), "b")])
    marks = ET.fromstring(str(drawn))  # noqa: S314
    assert len(list(marks.iter("circle"))) == 2
    assert len(list(marks.iter("rect"))) == 1


def unit(rows: Any) -> Any:
    values = np.asarray(rows, np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def test_neighbours_tell_one_cloud_from_two() -> None:
    draw = np.random.default_rng(0)
    one, two = unit(draw.normal(size=(300, 8))), unit(draw.normal(size=(100, 8)))
    assert mixing(one, two) == pytest.approx(1.0, abs=0.1)
    apart = unit(draw.normal(size=(100, 8)) * 0.1 + 5)
    assert mixing(unit(draw.normal(size=(300, 8)) * 0.1 - 5), apart) == 0.0
    # A brute-force count of the same.
    every = np.concatenate([one, two])
    shares = []
    for i in range(400):
        near = sorted((j for j in range(400) if j != i), key=lambda j: -float(every[i] @ every[j]))
        others = sum((j < 300) != (i < 300) for j in near[:10]) / 10
        shares.append(others / ((100 if i < 300 else 300) / 399))
    wanted = (np.mean(shares[:300]) + np.mean(shares[300:])) / 2
    assert mixing(one, two) == pytest.approx(wanted, abs=1e-5)


def vectors(frames: Any = ((1, 0.1), (0.1, 1), (1, 0))) -> Vectors:
    """Two tokens; three frames, of clips 0, 0 and 1, which say the first and the second token."""
    return Vectors(
        ("ก", "ข"), unit(((1, 0), (0, 1))), unit(frames), np.array([0, 0, 1]), ((0,), (1,))
    )


def test_own_tokens_are_counted_beside_those_of_others() -> None:
    found = mix_of(vectors())
    assert found.own == pytest.approx(1 / 3)  # only the first frame
    assert found.own_by_chance == pytest.approx(2 / 3)
    assert (found.frames, found.tokens) == (3, 2)


@pytest.mark.skipif(not tiny.installed("sklearn"), reason="scikit-learn is not installed")
def test_a_map_keeps_clouds_apart_and_is_the_same_again() -> None:
    draw = np.random.default_rng(0)
    clouds = [
        unit(draw.normal(size=(20, 6)) * 0.1 + centre) for centre in (np.eye(6)[0], np.eye(6)[1])
    ]
    first, again = tsne(clouds, 3), tsne(clouds, 3)
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    a, b = first
    apart = np.linalg.norm(a.mean(0) - b.mean(0))
    assert apart > 2 * max(a.std(), b.std())
    assert [p.shape for p in first] == [(20, 2), (20, 2)]


def test_spans_divide_what_a_path_covers() -> None:
    # Tokens 0 and 1 share frame 0; token 2 has frames 1 and 2, token 3 frame 2 and 3.
    spans = path_spans([(0, 2), (2, 3), (2, 4), (3, 4), (0, 0)], 4, 0.1)
    times = [(round(s.start_s, 6), round(s.end_s, 6)) for s in spans]
    assert times == [(0.0, 0.05), (0.05, 0.1), (0.1, 0.25), (0.25, 0.4)]
    pieces = as_pieces("กขค", [(0, 1), (1, 2), (1, 2), (2, 3)], spans)
    assert [p.text for p in pieces] == ["ก", "ข", "ค"]
    assert (pieces[1].start_s, pieces[1].end_s) == pytest.approx((0.05, 0.25))
    assert peaks(np.array([0.1, -0.5, 0.25, 0.0], np.float32), 2) == (1.0, 0.5)
    assert peaks(np.zeros(0, np.float32), 4) == ()


def alignment(**changes: Any) -> ShownAlignment:
    values: dict[str, Any] = {
        "id": "one <b>",
        "text": "มา บ้าน",
        "duration_s": 1.4,
        "cost": 0.5,
        "one_frame_share": 0.0,
        "pieces": (
            Span("มา ", 0.0, 0.5),
            Span("บ", 0.5, 0.8),
            Span("้", 0.8, 0.9),
            Span("าน", 0.9, 1.4),
        ),
        "peaks": (0.5, 1.0),
        "words": (Span("มา", 0.1, 0.4), Span("บ้าน", 0.4, 1.3)),
        "audio": b"fLaC",
    }
    return ShownAlignment(**{**values, **changes})


def test_word_beginnings_are_compared_with_the_path_and_a_uniform_split() -> None:
    found = boundary_errors([alignment()])
    assert found is not None
    assert found.count == 1
    assert found.path_ms == pytest.approx(100)
    assert found.uniform_ms == pytest.approx(1000 * (1.4 * 2 / 6 - 0.4))
    assert boundary_errors([alignment(words=())]) is None
    # Other words than the text, or a word that begins within a token: nothing to compare.
    assert boundary_errors([alignment(words=(Span("มา", 0, 1), Span("รถ", 1, 2)))]) is None
    assert boundary_errors([alignment(pieces=(Span("มาบ", 0, 1), Span("้าน", 1, 2)))]) is None
    assert word_places("มาบ้าน", alignment().words) == [0, 2]


def test_a_lag_of_the_path_is_told_as_a_number() -> None:
    """What an encoder with padding on the left does: each word 90 ms late, one of them 30 ms more."""
    words = tuple(Span(w, k, k + 1) for k, w in enumerate("กขคงจ"))
    pieces = tuple(Span(w.text, w.start_s + 0.09, w.end_s + 0.09) for w in words[:-1])
    last = Span("จ", 4.12, 5.0)
    found = boundary_errors(
        [alignment(text="กขคงจ", duration_s=5.0, words=words, pieces=(*pieces, last))]
    )
    assert found is not None
    assert found.late_ms == pytest.approx(90)
    assert found.path_ms == pytest.approx(90 + 30 / 4)
    assert found.shifted_ms == pytest.approx(30 / 4)
    early = boundary_errors([alignment(pieces=(Span("มา ", 0.0, 0.3), Span("บ้าน", 0.3, 1.4)))])
    assert early is not None
    assert early.late_ms == pytest.approx(-100)
    assert early.shifted_ms == 0


def test_what_is_shown_comes_back_from_its_directory(tmp_path: Path) -> None:
    shown = Shown(7, (alignment(), alignment(id="two", words=())), vectors())
    write_shown(tmp_path / FOLDER, shown)
    write_shown(tmp_path / FOLDER, shown)  # an older one is replaced
    back = read_shown(tmp_path / FOLDER)
    assert back is not None
    assert (back.update, back.alignments) == (7, shown.alignments)
    assert back.vectors.said == ((0,), (1,))
    np.testing.assert_allclose(back.vectors.frames, shown.vectors.frames, atol=1e-3)
    assert read_shown(tmp_path / "nowhere") is None
    told = (tmp_path / FOLDER / "shown.json").read_text("utf-8")
    whole = (tmp_path / FOLDER / "vectors.npz").read_bytes()
    for broken in (b"nothing", b"", whole[:100], whole[: len(whole) // 2]):
        (tmp_path / FOLDER / "vectors.npz").write_bytes(broken)
        with pytest.raises(InputError, match="is damaged"):
            read_shown(tmp_path / FOLDER)
    (tmp_path / FOLDER / "vectors.npz").write_bytes(whole)
    for key in ("update", "tokens", "said"):
        less = {k: v for k, v in json.loads(told).items() if k != key}
        (tmp_path / FOLDER / "shown.json").write_text(json.dumps(less), "utf-8")
        with pytest.raises(InputError, match="is damaged"):
            read_shown(tmp_path / FOLDER)


def test_word_times_are_read_from_ctm(tmp_path: Path) -> None:
    file = tmp_path / "words.ctm"
    file.write_text(
        ";; made by hand\nu1 1 0.50 0.25 บ้าน\nu1 1 0.1 0.4 มา 0.9\n\nu2 A 0 1 รถ\n", "utf-8"
    )
    found = read_word_times(file)
    assert [w.text for w in found["u1"]] == ["มา", "บ้าน"]
    assert found["u1"][1].end_s == pytest.approx(0.75)
    assert set(found) == {"u1", "u2"}
    file.write_text("u1 1 zero 0.25 บ้าน\n", "utf-8")
    with pytest.raises(InputError, match="line 1, must be `utterance channel start duration word`"):
        read_word_times(file)
    with pytest.raises(InputError, match="cannot be read"):
        read_word_times(tmp_path / "nowhere.ctm")


METRICS = {
    "retrieval_r1": 0.5,
    "retrieval_r1_random_pair": 0.1,
    "retrieval_r1_shuffled_audio": 0.2,
    "one_frame_share": 0.1,
    "largest_share": 0.1,
    "frames_per_token": 4.0,
    "tokens_per_text": 9.0,
    "diagonal_drift": 0.1,
    "transcripts": 20.0,
}


def run_directory(
    path: Path, stage: str = "align", *, flops: float = 1e12, llm: str = "x", **settings: Any
) -> Path:
    """The files of a run of two evaluations, as a stage leaves them, and half a line after a kill."""
    path.mkdir(parents=True)
    values = {"method": "dtw", "train": {"seed": 0, "updates": 4}, **settings}
    (path / "config.yaml").write_text(json.dumps({stage: values}), "utf-8")
    kept = {"fingerprint": {"llm": llm}, "versions": {"torch": "2.11"}}
    (path / "run.json").write_text(json.dumps(kept), "utf-8")
    rows: list[dict[str, Any]] = [{"update": 1, "loss": 2.0, "train_s": 1.0}]
    for update in (2, 4):
        row = {
            "update": update,
            "train_s": update,
            "flops": flops * update / 4,
            "utterances": update,
        }
        given = {**METRICS, "probe_cer": 1 / update}
        rows.append(row | {f"eval_{k}": v for k, v in given.items()} | {"peak_rss_bytes": 2**30})
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (path / "metrics.jsonl").write_text(lines + '{"update": 5, "lo', "utf-8")
    (path / "result.json").write_text(json.dumps({"notes": ["Look <here>."]}), "utf-8")
    return path


def of_cer(value: float) -> Report:
    score = Score("cer", 100 * value, 100, value - 0.1, value + 0.1)
    return Report("t", "eval", "now", tasks=(TaskScores("asr", 1, (score,), (), ()),))


def test_runs_are_compared_by_what_they_cost(tmp_path: Path) -> None:
    dtw = run_directory(tmp_path / "dtw")
    asr = run_directory(tmp_path / "asr", flops=8e12)
    slm = run_directory(tmp_path / "slm", "finetune", flops=3e12, model=str(dtw / "best"))
    report = build_align_report(
        [dtw, asr, slm], created="now", scores=[("slm", of_cer(0.25)), ("asr", of_cer(0.5))]
    )
    assert [(p.name, p.flops, p.cer.value) for p in report.points] == [
        ("asr", 8e12, 0.5),
        ("slm", 4e12, 0.25),  # and what it started from
    ]
    told = json.loads(report_json(report))
    assert told["runs"][0]["probe_cer_by_flops"] == [[5e11, 0.5], [1e12, 0.25]]
    assert told["runs"][1]["cost"]["flops"] == 8e12
    assert told["runs"][0]["notes"] == ["Look <here>."]
    page = report_html(report)
    assert "Look &lt;here&gt;." in page
    for text in ("CER of a CTC probe on adapter frames", "CER after evaluation", "1.00 GiB"):
        assert text in page
    assert "<b>dtw</b>: aligned" in page
    # Without what finetune started from, the cost of all stages is not known.
    alone = build_align_report([slm, asr], created="now", scores=[("slm", of_cer(0.25))])
    assert alone.points == ()
    assert f"slm started from {dtw / 'best'}, which is not among the runs" in alone.remarks[0]
    with pytest.raises(
        InputError, match=r"--scores x=... must name a run of this report \(dtw, asr\)"
    ):
        build_align_report([dtw, asr], created="now", scores=[("x", of_cer(0.1))])
    with pytest.raises(InputError, match="has no CER"):
        build_align_report([dtw], created="now", scores=[("dtw", Report("t", "eval", "now"))])


def test_the_cost_of_a_run_is_that_of_all_before_it(tmp_path: Path) -> None:
    """Of finetune after finetune after align; of direct multitask training, whose align has no update."""
    dtw = run_directory(tmp_path / "dtw")
    first = run_directory(tmp_path / "first", "finetune", flops=2e12, model=str(dtw))
    second = run_directory(tmp_path / "second", "finetune", flops=4e12, model=str(first / "best"))
    none = run_directory(tmp_path / "none", method="none")
    (none / "metrics.jsonl").unlink()
    direct = run_directory(tmp_path / "direct", "finetune", flops=5e12, model=str(none))
    runs, cer = [second, first, dtw, none, direct], of_cer(0.5)
    report = build_align_report(
        runs, created="", scores=[("second", cer), ("first", cer), ("direct", cer)]
    )
    assert {p.name: p.flops for p in report.points} == {
        "second": 7e12,
        "first": 3e12,
        "direct": 5e12,
    }
    assert report.remarks == ()
    assert "0 of 0" in report_html(report)
    # Without the middle of the chain; with one that was not counted; without a value.
    part = build_align_report([second, dtw], created="", scores=[("second", cer)])
    assert part.points == ()
    assert f"second started from {first / 'best'}" in part.remarks[0]
    lines = [json.loads(line) for line in (dtw / "metrics.jsonl").read_text().splitlines()[:-1]]
    rows = [json.dumps({k: v for k, v in line.items() if k != "flops"}) + "\n" for line in lines]
    (dtw / "metrics.jsonl").write_text("".join(rows))
    part = build_align_report([first, dtw], created="", scores=[("first", cer)])
    assert "those of dtw were not counted" in part.remarks[0]
    empty = Report("t", "eval", "now", tasks=(TaskScores("asr", 1, (Score("cer", 0, 0),), (), ()),))
    part = build_align_report([none, direct], created="", scores=[("direct", empty)])
    assert "its report has no value for CER" in part.remarks[0]
    assert "direct" in report_html(part)


def test_runs_that_cannot_be_shown_are_refused(tmp_path: Path) -> None:
    run = run_directory(tmp_path / "a" / "run")
    with pytest.raises(InputError, match="must be named once"):
        build_align_report([run, run], created="now")
    with pytest.raises(InputError, match=r"has no run.json and config.yaml"):
        build_align_report([tmp_path / "a"], created="now")
    with pytest.raises(InputError, match="is a run of pretrain"):
        build_align_report([run_directory(tmp_path / "p", "pretrain")], created="now")
    other = run_directory(tmp_path / "b" / "run")
    assert [r.name for r in build_align_report([run, other], created="").runs] == ["a/run", "b/run"]
    deep = run_directory(tmp_path / "c" / "b" / "run")
    names = [r.name for r in build_align_report([run, other, deep], created="").runs]
    assert names == ["a/run", f"{tmp_path.name}/b/run", "c/b/run"]
    (other / "metrics.jsonl").write_text("not json\n", "utf-8")
    with pytest.raises(InputError, match="cannot be read as a run"):
        build_align_report([other], created="now")
    good = (deep / "config.yaml").read_text("utf-8")
    for config, kept in (("{}", "{}"), ("[]", "{}"), ("{align: {}}", "{}"), (good, "{}")):
        (deep / "config.yaml").write_text(config, "utf-8")
        (deep / "run.json").write_text(kept, "utf-8")
        with pytest.raises(InputError, match=r"cannot be read as a run|is a run of"):
            build_align_report([deep], created="now")
    (run / "result.json").unlink()
    (unfinished,) = build_align_report([run], created="now").runs
    assert unfinished.notes == (
        "The run has not come to its planned end; what follows is what it did so far.",
    )


def many(angle: float) -> Vectors:
    """Enough vectors for a map; another `angle` is another LLM."""
    turn = np.linspace(0, 3, 20) + angle
    text = unit(np.stack([np.cos(turn), np.sin(turn)], 1))
    said = tuple((k,) for k in range(20))
    return Vectors(tuple(map(str, range(20))), text, text + 0, np.arange(20), said)


@pytest.mark.skipif(not tiny.installed("sklearn"), reason="scikit-learn is not installed")
def test_only_runs_with_the_same_tokens_share_a_map(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [run_directory(tmp_path / name) for name in ("a", "b", "c")]
    for path, angle in zip(paths, (0.0, 0.0, 1.5), strict=True):
        write_shown(path / FOLDER, Shown(4, (alignment(),), many(angle)))
    report = build_align_report(paths, created="now")
    assert report.mapped == ("a", "b")
    assert "c is not on the t-SNE map" in report.remarks[0]
    assert report.places is not None
    assert [p.shape for p in report.places] == [(20, 2)] * 3
    assert dict(report.mixes)["a"].own == 1.0
    page = report_html(report)
    assert page.count("<audio") == 3
    assert "one &lt;b&gt;" in page
    assert "◌้" in page
    assert page == report_html(build_align_report(paths, created="now"))
    monkeypatch.setattr("thaitool.reports.align.build.can_map", lambda: False)
    without = build_align_report(paths, created="now")
    assert without.places is None
    assert "pip install thaitool[report]" in without.remarks[0]


def test_the_files_are_whole_and_need_no_network(tmp_path: Path) -> None:
    run = run_directory(tmp_path / "run")
    write_shown(run / FOLDER, Shown(4, (alignment(),), vectors()))
    report = build_align_report([run], created="now", mapped=False)
    files = write_align_report(report, tmp_path / "out")
    assert [f.name for f in files] == ["report.json", "report.html"]
    page = files[1].read_text("utf-8")
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    assert "<script" not in page
    told = json.loads(files[0].read_text("utf-8"))
    assert told["runs"][0]["alignments"][0]["words"][1]["text"] == "บ้าน"
    assert told["runs"][0]["boundaries"]["path_ms"] == pytest.approx(100)
    assert told["runs"][0]["boundaries"]["late_ms"] == pytest.approx(100)
    assert page.count("+100 ms") == 2  # of all, and beside the picture
    write_shown(run / FOLDER, Shown(4, (alignment(words=()),), vectors()))
    assert "cannot be told without true word times" in report_html(
        build_align_report([run], created="now", mapped=False)
    )
    other = alignment(words=(Span("รถ", 0, 1), Span("ไฟ", 1, 1.4)))
    write_shown(run / FOLDER, Shown(4, (other,), vectors()))
    (remark,) = build_align_report([run], created="now", mapped=False).remarks
    assert "run has true word times, but none to compare" in remark


def test_a_report_is_of_data_or_of_runs() -> None:
    def given(**options: Any) -> ReportConfig:
        return load(ReportConfig, "report", recipe=None, settings=None, options=options)

    assert given(runs=["a"]).out is None
    for options, text in (
        ({}, "data or runs must be given"),
        ({"data": "a", "runs": ["b"]}, "data or runs must be given"),
        ({"data": "a", "scores": ["b=c"]}, "scores belong to runs"),
        ({"runs": ["a"], "against": ["b"]}, "against belongs to data"),
        ({"runs": ["a", "b"]}, "out must be given"),
    ):
        with pytest.raises(ConfigError, match=text):
            given(**options)

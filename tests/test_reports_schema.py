"""report.json and the JSON Schema that documents it."""

from __future__ import annotations

import copy
import json
import math
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from tests.test_reports import full_report
from thaitool.metrics.compare import Comparison
from thaitool.metrics.gate import GateRow
from thaitool.metrics.paired import TaskComparison
from thaitool.reports.json_form import read_report, to_json
from thaitool.reports.report import Confusion, Instrument, Report, Slice, Source


@pytest.fixture(scope="module")
def schema() -> Any:
    text = resources.files("thaitool.reports").joinpath("report.schema.json").read_text("utf-8")
    return json.loads(text)


COMPARED = Comparison(
    "cer", 0.5, 0.25, -0.25, -0.5, 0.125, 0.75, 0.5, 4, 2, "within noise", None, 1, 2, 0.5, "few"
)
UNMEASURED = GateRow("tone", math.nan, math.nan, passed=False, wanted="a place below 1")


def fullest() -> Any:
    """A report with something in every part."""
    report = full_report()
    parts = Report(
        **{
            **{name: getattr(report, name) for name in report.__dataclass_fields__},
            "slices": (Slice("speaker", "ก", report.tasks),),
            "sources": (Source("vote", report.tasks, 2, (TaskComparison("asr", (COMPARED,)),)),),
            "instruments": (Instrument("sr_score", "judge j", (UNMEASURED,)),),
            "confusion": Confusion(("ก",), ((1, 2),)),
            "intents": ("ก", "ข"),
            "failures": (("a b", "asr", "time-out"),),
        }
    )
    return json.loads(to_json(parts))


def test_the_schema_names_exactly_what_is_written(schema: Any) -> None:
    """Without a validator: the same keys at every level that the schema describes."""
    value = fullest()
    assert sorted(schema["required"]) == sorted(schema["properties"]) == sorted(value)
    for name in ("slices", "sources", "instruments", "failures", "examples"):
        described = schema["properties"][name]["items"]
        assert (
            sorted(described["required"])
            == sorted(described["properties"])
            == sorted(value[name][0])
        )
    task = schema["$defs"]["tasks"]["items"]
    assert sorted(task["required"]) == sorted(task["properties"]) == sorted(value["tasks"][0])
    compared = value["sources"][0]["against"][0]["comparisons"][0]
    described = schema["$defs"]["comparison"]
    assert sorted(described["required"]) == sorted(described["properties"]) == sorted(compared)
    row = schema["properties"]["instruments"]["items"]["properties"]["gate"]["items"]
    assert sorted(row["required"]) == sorted(row["properties"])
    assert sorted(row["properties"]) == sorted(value["instruments"][0]["gate"][0])
    score = schema["$defs"]["score"]
    written = value["tasks"][0]["scores"][0]
    assert sorted(score["required"]) == sorted(score["properties"]) == sorted(written)
    assert schema["properties"]["format"]["const"] == schema["$id"] == value["format"]


def test_differences_and_gates_come_back(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(json.dumps(fullest()), "utf-8")
    report = read_report(tmp_path / "report.json")
    assert report.sources[0].against == (TaskComparison("asr", (COMPARED,)),)
    (instrument,) = report.instruments
    assert (instrument.score, instrument.by, instrument.passed) == ("sr_score", "judge j", False)
    assert math.isnan(instrument.gate[0].value)
    assert json.loads(to_json(report)) == fullest()


def test_reports_validate_and_damaged_ones_do_not(schema: Any) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is in the dev extra")
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    value = fullest()
    for report in (value, json.loads(to_json(Report("t", "pretrain", "")))):
        assert list(validator.iter_errors(report)) == []
    damages: list[Any] = [copy.deepcopy(value) for _ in range(5)]
    damages[0]["tasks"][0]["scores"][0]["value"] = "12 %"
    del damages[1]["failures"][0]["reason"]
    damages[2]["extra"] = 1
    damages[3]["examples"][0]["kind"] = "best"
    damages[4]["slices"][0]["tasks"][0]["count"] = 1.5
    assert all(list(validator.iter_errors(damage)) for damage in damages)

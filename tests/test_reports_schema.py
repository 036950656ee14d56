"""report.json and the JSON Schema that documents it."""

from __future__ import annotations

import copy
import json
from importlib import resources
from typing import Any

import pytest

from tests.test_reports import full_report
from thaitool.reports.json_form import to_json
from thaitool.reports.report import Confusion, Report, Slice, Source


@pytest.fixture(scope="module")
def schema() -> Any:
    text = resources.files("thaitool.reports").joinpath("report.schema.json").read_text("utf-8")
    return json.loads(text)


def fullest() -> Any:
    """A report with something in every part."""
    report = full_report()
    parts = Report(
        **{
            **{name: getattr(report, name) for name in report.__dataclass_fields__},
            "slices": (Slice("speaker", "ก", report.tasks),),
            "sources": (Source("vote", report.tasks, 2),),
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
    for name in ("slices", "sources", "failures", "examples"):
        described = schema["properties"][name]["items"]
        assert (
            sorted(described["required"])
            == sorted(described["properties"])
            == sorted(value[name][0])
        )
    task = schema["$defs"]["tasks"]["items"]
    assert sorted(task["required"]) == sorted(task["properties"]) == sorted(value["tasks"][0])
    score = schema["$defs"]["score"]
    written = value["tasks"][0]["scores"][0]
    assert sorted(score["required"]) == sorted(score["properties"]) == sorted(written)
    assert schema["properties"]["format"]["const"] == schema["$id"] == value["format"]


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

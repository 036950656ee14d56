"""The report of a training run: its curves are those of the metrics, thinned, in a page that needs nothing else."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

from thaitool.reports.training import curves, training_report
from thaitool.reports.write import write_report


def test_curves_hold_every_metric_once_in_a_stable_order() -> None:
    rows: list[dict[str, Any]] = [
        {"update": 1, "train_s": 0.5, "grad_norm": 2.0, "loss": 4.0},
        {"update": 2, "train_s": 1.0, "grad_norm": 1.0, "loss": 3.0, "eval_accuracy": 0.2},
        {"update": 3, "train_s": 1.5, "grad_norm": math.nan, "loss": 2.0, "note": "text"},
        {"update": 4, "train_s": 2.0, "grad_norm": 0.5, "loss": 1.0, "eval_accuracy": 0.4},
    ]
    found = curves(rows)
    assert list(found) == ["loss", "eval_accuracy", "grad_norm"]
    assert found["loss"] == [(1, 4.0), (2, 3.0), (3, 2.0), (4, 1.0)]
    assert found["eval_accuracy"] == [(2, 0.2), (4, 0.4)]
    assert math.isnan(found["grad_norm"][2][1])
    assert curves([]) == {}


def test_a_long_run_is_thinned_and_ends_where_it_ended() -> None:
    rows = [{"update": k, "loss": float(k)} for k in range(1, 50_001)]
    points = curves(rows)["loss"]
    assert 900 <= len(points) <= 1000
    assert points[-1] == (50_000, 50_000.0)
    steps = {b[0] - a[0] for a, b in itertools.pairwise(points)}
    assert steps == {50}


def test_the_page_shows_curves_accounts_and_what_went_wrong(tmp_path: Path) -> None:
    report = training_report(
        "pretrain",
        [{"update": k, "loss": 5.0 - k, "code_perplexity_g0": 20.0 + k} for k in range(1, 4)],
        created="2026-01-01",
        seed=3,
        settings={"train": {"updates": 3}},
        accounting={"planned": {"updates": 3}, "done": {"updates": 3}},
        versions={"torch": "2.11"},
        notes=["The codebook <collapsed> at update 2."],
    )
    write_report(report, tmp_path)
    page = (tmp_path / "report.html").read_text("utf-8")
    assert page.count("data:image/svg+xml") == 2
    assert "code_perplexity_g0" in page
    assert "The codebook &lt;collapsed&gt; at update 2." in page
    assert "done.updates" in page
    stored = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert stored["curves"]["loss"] == [[1, 4.0], [2, 3.0], [3, 2.0]]

"""Which items are asked, what is right for them, and their slices: counts must add up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from thaitool.data.manifest import Manifest, from_utterances
from thaitool.errors import ConfigError, InputError
from thaitool.metrics.intents import intent_outcomes
from thaitool.metrics.tasks import TaskScores
from thaitool.records import AudioRef, Utterance
from thaitool.reports import items
from thaitool.reports.items import (
    LENGTH,
    confusion,
    read_keywords,
    references,
    select,
    slice_fields,
    slice_values,
    slices,
)
from thaitool.reports.report import Confusion


def utterance(number: int, **changes: Any) -> Utterance:
    values: dict[str, Any] = {
        "duration_s": 0.5 + number,
        "text": f"ข้อ {number}",
        "task": "asr",
        "label": f"ข้อ {number}",
        "speaker": f"p{number % 2}",
        "split": "test",
    }
    return Utterance(
        f"u{number}", AudioRef("a.wav"), sample_rate_hz=16_000, **{**values, **changes}
    )


def manifest(*changes: dict[str, Any]) -> Manifest:
    return from_utterances(utterance(k, **change) for k, change in enumerate(changes))


def test_rows_of_a_split_by_task_and_without_a_split() -> None:
    data = manifest(
        {"task": "ic"}, {"split": "train"}, {"split": None}, {"task": None, "label": None}, {}
    )
    chosen = select(data, ("asr", "ic"), split="test", limit=None, where=Path("d"))
    assert [chosen[k].id for k in range(len(chosen))] == ["u2", "u3", "u4", "u0"]
    right = references(chosen)
    assert [(r.id, r.task, r.text) for r in right][1] == ("u3", "asr", "ข้อ 3")
    assert [r.source_id for r in right] == ["u2", "u3", "u4", "u0"]  # its own, where it has none
    with pytest.raises(InputError, match="d must have dev rows of task ic, but has none"):
        select(data, ("ic",), split="dev", limit=None, where=Path("d"))


def test_a_limit_is_spread_evenly_over_each_task() -> None:
    data = manifest(*({"task": "asr" if k < 10 else "ic"} for k in range(20)))
    chosen = select(data, ("asr", "ic"), split="test", limit=4, where=Path("d"))
    assert [chosen[k].id for k in range(8)] == ["u0", "u3", "u6", "u9", "u10", "u13", "u16", "u19"]
    assert len(select(data, ("ic",), split="test", limit=99, where=Path("d"))) == 10


def test_a_row_without_a_label_is_no_reference() -> None:
    with pytest.raises(InputError, match=r"Row 'u0' must have a label"):
        references(manifest({"task": "ic", "label": None}))
    with pytest.raises(InputError, match=r"Row 'u0' must have a label"):
        references(manifest({"label": None, "text": None}))


def test_lengths_fall_into_steps_in_order() -> None:
    data = manifest(*({"duration_s": d} for d in (0.0, 0.99, 1.0, 29.99, 30.0, 9000.0)))
    values = slice_values(data, LENGTH)
    assert values == ["0 to 1 s"] * 2 + ["1 to 2 s"] + ["15 to 30 s"] + ["30 s and more"] * 2
    parts = slices(data, LENGTH, lambda rows: (TaskScores("asr", len(rows), ()),))
    assert [(p.value, p.tasks[0].count) for p in parts] == [
        ("0 to 1 s", 2),
        ("1 to 2 s", 1),
        ("15 to 30 s", 1),
        ("30 s and more", 2),
    ]


@pytest.mark.parametrize("field", [f for f in slice_fields() if f != LENGTH])
def test_every_field_makes_slices_that_add_up(field: str) -> None:
    data = manifest({}, {"speaker": None, "trainable": False}, {"source": "cv", "part": 3}, {})
    seen: list[int] = []

    def score(rows: object) -> tuple[TaskScores, ...]:
        seen.extend(np.asarray(rows).tolist())
        return ()

    parts = slices(data, field, score)
    assert sorted(seen) == [0, 1, 2, 3]
    assert len({p.value for p in parts}) == len(parts)
    assert "" not in {p.value for p in parts}


def test_an_unknown_field_is_an_error_that_lists_the_fields() -> None:
    with pytest.raises(ConfigError, match=r"length, duration|length, sample_rate_hz.*'age'"):
        slice_values(manifest({}), "age")
    with pytest.raises(ConfigError, match="'id'"):
        slice_values(manifest({}), "id")


def test_rare_values_share_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(items, "MOST_VALUES", 2)
    data = manifest(*({"speaker": s} for s in "aaabbbbcd"))
    parts = slices(data, "speaker", lambda rows: (TaskScores("asr", len(rows), ()),))
    assert [(p.value, p.tasks[0].count) for p in parts] == [("a", 3), ("b", 4), ("(2 others)", 2)]


def test_confusion_counts_answers_outside_the_set_apart() -> None:
    outcomes = intent_outcomes(["ก", "ก", "ข", "ข"], ["ก", "ค", "อะไร", "ข"], ["ก", "ข", "ค", "ง"])
    assert confusion(outcomes) == Confusion(
        ("ก", "ข", "ค"), ((1, 0, 1, 0), (0, 1, 0, 1), (0, 0, 0, 0))
    )


def test_keywords(tmp_path: Path) -> None:
    file = tmp_path / "k.txt"
    file.write_bytes("\ufeffสมชาย\r\n\r\n กรุงเทพ \r\nสมชาย".encode())
    assert read_keywords(file) == ("สมชาย", "กรุงเทพ")
    file.write_bytes(b"\r\n")
    with pytest.raises(InputError, match="has none"):
        read_keywords(file)
    file.write_bytes("สมชาย".encode("cp874"))
    with pytest.raises(InputError, match="UTF-8"):
        read_keywords(file)

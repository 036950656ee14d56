"""The quarantine ledger: every item once, whoever writes, and the share of unusable recordings that ends a run."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from thaitool.data import manifest
from thaitool.data.manifest import (
    append_quarantine,
    check_share,
)
from thaitool.errors import QuarantineError
from thaitool.records import Rejected


def test_check_share_counts_and_does_not_divide_by_zero() -> None:
    bad = [Rejected("a", "silent", "d")]
    check_share([], 0, 0.0)
    check_share(bad, 10, 0.1)
    with pytest.raises(QuarantineError, match="1 of 9 recordings"):
        check_share(bad, 9, 0.1)
    double = [Rejected("b", "duplicate", "d")] * 5
    check_share(bad + double, 10, 0.1)
    with pytest.raises(QuarantineError, match=r"1 of 9 recordings are unusable \(silent\)"):
        check_share(double + bad, 9, 0.1)


def test_quarantine_lists_every_item_once(tmp_path: Path) -> None:
    path = tmp_path / "quarantine.jsonl"
    append_quarantine(path, [])
    assert not path.exists()
    odd = ["ไทย.wav", "line\u2028end.wav", "new\nline.wav", "\udcff.wav", 'quo"te.wav']
    rows = [Rejected(name, "silent", "first") for name in odd]
    append_quarantine(path, [*rows, replace(rows[0], detail="second")])
    append_quarantine(path, [replace(r, detail="third") for r in rows])
    append_quarantine(path, [Rejected("later.wav", "empty", "0 bytes")])
    lines = [json.loads(line) for line in path.read_bytes().split(b"\n") if line]
    assert lines == [
        *({"item": name, "reason": "silent", "detail": "first"} for name in odd),
        {"item": "later.wav", "reason": "empty", "detail": "0 bytes"},
    ]
    assert "ไทย.wav" in path.read_text("utf-8")  # for people to read


def test_the_ledger_is_read_once_however_often_it_grows(tmp_path: Path) -> None:
    path = tmp_path / "quarantine.jsonl"
    n_read = 0

    class Counting:
        def __init__(self, file: Any) -> None:
            self.file = file

        def read(self) -> bytes:
            nonlocal n_read
            found: bytes = self.file.read()
            n_read += len(found)
            return found

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    original = manifest._read_on
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest, "_read_on", lambda p, f: original(p, Counting(f)))  # type: ignore[arg-type]
        for k in range(300):
            append_quarantine(path, [Rejected(f"{k // 2}.wav", "silent", "d")])
    assert len(path.read_bytes().splitlines()) == 150
    assert n_read <= path.stat().st_size


def test_the_ledger_sees_what_other_processes_add(tmp_path: Path) -> None:
    path = tmp_path / "quarantine.jsonl"
    line = '{"item": "b", "reason": "empty", "detail": "0 bytes"}\n'
    append_quarantine(path, [Rejected("a", "silent", "d")])
    with path.open("a") as file:
        file.write(line + '{"item": "c", "rea')  # and one was killed while it wrote
    rows = [Rejected(item, "silent", "d") for item in "abcd"]
    append_quarantine(path, rows)
    assert [json.loads(text)["item"] for text in path.read_text().splitlines()] == [
        "a",
        "b",
        "c",
        "d",
    ]
    path.unlink()  # a run that begins anew
    append_quarantine(path, rows[:1])
    assert [json.loads(text)["item"] for text in path.read_text().splitlines()] == ["a"]
    path.write_text(line)  # in place: shorter than what was seen
    append_quarantine(path, rows[:2])
    assert [json.loads(text)["item"] for text in path.read_text().splitlines()] == ["b", "a"]


def test_processes_that_append_at_once_list_every_item_once(tmp_path: Path) -> None:
    path = tmp_path / "quarantine.jsonl"
    code = (
        "import sys; from pathlib import Path; from thaitool.records import Rejected\n"
        "from thaitool.data.manifest import append_quarantine\n"
        "for k in range(200): append_quarantine(Path(sys.argv[1]), [Rejected(str(k), 'silent', 'd' * k)])"
    )
    runs = [subprocess.Popen([sys.executable, "-c", code, str(path)]) for _ in range(3)]
    assert [run.wait(timeout=60) for run in runs] == [0, 0, 0]
    items = [json.loads(line)["item"] for line in path.read_text().splitlines()]
    assert sorted(items, key=int) == [str(k) for k in range(200)]

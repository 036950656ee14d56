"""`thaitool compare`: options to configuration, tables and notes on stdout, files where asked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.test_reports_views import stored
from thaitool.cli.console import guarded
from thaitool.cli.main import app
from thaitool.config.sections import CompareConfig
from thaitool.stages import compare

pytestmark = pytest.mark.usefixtures("signals")


def run(*args: str) -> int:
    return guarded(lambda: app(["compare", *args], prog_name="thaitool", standalone_mode=False))


@pytest.fixture
def reports(tmp_path: Path) -> tuple[str, str]:
    half = stored(tmp_path / "half", lambda k: k % 2 == 0)
    return half, stored(tmp_path / "most", lambda k: k % 10 != 1)


def test_options_reach_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[CompareConfig] = []

    def stop(config: CompareConfig) -> Any:
        seen.append(config)
        raise KeyboardInterrupt

    monkeypatch.setattr(compare, "run", stop)
    args = ["a", "B=b", "--view", "transfer", "--out", "o", "--seed", "4", "--set", "draws=7"]
    assert run(*args) == 130
    (config,) = seen
    wanted = {"reports": ["a", "B=b"], "view": "transfer", "out": Path("o"), "seed": 4, "draws": 7}
    assert config == tiny.make(CompareConfig, **wanted)


def test_a_pair_is_printed_and_written(
    reports: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half, most = reports
    out = tmp_path / "out"
    assert run(f"first={half}", f"second={most}", "--out", str(out), "--set", "draws=100") == 0
    printed = capsys.readouterr().out
    for phrase in ("ic_accuracy", "+40.00", "better", "paired bootstrap draws", "comparison.html"):
        assert phrase in printed
    assert sorted(p.name for p in out.iterdir()) == [
        "comparison.html",
        "comparison.json",
        "comparison.md",
    ]
    assert run(half, most, "--json", "--set", "draws=100") == 0
    value = json.loads(capsys.readouterr().out)
    assert [s["name"] for s in value["systems"]] == ["half", "most"]
    written = json.loads((out / "comparison.json").read_text("utf-8"))
    assert value["tasks"] == written["tasks"]  # names and times differ, numbers do not


def test_noise_is_called_noise(
    reports: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = stored(tmp_path / "other", lambda k: k % 2 == 0 or k == 1)
    assert run(reports[0], other, "--set", "draws=100") == 0
    printed = capsys.readouterr().out
    assert "noise" in printed
    assert "better" not in printed.replace("P(better)", "")


@pytest.mark.parametrize(
    ("args", "code", "phrase"),
    [
        (["HALF"], 2, "compare takes two reports, A and B, but was given 1"),
        (["HALF", "nowhere"], 3, "nowhere must be a report directory"),
        (["HALF", "MOST", "--view", "transfer"], 2, "TRAIN/TEST=DIR"),
        (["HALF", "MOST", "--view", "x"], 2, "'view'"),
        ([], 2, "Missing argument"),
    ],
)
def test_wrong_usage_is_a_sentence_and_a_code(
    reports: tuple[str, str],
    capsys: pytest.CaptureFixture[str],
    args: list[str],
    code: int,
    phrase: str,
) -> None:
    places = {"HALF": reports[0], "MOST": reports[1]}
    assert run(*(places.get(arg, arg) for arg in args)) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert phrase in captured.err


def test_the_papers_tables_are_printed_with_their_caveats(
    reports: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(f"ours={reports[0]}", "--view", "paper") == 0
    printed = " ".join(capsys.readouterr().out.split())
    for phrase in ("13.91", "53.77", "ours", "does not define its NER accuracy"):
        assert phrase in printed


def test_comparing_loads_no_torch(reports: tuple[str, str]) -> None:
    program = (
        "import sys; from thaitool.cli.main import main\n"
        f"sys.argv[1:] = ['compare', {reports[0]!r}, {reports[1]!r}, '--set', 'draws=50']\n"
        "try: main()\nexcept SystemExit as end: print(end.code, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tiny.ROOT
    )
    assert done.stdout.splitlines()[-1] == "0 False", done.stdout + done.stderr

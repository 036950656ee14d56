"""What `align` leaves for people: paths with true words, costs, a page that fits a phone; `thaitool report` on it."""

from __future__ import annotations

import html
import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile
import torch

from tests import aligning, tiny
from tests.browser import BROWSER, told_by
from thaitool.cli.console import guarded
from thaitool.cli.main import app
from thaitool.data.loader import pad
from thaitool.errors import InputError
from thaitool.models.align_shown import FOLDER, Shown, read_shown
from thaitool.models.checkpoint import load_front_end, load_tokenizer
from thaitool.models.projector import Projector, ProjectorSettings
from thaitool.models.token_table import load_embedding_table
from thaitool.ops.reference import reference_alignment
from thaitool.stages import align
from thaitool.training.run_dir import RunDir

if TYPE_CHECKING:
    from pathlib import Path

#: Opens a page in frames as wide as a phone and a desk, and says how much of it lies outside.
FRAMES = """<!doctype html><meta charset="utf-8"><body>{frames}<pre id="told"></pre><script>
onload = () => {{ at.textContent = JSON.stringify([...document.querySelectorAll("iframe")].map(f => {{
  const root = f.contentDocument.documentElement, wide = root.clientWidth;
  const out = [...f.contentDocument.body.querySelectorAll("*")].filter(e => !e.closest(".wide") &&
    e.getBoundingClientRect().right > wide + 1).map(e => e.tagName + "." + e.className);
  const strip = f.contentDocument.querySelector(".strip");
  return {{ wide, all: root.scrollWidth, out, strip: strip.scrollWidth, height: strip.clientHeight,
    lowest: Math.max(...[...strip.querySelectorAll("b span")].map(e => e.getBoundingClientRect().bottom)) -
      strip.querySelector("svg").getBoundingClientRect().top }};
}})); }};
const at = document.getElementById("told");
</script>"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def runs(base: Path) -> list[Path]:
    """Runs of two methods, with true times of the held-out clips' words: each clip is one word."""
    aligning.manifest(base)
    lines = [
        f"{u.id} 1 0.10 {u.duration_s - 0.1:.3f} {u.text}"
        for u in aligning.utterances(base / "clips")
        if u.split == "dev"
    ]
    (base / "words.ctm").write_text("\n".join(lines), "utf-8")
    made = []
    for method in ("dtw", "asr"):
        config = aligning.settings(
            base,
            base / "runs" / method,
            method=method,
            probe_every=1,
            word_times=base / "words.ctm",
        )
        made.append(align.run(config).out)
    return made


def shown(run: Path) -> Shown:
    found = read_shown(run / FOLDER)
    assert found is not None
    return found


def test_the_drawn_paths_are_those_of_the_checkpoint(runs: list[Path], base: Path) -> None:
    """Made again from the saved weights and the definition of the path."""
    run = runs[0]
    told = shown(run)
    assert told.update == 4
    assert len(told.alignments) == 6
    _, encoder, weights, _ = load_front_end((run / "last").resolve())
    projector = Projector(32, 32, ProjectorSettings(hidden_size=24))
    projector.load_state_dict(weights)
    table, tokenizer = load_embedding_table(base / "llm"), load_tokenizer(base / "llm")
    files = {u.id: u for u in aligning.utterances(base / "clips")}
    for one in told.alignments:
        utterance = files[one.id]
        assert one.text == utterance.text
        assert "".join(p.text for p in one.pieces) == one.text
        assert one.words[0].text == one.text
        edges = [t for p in one.pieces for t in (p.start_s, p.end_s)]
        assert edges == sorted(edges)
        assert edges[0] == 0
        assert one.duration_s - 0.09 <= edges[-1] <= one.duration_s
        samples, _ = soundfile.read(utterance.audio.path, dtype="float32")
        with torch.no_grad():
            frames, counts = encoder.eval()(*pad([samples]))
            raw = projector.aligned(frames, counts)[:, : projector.output_lengths(int(counts))]
        ids = tokenizer(one.text, add_special_tokens=False)["input_ids"]
        cost, intervals, length = reference_alignment(
            raw.double(),
            table[ids][None].double(),
            torch.tensor([raw.shape[1]]),
            torch.tensor([len(ids)]),
            speech_mean=projector.speech_mean.double(),
            text_mean=projector.text_mean.double(),
            text_index=None,
            drop_cost=None,
            text_weights=None,
            band=1.0,
            prior=0.0,
            monotonic=False,
        )
        assert one.cost == pytest.approx(float(cost[0, 0] / length[0, 0]), abs=2e-3)
        first = [int(i) for i in intervals[0, 0, :, 0]]
        starts = [first.index(t) if t in first else None for t in range(len(ids))]
        hop_s = 0.04
        for piece, start in zip(one.pieces, starts, strict=True):
            if start is not None and intervals[0, 0, start, 1] - first[start] == 1:
                assert piece.start_s == pytest.approx(start * hop_s, abs=0.5 * hop_s)


def test_vectors_of_two_methods_are_of_the_same_clips(runs: list[Path]) -> None:
    dtw, asr = (shown(run).vectors for run in runs)
    assert dtw.tokens == asr.tokens
    assert dtw.said == asr.said
    np.testing.assert_allclose(dtw.text, asr.text, atol=1e-2)
    assert (dtw.clip == asr.clip).all()
    assert np.abs(dtw.frames - asr.frames).max() > 0.1
    for vectors in (dtw, asr):
        np.testing.assert_allclose(np.linalg.norm(vectors.frames, axis=1), 1, atol=1e-2)


def test_each_run_has_a_page_with_players_and_costs(runs: list[Path]) -> None:
    for run in runs:
        page = (run / "report.html").read_text("utf-8")
        assert page.count('<audio controls preload="none" src="data:audio/flac') == 6
        told = json.loads((run / "report.json").read_text("utf-8"))["runs"][0]
        done = json.loads((run / "result.json").read_text("utf-8"))["done"]
        assert told["cost"]["flops"] == done["flops"] > 0
        assert len(told["probe_cer_by_flops"]) == 2
        assert "CER by cost" in page
    flops = [json.loads((run / "result.json").read_text("utf-8"))["done"]["flops"] for run in runs]
    assert flops[1] > flops[0]  # the LLM is in the loop
    alarms = [row["alarms"] for row in RunDir(runs[0]).metrics() if "alarms" in row]
    assert alarms[-1] == json.loads((runs[0] / "result.json").read_text("utf-8"))["notes"]


def test_word_times_of_other_utterances_are_refused(runs: list[Path], base: Path) -> None:
    """They would be left out of every picture without a word."""
    assert runs
    (base / "other.ctm").write_text("clips/nobody.wav 1 0 1 รถ\n", "utf-8")
    config = aligning.settings(base, base / "runs" / "other", word_times=base / "other.ctm")
    with pytest.raises(InputError, match=r"names none of the \d+ held-out utterances, whose first"):
        align.run(config)


@pytest.mark.skipif(not tiny.installed("sklearn"), reason="scikit-learn is not installed")
def test_the_command_compares_runs(
    runs: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("thaitool.reports.align.neighbours.ON_MAP", 30)

    def report(*args: str) -> int:
        return guarded(lambda: app(["report", *args], prog_name="thaitool", standalone_mode=False))

    assert report(*map(str, runs), "--out", str(tmp_path)) == 0
    said = capsys.readouterr().out
    assert "FLOPs" in said
    assert f"report: {tmp_path / 'report.html'}" in said.replace("\n", "")
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "t-SNE of the same vectors" in page
    assert page.count("<audio") == 12
    assert report(*map(str, runs), "--out", str(tmp_path), "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert [r["method"] for r in told["runs"]] == ["dtw", "asr"]
    assert report(*map(str, runs)) == 2
    assert "out must be given for more than one run" in capsys.readouterr().err
    assert report(str(runs[0]), str(tmp_path), "--out", str(tmp_path / "x")) == 3
    assert "must be the directory of a run" in capsys.readouterr().err


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium on this machine")
def test_the_page_fits_a_phone_and_a_desk(runs: list[Path], tmp_path: Path) -> None:
    page = (runs[0] / "report.html").read_text("utf-8")
    page = html.escape(re.sub(r"<meta http-equiv=[^>]*>", "", page), quote=True)
    frames = "".join(
        f'<iframe srcdoc="{page}" style="width: {width}px; height: 900px; border: 0"></iframe>'
        for width in (412, 1200)
    )
    (tmp_path / "frames.html").write_text(FRAMES.format(frames=frames), "utf-8")
    told: list[dict[str, Any]] = told_by(
        tmp_path / "frames.html", tmp_path / "profile", window=(1300, 1000)
    )
    assert len(told) == 2
    for one, width in zip(told, (412, 1200), strict=True):
        assert width - 20 <= one["wide"] <= width
        assert one["all"] <= one["wide"]
        assert one["out"] == []
        assert one["strip"] >= 300
        assert one["lowest"] <= 8  # names end above the waveform

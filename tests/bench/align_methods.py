"""All methods of `align` at equal updates and at equal processor time, judged by what held-out speech finds and says.

    python -m tests.bench.align_methods --work DIR --out tests/bench/results/align-methods.json --study    # 25 minutes
    python -m tests.bench.align_methods --work DIR --quick    # a minute; the figures mean nothing

Every run is made by `thaitool.stages.align` on the corpus, encoder and LLM of `align_corpus`, which `--work` keeps; a
finished run is not made again. Frames of the frozen encoder come from disk (`feature_cache`), so that processor time is
that of projector, loss and, for asr, the LLM. `--study` also trains the default recipe with single settings changed.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tests import tiny
from tests.bench import align_corpus
from tests.bench.align_corpus import FULL, QUICK, Bench
from thaitool.config import AlignConfig
from thaitool.data.loader import in_order
from thaitool.data.scan import scan
from thaitool.models import generate
from thaitool.models.align_judge import BASELINES
from thaitool.models.align_probe import character_error_rate
from thaitool.models.checkpoint import load_speech_lm
from thaitool.stages import align
from thaitool.text.prompts import task_prompt
from thaitool.training.align import AsrObjective, FrontEnd, TokenTable
from thaitool.training.align_evaluate import evaluate, hold_out
from thaitool.training.run_dir import resolve

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from thaitool.data.manifest import Manifest
    from thaitool.records import Advance

METHODS: dict[str, dict[str, Any]] = {
    "dtw": {},
    "plain": {"plain": True},
    "ctc": {"method": "ctc"},
    "dtw+ctc": {"method": "dtw+ctc"},
    "asr": {"method": "asr"},
    "none": {"method": "none"},
}
#: The default recipe with one thing changed.
STUDY: dict[str, dict[str, Any]] = {
    "dtw, no ramp": {"ramp_start": 0.0, "ramp_end": 0.0},
    "dtw, no pool": {"pool_weight": 0.0},
    "dtw, no transcript": {"transcript_weight": 0.0},
    "dtw, factor 4": {"projector_factor": 4},
    "dtw+ctc, ctc .5": {"method": "dtw+ctc", "ctc_weight": 0.5},
}
UPDATES, SEEDS = 300, 3
#: The study: fewer seeds, and a method at so many times the updates.
STUDY_SEEDS, LONGER, LONGER_METHODS = 2, 3, ("dtw",)
#: Columns of the table, and whether `align` gives them for wrong pairs, too.
FIGURES = {
    "retrieval_r1": True,
    "retrieval_r5": False,
    "text_retrieval_r1": True,
    "text_retrieval_r5": False,
    "one_frame_share": True,
    "largest_share": True,
    "probe_cer": True,
    "llm_cer": False,
}
#: 97.5 % quantile of Student's t by degrees of freedom.
STUDENT = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306}


@dataclass(frozen=True)
class Made:
    """One finished run."""

    config: AlignConfig
    updates: int
    processor_ms: float | None
    """Of an undisturbed update; None for an untrained projector."""
    figures: dict[str, float]

    @property
    def checkpoint(self) -> Path:
        """After the last update."""
        return (self.config.out / "last").resolve()


def settings(bench: Bench, work: Path, name: str, seed: int, updates: int) -> AlignConfig:
    """The configuration of a run; only what its name says, seed and length differ from the defaults."""
    train = {
        "updates": updates,
        "batch_s": 60.0,
        "learning_rate": 1e-3,
        "eval_every": updates,
        "save_every": updates,
        "seed": seed,
        "device": "cpu",
        "trackers": [],
    }
    values: dict[str, Any] = {
        "data": bench.data,
        "encoder": bench.encoder,
        "llm": bench.llm,
        "out": work / "runs" / f"{name.replace(' ', '-')}-{updates}-{seed}",
        "feature_cache": work / "frames",
        "train": train,
    }
    return tiny.make(AlignConfig, **values, **{**METHODS, **STUDY}[name])


def made(bench: Bench, work: Path, name: str, seed: int, updates: int) -> Made:
    """A run by the stage, and what else it is judged by; read from disk if it is there."""
    config = settings(bench, work, name, seed, updates)
    file = beside(config)
    if not file.exists():
        ticks: list[float] = []
        result = align.run(config, _timed(ticks))
        figures = _untrained(config) if result.training is None else result.training.metrics
        figures = figures | {"llm_cer": _read_by_llm(config)}
        between = [1e3 * (b - a) for a, b in pairwise(ticks)]
        # The lower quartile: what else the machine does makes some updates dearer and none cheaper.
        told = {"processor_ms": statistics.quantiles(between, n=4)[0] if between else None}
        file.write_text(json.dumps(told | {"figures": figures}), "utf-8")
    told = json.loads(file.read_text("utf-8"))
    return Made(config, updates, told["processor_ms"], told["figures"])


def beside(config: AlignConfig) -> Path:
    """Where `made` keeps what it found of a run."""
    return config.out.with_name(f"{config.out.name}.json")


def _timed(ticks: list[float]) -> Any:
    """A progress that notes the processor time after each update."""

    @contextmanager
    def progress(description: str, total: int, done: int = 0) -> Iterator[Advance]:
        def advance(steps: int = 1, note: str = "") -> None:
            ticks.append(time.process_time())

        yield advance

    return progress


def dev_set(config: AlignConfig) -> Manifest:
    """The held-out rows."""
    return scan([config.data], split="dev")[0]


def _untrained(config: AlignConfig) -> dict[str, float]:
    """The figures of the evaluation of `align` for a projector that nobody has trained."""
    model, processor = load_speech_lm(resolve(config.out))
    front_end = FrontEnd(model.audio_tower, model.multi_modal_projector, config)
    table = model.language_model.get_input_embeddings().weight
    counts = torch.ones(len(table), dtype=torch.long)
    tokens = TokenTable(table, processor.tokenizer, counts, weighted=False)
    objective = AsrObjective(front_end, tokens, model, processor).eval()
    train_set = scan([config.data], split="train")[0]
    held = hold_out(dev_set(config), train_set, config, front_end.output_lengths)
    with torch.no_grad():
        return evaluate(objective, held, config, config.out / "unread.jsonl", probed=True)


def _read_by_llm(config: AlignConfig) -> float:
    """CER of what the frozen LLM writes when it is asked for a transcript, without any fine-tuning."""
    model, processor = load_speech_lm((config.out / "last").resolve())
    said: list[str] = []
    wanted: list[str] = []
    for batch in in_order(dev_set(config), batch_s=60.0, normalised=model.audio_tower.normalises):
        asked = [task_prompt("asr")] * len(batch.utterances)
        answers = generate.answer(
            model, processor, batch.audio, batch.audio_lengths, asked, max_new_tokens=32
        )
        said += [text for text, _ in answers]
        wanted += [u.text or "" for u in batch.utterances]
    return character_error_rate(said, wanted)


def interval(values: Sequence[float]) -> dict[str, float]:
    """Mean and 95 % interval (Student's t) over seeds."""
    mean = statistics.fmean(values)
    found = {"mean": round(mean, 4)}
    if len(values) > 1:
        half = STUDENT[len(values) - 1] * statistics.stdev(values) / math.sqrt(len(values))
        found |= {"low": round(mean - half, 4), "high": round(mean + half, 4)}
    return found


def row(runs: Sequence[Made]) -> dict[str, Any]:
    """One line of the table from the runs of all seeds."""
    found: dict[str, Any] = {"updates": runs[0].updates, "seeds": len(runs)}
    costs = [run.processor_ms for run in runs if run.processor_ms is not None]
    if costs:
        found["processor_ms_an_update"] = round(statistics.median(costs), 2)
    for name, compared in FIGURES.items():
        columns = {"": interval([run.figures[name] for run in runs])}
        if compared:
            wrong = {b: [run.figures[f"{name}_{b}"] for run in runs] for b in BASELINES}
            columns |= {b: interval(values) for b, values in wrong.items()}
        found[name] = columns.pop("") | columns
    return found


def line(name: str, found: dict[str, Any]) -> str:
    """A row for people."""
    told = [f"{name:22} {found['updates']:6}"]
    for figure, compared in FIGURES.items():
        cell = found[figure]
        half = f" ±{cell['high'] - cell['mean']:.3f}" if "high" in cell else ""
        beside = "/".join(f"{cell[b]['mean']:.2f}" for b in BASELINES) if compared else ""
        told.append(f"{cell['mean']:.3f}{half}" + (f" ({beside})" if beside else ""))
    return "  ".join(told) + "\n"


def equal_time(runs: dict[str, dict[str, Any]], updates: int) -> dict[str, int]:
    """Updates that each trained method can make in the processor time of `updates` updates of dtw."""
    key = "processor_ms_an_update"
    budget = updates * runs["dtw"][key]
    costs = {name: found[key] for name, found in runs.items() if key in found and name != "dtw"}
    return {name: max(2, round(budget / cost)) for name, cost in costs.items()}


def main() -> None:
    """Train, print the table as it grows, write the record."""
    arguments = parse()
    torch.set_num_threads(1)
    seeds, updates = arguments.seeds, arguments.updates
    bench = align_corpus.prepare(arguments.work, QUICK if arguments.quick else FULL)
    record: dict[str, Any] = align_corpus.record() | {"inputs": bench.about}
    sys.stdout.write("method, updates, " + ", ".join(FIGURES) + " (random pair/shuffled audio)\n")

    def tabulate(view: str, wanted: dict[str, int], seeds: int) -> None:
        for name, count in wanted.items():
            runs = [made(bench, arguments.work, name, seed, count) for seed in range(seeds)]
            record.setdefault(view, {})[name] = row(runs)
            sys.stdout.write(line(name, record[view][name]))
            sys.stdout.flush()
            if arguments.out:
                arguments.out.write_text(json.dumps(record, indent=1) + "\n", "utf-8")

    tabulate("equal_updates", dict.fromkeys(METHODS, updates), seeds)
    tabulate("equal_processor_time", equal_time(record["equal_updates"], updates), seeds)
    if arguments.study:
        few = min(seeds, STUDY_SEEDS)
        tabulate("study", dict.fromkeys(STUDY, updates), few)
        tabulate("longer", dict.fromkeys(LONGER_METHODS, LONGER * updates), few)


def parse(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Arguments of this program, also those of `align_words`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="where corpus and runs are kept")
    parser.add_argument("--out", type=Path, help="JSON record, written as it grows")
    parser.add_argument("--quick", action="store_true", help="everything tiny, one seed")
    parser.add_argument("--study", action="store_true", help="single settings changed, too")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--updates", type=int)
    arguments = parser.parse_args(given)
    arguments.seeds = arguments.seeds or (1 if arguments.quick else SEEDS)
    arguments.updates = arguments.updates or (4 if arguments.quick else UPDATES)
    if arguments.seeds - 1 > max(STUDENT):
        parser.error(f"at most {max(STUDENT) + 1} seeds")
    return arguments


if __name__ == "__main__":
    main()

"""Recognisers on real recordings, trained, scored and compared by the commands of the package. Measures no LLM.

`an4`: a new encoder under CTC on AN4 without ten of its speakers, scored on these ten. `pretrained`: an encoder that
`pretrain` made of the same training audio against one from random weights, at equal updates. `thai`: CTC learns 94 Thai
clips by heart, which needs units, lengths and decoding to be right. Each writes what it saw into `--out`; minutes to an
hour on two cores.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tests.bench.measure import machine
from tests.bench.ngram import write_arpa
from thaitool.data.manifest import open_manifest
from thaitool.models.decoding import lm_words
from thaitool.text.normalize import normalize
from thaitool.text.units import load_vocabulary, split_units
from thaitool.training.run_dir import MANIFEST, resolve

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[2]
PROCESSES = 2
HELD_OUT_SPEAKERS = 10
ORDER = 6
#: Two processes on a machine without a GPU; `--cpu` would start a single one.
LAUNCH = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(PROCESSES)]
LAUNCH += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
LAUNCH += ["--main_process_port", "29641"]


@dataclass(frozen=True)
class Cost:
    """What one command took."""

    wall_s: float
    user_s: float
    """Processor time of all its processes; on a busy machine the wall time says little."""


def call(*arguments: str, log: Path, processes: int = 1) -> Cost:
    """One command of the package, all its output in `log`; ends the benchmark if it fails."""
    launch = LAUNCH if processes > 1 else []
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime, time.perf_counter()
    with log.open("ab") as file:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        ended = subprocess.run(
            [sys.executable, *launch, "-m", "thaitool", *arguments],
            env=environment,
            stdout=file,
            stderr=file,
            check=False,
        )
    if ended.returncode:
        print(log.read_text()[-3000:], file=sys.stderr)  # noqa: T201
        raise SystemExit(f"{' '.join(arguments)} failed with {ended.returncode}.")
    after = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    return Cost(round(time.perf_counter() - began, 1), round(after - before, 1))


def clips(data: Path) -> list[dict[str, str]]:
    """Rows of `clips.tsv` that have a transcript."""
    with (data / "clips.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return [row for row in rows if row["text"]]


def held_out(rows: list[dict[str, str]]) -> list[str]:
    """The speakers with the smallest SHA-256 of their names: a rule that knows nothing of the audio."""
    names = {row["speaker"] for row in rows}
    return sorted(names, key=lambda n: hashlib.sha256(n.encode()).hexdigest())[:HELD_OUT_SPEAKERS]


def write_list(path: Path, data: Path, rows: list[dict[str, str]]) -> float:
    """A NeMo manifest; returns its minutes."""
    lines = []
    for row in rows:
        line = {
            "audio_filepath": str(data / row["audio"]),
            "duration": float(row["duration_s"]),
            "text": row["text"],
            "speaker": row.get("speaker", "one"),
        }
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    path.write_text("".join(lines), "utf-8")
    return round(sum(float(row["duration_s"]) for row in rows) / 60, 2)


def an4_lists(data: Path, work: Path) -> dict[str, Any]:
    """`train.jsonl` and `test.jsonl` in `work`, and what is in them."""
    rows = clips(data)
    test = held_out(rows)
    parts = {
        "train": [row for row in rows if row["speaker"] not in test],
        "test": [row for row in rows if row["speaker"] in test],
    }
    found: dict[str, Any] = {"held_out_speakers": sorted(test)}
    for name, part in parts.items():
        minutes = write_list(work / f"{name}.jsonl", data, part)
        found[name] = {
            "clips": len(part),
            "speakers": len({row["speaker"] for row in part}),
            "minutes": minutes,
        }
    return found


def training(updates: int, batch_s: float, rate: float, **more: Any) -> dict[str, Any]:
    """The section `train` of a recipe; the curve is `metrics.jsonl`."""
    fixed = {"device": "cpu", "trackers": [], "probe_every": 10**5, "mixed_precision": "bf16"}
    every = max(1, updates // 8)
    here = {"updates": updates, "batch_s": batch_s, "learning_rate": rate}
    return fixed | {"eval_every": every, "save_every": every} | here | more


def is_place(key: str, value: Any) -> bool:
    """Whether a key of a recipe says where something lies on this machine."""
    return key in ("data", "dev_data") or (key == "encoder" and isinstance(value, str))


def train(section: str, recipe: dict[str, Any], out: Path, processes: int) -> dict[str, Any]:
    """Runs `pretrain` or `finetune --head ctc`; returns what it took and did."""
    file = out.with_suffix(".yaml")
    file.write_text(yaml.safe_dump({section: recipe}, allow_unicode=True), "utf-8")
    command = ["pretrain"] if section == "pretrain" else ["finetune", "--head", "ctc"]
    arguments = [*command, "--config", str(file), "--out", str(out)]
    spent = out.with_suffix(".cost.json")
    if spent.exists():  # a finished run, looked at again
        cost = Cost(**json.loads(spent.read_text("utf-8")))
    else:
        cost = call(*arguments, log=out.with_suffix(".log"), processes=processes)
        spent.write_text(json.dumps(asdict(cost)), "utf-8")
    result = json.loads((out / "result.json").read_text("utf-8"))
    done = result["done"]
    return {
        "wall_min": round(cost.wall_s / 60, 1),
        "user_cpu_min": round(cost.user_s / 60, 1),
        "processes": processes,
        "updates": done["updates"],
        "epochs": done["epochs"],
        "hours_heard": done["hours"],
        "recipe": {key: value for key, value in recipe.items() if not is_place(key, value)},
        "last_held_out": {k: v for k, v in result["metrics"].items() if isinstance(v, float)},
    }


def score(model: Path, data: Path, out: Path, *more: str) -> dict[str, Any]:
    """`thaitool eval` of a run: error rates with their intervals, sums, and the normaliser."""
    arguments = ["eval", "--task", "asr", "--data", str(data), "--model", str(model)]
    call(*arguments, "--out", str(out), "--device", "cpu", *more, log=out.with_suffix(".log"))
    report = json.loads((out / "report.json").read_text("utf-8"))
    (task,) = report["tasks"]
    wanted = ("cer", "cer_with_spaces", "wer_newmm")
    return {"normalizer": report["normalizer"], "clips": task["count"]} | {
        s["name"]: {key: s[key] for key in ("value", "low", "high", "numerator", "denominator")}
        for s in task["scores"]
        if s["name"] in wanted
    }


def write_ngram(run: Path, path: Path, order: int) -> int:
    """An n-gram model over the units of a run's own training transcripts; returns their number."""
    vocabulary = load_vocabulary(resolve(run) / "vocabulary.json")
    manifest = open_manifest(run / MANIFEST)
    rows = [manifest[i] for i in range(len(manifest))]
    texts = [normalize(row.text or "") for row in rows if row.split == "train"]
    units = [lm_words(tuple(split_units(text, vocabulary.kind))) for text in texts]
    write_arpa(path, units, order)
    return len(texts)


def real_time_factor(model: Path, listed: Path, work: Path, *how: str) -> dict[str, float]:
    """Seconds of `thaitool infer` per second of audio, loading left out, on one thread."""
    paths = [json.loads(line)["audio_filepath"] for line in listed.read_text().splitlines()]
    command = ["infer", "--task", "asr", "--model", str(model), "--device", "cpu", *how, *paths]
    log = work / "infer.jsonl"
    log.unlink(missing_ok=True)
    call(*command, log=log)
    rows = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    seconds, audio_s = (sum(row[key] for row in rows) for key in ("seconds", "audio_s"))
    return {
        "clips": len(rows),
        "audio_s": round(audio_s, 1),
        "seconds": round(seconds, 2),
        "real_time_factor": round(seconds / audio_s, 5),
    }


#: Resampling moves formants as well: speakers, women above all, that the 64 of training are not.
AUGMENTATION = {
    "speeds": [0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.15, 1.2, 1.25],
    "mask_prob": 0.1,
    "channel_mask_prob": 0.2,
}


def an4(data: Path, work: Path, updates: int) -> dict[str, Any]:
    """A small conformer on log-mels, from random weights."""
    lists = an4_lists(data, work)
    shape = {
        "family": "wav2vec2-bert",
        "hidden_size": 144,
        "layers": 4,
        "heads": 4,
        "intermediate_size": 576,
        "depthwise_kernel": 15,
        "dropout": 0.1,
    }
    timing = {"warmup_share": 0.04, "eval_every": 500, "save_every": 500, "ema_decay": 0.998}
    recipe = {
        "data": [str(work / "train.jsonl")],
        "units": "characters",
        "channel_mask_span": 12,
        **AUGMENTATION,
        "encoder_shape": shape,
        "train": training(updates, 20, 1e-3, **timing),
    }
    model, test = work / "run", work / "test.jsonl"
    trained = train("recognise", recipe, model, PROCESSES)
    texts = write_ngram(model, work / "units.arpa", ORDER)
    beam = {"decoding": "beam", "beam": 30, "lm": str(work / "units.arpa"), "lm_weight": 0.6}
    how = [text for key, value in beam.items() for text in ("--set", f"{key}={value}")]
    speakers = ("--cluster-by", "speaker")
    return {
        "data": lists,
        "training": trained,
        "held_out": score(model, test, work / "report", *speakers),
        "held_out_beam": score(model, test, work / "report-beam", *speakers, *how),
        "beam": beam | {"lm": f"{ORDER}-gram over the units of {texts} training transcripts"},
        "decoding_greedy": real_time_factor(model, test, work),
        "decoding_beam": real_time_factor(model, test, work, *how),
    }


def pretrained(data: Path, work: Path, updates: int) -> dict[str, Any]:
    """wav2vec 2.0 under CTC: after `pretrain` on the training audio, and from random weights."""
    lists = an4_lists(data, work)
    listed = [str(work / "train.jsonl")]
    # At a rate of 1e-3 the codebook shrinks to two codes a group, and the run rolls back.
    first = training(updates, 40, 2.5e-4) | {"mixed_precision": "no"}
    recipe = {"data": listed, "crop_s": 8.0, "dev_share": 0.05, "encoder": {"dropout": 0.0}}
    found: dict[str, Any] = {
        "data": lists,
        "pretraining": train("pretrain", recipe | {"train": first}, work / "encoder", PROCESSES),
    }
    same = {
        "data": listed,
        "units": "characters",
        "speeds": [0.9, 1.0, 1.1],
        "mask_prob": 0.05,
        "train_convolutions": True,
        "train": training(updates, 20, 5e-4, warmup_share=0.1, ema_decay=0.99),
    }
    shape = {
        "family": "wav2vec2",
        "hidden_size": 128,
        "layers": 3,
        "intermediate_size": 384,
        "dropout": 0.0,
    }
    starts = {
        "random": same | {"encoder_shape": shape},
        "pretrained": same | {"encoder": str(work / "encoder")},
    }
    for name, start in starts.items():
        trained = train("recognise", start, work / name, PROCESSES)
        report = work / f"report-{name}"
        scored = score(work / name, work / "test.jsonl", report, "--cluster-by", "speaker")
        found[name] = {"training": trained, "held_out": scored}
    out = work / "comparison"
    pair = [str(work / "report-random"), str(work / "report-pretrained")]
    call("compare", *pair, "--out", str(out), log=work / "compare.log")
    compared = json.loads((out / "comparison.json").read_text("utf-8"))
    (task,) = compared["tasks"]
    keys = ("a", "b", "difference", "low", "high", "p_value", "items", "clusters", "verdict")
    found["pretrained_minus_random"] = {
        row["name"]: {key: row[key] for key in keys}
        for row in task["comparisons"]
        if row["name"] in ("cer", "cer_with_spaces")
    } | {"draws": compared["draws"], "cluster_by": compared["cluster_by"]}
    return found


def thai(data: Path, work: Path, updates: int) -> dict[str, Any]:
    """The transcribed Thai clips by heart: held-out data is the training data, which proves no more than that."""
    rows = clips(data)
    write_list(work / "train.jsonl", data, rows)
    # By another path, as a clip is named by its path and may occur once.
    if not (work / "again").exists():
        (work / "again").symlink_to(data)
    write_list(work / "test.jsonl", work / "again", rows)
    shape = {
        "family": "wav2vec2-bert",
        "hidden_size": 144,
        "layers": 3,
        "heads": 4,
        "intermediate_size": 384,
        "depthwise_kernel": 15,
        "dropout": 0.0,
    }
    recipe = {
        "data": [str(work / "train.jsonl")],
        "dev_data": [str(work / "test.jsonl")],
        "units": "thai",
        "mask_prob": 0.0,
        "encoder_shape": shape,
        "train": training(updates, 20, 1e-3, ema_decay=0.95),
    }
    return {
        "clips": len(rows),
        "training": train("recognise", recipe, work / "run", 1),
        "same_clips": score(work / "run", work / "test.jsonl", work / "report"),
        "units": len(json.loads((resolve(work / "run") / "vocabulary.json").read_text())["units"]),
    }


def main() -> None:
    """Runs one experiment and writes it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["an4", "pretrained", "thai"])
    parser.add_argument("--data", type=Path, required=True, help="directory with clips.tsv")
    parser.add_argument("--work", type=Path, required=True, help="what is finished there is kept")
    parser.add_argument("--updates", type=int, help="of each training")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    experiments: dict[str, tuple[Callable[[Path, Path, int], dict[str, Any]], int]] = {
        "an4": (an4, 12_000),
        "pretrained": (pretrained, 500),
        "thai": (thai, 400),
    }
    run, updates = experiments[options.what]
    # Of two cores, so that a reader can tell how much of the time others had.
    busy = os.getloadavg()[2]
    found = {
        "machine": machine("cpu"),
        "load_before": round(busy, 1),
        **run(options.data.resolve(), work, options.updates or updates),
    }
    options.out.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(json.dumps({k: v for k, v in found.items() if k != "machine"}, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()

"""Pretraining on real recordings: two processes under `accelerate launch` on the CPU, killed, resumed, compared.

Runs `thaitool pretrain` twice on the same directory: once undisturbed, once killed by SIGKILL at random updates and
started again each time. Verifies that metrics and weights are equal to the bit and that the held-out loss has fallen,
and writes what it saw. Some minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import torch
import yaml
from safetensors.torch import load_file

from tests.bench.measure import machine

ROOT = Path(__file__).resolve().parents[2]
PROCESSES = 2
#: Two processes on a machine without a GPU; `--cpu` would start a single one.
LAUNCH = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", str(PROCESSES)]
LAUNCH += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
TIMES = {"train_s"}


def recipe(data: Path, out: Path, updates: int) -> dict[str, Any]:
    """A small encoder with the convolutions of the demo."""
    train = {
        "updates": updates,
        "batch_s": 40,
        "learning_rate": 2.5e-4,  # at 1e-3 the codebook shrinks to two codes a group, and the run rolls back
        "eval_every": 25,
        "save_every": 10,
        "probe_every": 25,
        "workers": 1,
        "device": "cpu",
    }
    pretrain = {"data": [str(data)], "out": str(out), "dev_share": 0.1, "crop_s": 8.0}
    return {"pretrain": {**pretrain, "encoder": {"dropout": 0}, "train": train}}


def start(file: Path, port: int) -> subprocess.Popen[bytes]:
    """`accelerate launch … -m thaitool pretrain`, as the leader of a process group of its own."""
    command = [sys.executable, "-m", *LAUNCH, "--main_process_port", str(port)]
    command += ["-m", "thaitool", "pretrain", "--config", str(file)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    log = file.with_suffix(".log").open("ab")
    with log:
        return subprocess.Popen(
            command, env=environment, start_new_session=True, stdout=log, stderr=log
        )


def rows(out: Path) -> list[dict[str, Any]]:
    """Lines of `metrics.jsonl` without clocks."""
    file = out / "metrics.jsonl"
    lines = file.read_text().rpartition("\n")[0].splitlines() if file.exists() else []
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


def kill_at(process: subprocess.Popen[bytes], out: Path, update: int) -> int:
    """SIGKILL to all processes once `update` is in the metrics; returns the last update that was written."""
    while len(rows(out)) < update:
        if process.poll() is not None:
            raise SystemExit(f"The run ended before update {update} with {process.returncode}.")
        time.sleep(0.01)
    # The launcher's workers lead groups of their own and would live on without it.
    everyone = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for one in everyone:
        one.send_signal(signal.SIGKILL)
    process.wait()
    psutil.wait_procs(everyone, timeout=30)
    return len(rows(out))


def finish(process: subprocess.Popen[bytes], file: Path) -> None:
    """Waits for a run, and shows the end of its log if it failed."""
    if process.wait():
        print(file.with_suffix(".log").read_text()[-3000:], file=sys.stderr)  # noqa: T201
        raise SystemExit(f"The run failed with {process.returncode}.")


def arguments() -> argparse.Namespace:
    """What to train on, for how long, how often to kill."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="directory of recordings")
    parser.add_argument("--work", type=Path, required=True, help="new directory for the two runs")
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


def compared(whole: Path, killed: Path) -> dict[str, Any]:
    """Whether the two runs are the same, and how the undisturbed one went."""
    a, b = rows(whole), rows(killed)
    first, second = (load_file(path / "last" / "model.safetensors") for path in (whole, killed))
    same_weights = first.keys() == second.keys() and all(
        torch.equal(first[n], second[n]) for n in first
    )
    return {
        "metrics_equal": a == b,
        "weights_equal": same_weights,
        "held_out": [
            {
                "update": row["update"],
                "contrastive_nats": round(row["eval_contrastive_nats"], 4),
                "accuracy": round(row["eval_accuracy"], 4),
            }
            for row in a
            if "eval_contrastive_nats" in row
        ],
        "probe_effective_rank": [
            [row["update"], round(row["probe_effective_rank"], 2)]
            for row in a
            if "probe_effective_rank" in row
        ],
        "done": json.loads((whole / "result.json").read_text())["done"],
    }


def main() -> None:
    """Runs, compares, writes."""
    options = arguments()
    options.work.mkdir(parents=True)
    files = {}
    for name in ("undisturbed", "killed"):
        files[name] = options.work / f"{name}.yaml"
        content = recipe(options.data.resolve(), options.work.resolve() / name, options.updates)
        files[name].write_text(yaml.safe_dump(content), "utf-8")
    whole, killed = (options.work.resolve() / name for name in files)
    began = time.perf_counter()
    finish(start(files["undisturbed"], 29611), files["undisturbed"])
    seconds = time.perf_counter() - began
    rng = random.SystemRandom()
    wanted = sorted(rng.sample(range(2, options.updates - 5), options.kills))
    kills = []
    for number, update in enumerate(wanted):
        process = start(files["killed"], 29612 + number)
        kills.append({"at": kill_at(process, killed, update)})
    finish(start(files["killed"], 29612 + options.kills), files["killed"])
    found = {
        "machine": machine("cpu"),
        "data": options.data.name,
        "processes": PROCESSES,
        "updates": options.updates,
        "seconds_undisturbed": round(seconds, 1),
        "kills": kills,
        **compared(whole, killed),
    }
    options.out.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    print(json.dumps({k: v for k, v in found.items() if k != "machine"}, indent=1))  # noqa: T201
    nats = [row["contrastive_nats"] for row in found["held_out"]]
    if not (found["metrics_equal"] and found["weights_equal"] and nats[-1] < nats[0]):
        raise SystemExit(
            "The killed run differs from the undisturbed one, or the loss did not fall."
        )


if __name__ == "__main__":
    main()

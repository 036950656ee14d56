"""`report.html` of a finetune run: curves, alarms, planned and done, and what the model answers, to be listened to.

Asks no model: everything is in the run directory already.
"""

from __future__ import annotations

import datetime as dt
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from thaitool.files import disk_full_is_explained
from thaitool.reports.players import RANDOM, WORST, media_type, sound_file
from thaitool.reports.report import Example
from thaitool.reports.training import training_report
from thaitool.reports.write import write_report
from thaitool.training.finetune_evaluate import predictions_file
from thaitool.training.finetune_figures import ERROR, SCORES, SHUFFLED
from thaitool.training.rollback import read_rollbacks
from thaitool.training.run_dir import RUN

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from thaitool.config import FinetuneConfig
    from thaitool.records import Utterance
    from thaitool.training.finetune_held_out import HeldOut
    from thaitool.training.run_dir import RunDir

#: Ends of the names of held-out figures that are drawn; of the others only the last value counts.
_DRAWN = (
    *(ERROR, f"{ERROR}_{SHUFFLED}", "top_share", "distinct_3", "stop_rate", "length_ratio"),
    *("repeated_ngram_rate", "echo_share", "invalid_rate"),
    *(next(iter(scores)).removeprefix(f"{kind}_") for kind, scores in SCORES.items()),
)
_SETTINGS = {
    *("tasks", "lora_rank", "train_projector", "unfreeze_encoder", "unfreeze_layers", "ctc_weight"),
    *("ctc_first_updates", "weights", "select", "judge_items", "allow_leakage", "drafter", "train"),
}


def write_finetune_report(
    config: FinetuneConfig,
    out: RunDir,
    held: HeldOut,
    accounting: Mapping[str, Any],
    notes: Iterable[str] = (),
) -> None:
    """Writes report.html and the files beside it into the run directory; for the first process.

    Args:
        config: Of the run.
        out: Its directory.
        held: What it is judged on.
        accounting: Tables of what was planned and done; empty for a run that failed.
        notes: Alarms, leakage, failure.
    """
    rows = out.metrics()
    kept = json.loads((out.path / RUN).read_text("utf-8"))
    report = training_report(
        "finetune",
        [_drawn(row) for row in rows],
        created=dt.datetime.now(tz=dt.UTC).isoformat(timespec="seconds"),
        seed=config.train.seed,
        settings=config.model_dump(mode="json", include=_SETTINGS),
        accounting=dict(accounting),
        versions=kept["versions"],
        notes=[*(entry.sentence for entry in read_rollbacks(out)), *notes],
        examples=_examples(out, held, rows, config.train.seed),
    )
    with disk_full_is_explained(out.path):
        write_report(report, out.path)


def _drawn(row: Mapping[str, Any]) -> dict[str, Any]:
    """Of the held-out figures, the ones that people follow over a run."""
    return {
        name: value
        for name, value in row.items()
        if not name.startswith("eval_") or "answer_nats" in name or name.endswith(_DRAWN)
    }


def _examples(
    out: RunDir, held: HeldOut, rows: Sequence[Mapping[str, Any]], seed: int
) -> list[Example]:
    """The worst answers of the last evaluation and some by chance, of each task, with their sounds."""
    judged = [row["update"] for row in rows if f"eval_{ERROR}" in row]
    file = predictions_file(out, judged[-1]) if judged else None
    if file is None or not file.is_file():
        return []
    said = [json.loads(line) for line in file.read_text("utf-8").split("\n") if line]
    found = []
    for task in held.tasks:
        utterances = {row.id: row for row in task.rows}
        mine = [line for line in said if line["task"] == task.name and line["id"] in utterances]
        worst = sorted((m for m in mine if m["row_error"]), key=lambda m: -m["row_error"])[:WORST]
        chosen = np.random.default_rng(seed).permutation(len(mine))[:RANDOM]
        found += [_example(line, utterances, "worst") for line in worst]
        found += [_example(mine[k], utterances, "random") for k in sorted(chosen.tolist())]
    return found


def _example(line: Mapping[str, Any], utterances: Mapping[str, Utterance], kind: Any) -> Example:
    sound = sound_file(utterances[line["id"]])
    return Example(
        line["id"],
        line["task"],
        line["reference"],
        line["text"],
        line["row_error"],
        sound,
        media_type(sound) or "audio/flac",
        kind,
    )

"""The model card of a whole model, as the hub reads it: made of what, trained on what, how well, under which licences.

Says only what files say. What nobody wrote down is printed as unknown, licences above all.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING

from thaitool.reports.markdown import escape, markdown_table
from thaitool.reports.report import counts, interval, rate
from thaitool.reports.stored import WEIGHTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from thaitool.reports.report import Report

UNKNOWN = "unknown"
#: Under "licence" of what thaitool's own runs made: that of the data and models behind it, which have their own lines.
OWN = "-"
#: Licences that the hub knows by these names; anything else is `other` there.
_HUB_LICENCES = frozenset(
    {"apache-2.0", "mit", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0"}
)


@dataclass(frozen=True)
class Ingredient:
    """A model that this one is made of."""

    role: str
    """`LLM`, `encoder`, ..."""
    name: str
    """Hub id with revision, or the name of a directory."""
    sha256: str
    licence: str = ""
    hub_id: str = ""
    """For `base_model`, which the hub links."""


@dataclass(frozen=True)
class DataPart:
    """Rows of one source, task and licence that a stage was trained on."""

    stage: str
    source: str
    task: str
    licence: str
    rows: int
    hours: float
    trainable: bool
    """False: made to test with, by a voice nobody should learn from."""


@dataclass(frozen=True)
class Card:
    """All that a card says."""

    name: str
    checkpoint_sha256: str
    weights_sha256: str
    dtype: str
    ingredients: Sequence[Ingredient]
    data: Sequence[DataPart]
    lost: Sequence[str] = ()
    """Stages of its past that could not be looked up, in sentences."""
    reports: Sequence[tuple[str, Report]] = ()
    """(name, report) of evaluations of this model."""
    tasks: Sequence[tuple[str, str]] = ()
    """(name, prompt) of those it was trained on, or of all if nobody knows."""
    is_drafted: bool = False
    """Whether it hears with drafts of a recogniser."""


def model_card(card: Card) -> str:
    """The text of README.md."""
    parts = [
        _front_matter(card),
        f"# {escape(card.name)}",
        "A speech LLM that hears Thai: a speech encoder, a projector and a language model in one directory, made by"
        " thaitool after arXiv:2509.14804 (XLSR-Thai, U-Align, Thai-SUP).",
        _warnings(card),
        "## Use",
        _USE + (_DRAFTS if card.is_drafted else ""),
    ]
    if card.tasks:
        rows = [(name, prompt) for name, prompt in card.tasks]
        parts += ["## Tasks and what it is asked", markdown_table(("task", "prompt"), rows)]
    parts += ["## Scores", *_scores(card)]
    parts += ["## Made of", _made_of(card)]
    parts += ["## Trained on", *_trained_on(card)]
    parts += ["## Licences", *_licences(card)]
    weights = f"Weights sha256 `{card.weights_sha256}`, LLM stored as {card.dtype}, merged from"
    parts += ["## Files", f"{weights} the checkpoint sha256 `{card.checkpoint_sha256}`."]
    return "\n\n".join(part for part in parts if part) + "\n"


_USE = """```python
from transformers import AutoModelForCausalLM, AutoProcessor

import thaitool.models.speech_lm  # registers the classes

model = AutoModelForCausalLM.from_pretrained(DIRECTORY)
processor = AutoProcessor.from_pretrained(DIRECTORY)
```

or `thaitool infer --model DIRECTORY --task asr clip.wav`."""
_DRAFTS = """

It was trained to read the draft of a recogniser (in `drafter/`) in its prompt. `thaitool infer` puts it there; with
transformers alone the model is asked otherwise than in training."""


def licences(card: Card) -> list[str]:
    """All licences of what it is made of and trained on, each once and sorted; `UNKNOWN` of what is lost."""
    found = [i.licence for i in card.ingredients] + [d.licence for d in card.data]
    found += [UNKNOWN for _ in card.lost]
    return sorted({licence or UNKNOWN for licence in found if licence != OWN})


def _front_matter(card: Card) -> str:
    found = [licence.lower() for licence in licences(card)]
    alone = found[0] if len(found) == 1 and found[0] in _HUB_LICENCES else "other"
    lines = ["---", "language:", "- th", "library_name: transformers"]
    lines += ["pipeline_tag: automatic-speech-recognition", f"license: {alone}"]
    bases = [i.hub_id for i in card.ingredients if i.hub_id]
    if bases:
        lines += ["base_model:", *(f"- {base}" for base in dict.fromkeys(bases))]
    lines += ["tags:", "- speech-llm", "- thai", "- thaitool", "---"]
    return "\n".join(lines)


def _warnings(card: Card) -> str:
    marked = sum(part.rows for part in card.data if not part.trainable)
    if not marked:
        return ""
    total = sum(part.rows for part in card.data)
    return (
        f"> **Not for people.** {marked:,} of {total:,} training rows are marked `trainable: false`: they were spoken"
        " by an embedded test voice. This model shows that a pipeline runs."
    )


def _scores(card: Card) -> list[str]:
    if not card.reports:
        return ["No evaluation was given when this card was written."]
    parts = []
    for name, report in card.reports:
        rows = [
            (task.task, score.name, rate(score), interval(score), counts(score), str(task.count))
            for task in report.tasks
            for score in task.scores
        ]
        header = ("task", "score", "value", "95 % interval", "counts", "items")
        parts += [f"### {escape(name)}", escape(_scored(report)), markdown_table(header, rows)]
    return parts


#: Settings of an evaluation that say what was scored, and how it was asked.
_SETTINGS = ("data", "split", "task", "limit", "context", "hotwords with each item")


def _scored(report: Report) -> str:
    """What was scored, without the folders of whoever did it."""
    told = {k: PurePath(str(v)).name for k, v in report.settings.items()}
    settings = ", ".join(f"{k} {told[k]}" for k in _SETTINGS if k in told)
    if WEIGHTS in report.settings:
        return settings
    return f"{settings}. The report does not say which weights gave the answers."


def _made_of(card: Card) -> str:
    rows = [
        (i.role, i.name, i.licence or UNKNOWN, i.sha256[:16] or UNKNOWN) for i in card.ingredients
    ]
    return markdown_table(("part", "name", "licence", "weights sha256"), rows)


def _trained_on(card: Card) -> list[str]:
    rows = [
        (d.stage, d.source, d.task, d.licence or UNKNOWN, f"{d.rows:,}", f"{d.hours:.2f}")
        for d in card.data
    ]
    header = ("stage", "source", "task", "licence", "rows", "hours")
    table = [markdown_table(header, rows)] if rows else []
    return [*table, *(f"- {escape(line)}" for line in card.lost)] or ["Nobody wrote it down."]


def _licences(card: Card) -> list[str]:
    found = licences(card)
    chain = f"What it is made of and trained on is under: {', '.join(map(escape, found))}."
    if UNKNOWN in found:
        chain += " Some of it has no licence that a file says; ask its makers before you hand this model on."
    return [chain, "thaitool claims no licence of its own for these weights."]

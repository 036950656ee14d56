"""A trained speech LLM to one self-contained directory in transformers' form, with its model card; and to the hub.

Merges the adapter into the LLM. Trains nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from thaitool.errors import EnvironmentProblem, InputError
from thaitool.models.checkpoint import locate_base, read_base, weights_sha256
from thaitool.models.drafter import drafter_place
from thaitool.models.export import DRAFTER_FOLDER, export
from thaitool.models.whole import is_whole
from thaitool.reports.model_card import OWN, Card, DataPart, Ingredient, model_card
from thaitool.reports.stored import WEIGHTS, load_report
from thaitool.text.tasks import instruction, tasks_of
from thaitool.training.lineage import licence_of, lineage, name_of
from thaitool.training.run_dir import resolve

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Any, Literal

    from thaitool.reports.report import Report

CARD = "README.md"


@dataclass(frozen=True)
class Exported:
    """What was made of which checkpoint."""

    checkpoint: Path
    out: Path
    n_bytes: int
    weights_sha256: str


def run(
    model: Path,
    out: Path,
    *,
    llm: Path | None = None,
    drafter: Path | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
    name: str | None = None,
    reports: Sequence[str] = (),
) -> Exported:
    """Writes the whole model of a run or checkpoint of `align` or `finetune`, and its card.

    Args:
        model: The run or checkpoint.
        out: The directory to make.
        llm: Where the base LLM lies now, if not where it was.
        drafter: Where the recogniser of the model's drafts lies now, if not where it was.
        dtype: Of the LLM's weights on disk.
        name: On the card; default is the name of `out`.
        reports: [NAME=]DIR of evaluations whose scores the card shows.

    Raises:
        InputError: no such model, no LLM or recogniser or another one, no such report or one of another model; or
            `out` is taken.
    """
    scored = [load_report(text) for text in reports]
    checkpoint = resolve(model)
    read_base(checkpoint)

    def write_card(folder: Path) -> None:
        made = _facts(checkpoint, folder, llm, drafter, dtype, name or out.name)
        _require_own(scored, (made["checkpoint_sha256"], made["weights_sha256"]))
        text = model_card(Card(**made, reports=scored))
        (folder / CARD).write_text(text, "utf-8")

    export(
        checkpoint, out, llm=llm, drafter=drafter, dtype=getattr(torch, dtype), beside=write_card
    )
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    return Exported(checkpoint, out, size, weights_sha256(out))


def _require_own(reports: Sequence[tuple[str, Report]], weights: Sequence[str]) -> None:
    """Raises `InputError` if a report says that it is of other weights. One of a file of answers does not say."""
    for name, report in reports:
        told = report.settings.get(WEIGHTS)
        if told is not None and told not in weights:
            raise InputError(
                f"Report {name} is of a model whose weights hash to {str(told)[:12]}, but those of this one hash to"
                f" {weights[0][:12]}. Name a report of this model."
            )


def _facts(
    checkpoint: Path,
    folder: Path,
    llm: Path | None,
    drafter: Path | None,
    dtype: str,
    name: str,
) -> dict[str, Any]:
    ancestors, lost = lineage(checkpoint)
    trained = {part.task or "asr" for a in ancestors if a.stage == "finetune" for part in a.data}
    place = drafter_place(checkpoint, drafter)
    if place is not None:
        more, more_lost = lineage(place)
        ancestors += [a for a in more if a not in ancestors]
        lost += [line for line in more_lost if line not in lost]
    llm_path = locate_base(checkpoint, llm)
    printed, hub_id = name_of(llm_path)
    base = read_base(checkpoint)
    ingredients = [Ingredient("LLM", printed, base["sha256"], licence_of(llm_path), hub_id)]
    for ancestor in ancestors:
        if ancestor.stage == "base":
            printed, hub_id = name_of(ancestor.path)
            sha256, licence = weights_sha256(ancestor.path), licence_of(ancestor.path)
            ingredients.append(Ingredient("encoder", printed, sha256, licence, hub_id))
    if place is not None:
        sha256 = weights_sha256(folder / DRAFTER_FOLDER)
        printed = f"{DRAFTER_FOLDER}/, made by thaitool"
        ingredients.append(Ingredient("recogniser of drafts", printed, sha256, OWN))
    data = [
        DataPart(
            ancestor.stage, part.source, part.task, part.licence, part.rows, part.hours,
            part.trainable,
        )
        for ancestor in ancestors
        for part in ancestor.data
    ]  # fmt: skip
    return {
        "name": name,
        "checkpoint_sha256": weights_sha256(checkpoint),
        "weights_sha256": weights_sha256(folder),
        "dtype": dtype,
        "ingredients": ingredients,
        "data": data,
        "lost": lost,
        "is_drafted": place is not None,
        "tasks": [
            (n, instruction(spec, draw=None))
            for n, spec in tasks_of(checkpoint).items()
            if n in trained or not trained
        ],
    }


@dataclass(frozen=True)
class Pushed:
    """Where a model went."""

    repository: str
    revision: str
    files: int
    n_bytes: int


def push(model: Path, repository: str, *, private: bool, message: str) -> Pushed:
    """Uploads a whole model to the Hugging Face hub, as one commit.

    Args:
        model: A directory that `run` made.
        repository: OWNER/NAME; it is made if it is not there.
        private: Whether a repository that is made is private.
        message: Of the commit.

    Raises:
        InputError: no whole model, or without a card.
        EnvironmentProblem: the hub cannot be reached, or refuses; it says why.
    """
    if not is_whole(model) or not (model / CARD).is_file():
        raise InputError(
            f"{model} must be a whole model with a model card, as `thaitool convert merge` writes it, but is not."
        )
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError

    api = HfApi()
    try:
        made = api.create_repo(repository, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=made.repo_id, folder_path=model, commit_message=message, repo_type="model"
        )
    except HFValidationError as error:
        raise InputError(f"{repository} must be OWNER/NAME of the hub, but {error}") from error
    except (
        httpx2.HTTPError,
        OSError,
    ) as error:  # no connection; refused, no token, a file that cannot be read
        told = next(iter(str(error).splitlines()), "")
        raise EnvironmentProblem(
            f"{repository} could not be written on the hub: {type(error).__name__}: {told} Check the connection, log in"
            " (`hf auth login`) with a token that may write there, and run the same command again."
        ) from error
    files = [file for file in model.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    return Pushed(made.repo_id, str(commit.oid), len(files), size)

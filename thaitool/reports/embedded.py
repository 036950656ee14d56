"""Likeness of meaning by an embedder, examined before it is used; the arithmetic is `metrics.embeddings`'."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from thaitool.errors import ConfigError
from thaitool.metrics.embeddings import (
    embedding_similarity,
    local_embedder,
    server_embedder,
    similarity_sums,
)
from thaitool.metrics.endpoint import Endpoint
from thaitool.metrics.gate import require_gate
from thaitool.metrics.sums import scores_of
from thaitool.reports.report import Instrument

if TYPE_CHECKING:
    from collections.abc import Sequence

    from thaitool.metrics.embeddings import Embed
    from thaitool.metrics.tasks import TaskScores

NAME = "embedding_similarity"
#: Tasks whose answers are sentences.
TASKS = ("asr", "sr", "qa")


def open_embedder(place: str, model: str, key_variable: str) -> tuple[Embed, Instrument]:
    """The embedder at a URL or in a directory, once it has passed the gate.

    Raises:
        ConfigError: the place is neither a URL nor a directory.
        InputError: it fails the gate, or the directory holds no model.
        EndpointError: the server does not answer.
    """
    if place.startswith(("http://", "https://")):
        embed = server_embedder(Endpoint(place, model, key_variable))
        by = f"{model or '(unnamed)'} of a server"
    elif Path(place).is_dir():
        from thaitool.models.checkpoint import weights_sha256

        by = f"{Path(place).resolve().name}, weights sha256 {weights_sha256(Path(place))[:12]}"
        embed = local_embedder(Path(place))
    else:
        raise ConfigError(
            f"--embedder must be the URL of a server, up to /v1, or a model directory, but is {place!r}."
        )

    def likeness(references: Sequence[str], answers: Sequence[str]) -> float:
        return embedding_similarity(references, answers, embed, draws=1).value or 0.0

    return embed, Instrument(NAME, by, require_gate(f"{NAME} ({by})", likeness, best=1.0))


def embedded_tasks(
    tasks: Sequence[TaskScores], embed: Embed, *, draws: int, seed: int
) -> tuple[TaskScores, ...]:
    """The tasks with `embedding_similarity` behind the other scores of `TASKS`."""
    found = []
    for task in tasks:
        if task.task not in TASKS:
            found.append(task)
            continue
        gold, told = [i.reference for i in task.items], [i.hypothesis for i in task.items]
        column = similarity_sums(gold, told, embed)
        (score,) = scores_of([column], task.clusters, draws=draws, seed=seed)
        found.append(replace(task, scores=(*task.scores, score), columns=(*task.columns, column)))
    return tuple(found)

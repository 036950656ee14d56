"""A model directory and paths to answers, one at a time as they become ready. Scores nothing and writes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thaitool.inference.answering import Answer, answers
from thaitool.inference.engine import load_engine
from thaitool.inference.sources import recordings
from thaitool.models.answerer import require_task
from thaitool.records import Progress, silent
from thaitool.training.run_dir import resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from thaitool.config import InferConfig

__all__ = ["Answer", "run"]


def run(
    config: InferConfig, progress: Progress = silent, told: Callable[[str, str], None] | None = None
) -> Iterator[Answer]:
    """Answers in the order of the recordings; one that cannot be used gives an `Answer` with its error.

    Args:
        config: What to ask about which recordings.
        progress: Of the recordings; their number is not known where directories and lists are named.
        told: Called with a path and new text as it comes, of one recording after the other.

    Raises:
        InputError: the model directory is none, its LLM is not where it was, there is no such task, or it is a
            recogniser and something else than a transcript was asked for.
        EnvironmentProblem: CUDA was asked for and there is none.
    """
    path = resolve(config.model)
    require_task(path, [config.task or "asr"], config.prompt)
    engine = load_engine(path, config, max_rows=config.rows)
    found = recordings(config.audio, split=config.split)
    with progress("infer", len(config.audio)) as advance:
        for answer in answers(engine, config, found, told):
            advance()
            yield answer

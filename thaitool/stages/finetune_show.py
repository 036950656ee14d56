"""`finetune --show-batch`: a training row of each task, read back from its tokens. Loads no LLM, makes no directory.

With a recogniser that drafts (`drafter`), it drafts these rows, so that prompts are shown as they will be.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from thaitool.data.loader import Batch, collate, load_audio
from thaitool.errors import InputError
from thaitool.models.checkpoint import load_front_end
from thaitool.models.drafter import load_drafter
from thaitool.training.drafts import with_draft
from thaitool.training.examples import asked
from thaitool.training.finetune import epoch_seed, first_prompts
from thaitool.training.finetune_data import fitting, known_tasks, plan_batches, read_sets
from thaitool.training.run_dir import resolve
from thaitool.training.show_batch import ShownRow, show_rows

if TYPE_CHECKING:
    from thaitool.config import FinetuneConfig
    from thaitool.models.drafter import Drafter


def show(config: FinetuneConfig) -> list[ShownRow]:
    """The first row of each task that training would see, read back from its tokens. Makes no run directory.

    Raises:
        InputError: as `run`; or the first epoch has no row of a task whose audio can be read.
    """
    model_path = resolve(config.model)
    tasks = known_tasks(config, model_path)
    sets = read_sets(config, tasks)
    model_config, encoder, _, processor = load_front_end(model_path)
    data = fitting(config, sets, tasks, encoder, model_config, processor)
    order = plan_batches(data.train, data.tokens, config).epoch(0)
    rows: dict[str, Batch] = {}
    for i in order.utterances.tolist():
        utterance = data.train[i]
        if (utterance.task or "asr") not in rows:
            batch = collate(0, 0, [utterance], normalised=encoder.normalises)
            if batch.utterances:
                rows[utterance.task or "asr"] = batch
        if len(rows) == len(config.tasks):
            break
    if missing := [name for name in config.tasks if name not in rows]:
        raise InputError(
            f"No row of {', '.join(missing)} can be shown: the first epoch has none whose recording can be read. Look"
            " at the recordings, or leave the task out of tasks."
        )
    if config.drafter is not None:
        drafter = load_drafter(resolve(config.drafter))
        rows = {task: _drafted(batch, drafter) for task, batch in rows.items()}
    utterances = [batch.utterances[0] for batch in rows.values()]
    samples = [int(batch.audio_lengths[0]) for batch in rows.values()]
    seed = epoch_seed(config.train.seed, 0)
    worded = tasks if config.paraphrases else first_prompts(tasks)
    questions = asked(utterances, worded, seed=seed, contexts=sets.contexts)
    return show_rows(processor, utterances, samples, questions)


def _drafted(batch: Batch, drafter: Drafter) -> Batch:
    drafts = drafter([load_audio(row) for row in batch.utterances])
    rows = map(with_draft, batch.utterances, drafts)
    return replace(batch, utterances=tuple(rows))

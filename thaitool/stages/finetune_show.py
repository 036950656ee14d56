"""`finetune --show-batch`: a training row of each task, read back from its tokens. Loads no LLM, makes no directory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thaitool.data.loader import Batch, collate
from thaitool.errors import InputError
from thaitool.models.checkpoint import load_front_end
from thaitool.training.examples import asked
from thaitool.training.finetune import epoch_seed, first_prompts
from thaitool.training.finetune_data import fitting, known_tasks, plan_batches, read_sets
from thaitool.training.run_dir import resolve
from thaitool.training.show_batch import ShownRow, show_rows

if TYPE_CHECKING:
    from thaitool.config import FinetuneConfig


def show(config: FinetuneConfig) -> list[ShownRow]:
    """The first row of each task that training would see, read back from its tokens. Makes no run directory.

    Raises:
        InputError: as `run`; or the audio of a task cannot be read.
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
    if not rows:
        raise InputError("No training row can be shown, as none of their recordings can be read.")
    utterances = [batch.utterances[0] for batch in rows.values()]
    samples = [int(batch.audio_lengths[0]) for batch in rows.values()]
    seed = epoch_seed(config.train.seed, 0)
    worded = tasks if config.paraphrases else first_prompts(tasks)
    questions = asked(utterances, worded, seed=seed, contexts=sets.contexts)
    return show_rows(processor, utterances, samples, questions)

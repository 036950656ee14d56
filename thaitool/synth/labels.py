"""Says what a model must answer for each task, in the published form.

How a task is asked is in `thaitool.text.prompts`; reading labels back is in `thaitool.metrics`.
"""

from __future__ import annotations

import json

from thaitool.errors import InputError
from thaitool.records import ENTITY_KEYS_TH, TASKS
from thaitool.synth.translate import Rendering


def label_for(task: str, rendering: Rendering, intent_th: str | None) -> str | None:
    """The label of `rendering` for `task`; None for `ic` when the row has no intent.

    `ic`: the Thai intent name. `ner`: a JSON object with the four published keys, each a list of
    surfaces in order of occurrence. `sr`: the formal written form. `asr`: what is said.
    Source: the Thai-SUP release (arXiv 2509.14804).

    Raises:
        InputError: the task is unknown.
    """
    if task not in TASKS:
        raise InputError(f"the task must be one of {', '.join(TASKS)}, not '{task}'. Name one.")
    if task == "ic":
        return intent_th
    if task == "ner":
        surfaces: dict[str, list[str]] = {key: [] for key in ENTITY_KEYS_TH.values()}
        for entity in rendering.entities:
            surfaces[ENTITY_KEYS_TH[entity.type]].append(entity.surface)
        return json.dumps(surfaces, ensure_ascii=False)
    return rendering.rephrase_th if task == "sr" else rendering.text_th

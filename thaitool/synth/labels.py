"""Says what a model must answer for each task, in the published form.

How a task is asked is in `thaitool.text.prompts`; reading labels back is in `thaitool.metrics`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from thaitool.errors import ConfigError, InputError
from thaitool.records import ENTITY_KEYS_TH, TASKS
from thaitool.synth.sources import SourceRow
from thaitool.synth.translate import Rendering


def label_for(task: str, rendering: Rendering, intent_th: str | None) -> str | None:
    """The label of `rendering` for `task`; None where nobody has said it.

    `ic`: the Thai intent name. `ner`: a JSON object with the four published keys, each a list of
    surfaces in order of occurrence. `sr`: the formal written form. `asr`: what is said.
    `qa`: the answer. Source: the Thai-SUP release (arXiv 2509.14804), which has no `qa`.

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
    if task == "asr":
        return rendering.text_th
    return (rendering.rephrase_th if task == "sr" else rendering.answer_th) or None


def intent_labels(
    rows: Sequence[SourceRow], listed: Mapping[str, str], *, own: bool = False
) -> dict[str, str]:
    """The label of each intent: the Thai name of the closed list, or a name that is written in Thai itself.

    English rows whose intent has none of these are left for `label_for`; `own` takes the intent's own name instead.

    Raises:
        ConfigError: Thai rows have such intents; all of them are named.
    """
    intents = dict.fromkeys(row.intent for row in rows if row.intent)
    labels = {
        name: name for name in intents if own or any("\u0e01" <= c <= "\u0e2e" for c in name)
    } | dict(listed)
    missing = {row.intent for row in rows if row.intent and row.language == "th"} - labels.keys()
    if missing:
        raise ConfigError(
            f"{len(missing)} intents of the source have no Thai name: {', '.join(sorted(missing))}. Name them in a"
            ' file of {"record": "intent", "id": ..., "th": ...} lines (intents=FILE), or take their own names as'
            " labels (intent_names=own)."
        )
    return labels

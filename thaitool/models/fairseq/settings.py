"""Finds what a fairseq checkpoint says about its model, in omegaconf's or argparse's form, as plain dictionaries.

Judges no value and reads no weights. Where things lie: fairseq/trainer.py, models/wav2vec/wav2vec2_asr.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from thaitool.errors import InputError
from thaitool.models.fairseq.unpickle import Inert


@dataclass(frozen=True)
class Settings:
    """The sections of a checkpoint that matter, as plain dictionaries."""

    source: str
    """cfg (fairseq 1.0 and later) or args (argparse, before)."""
    model: dict[str, Any]
    """Of the wav2vec 2.0 model itself."""
    ctc: dict[str, Any] | None
    """Of the fine-tuned model around it; None for a pretrained one."""
    normalize: bool
    """Whether each recording is brought to mean 0 and variance 1."""
    diversity_weight: float


def read_settings(content: dict[Any, Any], *, what: str, ctc: bool) -> Settings:
    """Finds the settings of a checkpoint.

    Args:
        content: The whole checkpoint, as `unpickle` returns it.
        what: The file's name, for messages.
        ctc: Whether its weights are those of a CTC model.

    Raises:
        InputError: there are none, or they describe another kind of model.
    """
    source = next((s for s in ("cfg", "args") if content.get(s) is not None), None)
    root = plain(content[source], what) if source else None
    if source is None or not isinstance(root, dict):
        raise InputError(
            f"{what} must hold its settings ('cfg', or 'args' in older files), but has neither. Without them nobody"
            " knows layer_norm_first or the number of heads; take the checkpoint that training wrote."
        )
    outer = _section(root, "model")
    name = outer.get("arch") if source == "args" else outer.get("_name") or outer.get("arch")
    wanted = "wav2vec_ctc" if ctc else "wav2vec2"
    if name is not None and name != wanted:
        raise InputError(
            f"{what} must hold a wav2vec2 or wav2vec_ctc model with its weights, but says {name!r}."
        )
    inner = plain(outer.get("w2v_args"), what) if ctc else root
    if not isinstance(inner, dict):
        raise InputError(
            f"{what} must carry the settings of the encoder it was fine-tuned from (w2v_args), but does not."
        )
    normalize = _first(
        root,
        _section(inner, "task").get("normalize"),
        _section(root, "task").get("normalize"),
        outer.get("normalize"),
    )
    if not isinstance(normalize, bool):
        raise InputError(
            f"{what} must say whether audio is normalised (task.normalize), but says {normalize!r}."
        )
    weights = _section(root, "criterion").get("loss_weights")
    return Settings(
        source=source,
        model={k: _first(inner, v) for k, v in _section(inner, "model").items()},
        ctc={k: _first(root, v) for k, v in outer.items()} if ctc else None,
        normalize=normalize,
        # Two weights: of diversity, and of the features' square (wav2vec_criterion.py).
        diversity_weight=float(weights[0]) if isinstance(weights, list) and weights else 0.1,
    )


def _section(root: dict[str, Any], name: str) -> dict[str, Any]:
    """A section of cfg; args have no sections, all settings lie side by side."""
    if "model" not in root:
        return root
    section = root.get(name)
    return section if isinstance(section, dict) else {}


def _first(root: dict[str, Any], *values: Any) -> Any:
    """The first value that is there; `${task.normalize}` is omegaconf's reference to another one."""
    for value in values:
        found = value
        if isinstance(found, str) and found.startswith("${") and found.endswith("}"):
            found = root
            for part in value[2:-1].split("."):
                found = found.get(part) if isinstance(found, dict) else None
        if found is not None:
            return found
    return None


def plain(value: Any, what: str) -> Any:
    """Dictionaries, lists and scalars instead of omegaconf's and argparse's records.

    Raises:
        InputError: they are nested without end.
    """
    left = [200_000]  # a real cfg has about 1,000 values

    def convert(item: Any, depth: int) -> Any:
        left[0] -= 1
        if depth > 40 or left[0] < 0:
            raise InputError(f"{what} must hold settings, but they contain themselves.")
        if isinstance(item, dict):
            return {str(k): convert(v, depth + 1) for k, v in item.items()}
        if isinstance(item, list | tuple):
            return [convert(v, depth + 1) for v in item]
        if isinstance(item, Inert):
            return convert(_inside(item), depth + 1)
        return item

    return convert(value, 0)


def _inside(record: Inert) -> Any:
    """What a record stands for: omegaconf keeps a container's values in _content, a node's in _val."""
    state = record.state if isinstance(record.state, dict) else {}
    for place in ("_content", "_val"):
        if place in state:
            return state[place]
    if record.kind.pair == ("argparse", "Namespace"):
        return state
    # An enum of fairseq: its class, called with the value. Anything else says nothing about the model.
    return record.arguments[0] if len(record.arguments) == 1 else str(record.kind)

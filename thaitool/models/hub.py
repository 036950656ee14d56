"""Where a model lies: a directory, or a hub id that is fetched once into the Hugging Face cache. Loads nothing."""

from __future__ import annotations

import re
from pathlib import Path

from thaitool.errors import InputError

_HUB_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w./-]+))?")
#: The cache's directory of one revision: models--<owner>--<name>/snapshots/<commit>.
_SNAPSHOT = re.compile(r"models--([\w.-]+?)--([\w.-]+)")
#: Weights, configuration, tokenizer, and the card with the licence; not the other frameworks' copies that many
#: repositories also hold.
_FILES = [
    "*.json",
    "*.safetensors",
    "*.txt",
    "*.model",
    "*.jinja",
    "pytorch_model.bin",
    "README.md",
]


def locate(model: Path) -> Path:
    """The directory of a model.

    Args:
        model: A directory, or a hub id such as facebook/wav2vec2-xls-r-300m, with `@` and a commit, tag or branch after
            it to pin its revision. `runs/x` counts as a directory that is missing, and not as a hub id, where a folder
            `runs` exists.

    Raises:
        InputError: there is no such directory, and the hub does not have it or cannot be reached.
    """
    if model.exists():
        return model
    name = model.as_posix()
    asked = _HUB_ID.fullmatch(name)
    if asked is None or model.parent.exists():
        raise InputError(f"{model} must be a model or run directory, but does not exist.")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(asked[1], revision=asked[2], allow_patterns=_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            f"{name} must be a model directory or a hub id, but there is no such directory, and the hub gave:"
            f" {type(error).__name__}: {error}"
        ) from error


def fetched(model: Path) -> Path | None:
    """The directory of a hub id that `locate` fetched before, as `locate` takes it; None if there is none.

    Asks no server.
    """
    asked = _HUB_ID.fullmatch(model.as_posix())
    if asked is None:
        return None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(asked[1], revision=asked[2], local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError):
        return None


def hub_source(model: Path) -> tuple[str, str] | None:
    """Hub id and commit of a directory of the cache, which is where `locate` puts hub models; None for any other."""
    commit, folder = model.name, model.parent.parent.name
    found = _SNAPSHOT.fullmatch(folder)
    if found is None or model.parent.name != "snapshots":
        return None
    return f"{found[1]}/{found[2]}", commit

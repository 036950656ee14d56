"""Models of the hub by id and pinned revision, from a cache directory laid out as the hub's own client does it."""

from __future__ import annotations

import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest

from tests import llms
from thaitool.errors import InputError
from thaitool.models.checkpoint import load_speech_lm, locate_base, read_base
from thaitool.models.hub import hub_source, locate

OLD, NEW = "1" * 40, "2" * 40


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with two revisions of one LLM, of which `main` is the newer; nothing can be downloaded."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "cache" / "models--thai--tiny-llm"
    for commit in (OLD, NEW):
        llms.llm_directory(repository / "snapshots" / commit, num_hidden_layers=1 + (commit == NEW))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(NEW)
    (repository / "refs" / "v1").write_text(OLD)
    return repository


def test_a_revision_is_what_was_asked_for(cache: Path) -> None:
    snapshots = cache / "snapshots"
    assert locate(Path("thai/tiny-llm")) == snapshots / NEW
    assert locate(Path("thai/tiny-llm@v1")) == snapshots / OLD
    assert locate(Path(f"thai/tiny-llm@{OLD}")) == snapshots / OLD
    for name in ("thai/other", f"thai/tiny-llm@{'3' * 40}"):
        with pytest.raises(InputError, match=f"{name} must be a model directory or a hub id"):
            locate(Path(name))


def test_a_directory_of_the_cache_knows_where_it_is_from(cache: Path, tmp_path: Path) -> None:
    assert hub_source(cache / "snapshots" / OLD) == ("thai/tiny-llm", OLD)
    assert hub_source(tmp_path) is None
    assert hub_source(tmp_path / "snapshots" / "x") is None


def test_a_checkpoint_brings_back_the_revision_it_was_trained_with(
    cache: Path, tmp_path: Path
) -> None:
    """Also when the cache lies elsewhere now, and `main` has moved on."""
    llm = locate(Path("thai/tiny-llm@v1"))
    path = llms.save(tmp_path / "checkpoint", *llms.speech_lm(llm), llm)
    base = read_base(path)
    assert base["hub"] == {"id": "thai/tiny-llm", "revision": OLD}
    moved = tmp_path / "elsewhere" / "models--thai--tiny-llm"
    moved.parent.mkdir()
    shutil.move(cache, moved)
    with pytest.raises(InputError, match=rf"thai/tiny-llm@{OLD} must be a model directory"):
        load_speech_lm(path)
    huggingface_hub.constants.HF_HUB_CACHE = str(moved.parent)
    assert locate_base(path) == moved / "snapshots" / OLD
    model, _ = load_speech_lm(path)
    assert model.language_model.config.num_hidden_layers == 1

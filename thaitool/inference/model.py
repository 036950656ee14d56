"""A model in a Python program: `load` once, then call it with recordings. Writes nothing."""

from __future__ import annotations

from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, overload

import numpy as np

from thaitool.config import InferConfig
from thaitool.config.sections import Decoding
from thaitool.errors import ConfigError, InputError
from thaitool.inference.answering import Answer, answers
from thaitool.inference.engine import Engine, Request, Sampling, load_engine
from thaitool.inference.sources import recordings
from thaitool.text.context import Context
from thaitool.training.run_dir import resolve

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    _One: TypeAlias = str | PathLike[str] | NDArray[np.float32]


#: Keys that say what is loaded, and so are for `load` alone.
_LOADED = frozenset(
    {"model", "llm", "llm_dtype", "drafter", "device", "rows", *Decoding.model_fields}
)


class Model:
    """A loaded model that is called with recordings; it is for one thread at a time."""

    def __init__(self, engine: Engine, settings: dict[str, Any]) -> None:
        """Takes an engine, and the settings of every call."""
        self.engine, self._settings = engine, settings

    @overload
    def __call__(self, audio: _One, **asked: Any) -> Answer: ...

    @overload
    def __call__(self, audio: Sequence[str | PathLike[str]], **asked: Any) -> list[Answer]: ...

    def __call__(
        self, audio: _One | Sequence[str | PathLike[str]], **asked: Any
    ) -> Answer | list[Answer]:
        """The answer about one recording, or the answers about several, `text` and `error` among their fields.

        Args:
            audio: The path of a sound file, samples of shape (N,) at 16 kHz, or a list of paths, which may also be
                those of directories and lists. Samples are heard as one clip: only files are cut.
            asked: Keys of `InferConfig`: task, prompt, hotwords, scene, history, temperature, ...

        Raises:
            ConfigError: a key is unknown, or one of `load`, or a value wrong.
            InputError: samples, or a task, that the model cannot answer about; or one path with several recordings.
        """
        if late := sorted(_LOADED & asked.keys()):
            raise ConfigError(f"{', '.join(late)} must be given to load, not with a recording.")
        if isinstance(audio, np.ndarray):
            return self._about_samples(audio, _config(self._settings | asked | {"audio": ["-"]}))
        if isinstance(audio, str | PathLike):
            found = self([audio], **asked)
            if len(found) != 1:
                raise InputError(
                    f"{fspath(audio)} must be one sound file, but has {len(found)} recordings. Give it in a list."
                )
            return found[0]
        paths = [Path(fspath(path)) for path in audio]
        config = _config(self._settings | asked | {"audio": paths})
        return list(answers(self.engine, config, recordings(paths, split=config.split)))

    def _about_samples(self, samples: NDArray[np.float32], config: InferConfig) -> Answer:
        request = Request(
            samples,
            config.task or "asr",
            config.prompt,
            Context(tuple(config.hotwords), config.scene, tuple(config.history)),
            Sampling(config.temperature, config.top_p, config.seed, config.max_new_tokens),
            config.form,
            tuple(config.labels),
        )
        (reply,) = self.engine.answer([request])
        return Answer(
            "-", request.task, reply.text, reply.stopped, round(reply.audio_s, 3), reply.seconds
        )


def load(path: str | PathLike[str], **settings: Any) -> Model:
    """The model of a run or model directory, to be called with recordings.

    Args:
        path: What `finetune` or `finetune --head` made.
        settings: Keys of `InferConfig` for every call: llm, llm_dtype, device, rows, task, ...

    Raises:
        ConfigError: a key is unknown or a value wrong.
        InputError: it is no model, or damaged.
        EnvironmentProblem: CUDA was asked for and there is none.
    """
    if "audio" in settings:
        raise ConfigError("load takes no audio: call what it returns with the recordings.")
    values = {"model": Path(path), **settings}
    config = _config(values | {"audio": ["-"]})
    place = resolve(config.model)
    if not place.exists():
        raise InputError(f"{place} must be a model directory, but does not exist.")
    return Model(load_engine(place, config, max_rows=config.rows), values)


def _config(values: dict[str, Any]) -> InferConfig:
    from pydantic import ValidationError

    try:
        return InferConfig.model_validate(values)
    except ValidationError as error:
        said = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"The settings of the model have mistakes: {said}.") from error

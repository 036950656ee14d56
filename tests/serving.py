"""A server in this process for tests: tiny models, a free port, a thread. Holds no tests."""

from __future__ import annotations

import base64
import io
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile
import uvicorn

from tests import tiny
from thaitool.inference.engine import Engine
from thaitool.models.answerer import Answerer
from thaitool.models.generate import Decoder
from thaitool.serving.app import Service, application
from thaitool.serving.gate import Rules
from thaitool.serving.measures import new_measures
from thaitool.serving.scheduler import Scheduler
from thaitool.text.tasks import BUILT_IN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

RULES: dict[str, Any] = {
    "key": None,
    "only_loopback_names": True,
    "max_requests": 64,
    "max_bytes": 3_000_000,
}


def engine(base: Path, max_rows: int = 4) -> Engine:
    """Of an untrained speech LLM, whose answers differ with what it hears."""
    model, processor = tiny.speech_lm(tiny.llm_directory(base / "llm"))
    answerer = Answerer(
        answer=lambda *_: [],  # of recognisers alone
        normalises=model.audio_tower.normalises,
        longest_s=None,
        decoder=Decoder(model, processor),
    )
    return Engine(answerer, name="tiny", tasks=dict(BUILT_IN), max_rows=max_rows)


def clip(seed: int, seconds: float = 0.5) -> NDArray[np.float32]:
    """A gliding tone in noise, shape (N,), 16 kHz."""
    rng = np.random.default_rng(seed)
    n = int(seconds * 16_000)
    first_hz, last_hz = rng.uniform(80, 400, 2).tolist()
    tone = np.sin(2 * np.pi * np.cumsum(np.linspace(first_hz, last_hz, n)) / 16_000)
    samples: NDArray[np.float32] = (0.3 * tone + 0.05 * rng.standard_normal(n)).astype("f4")
    return samples


def sound(samples: NDArray[np.float32], form: str = "WAV") -> bytes:
    """A sound file of 16-bit samples (MP3: what it makes of them)."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, 16_000, format=form)
    return buffer.getvalue()


def base64_of(content: bytes) -> str:
    """As JSON carries bytes."""
    return base64.b64encode(content).decode("ascii")


@contextmanager
def serving(
    engine: Engine,
    *,
    rules: dict[str, Any] | None = None,
    watch: Callable[[Service], None] = lambda _: None,
    **changes: Any,
) -> Iterator[str]:
    """`http://127.0.0.1:PORT` of a server; `rules` and `changes` differ from what most tests want."""
    measures = new_measures()
    values: dict[str, Any] = {
        "name": "tiny",
        "tasks": engine.tasks,
        "takes_prompts": True,
        "scheduler": Scheduler(engine, measures),
        "measures": measures,
        "rules": Rules(**{**RULES, **(rules or {})}),
        "started": 0,
        "longest_upload_s": 60.0,
        "longest_clip_s": 5.0,
        "max_new_tokens": 12,
        "timeout_s": 30.0,
        "grace_s": 5.0,
    }
    service = Service(**{**values, **changes})
    watch(service)
    config = uvicorn.Config(application(service), port=0, log_level="error", access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive(), "the server did not stop"

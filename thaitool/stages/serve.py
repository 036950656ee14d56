"""A model behind HTTP until the process is told to stop; what runs then is finished. Prints nothing."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import signal
import socket
import time
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from thaitool.audio.decode import SAMPLE_RATE_HZ
from thaitool.errors import ConfigError, EnvironmentProblem
from thaitool.inference.engine import Request, Sampling, load_engine
from thaitool.training.run_dir import resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from thaitool.config.serve import ServeConfig
    from thaitool.inference.engine import Engine
    from thaitool.serving.app import Service

#: Connections that the system holds until the server takes them.
_BACKLOG = 2048


def run(config: ServeConfig, ready: Callable[[str, bool], None]) -> int:
    """Serves until SIGINT or SIGTERM; a second signal ends at once.

    Args:
        config: Which model, where.
        ready: Told the URL, and whether everybody who reaches it may ask, once requests are taken.

    Returns:
        How many requests it had in hand at the end and did not answer.

    Raises:
        ConfigError: it would listen beyond this machine without a key.
        InputError: the model directory is none.
        EnvironmentProblem: a library of the extra `serve` is missing, or the address cannot be had.
    """
    _require_libraries()
    # What a file or a shell leaves around a key is not of it; no client could send it.
    key = os.environ.get(config.api_key_variable, "").strip() or None
    is_loopback = _is_loopback(config.host)
    if not (is_loopback or key or config.open):
        raise ConfigError(
            f"A server on {config.host} answers other machines: set {config.api_key_variable} to a key that clients"
            " must send, or say --open if everybody may ask."
        )
    with _listening(config.host, config.port) as listener:
        path = resolve(config.model)
        engine = load_engine(path, config, max_rows=config.rows)
        _answer_once(engine)
        service = _service(config, engine, key)
        return _serve(service, listener, ready, is_open=key is None and not is_loopback)


def _serve(
    service: Service,
    listener: socket.socket,
    ready: Callable[[str, bool], None],
    *,
    is_open: bool,
) -> int:
    import uvicorn

    from thaitool.serving.app import application

    # What is wrong with a form is told to who sent it.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    gate = application(service)
    settings = uvicorn.Config(
        gate,
        log_config=None,
        # Our own answers say what went wrong; only what nobody expected is logged.
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=max(1, round(service.grace_s)),
        # Whatever a client is named, the gate looks at the connection alone.
        proxy_headers=False,
        ws="none",
    )

    class Server(uvicorn.Server):
        """Ends with code 0 when it is told to, where uvicorn would raise the signal again."""

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            numbers = (signal.SIGINT, signal.SIGTERM)
            before = {n: signal.signal(n, self.handle_exit) for n in numbers}
            try:
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)

        def handle_exit(self, *_: Any) -> None:
            # uvicorn would let SIGTERM come as often as it likes, and leave the model's thread behind at SIGINT.
            if self.should_exit:
                asyncio.get_running_loop().call_soon_threadsafe(self.cut_off)
            self.should_exit = True

        def cut_off(self) -> None:
            for task in self.server_state.tasks:
                task.cancel()

        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            if self.started:
                ready(_url(listener), is_open)

    with _logging():
        asyncio.run(Server(settings).serve([listener]))
    return gate.cut_off


@contextmanager
def _logging() -> Iterator[None]:
    """What the server logs goes where stderr goes now: while an MP3 is decoded, stderr itself goes nowhere."""
    with os.fdopen(os.dup(2), "w", encoding="utf-8") as stream:
        handler = logging.StreamHandler(stream)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        loggers = [logging.getLogger(name) for name in ("uvicorn", "thaitool.serving")]
        for logger in loggers:
            logger.addHandler(handler)
        try:
            yield
        finally:
            for logger in loggers:
                logger.removeHandler(handler)


def _service(config: ServeConfig, engine: Engine, key: str | None) -> Service:
    from thaitool.serving.app import Service
    from thaitool.serving.gate import Rules
    from thaitool.serving.measures import new_measures
    from thaitool.serving.scheduler import Scheduler

    is_llm = engine.model.decoder is not None
    measures = new_measures()
    rules = Rules(
        key,
        only_loopback_names=_is_loopback(config.host) and key is None and not config.open,
        max_requests=config.max_requests,
        max_bytes=round(config.max_upload_mb * 1e6),
        body_patience_s=config.body_s,
    )
    return Service(
        name=config.name or config.model.absolute().name,
        # A recogniser only transcribes.
        tasks=engine.tasks if is_llm else {"asr": engine.tasks["asr"]},
        takes_prompts=is_llm,
        scheduler=Scheduler(engine, measures),
        measures=measures,
        rules=rules,
        started=int(time.time()),
        longest_upload_s=config.max_audio_s,
        longest_clip_s=min(config.split_s, engine.longest_s or config.split_s),
        max_new_tokens=config.max_new_tokens,
        timeout_s=config.timeout_s,
        grace_s=config.grace_s,
    )


def _answer_once(engine: Engine) -> None:
    """Noise in, whatever out: a model that cannot answer is found before anybody asks, and libraries are warm."""
    noise = np.random.default_rng(0).standard_normal(SAMPLE_RATE_HZ).astype(np.float32)
    engine.answer([Request(0.01 * noise, sampling=Sampling(max_new_tokens=2))])


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """A bound socket: whether the port is free is known before a model is loaded for minutes."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    except OSError as error:
        raise _no_address(host, port, error) from error
    with listener:
        try:
            listener.bind(address)
            # Two that only bind a port do not notice each other until both have loaded a model.
            listener.listen(_BACKLOG)
        except OSError as error:
            raise _no_address(host, port, error) from error
        yield listener


def _no_address(host: str, port: int, error: OSError) -> EnvironmentProblem:
    return EnvironmentProblem(
        f"The server must be able to listen on {host}, port {port}, but cannot: {error.strerror or error}. Choose"
        " another --port, or --port 0 for a free one."
    )


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    shown = "localhost" if ipaddress.ip_address(host).is_unspecified else host
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # another name: whoever can reach it
        return False


def _require_libraries() -> None:
    for name in ("fastapi", "uvicorn", "python_multipart", "prometheus_client"):
        if find_spec(name) is None:
            raise EnvironmentProblem(
                f"A server needs {name}. Install the extra: pip install 'thaitool[serve]'."
            )

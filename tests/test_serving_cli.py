"""`thaitool infer --serve` and its stage: where it listens, who may ask, and how it stops."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from tests import serving, tiny
from tests.test_models_recogniser import recogniser
from thaitool.audio.decode import _no_stderr
from thaitool.cli import serve as cli_serve
from thaitool.cli.console import guarded
from thaitool.cli.main import app
from thaitool.config import InferConfig, ServeConfig
from thaitool.errors import ConfigError, EnvironmentProblem
from thaitool.inference.engine import Engine
from thaitool.models.checkpoint import save_checkpoint, weights_sha256
from thaitool.models.recogniser import save_recogniser
from thaitool.stages import infer, serve

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

EVERYWHERE = "0.0.0.0"  # noqa: S104 (what is tested is that this is not done lightly)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory."""
    base = tmp_path_factory.mktemp("cli")
    llm = tiny.llm_directory(base / "llm")
    speech_lm, processor = tiny.speech_lm(llm)
    save_checkpoint(
        base / "slm",
        config=speech_lm.config,
        audio_tower=speech_lm.audio_tower,
        projector=speech_lm.multi_modal_projector,
        processor=processor,
        llm=llm,
        llm_sha256=weights_sha256(llm),
    )
    return base / "slm"


def served(config: ServeConfig, ask: Callable[[str, bool], None]) -> None:
    """Runs the stage in this thread, asks from another, and sends SIGTERM."""
    failures: list[BaseException] = []

    def main(url: str, is_open: bool) -> None:
        try:
            ask(url, is_open)
        except BaseException as error:  # noqa: BLE001 (raised below, in the thread of the test)
            failures.append(error)
        os.kill(os.getpid(), signal.SIGTERM)

    def ready(url: str, is_open: bool) -> None:
        threading.Thread(target=main, args=(url, is_open)).start()

    serve.run(config, ready)
    if failures:
        raise failures[0]


def post(url: str, **fields: str) -> httpx2.Response:
    sound = {"file": ("a.wav", serving.sound(serving.clip(0)))}
    return httpx2.post(url + "/v1/audio/transcriptions", files=sound, data=fields, timeout=60)


@pytest.mark.usefixtures("signals")
def test_sigterm_lets_it_finish_what_it_has_and_take_nothing_new(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tell, texts, late = cli_serve._tell, list[str](), list[str]()

    def asking(url: str) -> None:
        assert httpx2.get(url + "/ready").json() == {"status": "ready"}
        asked = threading.Thread(
            target=lambda: texts.append(post(url, temperature="1.9", seed="1", stream="true").text)
        )
        asked.start()
        while "thaitool_open_requests 1.0" not in httpx2.get(url + "/metrics").text:
            assert asked.is_alive(), texts
        os.kill(os.getpid(), signal.SIGTERM)
        while asked.is_alive():
            try:
                late.append(str(httpx2.get(url + "/health").status_code))
            except httpx2.ConnectError:
                late.append("refused")

    def told(url: str, is_open: bool) -> None:
        tell(url, is_open)
        threading.Thread(target=asking, args=(url,)).start()

    monkeypatch.setattr(cli_serve, "_tell", told)
    command = ["infer", "--serve", "--port", "0", "--model", str(model), "--max-new-tokens", "400"]
    assert guarded(lambda: app(command, prog_name="thaitool", standalone_mode=False)) == 0
    said = capsys.readouterr().err
    assert re.search(r"Serving on http://127\.0\.0\.1:\d+ ", said)
    assert said.endswith("thaitool: Stopped; what was in hand is answered.\n")
    assert '"transcript.text.done"' in texts[0]
    assert "refused" in late


def test_a_stop_takes_no_longer_than_the_time_of_grace(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, stopped_at = Engine.step, list[float]()

    def slowly(engine: Engine) -> Any:
        time.sleep(0.05)
        return step(engine)

    def ask(url: str, _: bool) -> None:
        monkeypatch.setattr(Engine, "step", slowly)  # 1000 tokens are 50 s now
        asking = threading.Thread(target=lambda: caught(url))
        asking.start()
        while "thaitool_open_requests 1.0" not in httpx2.get(url + "/metrics").text:
            assert asking.is_alive()
        stopped_at.append(time.monotonic())

    def caught(url: str) -> None:
        with pytest.raises(httpx2.HTTPError):
            post(url, temperature="1.9", stream="true").raise_for_status()

    config = tiny.make(ServeConfig, model=model, port=0, max_new_tokens=1000, grace_s=1.0)
    served(config, ask)
    assert 0.5 < time.monotonic() - stopped_at[0] < 15


def test_beyond_this_machine_it_wants_a_key_or_to_be_told(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("THAITOOL_API_KEY", raising=False)
    config = tiny.make(ServeConfig, model=model, host=EVERYWHERE, port=0)
    with pytest.raises(ConfigError, match="set THAITOOL_API_KEY to a key"):
        serve.run(config, lambda *_: None)

    def without_key(url: str, is_open: bool) -> None:
        assert is_open
        assert httpx2.get(url + "/v1/models", headers={"Host": "any.example"}).status_code == 200

    served(config.model_copy(update={"open": True}), without_key)

    def with_key(url: str, is_open: bool) -> None:
        assert not is_open
        assert httpx2.get(url + "/v1/models").status_code == 401
        right = {"Authorization": "Bearer k"}
        assert httpx2.get(url + "/v1/models", headers=right).status_code == 200

    monkeypatch.setenv("THAITOOL_API_KEY", "k")
    served(config, with_key)


def test_a_recogniser_is_served_as_what_it_is(tmp_path: Path) -> None:
    save_recogniser(tmp_path / "ctc", recogniser("wav2vec2-bert", aed=False))
    path = tmp_path / "a.wav"
    path.write_bytes(serving.sound(serving.clip(0)))
    offline = infer.run(tiny.make(InferConfig, model=tmp_path / "ctc", audio=[path]))
    (expected,) = [answer.text for answer in offline]

    def ask(url: str, _: bool) -> None:
        listed = httpx2.get(url + "/v1/models").json()["data"][0]
        assert (listed["id"], listed["tasks"], listed["prompts"]) == ("ctc", ["asr"], False)
        assert post(url).json()["text"] == expected
        refused = post(url, task="ic")
        assert (refused.status_code, "only transcribes" in refused.text) == (400, True)
        for field in ({"hotwords": "ขอนแก่น"}, {"prompt": "ครับ"}, {"temperature": "1"}):
            unheard = post(url, **field)  # it would change nothing
            assert (unheard.status_code, "is a recogniser" in unheard.text) == (400, True)

    served(tiny.make(ServeConfig, model=tmp_path / "ctc", port=0), ask)


def test_a_port_that_is_taken_is_said_before_a_model_is_loaded(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(EnvironmentProblem, match="Choose another --port"):
            serve.run(tiny.make(ServeConfig, model=tmp_path, port=port), lambda *_: None)


def test_of_two_servers_on_one_port_the_second_is_told_at_once() -> None:
    """Both are loading their models; neither takes requests yet."""
    with serve._listening("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(EnvironmentProblem, match="Choose another --port"):  # noqa: SIM117
            with serve._listening("127.0.0.1", port):
                pass


def test_what_is_logged_is_seen_while_an_mp3_is_decoded(capfd: pytest.CaptureFixture[str]) -> None:
    with serve._logging(), _no_stderr():
        logging.getLogger("thaitool.serving").error("The model failed.")
        logging.getLogger("uvicorn.error").error("So did the server.")
    said = capfd.readouterr().err
    assert "thaitool.serving: The model failed." in said
    assert "uvicorn.error: So did the server." in said


@pytest.mark.usefixtures("signals")
def test_a_second_sigterm_ends_at_once_and_what_is_cut_off_is_said(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step, tell, ended_s = Engine.step, cli_serve._tell, list[float]()

    def slowly(engine: Engine) -> Any:
        time.sleep(0.02)
        return step(engine)

    def asking(url: str) -> None:
        monkeypatch.setattr(Engine, "step", slowly)  # 2000 tokens are 40 s now
        asked = threading.Thread(target=lambda: caught(url))
        asked.start()
        while "thaitool_open_requests 1.0" not in httpx2.get(url + "/metrics").text:
            assert asked.is_alive()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.5)
        ended_s.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGTERM)

    def caught(url: str) -> None:
        with pytest.raises(httpx2.HTTPError):
            post(url, temperature="1.9", stream="true").raise_for_status()

    def told(url: str, is_open: bool) -> None:
        tell(url, is_open)
        threading.Thread(target=asking, args=(url,)).start()

    monkeypatch.setattr(cli_serve, "_tell", told)
    command = ["infer", "--serve", "--port", "0", "--model", str(model), "--max-new-tokens", "2000"]
    assert guarded(lambda: app(command, prog_name="thaitool", standalone_mode=False)) == 0
    said = capsys.readouterr().err
    assert "thaitool: Stopped; 1 requests in hand got no answer." in said
    assert "Traceback" not in said
    assert time.monotonic() - ended_s[0] < 10  # of 30 s of grace


@pytest.mark.usefixtures("signals")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--serve", "--task", "ic", "--text"], "must stand without --task, --text;"),
        (["--serve", "--temperature", "0"], "must stand without --temperature;"),
        (["--serve", "a.wav"], "must stand without audio;"),
        (["--port", "1", "a.wav"], "say --serve, or leave them out"),
        (["--serve", "--port", "70000"], "option --port: 'port': Input should be less than"),
    ],
)
def test_options_that_do_not_go_together_are_named(
    capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    command = ["infer", "--model", "m", *options]
    assert guarded(lambda: app(command, prog_name="thaitool", standalone_mode=False)) == 2
    assert words in capsys.readouterr().err

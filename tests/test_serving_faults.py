"""What must not spread from one request to the next: places, mistakes, memory, text in another encoding."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx2
import numpy as np
import pytest
import soundfile

from tests import serving
from tests.test_serving_limits import (
    CLIP,
    TRANSCRIBE,
    connection,
    error_of,
    eventually,
    head,
    outcomes,
    post,
    slow,
)
from thaitool.audio.decode import decode
from thaitool.inference.request import Request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from thaitool.inference.engine import Engine


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Engine]:
    """New engines with the same weights: one thread may own one."""
    return lambda: serving.engine(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def url(engines: Callable[[], Engine]) -> Iterator[str]:
    with serving.serving(engines()) as address:
        yield address


def test_those_who_are_refused_keep_no_place(engines: Callable[[], Engine]) -> None:
    """A refusal waits a while for what its client still sends; others are let in meanwhile."""
    rules = {"key": "k", "only_loopback_names": False, "max_requests": 1}
    with serving.serving(engines(), rules=rules) as url, connection(url) as raw:
        raw.sendall(head("Content-Length: 1000"))
        assert b"401" in raw.recv(10_000)
        right = {"Authorization": "Bearer k"}
        sound = {"file": ("a.wav", CLIP)}
        assert httpx2.post(url + TRANSCRIBE, files=sound, headers=right).status_code == 200


def test_a_mistake_of_the_server_is_told_and_counted_as_one(
    engines: Callable[[], Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        raise OSError("No space left on device")

    monkeypatch.setattr("thaitool.serving.app.upload", full)
    with serving.serving(engines()) as url:
        response = post(url)
        assert (response.status_code, error_of(response)["code"]) == (500, "failed")
        assert "space" not in response.text
        eventually(lambda: outcomes(url) == {"failed": 1}, "it was not counted")


def test_a_sound_of_many_channels_is_refused_before_it_is_decoded(url: str) -> None:
    """Silent channels cost no bytes in Ogg, but each costs as much time as a recording of its own."""
    buffer = io.BytesIO()
    many = np.zeros((16_000, 32), np.float32)
    many[:, 0] = serving.clip(0, 1.0)
    soundfile.write(buffer, many, 16_000, format="OGG")
    response = post(url, buffer.getvalue())
    assert (response.status_code, error_of(response)["code"]) == (400, "channels")
    assert "has 32" in response.text


def test_text_that_is_no_utf8_is_not_guessed_at(url: str) -> None:
    """Thai in TIS-620 would be hotwords in Latin letters."""

    def said(value: bytes, kind: str = "multipart/form-data; boundary=b") -> httpx2.Response:
        field = b'--b\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
        body = field % (b"scene", b"", value)
        body += field % (b"file", b'; filename="a.wav"', CLIP) + b"--b--\r\n"
        return httpx2.post(url + TRANSCRIBE, content=body, headers={"Content-Type": kind})

    assert said("โทรศัพท์".encode()).status_code == 200
    for kind in ("utf-7", "idna", "tis-620"):  # the client's word for it counts as little
        named = f"multipart/form-data; boundary=b; charset={kind}"
        assert said("โทรศัพท์".encode(), named).status_code == 200
    refused = said("โทรศัพท์".encode("tis-620"))
    assert (refused.status_code, error_of(refused)["code"]) == (400, "not_utf8")


def test_labels_have_a_limit_and_are_not_kept_for_ever(engines: Callable[[], Engine]) -> None:
    model = engines()
    with serving.serving(model) as url:
        many = [str(n) for n in range(1001)]
        refused = post(url, form="labels", labels=many)
        assert (refused.status_code, error_of(refused)["param"]) == (400, "labels")
        for n in range(40):
            model.check(Request(decode(CLIP, "a"), form="labels", labels=(f"ป้าย{n}",)))
        assert len(model._forms) <= 32
        assert post(url, form="labels", labels=["ป้าย0", "ป้าย1"]).json()["text"] in {"ป้าย0", "ป้าย1"}


def test_a_thread_that_dies_answers_those_who_wait(
    engines: Callable[[], Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: Any) -> Any:
        raise KeyError("a mistake of the scheduler's own")

    monkeypatch.setattr("thaitool.serving.scheduler.Scheduler._take_in", dies)
    with serving.serving(engines()) as url:
        for _ in range(2):
            refused = post(url)
            assert (refused.status_code, error_of(refused)["code"]) == (503, "stopping")
        assert httpx2.get(url + "/ready").status_code == 503


def test_nobody_waits_when_all_have_left(engines: Callable[[], Engine]) -> None:
    with serving.serving(slow(engines(), 0.2), timeout_s=0.5) as url, ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: post(url).status_code, range(8)))
        assert 504 in found
        eventually(
            lambda: "thaitool_waiting_clips 0.0" in httpx2.get(url + "/metrics").text,
            "clips that were given up still count as waiting",
        )

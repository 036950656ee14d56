"""What the server refuses, and what it stands: crowds, slow clients, clients that leave, a failing model."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx2
import numpy as np
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import serving
from thaitool.audio.decode import decode
from thaitool.inference.engine import Engine
from thaitool.inference.request import Request, Sampling
from thaitool.serving.asked import chat_asked, transcription_asked
from thaitool.serving.refusal import Refusal

CLIP = serving.sound(serving.clip(0))
TRANSCRIBE = "/v1/audio/transcriptions"
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Engine]:
    """New engines with the same weights: one thread may own one."""
    return lambda: serving.engine(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def url(engines: Callable[[], Engine]) -> Iterator[str]:
    with serving.serving(engines()) as address:
        yield address


def slow(engine: Engine, step_s: float = 0.05) -> Engine:
    """The same engine, taking its time."""
    step = engine.step

    def stepping() -> Any:
        time.sleep(step_s)
        return step()

    engine.step = stepping  # type: ignore[method-assign]
    return engine


def post(url: str, content: bytes = CLIP, **fields: Any) -> httpx2.Response:
    return httpx2.post(
        url + TRANSCRIBE, files={"file": ("a.wav", content)}, data=fields, timeout=60
    )


def outcomes(url: str) -> dict[str, float]:
    """How many requests ended how, whatever the endpoint."""
    text = httpx2.get(url + "/metrics").text
    found: dict[str, float] = {}
    for outcome, count in re.findall(r'thaitool_requests_total\{.*outcome="(.*)"\} (\S+)', text):
        found[outcome] = found.get(outcome, 0) + float(count)
    return found


def eventually(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def error_of(response: httpx2.Response) -> dict[str, Any]:
    """The error, which has the shape of OpenAI's."""
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"].endswith(".")
    return error


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "empty"),
        ("สวัสดี ไม่ใช่เสียง\n".encode() * 100, "unreadable"),
        (b"\x1aE\xdf\xa3" + bytes(2000), "unreadable"),  # how a WebM begins
        (CLIP[:5000], "truncated"),
        (serving.sound(np.zeros(16_000, np.float32)), "silent"),
        (serving.sound(serving.clip(0, 0.05)), "too_short"),
        (serving.sound(serving.clip(0, 61.0)), "too_long"),
        # 20 kB that would be an hour.
        (serving.sound(np.zeros(16_000 * 3600, np.float32), "FLAC"), "too_long"),
    ],
)
def test_what_is_no_usable_sound_is_refused_with_its_reason(
    url: str, content: bytes, code: str
) -> None:
    response = post(url, content)
    assert response.status_code == (413 if code == "too_long" else 400)
    error = error_of(response)
    assert (error["code"], error["param"], error["type"]) == (code, "file", "invalid_request_error")
    assert "a.wav" in error["message"]


@pytest.mark.parametrize(
    ("fields", "param", "sentence"),
    [
        ({"task": "fly"}, None, "A task must be one of asr"),
        ({"language": "en"}, "language", "language must be left at its default here, but is 'en'"),
        ({"temperature": "9"}, "temperature", "less than or equal to 2, but is '9'"),
        ({"response_format": "xml"}, "response_format", "but is 'xml'"),
        ({"response_format": "srt", "stream": "true"}, "response_format", "A stream is of json"),
        ({"timestamp_granularities[]": "word"}, "timestamp_granularities", "ask for segment"),
        ({"timestamp_granularities[]": "segment"}, "timestamp_granularities", "verbose_json"),
        ({"include[]": "logprobs"}, "include[]", "not known here"),
        ({"scene": "ก" * 20_001}, None, "20000 characters at most"),
        ({"hotwords": "<|audio|>"}, None, "must not contain <|audio|>"),
    ],
)
def test_fields_that_are_wrong_are_named(
    url: str, fields: dict[str, str], param: str | None, sentence: str
) -> None:
    response = post(url, CLIP, **fields)
    assert response.status_code == 400
    error = error_of(response)
    assert error["param"] == param
    assert sentence in error["message"]


def chat(**changes: Any) -> dict[str, Any]:
    sound = {"data": serving.base64_of(CLIP), "format": "wav"}
    parts = [{"type": "input_audio", "input_audio": sound}, {"type": "text", "text": "?"}]
    return {"model": "tiny", "messages": [{"role": "user", "content": parts}], **changes}


def of_parts(*parts: dict[str, Any], role: str = "user") -> dict[str, Any]:
    return chat(messages=[{"role": role, "content": list(parts)}])


AUDIO: dict[str, Any] = chat()["messages"][0]["content"][0]
TEXT = {"type": "text", "text": "?"}


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("{", "The body must be JSON"),
        ("[]", "is wrong"),
        (chat(messages=[]), "messages is wrong"),
        (of_parts(TEXT), "must have one input_audio part, but has 0"),
        (of_parts(AUDIO, AUDIO, TEXT), "must have one input_audio part, but has 2"),
        (of_parts(AUDIO), "a text part that says what to do, or the request a task"),
        (of_parts(AUDIO, TEXT, role="assistant"), "The last message must be the user's"),
        (of_parts({**AUDIO, "input_audio": {"data": "%%%", "format": "wav"}}, TEXT), "base64"),
        (of_parts({**AUDIO, "input_audio": {"data": "aGVqIQ==", "format": "wav"}}, TEXT), "unreadable"),
        (of_parts({"type": "image_url", "image_url": {"url": "x"}}, TEXT), "messages.0.content"),
        (chat(messages=[{"role": "system", "content": "x"}, *chat()["messages"]]), "field scene"),
        (chat(messages=[*chat()["messages"], *chat()["messages"]]), "Only the last message may"),
        (chat(n=2), "n is wrong"),
        (chat(tools=[]), "tools is not known here"),
        (chat(max_tokens=13), "max_tokens must be 12 at most here, but is 13"),
        (chat(max_tokens=3, max_completion_tokens=4), "are the same here, but differ"),
        (chat(seed=-1), "seed is wrong"),
        (chat(temperature="NaN"), "temperature is wrong"),
    ],
)  # fmt: skip
def test_bodies_that_are_wrong_are_explained(url: str, body: Any, sentence: str) -> None:
    content = body if isinstance(body, str) else json.dumps(body)
    response = httpx2.post(url + CHAT, content=content)
    assert response.status_code == 400
    assert sentence in error_of(response)["message"]


def test_other_requests_are_refused_in_the_same_shape(url: str) -> None:
    assert error_of(httpx2.get(url + "/v1/embeddings"))["code"] == "not_found"
    assert httpx2.get(url + TRANSCRIBE).status_code == 405
    slash = httpx2.post(url + TRANSCRIBE + "/", content=bytes(100_000))
    assert (slash.status_code, error_of(slash)["code"]) == (404, "not_found")
    no_form = httpx2.post(url + TRANSCRIBE, content=b"x")
    assert (no_form.status_code, error_of(no_form)["param"]) == (400, "file")
    torn = httpx2.post(
        url + TRANSCRIBE, content=b"x", headers={"Content-Type": "multipart/form-data"}
    )
    assert (torn.status_code, "form" in error_of(torn)["message"]) == (400, True)
    wrong = post(url, model="whisper-1")
    assert (wrong.status_code, error_of(wrong)["code"]) == (404, "model_not_found")
    twice = httpx2.post(
        url + TRANSCRIBE,
        files=[("file", ("a", CLIP)), ("task", (None, "ic")), ("task", (None, "sr"))],
    )
    assert "task must be given once" in error_of(twice)["message"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda below: (
        st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=9), below, max_size=3)
    ),
    max_leaves=9,
)
NAMES = st.sampled_from(["messages", "task", "stream", "temperature", "hotwords", "n", "seed", "x"])


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=50) | st.dictionaries(NAMES, JSON).map(lambda b: json.dumps(b).encode()))
def test_no_body_gets_past_the_reader_but_as_a_refusal(body: bytes) -> None:
    with pytest.raises(Refusal) as caught:
        chat_asked(body)
    assert caught.value.status == 400


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(NAMES | st.text(max_size=9), st.text(max_size=9)), max_size=5))
def test_no_form_gets_past_the_reader_but_whole_or_as_a_refusal(
    pairs: list[tuple[str, str]],
) -> None:
    try:
        asked = transcription_asked(pairs)
    except Refusal as refusal:
        assert refusal.status == 400
    else:
        assert {name for name, _ in pairs} <= {"task", "stream", "temperature", "hotwords", "seed"}
        assert 0 <= asked.temperature <= 2


@contextmanager
def connection(url: str) -> Iterator[socket.socket]:
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as raw:
        yield raw


def answer_of(raw: socket.socket, begun: bytes = b"") -> bytes:
    """Head and body of an answer, which may come in several parts."""
    answer = begun
    while not (found := re.search(rb"content-length: (\d+)\r\n(?s:.*?)\r\n\r\n", answer)) or (
        len(answer) < found.end() + int(found[1])
    ):
        more = raw.recv(10_000)
        assert more, answer
        answer += more
    return answer


def head(n_bytes: str, kind: str = "multipart/form-data; boundary=b") -> bytes:
    lines = (f"POST {TRANSCRIBE} HTTP/1.1", "Host: localhost", f"Content-Type: {kind}", n_bytes)
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def test_an_upload_of_a_gigabyte_is_refused_by_its_head(url: str) -> None:
    with connection(url) as raw:
        raw.sendall(head("Content-Length: 1000000000"))
        answer = answer_of(raw)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"must have 3,000,000 bytes at most, but this one has 1,000,000,000" in answer


def test_a_body_that_is_kept_in_memory_has_a_smaller_limit(engines: Callable[[], Engine]) -> None:
    with serving.serving(engines(), rules={"max_bytes": 10**9}) as url, connection(url) as raw:
        raw.sendall(head("Content-Length: 32000001").replace(TRANSCRIBE.encode(), CHAT.encode()))
        assert b"must have 32,000,000 bytes at most" in answer_of(raw)


def test_an_upload_without_a_length_is_refused_while_it_comes(url: str) -> None:
    """A gigabyte in chunks; the server must not read it all before it says no."""
    block = bytes(1 << 16)
    sent = 0
    with connection(url) as raw:
        raw.sendall(head("Transfer-Encoding: chunked"))
        begin = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
        raw.sendall(f"{len(begin):x}\r\n".encode() + begin + b"\r\n")
        try:
            while sent < 1_000_000_000:
                raw.sendall(f"{len(block):x}\r\n".encode() + block + b"\r\n")
                sent += len(block)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the server has hung up, as it should
    assert 3_000_000 < sent < 60_000_000
    eventually(lambda: outcomes(url).get("too_large", 0) >= 1, "the refusal was not counted")


def test_an_openai_client_is_told_that_its_upload_is_too_large(url: str) -> None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    with pytest.raises(openai.APIStatusError, match="3,000,000 bytes at most") as caught:
        client.audio.transcriptions.create(file=("a.wav", bytes(20_000_000)), model="tiny")
    assert caught.value.status_code == 413


def test_a_client_that_sends_too_slowly_is_let_go(engines: Callable[[], Engine]) -> None:
    with serving.serving(engines(), rules={"body_patience_s": 0.3}) as url, connection(url) as raw:
        raw.sendall(head("Content-Length: 10000"))
        began, answer = time.monotonic(), b""
        begin = (
            b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
            + bytes(99)
        )
        raw.settimeout(0.1)
        while not answer and time.monotonic() - began < 15:
            try:
                answer = raw.recv(10_000)
            except TimeoutError:
                raw.sendall(begin[:1])
                begin = begin[1:]
        raw.settimeout(20)
        answer = answer_of(raw, answer)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b'"code": "too_slow"' in answer
        # Its place is free, and others never noticed.
        assert post(url).status_code == 200
        eventually(
            lambda: outcomes(url) == {"too_slow": 1, "ok": 1}, "both requests were not counted"
        )


@pytest.mark.parametrize("stream", ["true", "false"])
def test_a_client_that_leaves_takes_only_its_own_request_with_it(
    engines: Callable[[], Engine], stream: str
) -> None:
    model = slow(engines())
    samples = decode(CLIP, "clip")
    expected = engines().answer([Request(samples, sampling=Sampling(max_new_tokens=12))])[0]
    field = b'--b\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
    body = field % (b"stream", b"", stream.encode())
    body += field % (b"file", b'; filename="a.wav"', CLIP) + b"--b--\r\n"
    with serving.serving(model) as url, ThreadPoolExecutor() as pool:
        with connection(url) as raw:
            raw.sendall(head(f"Content-Length: {len(body)}") + body)
            eventually(lambda: model.load == 1, "the request did not come to the model")
            staying = [pool.submit(post, url) for _ in range(2)]
            eventually(lambda: model.load == 3, "no others joined it")
        eventually(lambda: outcomes(url).get("left", 0) == 1, "the client was not missed")
        assert {done.result().json()["text"] for done in staying} == {expected.text}
        eventually(lambda: not model.busy, "what nobody waits for is still in the model")
        assert outcomes(url) == {"left": 1, "ok": 2}


def test_a_client_that_leaves_while_it_sends_is_no_error(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = outcomes(url).get("left", 0)
    with connection(url) as raw:
        raw.sendall(head("Content-Length: 10000") + b"--b\r\n")
    eventually(lambda: outcomes(url).get("left", 0) == before + 1, "the client was not missed")
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_a_crowd_is_asked_to_come_again_and_openai_clients_do(
    engines: Callable[[], Engine],
) -> None:
    with serving.serving(slow(engines(), 0.02), rules={"max_requests": 2}) as url:
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _: post(url), range(8)))
        refused = [r for r in found if r.status_code == 429]
        assert 0 < len(refused) < 8
        assert all(int(r.headers["retry-after"]) >= 1 for r in refused)
        assert {error_of(r)["type"] for r in refused} == {"rate_limit_error"}
        assert len(refused) + sum(r.status_code == 200 for r in found) == 8
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=10)
        with ThreadPoolExecutor(4) as pool:
            texts = list(
                pool.map(
                    lambda _: (
                        client.audio.transcriptions.create(file=("a.wav", CLIP), model="tiny").text
                    ),
                    range(4),
                )
            )
        assert len(set(texts)) == 1


def test_an_answer_that_takes_too_long_is_given_up(engines: Callable[[], Engine]) -> None:
    model = slow(engines(), 0.6)
    with serving.serving(model, timeout_s=1.5) as url:
        response = post(url)
        assert (response.status_code, error_of(response)["code"]) == (504, "timeout")
        eventually(lambda: not model.busy, "what was given up is still in the model")
        began = time.monotonic()
        streamed = post(url, stream="true")  # begun before the time was over
        # The time is not counted again from the first event on, which comes after 0.6 s.
        assert time.monotonic() - began < 2.05
        assert streamed.status_code == 200
        assert '"code": "timeout"' in streamed.text.strip().split("\n\n")[-1]
        eventually(lambda: not model.busy, "what was given up is still in the model")
        assert outcomes(url) == {"timeout": 2}


@pytest.mark.parametrize("where", ["step", "submit"])
def test_a_failure_of_the_model_is_told_and_not_carried_on(
    engines: Callable[[], Engine], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    model = engines()
    work, fails = getattr(model, where), threading.Event()

    def working(*arguments: Any) -> Any:
        if fails.is_set():
            fails.clear()
            raise RuntimeError("CUDA out of memory")
        return work(*arguments)

    monkeypatch.setattr(model, where, working)
    with serving.serving(model) as url:
        right = post(url).json()["text"]
        fails.set()
        failed = post(url)
        assert (failed.status_code, error_of(failed)["code"]) == (500, "model_failed")
        assert "CUDA" not in failed.text
        assert post(url).json()["text"] == right
        assert httpx2.get(url + "/ready").status_code == 200


def test_a_key_is_asked_for_where_there_is_one(engines: Callable[[], Engine]) -> None:
    rules = {"key": "กุญแจ-1", "only_loopback_names": False}
    with serving.serving(engines(), rules=rules) as url:
        for path, status in (("/health", 200), ("/ready", 200), ("/", 200), ("/metrics", 401)):
            assert httpx2.get(url + path).status_code == status, path
        for sent in (None, "Bearer x", "Bearer", "Basic กุญแจ-1", "Bearer กุญแจ-", "Bearer กุญแจ-11"):
            headers = {} if sent is None else {b"Authorization": sent.encode()}
            response = httpx2.get(url + "/v1/models", headers=headers)
            assert (response.status_code, error_of(response)["code"]) == (401, "invalid_api_key")
        right = {b"Authorization": "Bearer กุญแจ-1".encode()}
        assert httpx2.get(url + "/v1/models", headers=right).status_code == 200
        assert httpx2.get(url + "/metrics", headers=right).status_code == 200
        # Before the upload is read.
        with connection(url) as raw:
            raw.sendall(head("Content-Length: 1000"))
            assert answer_of(raw).startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:1"}, 200),
        ({"Host": "[::1]:8000"}, 200),
        ({"Host": "rebound.example"}, 403),
        ({"Host": "[::1"}, 403),
        ({"Origin": "http://127.0.0.1:8000"}, 200),
        ({"Origin": "https://elsewhere.example"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_pages_of_other_sites_get_no_answers(
    url: str, headers: dict[str, str], status: int
) -> None:
    for path in ("/v1/models", "/"):
        assert httpx2.get(url + path, headers=headers).status_code == status


def test_metrics_count_what_happened(engines: Callable[[], Engine]) -> None:
    with serving.serving(engines()) as url:
        for seconds in (0.5, 1.0):
            post(url, serving.sound(serving.clip(1, seconds)))
        post(url, stream="true")
        post(url, b"no sound")
        text = httpx2.get(url + "/metrics").text
        values = dict(re.findall(r"^(\S+) (\S+)$", text, re.MULTILINE))
        label = f'{{endpoint="{TRANSCRIBE}"}}'
        assert outcomes(url) == {"ok": 3, "unreadable": 1}
        assert float(values["thaitool_audio_seconds_total"]) == pytest.approx(2.0)
        assert float(values[f"thaitool_latency_seconds_count{label}"]) == 3
        assert float(values[f"thaitool_first_text_seconds_count{label}"]) == 1
        assert float(values["thaitool_batch_rows_sum"]) >= float(values["thaitool_tokens_total"])
        assert (values["thaitool_open_requests"], values["thaitool_waiting_clips"]) == (
            "0.0",
            "0.0",
        )

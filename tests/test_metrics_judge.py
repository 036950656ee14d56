"""The judge and the embedders: offline, talking nonsense, or right, over a server on this machine."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import BertConfig, BertModel, BertTokenizerFast

from thaitool.errors import ConfigError, InputError
from thaitool.metrics.chrf import chrf
from thaitool.metrics.embeddings import embedding_similarity, local_embedder, server_embedder
from thaitool.metrics.endpoint import Endpoint, EndpointError
from thaitool.metrics.gate import KINDS, failures_of
from thaitool.metrics.judge import (
    PROMPT,
    Judgement,
    Rephrasing,
    Reply,
    Vote,
    judge,
    judge_gate,
    prompt_sha256,
    read_vote,
    server_judge,
)
from thaitool.records import Score
from thaitool.text.normalize import compact

ITEMS = [
    Rephrasing(f"r{i}", f"เอ่อ ข้อ {i}", f"ข้อที่ {i}", f"ข้อที่ {i}" if i % 2 else "ดี") for i in range(6)
]


def named(found: Judgement) -> dict[str, Score]:
    return {score.name: score for score in found.scores}


def grades(score: int) -> str:
    return json.dumps({"meaning": score, "fluency": 4, "written": 4, "score": score})


def _fields(prompt: str) -> tuple[str, str]:
    """Reference and answer, as the prompt shows them."""
    lines = dict(line.split(": ", 1) for line in prompt.split("\n") if ": " in line)
    return lines["Reference rewriting"], lines.get("Answer to grade", "")


def fair(prompt: str, vote: int) -> Reply:
    """Five for the reference's words, one for others; three and five once, so that votes differ."""
    reference, answer = _fields(prompt)
    same = len(set(reference) & set(answer)) / len(set(reference)) > 0.8
    if reference == answer == "ข้อที่ 3" and vote == 2:
        return Reply(grades(3), "m-1")
    return Reply(grades(5 if same else 1), "m-1")


def test_a_judgement_by_hand() -> None:
    found = judge(ITEMS, fair, draws=50)
    scores = named(found)
    assert found.medians == {"r0": 1, "r1": 5, "r2": 1, "r3": 5, "r4": 1, "r5": 5}
    assert (scores["sr_score"].numerator, scores["sr_score"].denominator) == (18, 6)
    assert scores["sr_judge_coverage"].value == 1
    assert (scores["sr_judge_flip_rate"].numerator, scores["sr_judge_unreadable"].numerator) == (
        1,
        0,
    )
    assert found.trusted
    assert found.enough
    assert found.models == ("m-1",)
    assert len(found.votes) == 3 * (6 + 6)


def test_the_prompt_is_pinned() -> None:
    assert prompt_sha256() == "1eabb4d4be436e283ba703d38dd2edf5eb4e17495a3d1928055274a45c580d72"
    assert "JSON" in PROMPT
    assert not any(f'"score": {n}' in PROMPT for n in range(1, 6))  # judges copy example scores


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "5",
        "I would say 5.",
        '{"score": 5}',
        '{"meaning": 5, "fluency": 5, "written": 5, "score": 6}',
        '{"meaning": 5, "fluency": 5, "written": 5, "score": 0}',
        '{"meaning": 5, "fluency": 5, "written": 5, "score": 4.5}',
        '{"meaning": 5, "fluency": 5, "written": 5, "score": "4"}',
        '{"meaning": 5, "fluency": 5, "written": 5, "score": true}',
        grades(4) + grades(2),
        grades(4)[:-1],
        "{" * 1000,
    ],
)
def test_votes_that_cannot_be_read(text: str) -> None:
    vote = read_vote("a", 0, Reply(text, "m"))
    assert (vote.score, vote.failure) == (None, "unreadable")


@pytest.mark.parametrize("text", [grades(4), f"```json\n{grades(4)}\n```", f"Here:\n{grades(4)}"])
def test_votes_that_can(text: str) -> None:
    assert read_vote("a", 1, Reply(text, "m")) == Vote("a", 1, 4, 4, 4, 4, "m")


def test_a_judge_that_is_away_gives_no_score_rather_than_zero() -> None:
    asked = []

    def away(prompt: str, vote: int) -> Reply:
        asked.append(vote)
        raise EndpointError("no route to host")

    found = judge(ITEMS, away)
    scores = named(found)
    assert scores["sr_score"].value is None
    assert scores["sr_judge_coverage"].value == 0
    assert len(asked) == 5  # then it is taken to be away
    assert not found.enough
    assert not found.trusted
    assert found.problem == "no route to host"
    assert {vote.failure for vote in found.votes} == {"no answer", "not asked"}


def test_a_judge_that_talks_nonsense_gives_no_score() -> None:
    found = judge(ITEMS, lambda _prompt, _vote: Reply("ดีมาก", "m"))
    assert named(found)["sr_score"].value is None
    assert named(found)["sr_judge_unreadable"].value == 1
    assert not found.enough


@pytest.mark.parametrize("score", [1, 3, 5])
def test_a_judge_that_always_says_the_same_fails_the_canaries(score: int) -> None:
    found = judge(ITEMS, lambda _prompt, _vote: Reply(grades(score), "m"))
    assert found.enough
    assert not found.trusted
    assert named(found)["sr_score"].value == score


def test_missing_items_lower_the_coverage_not_the_score() -> None:
    items = [replace(ITEMS[1], id=f"i{k}") for k in range(200)]
    refused = {f"i{k}" for k in range(3)}
    count = iter(range(10_000))

    def mostly(prompt: str, vote: int) -> Reply:
        item = next(count) // 3 - 6  # the canaries come first
        return Reply("?", "m") if f"i{item}" in refused else fair(prompt, vote)

    found = judge(items, mostly, draws=20)
    assert named(found)["sr_score"].value == 5
    assert named(found)["sr_judge_coverage"].value == 197 / 200
    assert not found.enough  # 98.5 %
    assert set(found.medians) == {item.id for item in items} - refused


def test_two_votes_of_three_are_enough_and_one_is_not() -> None:
    def patchy(lost: set[int]) -> Callable[[str, int], Reply]:
        return lambda prompt, vote: Reply("?", "m") if vote in lost else fair(prompt, vote)

    assert judge(ITEMS[:1], patchy({1})).enough
    assert not judge(ITEMS[:1], patchy({0, 1})).medians


def test_votes_of_an_earlier_run_are_not_asked_for_again() -> None:
    kept: dict[tuple[str, int], Vote] = {}

    def dies(prompt: str, vote: int) -> Reply:
        if len(kept) == 20:
            raise KeyboardInterrupt
        return fair(prompt, vote)

    def keep(vote: Vote) -> None:
        kept[vote.id, vote.number] = vote

    with pytest.raises(KeyboardInterrupt):
        judge(ITEMS, dies, on_vote=keep)
    asked = []
    kept["canary 0", 0] = replace(kept["canary 0", 0], score=None, failure="no answer")

    def counted(prompt: str, vote: int) -> Reply:
        asked.append(vote)
        return fair(prompt, vote)

    again = judge(ITEMS, counted, known=kept, on_vote=keep, draws=20)
    assert len(asked) == 36 - 20 + 1
    assert again.votes == judge(ITEMS, fair, draws=20).votes


def _of_some_sense(prompt: str, _vote: int) -> Reply:
    """5 for the same text, 4 for a like one, 1 for any other."""
    lines = dict(line.split(": ", 1) for line in prompt.splitlines() if ": " in line)
    right, told = lines["Reference rewriting"], lines["Answer to grade"]
    mark = 5 if compact(right) == compact(told) else 4 if chrf(right, told) > 0.3 else 1
    return Reply(grades(mark), "j")


def test_the_gate_of_a_judge() -> None:
    asked: list[Vote] = []
    rows, problem = judge_gate(_of_some_sense, on_vote=asked.append)
    assert [row.kind for row in rows] == list(KINDS)
    assert all(row.passed for row in rows), failures_of(rows)
    assert (rows[0].value, rows[2].value, problem) == (5, 1, "")
    assert len(asked) == len({vote.id for vote in asked}) == 36  # one vote on each answer
    known = {(vote.id, vote.number): vote for vote in asked}

    def never(_prompt: str, _vote: int) -> Reply:
        raise AssertionError

    assert judge_gate(never, known=known)[0] == rows


def test_a_judge_to_whom_all_is_well_does_not_pass() -> None:
    rows, _ = judge_gate(lambda _prompt, _vote: Reply(grades(5), "j"))
    assert [row.kind for row in rows if not row.passed] == [
        "paraphrase", "unrelated", "number format",
    ]  # fmt: skip
    assert "unrelated: 5 (place 0; wanted at least 2 from identical)" in failures_of(rows)


def test_a_judge_that_is_away_or_talks_nonsense_is_not_measured() -> None:
    calls = 0

    def away(_prompt: str, _vote: int) -> Reply:
        nonlocal calls
        calls += 1
        raise EndpointError("no one there")

    rows, problem = judge_gate(away)
    assert (calls, problem) == (5, "no one there")
    assert failures_of(rows) == "no kind of answer could be measured"
    assert not any(row.passed for row in rows)
    assert all(math.isnan(row.value) for row in rows)
    rows, problem = judge_gate(lambda _prompt, _vote: Reply("ดีมาก 5/5", "j"))
    assert not any(row.passed for row in rows)
    assert problem == ""


def test_a_refused_judge_is_not_asked() -> None:
    def never(_prompt: str, _vote: int) -> Reply:
        raise AssertionError

    found = judge([Rephrasing("a", "ก", "ก", "ก")], never, refusal="it failed its gate")
    assert {vote.failure for vote in found.votes} == {"not asked"}
    assert (found.enough, found.problem) == (False, "it failed its gate")
    assert found.scores[0].value is None


def test_ids_must_differ() -> None:
    with pytest.raises(InputError, match="1 of 2 repeat"):
        judge([ITEMS[0], ITEMS[0]], fair)
    with pytest.raises(InputError, match="canary"):
        judge([replace(ITEMS[0], id="canary 7")], fair)


# --- a server on this machine


class Server:
    """Answers with what `say` makes of path and body; keeps what was sent."""

    def __init__(self, say: Callable[[str, dict[str, Any]], tuple[int, bytes]]) -> None:
        self.seen: list[tuple[str, dict[str, Any], str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.seen.append((self.path, body, self.headers.get("Authorization", "")))
                status, answer = say(self.path, body)
                self.send_response(status)
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *args: Any) -> None:
                """Tests are silent."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def endpoint(self, **changes: Any) -> Endpoint:
        url = f"http://127.0.0.1:{self.http.server_port}/v1"
        return replace(Endpoint(url, "pinned-model", pause_s=0.0, timeout_s=10), **changes)


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[..., tuple[int, bytes]]], Server]]:
    running: list[Server] = []

    def start(say: Callable[..., tuple[int, bytes]]) -> Server:
        running.append(Server(say))
        return running[-1]

    yield start
    for server in running:
        server.http.shutdown()
        server.http.server_close()


Serve = Callable[[Callable[..., tuple[int, bytes]]], Server]


def _chat(path: str, body: dict[str, Any]) -> tuple[int, bytes]:
    reply = fair(body["messages"][0]["content"], body["seed"])
    choice = {"choices": [{"message": {"content": reply.text}}], "model": "pinned-model-0711"}
    return 200, json.dumps(choice).encode()


def test_a_judge_behind_a_server(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sesame")
    server = serve(_chat)
    found = judge(ITEMS, server_judge(server.endpoint(key_variable="JUDGE_KEY")), draws=20)
    assert found.models == ("pinned-model-0711",)
    assert found.medians == judge(ITEMS, fair, draws=20).medians
    path, body, key = server.seen[0]
    assert (path, key) == ("/v1/chat/completions", "Bearer sesame")
    assert (body["model"], body["temperature"], body["seed"]) == ("pinned-model", 0, 0)


def test_what_passes_is_tried_again_and_what_does_not_is_not(serve: Serve) -> None:
    states = iter([503, 429, 200])

    def flaky(path: str, body: dict[str, Any]) -> tuple[int, bytes]:
        status = next(states)
        return (200, _chat(path, body)[1]) if status == 200 else (status, b"busy")

    server = serve(flaky)
    prompt = PROMPT.format(spoken="ก", reference="กขค", answer="กขค")
    assert server_judge(server.endpoint())(prompt, 0).text == grades(5)
    assert len(server.seen) == 3
    refusing = serve(lambda _path, _body: (401, b"bad key"))
    with pytest.raises(EndpointError, match=r"pinned-model, but did not \(status 401: bad key\)"):
        server_judge(refusing.endpoint())(prompt, 0)
    assert len(refusing.seen) == 1


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"<html>", "must answer in JSON"),
        (b"[1]", "must answer with a JSON object"),
        (b"\xff\xfe", "must answer in JSON"),
        (b'{"error": 1}', r"choices\[0\].message.content, but has the keys \['error'\]"),
        (b'{"choices": []}', r"choices\[0\]"),
    ],
)
def test_servers_that_answer_something_else(serve: Serve, answer: bytes, message: str) -> None:
    server = serve(lambda _path, _body: (200, answer))
    with pytest.raises(EndpointError, match=message):
        server_judge(server.endpoint())("?", 0)
    found = judge(ITEMS[:1], server_judge(server.endpoint()))
    assert named(found)["sr_score"].value is None


def test_an_empty_message_is_no_vote(serve: Serve) -> None:
    blank = {"choices": [{"message": {"content": None}}], "model": "m"}
    server = serve(lambda _path, _body: (200, json.dumps(blank).encode()))
    assert judge(ITEMS[:1], server_judge(server.endpoint())).votes[0].failure == "unreadable"


def test_addresses_and_keys_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(ConfigError, match="http or https URL, but is 'file:///etc'"):
        server_judge(Endpoint("file:///etc", "m"))("?", 0)
    with pytest.raises(ConfigError, match="NO_SUCH_KEY must hold the key"):
        server_judge(Endpoint("http://127.0.0.1:9/v1", "m", key_variable="NO_SUCH_KEY"))("?", 0)
    with pytest.raises(EndpointError, match="did not"):
        server_judge(Endpoint("http://127.0.0.1:9/v1", "m", attempts=2, pause_s=0))("?", 0)


# --- embeddings


def _counts(texts: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    """A vector of letter counts: equal texts have cosine 1, texts without a common letter 0."""
    return np.array([[text.count(c) for c in "กขคงจ"] for text in texts], dtype=np.float64)


def test_similarity_by_hand() -> None:
    score = embedding_similarity(["กข", "กก", "คง"], ["กข", "กข", "จ"], _counts, draws=20)
    assert score.value == pytest.approx((1 + 1 / 2**0.5 + 0) / 3)
    assert score.denominator == 3
    said: list[str] = []

    def embed(texts: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
        said.extend(texts)
        return _counts(texts)

    gold, told = ["กข", "กข", "...", "กข"], ["", "กข", " ", "กข"]
    score = embedding_similarity(gold, told, embed, draws=20)
    assert score.numerator == pytest.approx(3)  # nothing is like nothing, and unlike all else
    assert said == ["กข"]


@pytest.mark.parametrize(
    ("embed", "message"),
    [
        (lambda _: np.ones((1, 3)), r"shape \(1, 3\) for 2 texts"),
        (lambda _: np.ones(2), r"shape \(2,\) for 2 texts"),
        (lambda _: np.zeros((2, 3)), "finite vectors that are not zero, but 2 of 2"),
        (lambda _: np.full((2, 3), np.nan), "2 of 2 are"),
    ],
)
def test_embedders_are_checked(embed: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        embedding_similarity(["ก"], ["ข"], embed)


def test_an_embedder_behind_a_server(serve: Serve) -> None:
    def say(path: str, body: dict[str, Any]) -> tuple[int, bytes]:
        rows = [
            {"index": i, "embedding": row} for i, row in enumerate(_counts(body["input"]).tolist())
        ]
        return 200, json.dumps({"data": rows[::-1]}).encode()  # order is by index, not by place

    server = serve(say)
    gold, told = ["กข", "กก", "คง", "ก"], ["กข", "กข", "จ", "ก"]
    ours = embedding_similarity(gold, told, server_embedder(server.endpoint()), draws=20)
    assert ours == embedding_similarity(gold, told, _counts, draws=20)
    assert server.seen[0][0] == "/v1/embeddings"
    broken = serve(lambda _path, _body: (200, b'{"data": [{"index": 0}]}'))
    with pytest.raises(EndpointError, match=r"data\[\]\.embedding"):
        embedding_similarity(gold, told, server_embedder(broken.endpoint()))


def test_a_local_embedder(tmp_path: Path) -> None:
    letters = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"กขคง", *(f"##{c}" for c in "กขคง")]
    (tmp_path / "vocab.txt").write_text("\n".join(letters), "utf-8")
    BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    config = BertConfig(
        vocab_size=len(letters), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=32,
    )  # fmt: skip
    BertModel(config).save_pretrained(tmp_path)
    embed = local_embedder(tmp_path)
    alone, together = embed(["กข"]), embed(["กข", "คงกขคงกขคง"])
    assert together.shape == (2, 16)
    np.testing.assert_allclose(alone[0], together[0], atol=1e-5)  # padding does not count
    score = embedding_similarity(["กข", "ค"], ["กข", "ค"], embed, draws=20)
    assert score.value == pytest.approx(1)

"""The server, asked by OpenAI's own client: served answers are the offline ones, in every form and alongside others."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import openai
import pytest

from tests import serving
from thaitool.inference.recordings import Segment, joined, stretches
from thaitool.inference.request import Request, Sampling
from thaitool.serving.said import Said, transcription
from thaitool.text.context import Context

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from thaitool.inference.engine import Engine

GREEDY = Sampling(max_new_tokens=12)


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """The same model as the server's, in this thread."""
    return serving.engine(tmp_path_factory.mktemp("offline"))


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving.serving(serving.engine(tmp_path_factory.mktemp("served"))) as address:
        yield address


@pytest.fixture(scope="module")
def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60)


def heard(content: bytes, tmp_path: Path) -> Any:
    """What a server decodes of a sound file."""
    path = tmp_path / "clip"
    path.write_bytes(content)
    from thaitool.audio.decode import decode

    return decode(str(path), "clip")


def messages(content: bytes, text: str, form: str = "wav") -> list[Any]:
    sound = {"data": serving.base64_of(content), "format": form}
    parts: list[dict[str, Any]] = [{"type": "input_audio", "input_audio": sound}]
    return [
        {"role": "user", "content": [*parts, *([{"type": "text", "text": text}] if text else [])]}
    ]


def transcribed(client: openai.OpenAI, content: bytes, more: dict[str, Any]) -> str:
    return client.audio.transcriptions.create(
        file=("a.wav", content), model="tiny", extra_body=more
    ).text


def chatted(client: openai.OpenAI, content: bytes, n: int) -> str | None:
    asked: Any = messages(content, f"อะไร {n}")
    said = client.chat.completions.create(
        model="tiny", messages=asked, temperature=1.0, top_p=0.9, seed=n
    )
    return said.choices[0].message.content


def streamed(client: openai.OpenAI, content: bytes) -> str:
    events = client.audio.transcriptions.create(file=("a.wav", content), model="tiny", stream=True)
    return "".join(e.delta for e in events if e.type == "transcript.text.delta")


def test_answers_of_many_clients_at_once_are_the_offline_ones(
    client: openai.OpenAI, offline: Engine, tmp_path: Path
) -> None:
    """Greedy and sampled, tasks, prompts and contexts, short and long, through both endpoints."""
    asked: list[tuple[Callable[[], str | None], Request]] = []
    for n in range(30):
        content = serving.sound(serving.clip(n, 0.3 + 0.1 * (n % 7)))
        plain = Request(heard(content, tmp_path), sampling=GREEDY)
        if n % 3 == 0:
            task = ("asr", "ic", "ner", "sr", "qa")[n % 5]
            words = [f"คำ{n}", "ขอนแก่น"]
            more = {
                "task": task,
                "hotwords": words,
                "scene": "โทรศัพท์",
                "history": ["ครับ"],
                "draft": "ร่าง",
            }
            context = Context(tuple(words), "โทรศัพท์", ("ครับ",), "ร่าง")
            asked.append(
                (
                    partial(transcribed, client, content, more),
                    replace(plain, task=task, context=context),
                )
            )
        elif n % 3 == 1:
            drawn = Sampling(temperature=1.0, top_p=0.9, seed=n, max_new_tokens=12)
            asked.append(
                (
                    partial(chatted, client, content, n),
                    replace(plain, prompt=f"อะไร {n}", sampling=drawn),
                )
            )
        else:
            asked.append((partial(streamed, client, content), plain))
    expected = [offline.answer([request])[0].text for _, request in asked]
    with ThreadPoolExecutor(15) as pool:
        served = list(pool.map(lambda one: one[0](), asked))
    assert served == expected
    assert len(set(served)) > 10  # the model does not say the same about everything


@pytest.mark.parametrize("form", ["WAV", "FLAC", "MP3", "OGG"])
def test_sound_is_read_in_every_form(
    client: openai.OpenAI, offline: Engine, tmp_path: Path, form: str
) -> None:
    content = serving.sound(serving.clip(1, 1.0), form)
    request = Request(heard(content, tmp_path), prompt="?", sampling=GREEDY)
    said = client.chat.completions.create(
        model="tiny", messages=messages(content, "?", form.lower())
    )
    assert said.choices[0].message.content == offline.answer([request])[0].text
    # Its name says nothing.
    named = client.audio.transcriptions.create(file=("notes.txt", content), model="tiny")
    assert named.text == offline.answer([replace(request, prompt=None)])[0].text


def test_a_long_recording_is_transcribed_piece_by_piece(
    client: openai.OpenAI, offline: Engine, tmp_path: Path
) -> None:
    content = serving.sound(serving.clip(2, 18.0))
    path = tmp_path / "long.wav"
    path.write_bytes(content)
    samples = heard(content, tmp_path)
    cuts = stretches(str(path), "long", 5.0)
    texts = [
        offline.answer([Request(samples[round(16_000 * a) : round(16_000 * b)], sampling=GREEDY)])[
            0
        ]
        for a, b in cuts
    ]
    assert len(cuts) >= 4
    found = client.audio.transcriptions.create(
        file=("long.wav", content),
        model="tiny",
        response_format="verbose_json",
        timestamp_granularities=["segment"],
    )
    assert found.segments is not None
    assert [(s.start, s.end, s.text) for s in found.segments] == [
        (round(a, 3), round(b, 3), reply.text) for (a, b), reply in zip(cuts, texts, strict=True)
    ]
    whole = joined(Segment(a, b, r.text) for (a, b), r in zip(cuts, texts, strict=True))
    assert (found.text, found.duration, found.language) == (whole, 18.0, "thai")
    events = list(
        client.audio.transcriptions.create(file=("l.wav", content), model="tiny", stream=True)
    )
    assert "".join(e.delta for e in events[:-1] if e.type == "transcript.text.delta") == whole
    assert events[-1].type == "transcript.text.done"
    assert events[-1].text == whole
    with pytest.raises(openai.BadRequestError, match=r"last 5 s at most, but l.wav lasts 18.0 s"):
        client.audio.transcriptions.create(
            file=("l.wav", content), model="tiny", extra_body={"task": "ic"}
        )


def test_a_chat_streams_and_counts(client: openai.OpenAI) -> None:
    asked: Any = messages(serving.sound(serving.clip(3)), "ใคร")
    whole = client.chat.completions.create(model="tiny", messages=asked, max_tokens=3)
    assert whole.usage is not None
    assert whole.usage.completion_tokens <= 3
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    chunks = list(
        client.chat.completions.create(
            model="tiny",
            messages=asked,
            max_completion_tokens=3,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    *said, last, counted = chunks
    assert (
        "".join(c.choices[0].delta.content or "" for c in said) == whole.choices[0].message.content
    )
    assert said[0].choices[0].delta.role == "assistant"
    assert last.choices[0].finish_reason == whole.choices[0].finish_reason
    assert counted.usage == whole.usage
    assert len({c.id for c in chunks}) == 1


def test_what_was_said_before_becomes_history(
    client: openai.OpenAI, offline: Engine, tmp_path: Path
) -> None:
    content = serving.sound(serving.clip(4))
    request = Request(heard(content, tmp_path), sampling=GREEDY)
    context = Context(history=("สวัสดี", "ครับ"))
    before: list[Any] = [
        {"role": "user", "content": "สวัสดี"},
        {"role": "assistant", "content": [{"type": "text", "text": "ครับ"}]},
    ]
    said = client.chat.completions.create(
        model="tiny", messages=[*before, *messages(content, "")], extra_body={"task": "sr"}
    )
    expected = offline.answer([replace(request, task="sr", context=context)])[0]
    assert said.choices[0].message.content == expected.text
    text = client.audio.transcriptions.create(
        file=("a.wav", content),
        model="tiny",
        language="th",
        prompt="ครับ",
        extra_body={"history": ["สวัสดี"]},
    ).text
    assert text == offline.answer([replace(request, context=context)])[0].text


def test_an_answer_can_be_sent_back_as_a_message(client: openai.OpenAI) -> None:
    """As OpenAI's examples do: with the fields that are null in it."""
    asked: list[Any] = messages(serving.sound(serving.clip(3)), "ใคร")
    nothing: Any = None
    first = client.chat.completions.create(
        model="tiny", messages=asked, temperature=nothing, stop=nothing, tools=nothing
    )
    before: list[Any] = [{"role": "user", "content": "ใคร"}, first.choices[0].message]
    second = client.chat.completions.create(model="tiny", messages=[*before, *asked])
    assert second.choices[0].message.content


def test_answers_keep_to_a_closed_set(
    client: openai.OpenAI, offline: Engine, tmp_path: Path
) -> None:
    labels = ["เปิดไฟ", "ปิดไฟ", "ตั้งปลุก"]
    for n in range(3):
        content = serving.sound(serving.clip(n))
        said = client.audio.transcriptions.create(
            file=("a.wav", content),
            model="tiny",
            extra_body={"task": "ic", "form": "labels", "labels": labels},
        ).text
        request = Request(
            heard(content, tmp_path), "ic", sampling=GREEDY, form="labels", labels=tuple(labels)
        )
        assert said == offline.answer([request])[0].text
        assert said in labels


def test_a_seed_is_drawn_where_none_is_given(client: openai.OpenAI) -> None:
    content = serving.sound(serving.clip(5))
    said = {
        client.audio.transcriptions.create(
            file=("a.wav", content), model="tiny", temperature=1.5
        ).text
        for _ in range(6)
    }
    assert len(said) > 1


def test_models_are_listed(client: openai.OpenAI) -> None:
    listed = client.models.list().data
    assert [m.id for m in listed] == ["tiny"]
    assert client.models.retrieve("tiny").to_dict()["tasks"] == ["asr", "ic", "ner", "sr", "qa"]
    with pytest.raises(openai.NotFoundError, match="The model here is 'tiny', but 'gpt' was asked"):
        client.models.retrieve("gpt")


def test_subtitles() -> None:
    segments = (
        Segment(0.0, 1.25, "หนึ่ง <b> & สอง\n\nสาม"),
        Segment(1.25, 2.0, " "),
        Segment(3599.9996, 3725.5, "สี่"),
    )
    said = Said("", segments, 3725.5, 0, 0, stopped=True)
    assert transcription(said, "srt") == (
        "1\n00:00:00,000 --> 00:00:01,250\nหนึ่ง <b> & สอง สาม\n\n"
        "2\n01:00:00,000 --> 01:02:05,500\nสี่\n"
    )
    assert transcription(said, "vtt") == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.250\nหนึ่ง &lt;b&gt; &amp; สอง สาม\n\n"
        "01:00:00.000 --> 01:02:05.500\nสี่\n"
    )

"""The engine: requests that come and go, the same answer beside any others, draws, forms, limits, 8 bits."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests import llms, tiny
from thaitool.config import InferConfig
from thaitool.errors import InputError
from thaitool.inference.engine import Engine, Request, Running, Sampling, load_engine
from thaitool.metrics.entity_labels import parse_entities
from thaitool.models.checkpoint import load_speech_lm
from thaitool.models.drafter import load_drafter, save_drafter
from thaitool.models.encoder import new_config
from thaitool.models.encoders.interface import SpeechEncoder, new_speech_encoder
from thaitool.models.recogniser import Recogniser, save_recogniser
from thaitool.text.context import Context, with_context
from thaitool.text.prompts import task_prompt
from thaitool.text.units import build_vocabulary

#: Seconds of clips; several of the same length, and much shorter and longer ones.
SECONDS = (0.4, 1.0, 0.73, 2.2, 0.4, 1.51, 0.3, 3.1)
LABELS = ("เปิดไฟ", "ปิดไฟ", "ปิด", "ตั้งปลุก")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("engine")
    llm = llms.llm_directory(base / "llm", "qwen3", max_position_embeddings=512)
    return llms.save(base / "model", *llms.speech_lm(llm), llm)


def engine_of(path: Path, **settings: Any) -> Engine:
    config = tiny.make(InferConfig, model=path, audio=["-"], device="cpu", **settings)
    return load_engine(path, config, max_rows=config.rows)


@pytest.fixture(scope="module")
def engine(path: Path) -> Engine:
    return engine_of(path, rows=5)


def clip(seconds: float, seed: int = 0) -> NDArray[np.float32]:
    rng = np.random.default_rng([seed, round(1000 * seconds)])
    return (0.1 * rng.standard_normal(round(16_000 * seconds))).astype(np.float32)


def tiny_encoder() -> SpeechEncoder:
    return new_speech_encoder(new_config(**tiny.SHAPE), layer="last")


def requests(**settings: Any) -> list[Request]:
    tasks = ("asr", "ic", "ner", "sr")
    return [
        Request(clip(s, n), tasks[n % 4], sampling=Sampling(**{"max_new_tokens": 9, **settings}))
        for n, s in enumerate(SECONDS)
    ]


def test_answers_together_are_those_of_each_alone(engine: Engine) -> None:
    asked = requests()
    alone = [engine.answer([request])[0] for request in asked]
    assert len({reply.text for reply in alone}) > 4  # the audio is heard
    for some in (asked, asked[::-1], asked[2:4] + asked[:1] + asked[5:]):
        for request, reply in zip(some, engine.answer(some), strict=True):
            expected = next(a for r, a in zip(asked, alone, strict=True) if r is request)
            assert (reply.text, reply.stopped) == (expected.text, expected.stopped)
            assert (reply.tokens, reply.prompt_tokens) == (expected.tokens, expected.prompt_tokens)
    assert all(0 < reply.seconds <= reply.latency_s for reply in alone)


def test_answers_are_what_transformers_generates(engine: Engine, path: Path) -> None:
    model, processor = load_speech_lm(path)
    for request, reply in zip(requests(), engine.answer(requests()), strict=True):
        instruction = task_prompt(request.task)
        batch = processor(processor.prompt(instruction, 1), audio=[request.audio])
        out = model.generate(**batch, max_new_tokens=9, do_sample=False)
        said = processor.tokenizer.decode(
            out[0, batch["input_ids"].shape[1] :], skip_special_tokens=True
        )
        assert reply.text == said.strip()


def test_requests_join_and_leave_while_others_run(engine: Engine) -> None:
    asked = requests()
    expected = [reply.text for reply in engine.answer(asked)]
    running: list[Running] = []
    seen: dict[int, list[str]] = {}
    for number, request in enumerate(asked):
        running.append(engine.submit(request))
        for changed in engine.step():
            seen.setdefault(id(changed), []).append(changed.text)
        if number == 3:
            engine.drop(running[2])
    left = engine.load
    while engine.busy:
        for changed in engine.step():
            seen.setdefault(id(changed), []).append(changed.text)
    assert left > 0
    assert engine.load == 0
    for number, one in enumerate(running):
        if number == 2:
            assert not one.done
            continue
        assert one.reply is not None
        assert one.reply.text == expected[number]
        texts = seen[id(one)]
        assert all(b.startswith(a) for a, b in pairwise(texts))
        assert len(set(texts)) > 2


def test_an_interruption_leaves_nothing_behind(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted() -> list[Running]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(engine, "step", interrupted)
        engine.answer(requests())
    assert not engine.busy


def test_draws_depend_on_the_seed_alone(engine: Engine) -> None:
    drawn = requests(temperature=1.5, top_p=0.9, seed=7)
    alone = [engine.answer([request])[0].text for request in drawn]
    assert [reply.text for reply in engine.answer(drawn)] == alone
    assert alone != [reply.text for reply in engine.answer(requests())]
    assert alone != [r.text for r in engine.answer(requests(temperature=1.5, top_p=0.9, seed=8))]
    # A nucleus of one token, and a temperature next to 0, are the best token.
    best = [reply.text for reply in engine.answer(requests())]
    assert [r.text for r in engine.answer(requests(temperature=1.0, top_p=1e-9)[:4])] == best[:4]
    assert [r.text for r in engine.answer(requests(temperature=1e-6)[:4])] == best[:4]


def test_draws_have_the_probabilities_of_the_scores() -> None:
    from thaitool.models.generate import Choice, Row, _drawn
    from thaitool.models.rows import Memory

    scores = torch.tensor([1.0, 3.0, 2.0, -4.0, 2.5])
    wanted = (scores.double() / 0.8).softmax(0)
    # 0.9 of the probability is in the tokens 1, 4 and 2.
    wanted[[0, 3]] = 0
    wanted /= wanted.sum()
    counts = torch.zeros(5)
    for seed in range(4000):
        row = Row(torch.zeros(0, 1), Choice(0.8, 0.9, seed), Memory(0))
        counts[_drawn(scores, row)] += 1
    assert counts[[0, 3]].sum() == 0
    torch.testing.assert_close(counts.double() / 4000, wanted, atol=0.03, rtol=0)


def test_a_closed_set_is_kept(engine: Engine) -> None:
    asked = [
        Request(clip(s, n), "ic", form="labels", labels=LABELS, sampling=sampling)
        for n, s in enumerate(SECONDS)
        for sampling in (Sampling(), Sampling(temperature=3.0, seed=n))
    ]
    replies = engine.answer(asked)
    assert {reply.text for reply in replies} <= set(LABELS)
    assert len({reply.text for reply in replies}) > 1
    assert all(reply.stopped for reply in replies)
    assert [engine.answer([request])[0].text for request in asked] == [r.text for r in replies]


def test_entities_can_always_be_read(engine: Engine) -> None:
    """Also where the room ends in the middle of a name, and for draws that are nearly uniform."""
    asked = [
        Request(
            clip(0.4, n),
            "ner",
            form="json",
            sampling=Sampling(temperature, seed=n, max_new_tokens=room),
        )
        for n, room in enumerate((95, 150))
        for temperature in (0.0, 1.0, 5.0)
    ]
    found = 0
    for reply in engine.answer(asked):
        found += len(parse_entities(reply.text))
        assert list(json.loads(reply.text)) == ["บุคคล", "สถานที่", "องค์กร", "อื่นๆ"]
        assert reply.stopped
    assert found > 2


def test_context_is_put_before_the_question(engine: Engine) -> None:
    context = Context(("สมชาย", "เชียงใหม่"), "โทรศัพท์", ("สวัสดี",))
    one = Request(clip(1.0), "asr", context=context)
    same = Request(clip(1.0), "asr", prompt=with_context(task_prompt("asr"), context))
    plain = Request(clip(1.0), "asr")
    replies = engine.answer([one, same, plain])
    assert replies[0].text == replies[1].text
    assert replies[0].prompt_tokens == replies[1].prompt_tokens > replies[2].prompt_tokens


def test_a_model_of_drafts_gets_them(path: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    vocabulary = build_vocabulary(["เปิดไฟ ปิดไฟ", "ตั้งปลุก"])
    recogniser = Recogniser(tiny_encoder(), vocabulary)
    torch.nn.init.normal_(recogniser.ctc.weight, std=3.0)
    save_recogniser(tmp_path / "ctc", recogniser.eval())
    cascade = tmp_path / "cascade"
    shutil.copytree(path, cascade)
    drafter = load_drafter(tmp_path / "ctc")
    save_drafter(cascade, tmp_path / "ctc", drafter.sha256)
    drafting, plain = engine_of(cascade, rows=3), engine_of(path)
    for seed, seconds in enumerate((0.5, 0.9, 0.7)):
        audio = clip(seconds, seed)
        (draft,) = drafter([audio])
        assert draft
        sampling = Sampling(max_new_tokens=9)
        told = Request(audio, context=Context(scene="ร้าน", draft=draft), sampling=sampling)
        asked = Request(audio, context=Context(scene="ร้าน"), sampling=sampling)
        (with_draft,), (expected,) = drafting.answer([asked]), plain.answer([told])
        assert (with_draft.text, with_draft.prompt_tokens) == (
            expected.text,
            expected.prompt_tokens,
        )
        assert drafting.answer([told])[0].text == expected.text
        assert plain.answer([asked])[0].prompt_tokens < expected.prompt_tokens
    with pytest.raises(InputError, match="was trained without drafts"):
        engine_of(path, drafter=tmp_path / "ctc")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"audio": np.zeros(0, np.float32)}, "must be long enough for one embedding, but has 0"),
        ({"audio": np.zeros((2, 9), np.float32)}, r"must be finite numbers of shape \(N,\)"),
        ({"audio": np.full(9000, np.nan, np.float32)}, "must be finite numbers"),
        ({"audio": np.ones(9000, np.int16)}, "must be floating-point samples .* but is int16"),
        ({"audio": np.zeros(16_000 * 20, np.float32)}, "must fit into the LLM's context of 512"),
        ({"task": "weather"}, "A task must be one of asr"),
        ({"form": "labels"}, "must have a closed set of labels"),
        ({"form": "labels", "labels": (" ",)}, "not blank"),
        ({"form": "json"}, "max_new_tokens must be .* or more for answers of the form json"),
        ({"prompt": "<|audio|>"}, "must not contain"),
    ],
)
def test_what_cannot_be_answered_is_a_sentence(
    engine: Engine, wrong: dict[str, Any], message: str
) -> None:
    if "prompt" in wrong:
        assert engine.model.decoder is not None
        wrong = {"prompt": engine.model.decoder.processor.audio_token}
    request = Request(**{"audio": clip(1.0), "sampling": Sampling(max_new_tokens=20), **wrong})
    with pytest.raises(InputError, match=message):
        engine.check(request)
    with pytest.raises(InputError, match=message):
        engine.submit(request)
    assert engine.load == 0


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1.0}, {"top_p": 0.0}, {"seed": -1}, {"max_new_tokens": 0}]
)
def test_sampling_that_chooses_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(wrong))}|seed"):
        Sampling(**wrong)


def test_eight_bits_and_half_precision_answer_alike(engine: Engine, path: Path) -> None:
    eight, half = (engine_of(path, llm_dtype=form, rows=5) for form in ("int8", "bfloat16"))
    asked = requests()
    alone = [eight.answer([request])[0].text for request in asked]
    # Integer sums are exact: also here nothing depends on the others.
    assert [reply.text for reply in eight.answer(asked)] == alone
    assert len(set(alone)) > 3
    assert engine.model.decoder is not None and eight.model.decoder is not None
    assert eight.model.decoder.packs
    exact, close = (
        e.model.decoder.model.language_model(torch.arange(20)[None]).logits  # type: ignore[union-attr]
        for e in (engine, eight)
    )
    error = (exact - close).norm() / exact.norm()
    assert 0 < error < 0.05
    assert all(isinstance(reply.text, str) for reply in half.answer(asked))

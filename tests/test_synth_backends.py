"""Voices and models by URL: programs, local models, weights of voices. Models are tiny and random."""

from __future__ import annotations

import asyncio
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import VitsConfig, VitsModel, VitsTokenizer

from tests import tiny
from thaitool.config import Calls
from thaitool.errors import ConfigError, EnvironmentProblem, InputError
from thaitool.synth.backends import open_llm, open_tts, weighted
from thaitool.synth.backends.protocol import CallFailed, ChatRequest, Message, Tts
from thaitool.synth.cache import Cache
from thaitool.synth.calls import Endpoint, Limits
from thaitool.synth.espeak import Speech
from thaitool.synth.voicing import Booth, cast_voices

CALLS = Calls.model_validate({"device": "cpu"})
#: Says a tone whose length and pitch tell what it was given.
PROGRAM = """
import io, sys, numpy, soundfile
text, voice, speed, out = sys.stdin.read(), *sys.argv[1:4]
if text == "hang": import time; time.sleep(60)
if text == "fail": sys.exit("no such word")
n = int(16000 * len(text) / float(speed) / 10)
tone = 0.5 * numpy.sin(2 * numpy.pi * {"low": 100, "high": 200}[voice] * numpy.arange(n) / 16000)
buffer = io.BytesIO()
soundfile.write(buffer, tone, 16000, format="WAV")
(sys.stdout.buffer if out == "-" else open(out, "wb")).write(buffer.getvalue())
"""


def said(tts: Tts, text: str, voice: str, **changes: Any) -> Speech:
    return asyncio.run(
        tts.speak(text, voice, **{"speed": 1.0, "pitch_shift": 0, "seed": 1, **changes})
    )


def program(folder: Path, out: str) -> str:
    script = folder / "say.py"
    script.write_text(PROGRAM)
    return f"command:{shlex.join([sys.executable, str(script)])} {{voice}} {{speed}} {out}"


@pytest.mark.parametrize("out", ["-", "{out}"])
def test_any_program_is_a_voice(tmp_path: Path, out: str) -> None:
    tts = open_tts(program(tmp_path, out), ("low", "high"), CALLS)
    speech = said(tts, "สิบตัวอักษร", "high", speed=2.0)
    assert speech.duration_s == pytest.approx(len("สิบตัวอักษร") / 20, abs=0.001)
    spectrum = np.abs(np.fft.rfft(speech.samples))
    assert np.argmax(spectrum) / speech.duration_s == pytest.approx(200, abs=2)
    with pytest.raises(CallFailed, match="command_failed: exit 1: no such word") as caught:
        said(tts, "fail", "low")
    assert not caught.value.again


def test_a_program_that_hangs_is_ended_and_one_that_is_absent_named(tmp_path: Path) -> None:
    tts = open_tts(program(tmp_path, "-"), ("low",), CALLS)
    booth = Booth(tts, Endpoint("c", Limits(timeout_s=0.5, attempts=1)), None)

    async def record() -> None:
        await booth.record("hang", "low", speed=1.0, pitch_shift=0, seed=0)

    with pytest.raises(CallFailed, match="timeout"):
        asyncio.run(record())
    with pytest.raises(EnvironmentProblem, match=r"'no-such-program' .* cannot be run"):
        said(open_tts("command:no-such-program", ("v",), CALLS), "ก", "v")


def test_what_was_said_is_stored_as_it_will_be_packed(tmp_path: Path) -> None:
    tts = open_tts(program(tmp_path, "-"), ("low",), CALLS)

    async def record(seed: int) -> Any:
        cache = Cache(tmp_path / "cache.sqlite", "run")
        booth = Booth(tts, Endpoint("c", Limits()), cache)
        clip = await booth.record("ข้อความหนึ่ง", "low", speed=1.0, pitch_shift=0, seed=seed)
        return clip, cache.spending().calls

    first, again, other = (asyncio.run(record(seed)) for seed in (1, 1, 2))
    assert first == again
    assert (first[1], other[1]) == (1, 2)
    assert first[0].duration_s == pytest.approx(len("ข้อความหนึ่ง") / 10, abs=0.001)


@pytest.fixture(scope="module")
def vits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VITS of two speakers that was never trained: it speaks noise, but of a length."""
    folder = tmp_path_factory.mktemp("vits")
    letters = {letter: n for n, letter in enumerate("กขคงจฉาิเ่้ <")}
    (folder / "vocab.json").write_text(json.dumps(letters), "utf-8")
    VitsTokenizer(
        str(folder / "vocab.json"), pad_token="<",  # noqa: S106
        unk_token=None, language="tha",
        normalize=False, phonemize=False, is_uroman=False,
    ).save_pretrained(folder)  # fmt: skip
    VitsModel(
        VitsConfig(
            vocab_size=len(letters), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
            ffn_dim=16, flow_size=16, spectrogram_bins=9, upsample_initial_channel=32,
            upsample_rates=[8, 4], upsample_kernel_sizes=[16, 8], resblock_kernel_sizes=[3],
            resblock_dilation_sizes=[[1]], num_speakers=2, speaker_embedding_size=8,
            prior_encoder_num_flows=1, posterior_encoder_num_wavenet_layers=1,
            prior_encoder_num_wavenet_layers=1, duration_predictor_num_flows=1,
        )
    ).save_pretrained(folder)  # fmt: skip
    return folder


def test_a_vits_voice_speaks_the_same_again(vits: Path) -> None:
    tts = open_tts(f"hf-vits:{vits}", (), CALLS)
    assert tts.voices == ("0", "1")
    assert len(tts.identity.revision) == 64
    takes = [said(tts, "กาขาคา", "0"), said(tts, "กาขาคา", "0"), said(tts, "กาขาคา", "0", seed=2)]
    assert np.array_equal(takes[0].samples, takes[1].samples)
    assert not np.array_equal(takes[0].samples, takes[2].samples)
    assert not np.array_equal(takes[0].samples, said(tts, "กาขาคา", "1").samples)
    with pytest.raises(InputError, match="has the voices 0 to 1, but '2' was asked for"):
        open_tts(f"hf-vits:{vits}", ("2",), CALLS)
    with pytest.raises(InputError, match=r"has no config\.json"):
        open_tts(f"hf-vits:{vits.parent}", (), CALLS)


def test_a_local_language_model_answers_the_same_again(tmp_path: Path) -> None:
    path = tiny.llm_directory(tmp_path / "llm")
    request = ChatRequest((Message("user", "เปิดไฟ"),), temperature=0.7, max_tokens=5)

    async def main() -> None:
        llm = await open_llm(f"hf:{path}", CALLS, "llm")
        first, again = [await llm.complete(request) for _ in range(2)]
        assert first == again
        assert first.prompt_tokens > 0
        assert 0 < first.completion_tokens <= 5
        assert len(llm.identity.revision) == 64
        await llm.close()

    asyncio.run(main())
    with pytest.raises(InputError, match=r"has no config\.json"):
        asyncio.run(open_llm(f"hf:{tmp_path}", CALLS, "llm"))


def test_voices_have_weights_and_splits_have_speakers_of_their_own() -> None:
    voices = weighted(["a:3", "b", "c", "th-TH:2"])
    assert voices == ("a", "a", "a", "b", "c", "th-TH", "th-TH")
    cast = cast_voices(voices, dev=1, test=1, seed=5)
    assert sorted(cast.train + cast.dev + cast.test) == sorted(voices)
    assert not (set(cast.train) & set(cast.dev) | set(cast.dev) & set(cast.test))
    alone = cast_voices(("only",), dev=0, test=0, seed=0)
    assert alone.of("train") == alone.of("dev") == alone.of("test") == ("only",)
    with pytest.raises(ConfigError, match="There are 1 voices, but dev_voices 1"):
        cast_voices(("only",), dev=1, test=0, seed=0)
    for wrong in (["a:0"], ["a:x"], [":2"], ["a", "a:2"]):
        with pytest.raises(ConfigError, match="NAME or NAME:WEIGHT"):
            weighted(wrong)
    for url, phrase in (
        ("speech:http://h/v1#m", "must be named"),
        ("command:say", "must be named"),
        ("cloud:", "tts backend must be espeak:"),
    ):
        with pytest.raises(ConfigError, match=phrase):
            open_tts(url, (), CALLS)
    with pytest.raises(ConfigError, match="must name its model"):
        open_tts("speech:http://h/v1", ("v",), CALLS)
    with pytest.raises(ConfigError, match="'nobody' was asked for"):
        open_tts("espeak:", ("nobody",), CALLS)

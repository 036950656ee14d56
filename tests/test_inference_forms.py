"""Forms of answers, walked through with any choice that they allow: what comes out can always be read."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from thaitool.errors import InputError
from thaitool.inference.forms import entity_form, label_form
from thaitool.metrics.entity_labels import parse_entities

TEXTS = ['{"บุคคล": ["สมชาย", "สมหญิง"], "สถานที่": ["เชียงใหม่"], "องค์กร": [], "อื่นๆ": ["café № 5"]}'] * 3
SPECIAL = [AddedToken("<|end|>", special=True), AddedToken("<unk>", special=True)]


def byte_level() -> Any:
    """As of Qwen and Llama 3: tokens are bytes and may end within a character."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(
            vocab_size=360, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
        ),
    )
    return bpe


def with_byte_fallback() -> Any:
    """As of Llama 2 and Gemma: tokens are characters, a blank is ▁, bytes are written <0x41>."""
    letters = dict.fromkeys("".join(TEXTS).replace(" ", "▁"))
    pieces = ["<|end|>", "<unk>", *(f"<0x{n:02X}>" for n in range(256)), *letters]
    bpe = Tokenizer(
        models.BPE({p: n for n, p in enumerate(pieces)}, [], byte_fallback=True, unk_token="<unk>")  # noqa: S106
    )
    bpe.add_special_tokens(SPECIAL)
    bpe.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return bpe


MAKERS = {"byte level": byte_level, "byte fallback": with_byte_fallback}


def tokenizer_of(name: str) -> Any:
    return PreTrainedTokenizerFast(tokenizer_object=MAKERS[name](), eos_token="<|end|>")  # noqa: S106


@pytest.mark.parametrize("name", list(MAKERS))
def test_every_way_through_the_json_can_be_read(name: str) -> None:
    tokenizer = tokenizer_of(name)
    form = entity_form(tokenizer)
    rng = np.random.default_rng(0)
    n_found, seen = 0, set()
    quotes = [t for t, piece in form.pieces.items() if piece.startswith(b'"')]
    for walk in range(150):
        room = form.least_tokens + int(rng.integers(10, 100))
        tokens: list[int] = []
        while True:
            left = room - len(tokens)
            assert left > 0, "the answer must end in the room that it has"
            allowed = form.allowed(tokens, left).tolist()
            if allowed == [tokenizer.eos_token_id]:
                break
            # Some walks open as many names as they can.
            wanted = [t for t in allowed if t in quotes] if walk % 2 and rng.random() < 0.5 else []
            tokens.append(int(rng.choice(wanted or allowed)))
        text = tokenizer.decode(tokens)
        value = json.loads(text)
        assert list(value) == ["บุคคล", "สถานที่", "องค์กร", "อื่นๆ"]
        assert "\ufffd" not in text
        n_found += len(parse_entities(text))
        seen.add(text)
    assert n_found > 100
    assert len(seen) > 100


@pytest.mark.parametrize("name", list(MAKERS))
def test_the_labels_of_the_data_are_ways_through(name: str) -> None:
    tokenizer = tokenizer_of(name)
    form = entity_form(tokenizer)
    ids = tokenizer(TEXTS[0], add_special_tokens=False)["input_ids"]
    # What a tokenizer makes of a label that `synth` wrote must be allowed, or training and decoding would disagree.
    for n, token in enumerate(ids):
        assert token in form.allowed(ids[:n], 500).tolist(), tokenizer.decode(ids[:n])
    assert form.allowed(ids, 500).tolist() == [tokenizer.eos_token_id]


def test_a_label_may_begin_another() -> None:
    tokenizer = tokenizer_of("byte level")
    labels = ("ตั้งปลุก", "ตั้ง", "ปลุก")
    form = label_form(tokenizer, labels)
    rng = np.random.default_rng(0)
    said = set()
    for _ in range(200):
        tokens: list[int] = []
        while (
            token := int(rng.choice(form.allowed(tokens, 9).tolist()))
        ) != tokenizer.eos_token_id:
            tokens.append(token)
        assert len(tokens) < form.least_tokens
        said.add(tokenizer.decode(tokens))
    assert said == set(labels)


def test_a_tokenizer_without_the_characters_is_refused() -> None:
    bpe = Tokenizer(models.BPE({"a": 0, "<|end|>": 1, "{": 2}, []))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|end|>")  # noqa: S106
    with pytest.raises(InputError, match="has no token for"):
        entity_form(tokenizer)

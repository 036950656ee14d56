"""Packed rows: the same loss and gradients as padded ones, and no row that hears another."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    MambaConfig,
    MistralConfig,
    OPTConfig,
    Qwen3MoeConfig,
)

from tests import llms, tiny
from thaitool.errors import InputError
from thaitool.models.encoder import length_mask
from thaitool.models.packing import (
    MOST_PADDING,
    encode_by_length,
    like_lengths,
    pack,
    packed_states,
    packing_of,
    require_isolation,
    row_tokens,
)

if TYPE_CHECKING:
    from torch import Tensor

ASKED = ["ถอดเสียง", "ผู้พูดต้องการอะไร", "?", "ถอดเสียง", "ผู้พูดต้องการอะไร" * 3, "?"]
ANSWERS = ["เปิดไฟ", "ตั้งปลุกตอนเจ็ดโมง", "ok", "ปิดไฟ", "", "ฟังเพลง" * 4]
LENGTHS = (16_000, 9_000, 12_345, 4_000, 4_100, 5_000)
LORA: dict[str, Any] = {
    "r": 4,
    "target_modules": r".*(q|k|v|o|gate|up|down)_proj$",
    "task_type": "CAUSAL_LM",
}

rows = st.lists(st.integers(1, 300), min_size=1, max_size=40)


@settings(derandomize=True, max_examples=80, deadline=None)
@given(rows, st.sampled_from([8, 256, 4096]), st.booleans())
def test_every_token_has_a_place_of_its_own_and_its_position(
    lengths: list[int], hidden_size: int, flat: bool
) -> None:
    packing = pack(lengths, hidden_size=hidden_size, flat=flat)
    places = packing.places.tolist()
    assert len(set(places)) == len(places) == sum(lengths)
    assert packing.sequences * packing.width <= len(lengths) * max(lengths)
    positions = packing.position_ids.flatten().tolist()
    at = 0
    for n in lengths:
        mine = places[at : at + n]
        assert mine == list(range(mine[0], mine[0] + n))
        assert mine[0] // packing.width == mine[-1] // packing.width
        assert [positions[i] for i in mine] == list(range(n))
        at += n
    # What is left over begins at position 0, too, and so is another row.
    left = sorted(set(range(len(positions))) - set(places))
    assert all(positions[i] == (positions[i - 1] + 1 if i - 1 in left else 0) for i in left)
    assert not (flat and (packing.sequences > 1 or left))
    again = pack(lengths, hidden_size=hidden_size, flat=flat)
    assert torch.equal(again.places, packing.places)


def test_little_of_a_packed_batch_is_padding() -> None:
    drawn = np.exp(np.random.default_rng(0).normal(5, 0.6, (20, 32))).astype(int) + 20
    waste = []
    for row in drawn.tolist():
        packing = pack(row, hidden_size=2560, flat=False)
        waste.append(1 - sum(row) / (packing.sequences * packing.width))
    assert np.mean(waste) < 0.04
    # Sequences grow where linear layers dominate, and stay short where attention does.
    wide, narrow = (pack(drawn[0].tolist(), hidden_size=d, flat=False).width for d in (10**6, 1))
    assert narrow < 1.1 * drawn[0].max() < wide
    assert 1 - drawn.sum() / (drawn.max(1) * 32).sum() > 0.5


def model_of(family: str, folder: Any, attention: str = "sdpa") -> Any:
    llm = llms.llm_directory(folder / "llm", family)
    model, processor = llms.speech_lm(llm)
    model.language_model.set_attn_implementation(attention)
    return model, processor


def batch_of(processor: Any, *, seed: int = 0) -> dict[str, Any]:
    audio, lengths = tiny.ragged_audio(*LENGTHS, seed=seed)
    tokens = processor.tokens(ASKED, lengths.tolist(), ANSWERS)
    return {
        "input_ids": tokens.input_ids,
        "attention_mask": tokens.attention_mask,
        "labels": tokens.labels,
        "input_values": audio,
        "input_lengths": lengths,
        "num_items_in_batch": 1,
    }


def loss_and_gradient(model: Any, batch: dict[str, Any], **how: Any) -> tuple[Any, Tensor]:
    model.zero_grad()
    out = model(**batch, **how)
    out.loss.backward()
    found = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return out, torch.cat(found).clone()


def assert_same(padded: tuple[Any, Tensor], packed: tuple[Any, Tensor]) -> None:
    assert float(packed[0].loss.detach()) == pytest.approx(float(padded[0].loss.detach()), rel=1e-5)
    torch.testing.assert_close(packed[0].row_nats, padded[0].row_nats, rtol=1e-5, atol=1e-5)
    assert float((packed[1] - padded[1]).norm() / padded[1].norm()) < 1e-5


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", llms.CONFIGS)
def test_packed_is_padded(family: str, attention: str, tmp_path: Any) -> None:
    """All weights trained: loss, loss of each row, and the gradient of every parameter."""
    model, processor = model_of(family, tmp_path, attention)
    batch = batch_of(processor)
    packing = packing_of(model.language_model.get_decoder(), batch["attention_mask"])
    assert packing.sequences < len(LENGTHS)
    padded = loss_and_gradient(model, batch)
    assert_same(padded, loss_and_gradient(model, batch, packed=True))


@pytest.mark.parametrize("checkpointed", [False, True])
def test_packed_is_padded_with_an_adapter(checkpointed: bool, tmp_path: Any) -> None:
    model, processor = model_of("qwen3", tmp_path)
    batch = batch_of(processor)
    model.requires_grad_(False)
    model.language_model = get_peft_model(model.language_model, LoraConfig(**LORA))
    model.multi_modal_projector.requires_grad_(True)
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    padded = loss_and_gradient(model, batch)
    if checkpointed:
        model.language_model.gradient_checkpointing_enable({"use_reentrant": False})
        model.language_model.train()
    packed = loss_and_gradient(model, batch, packed=True)
    assert_same(padded, packed)
    assert all(bool(p.grad.abs().sum()) for n, p in model.named_parameters() if "lora_B" in n)


@pytest.mark.parametrize("how", ["weights", "autocast"])
def test_half_precision_packs_as_well(how: str, tmp_path: Any) -> None:
    """The proof is not mistaken for the rounding, and the losses differ by no more than it."""
    model, processor = model_of("qwen3", tmp_path)
    batch = batch_of(processor)
    exact, _ = loss_and_gradient(model, batch)
    if how == "weights":
        model.language_model.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        padded, _ = loss_and_gradient(model, batch)
        packed, _ = loss_and_gradient(model, batch, packed=True)
    assert packed.row_nats.dtype == torch.float32
    rounding = float((padded.row_nats - exact.row_nats).abs().max())
    assert rounding > 0
    assert float((packed.row_nats - exact.row_nats).abs().max()) < 3 * rounding


def test_a_row_changes_no_other_row(tmp_path: Any) -> None:
    """Bitwise: what is masked is not merely small."""
    model, processor = model_of("llama", tmp_path)
    batch = batch_of(processor)
    other = batch_of(processor, seed=1)
    with torch.no_grad():
        before = model(**batch, packed=True).row_nats
        for row in range(len(LENGTHS)):
            values, ids = batch["input_values"].clone(), batch["input_ids"].clone()
            values[row] = other["input_values"][row]
            last = int(batch["attention_mask"][row].sum()) - 1
            ids[row, last - 1] = processor.tokenizer.unk_token_id
            changed = batch | {"input_values": values, "input_ids": ids}
            after = model(**changed, packed=True).row_nats
            same = after == before
            assert not bool(same[row])
            assert same.sum() == len(LENGTHS) - 1


def test_rows_padded_at_the_left_are_packed_alike(tmp_path: Any) -> None:
    model, processor = model_of("llama", tmp_path)
    batch = batch_of(processor)
    sizes = batch["attention_mask"].sum(1).tolist()
    moved = {
        name: torch.stack(
            [row.roll(len(row) - n) for row, n in zip(batch[name], sizes, strict=True)]
        )
        for name in ("input_ids", "attention_mask", "labels")
    }
    with torch.no_grad():
        expected = model(**batch, packed=True).row_nats
        assert torch.equal(model(**(batch | moved), packed=True).row_nats, expected)


SMALL: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
}
NARROW: dict[str, Any] = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2}
FORMS: dict[str, Any] = {
    "window": MistralConfig(**SMALL, sliding_window=3),
    "some windows": Gemma3TextConfig(
        **SMALL, sliding_window=3, layer_types=["sliding_attention", "full_attention"]
    ),
    "experts": Qwen3MoeConfig(
        **SMALL, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16
    ),
    "learned positions": GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2),
}
MIXING: dict[str, Any] = {
    "no packed mask": OPTConfig(
        **NARROW, ffn_dim=64, num_attention_heads=2, word_embed_proj_dim=32
    ),
    "a state": MambaConfig(**NARROW, state_size=4),
}


def decoder_of(config: Any) -> Any:
    torch.manual_seed(0)
    llm = AutoModelForCausalLM.from_config(config)
    for parameter in llm.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return llm.get_decoder().eval()


@pytest.mark.parametrize("form", FORMS)
def test_other_forms_of_attention_pack_as_well(form: str) -> None:
    require_isolation(decoder_of(FORMS[form]).bfloat16(), "cpu")
    decoder = decoder_of(FORMS[form])
    require_isolation(decoder, "cpu")
    mask = length_mask(torch.tensor([9, 4, 7, 5]), 9)
    embeds = torch.randn(4, 9, 32)
    packing = packing_of(decoder, mask.long())
    assert packing.sequences < 4
    with torch.no_grad():
        packed = packed_states(decoder, embeds, mask.long(), mask, packing=packing)
        padded = decoder(inputs_embeds=embeds, attention_mask=mask.long()).last_hidden_state[mask]
    torch.testing.assert_close(packed, padded, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", MIXING)
def test_an_llm_whose_rows_would_hear_each_other_is_refused(form: str) -> None:
    with pytest.raises(InputError, match="Packed rows must not change each other, but in this"):
        require_isolation(decoder_of(MIXING[form]), "cpu")


class PacksOneSequence(torch.nn.Module):
    """A decoder that looks for rows in a batch of one sequence only, as transformers once did."""

    def __init__(self, decoder: Any) -> None:
        super().__init__()
        self.decoder, self.config = decoder, decoder.config

    def get_input_embeddings(self) -> Any:
        return self.decoder.get_input_embeddings()

    def forward(self, **named: Any) -> Any:
        alone = len(named["position_ids"]) == 1
        return self.decoder(**named if alone else {**named, "position_ids": None})


class HearsNothing(PacksOneSequence):
    """Every state is the same, so that there is nothing to compare an effect with."""

    def forward(self, **named: Any) -> Any:
        return SimpleNamespace(last_hidden_state=torch.ones_like(named["inputs_embeds"]))


@pytest.mark.parametrize("form", [PacksOneSequence, HearsNothing])
def test_the_proof_is_made_in_the_form_that_is_trained(form: Any) -> None:
    with pytest.raises(InputError, match="Packed rows must not change each other, but in this"):
        require_isolation(form(decoder_of(FORMS["window"])), "cpu")


def test_the_proof_leaves_no_trace(tmp_path: Any) -> None:
    model, _ = model_of("llama", tmp_path)
    decoder = model.language_model.get_decoder()
    decoder.train()
    decoder.layers[0].eval()
    modes, state = [m.training for m in decoder.modules()], torch.get_rng_state()
    require_isolation(decoder, "cpu")
    assert [m.training for m in decoder.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in decoder.parameters())


def test_clips_are_encoded_with_their_like(tmp_path: Any) -> None:
    model, _ = model_of("llama", tmp_path)
    audio, lengths = tiny.ragged_audio(*LENGTHS)
    sizes: list[tuple[int, ...]] = []

    def counted(values: Tensor, of: Tensor) -> tuple[Tensor, Tensor]:
        sizes.append(tuple(values.shape))
        found: tuple[Tensor, Tensor] = model.encode(values, of)
        return found

    with torch.no_grad():
        frames, counts = encode_by_length(counted, audio, lengths)
        expected, expected_counts = model.encode(audio, lengths)
    assert sizes == [(1, 16_000), (1, 12_345), (1, 9_000), (2, 5_000), (1, 4_000)]
    assert torch.equal(counts, expected_counts)
    valid = length_mask(counts, frames.shape[1])
    torch.testing.assert_close(frames[valid], expected[valid], rtol=1e-4, atol=1e-5)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(rows)
def test_groups_of_like_length_have_little_padding(lengths: list[int]) -> None:
    groups = like_lengths(lengths)
    assert sorted(row for group in groups for row in group) == list(range(len(lengths)))
    for group in groups:
        found = [lengths[row] for row in group]
        assert sum(found) >= (1 - MOST_PADDING) * len(group) * max(found)


def test_rows_are_counted_as_they_are_made(tmp_path: Any) -> None:
    _, processor = model_of("llama", tmp_path)
    count = partial(row_tokens, processor)
    samples = [*LENGTHS[:-1], 0]
    made = processor.tokens(ASKED, samples, ANSWERS).attention_mask.sum(1)
    assert count(ASKED, samples, ANSWERS).tolist() == made.tolist()
    with pytest.raises(InputError, match="must not contain"):
        count([processor.audio_token], [0], ["?"])

"""Packed rows: the scores of transformers, and the same bits whatever stands beside a row."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from thaitool.models import rows

SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "initializer_range": 0.3,
}
CONFIGS: dict[str, Any] = {
    "llama": LlamaConfig(**SIZES),
    "qwen2": Qwen2Config(**SIZES),
    "qwen3": Qwen3Config(**SIZES),
    "mistral": MistralConfig(**SIZES, sliding_window=6),
    "gemma2": Gemma2Config(**SIZES, final_logit_softcapping=None),
    "gpt2": GPT2Config(vocab_size=97, n_embd=48, n_layer=2, n_head=4, initializer_range=0.3),
}
LENGTHS = (3, 50, 17, 1, 41, 33, 8, 9, 2, 64)


def model(name: str) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIGS[name]).eval()


def texts() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(n, 48, generator=generator) for n in LENGTHS]


def played(llm: Any, chosen: list[int], *, packed: bool = True, steps: int = 4) -> torch.Tensor:
    """Scores (rows, 1 + steps, V) of texts, and of single tokens after them."""
    memories = [rows.Memory(80) for _ in chosen]
    given = texts()
    out = [
        rows.forward(llm, [*zip(memories, (given[i] for i in chosen), strict=True)], packed=packed)
    ]
    for step in range(steps):
        new = [(m, given[i][:1] * (step + 1)) for m, i in zip(memories, chosen, strict=True)]
        out.append(rows.forward(llm, new, packed=packed))
    return torch.stack(out, 1)


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "mistral"])
def test_packed_rows_have_the_scores_of_transformers(name: str) -> None:
    llm = model(name)
    assert rows.can_pack(llm)
    everything = list(range(len(LENGTHS)))
    found, wanted = (played(llm, everything, packed=packed) for packed in (True, False))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert llm.config._attn_implementation == "sdpa"  # put back


@pytest.mark.parametrize("name", ["llama", "qwen3", "mistral"])
def test_a_row_is_the_same_bit_for_bit_beside_any_others(name: str) -> None:
    llm = model(name)
    alone = [played(llm, [i])[0] for i in range(len(LENGTHS))]
    for chosen in ([0, 1], [3, 8], [5, 3, 0], [9, 2, 4, 6, 7], list(range(10)), [1] * 17):
        together = played(llm, chosen)
        for place, i in enumerate(chosen):
            assert torch.equal(together[place], alone[i]), (chosen, i)


@pytest.mark.parametrize(
    # Threads that have a core each wait for each other in a loop, which takes long where others work.
    ("threads", "width"),
    [pytest.param(2, 80, marks=pytest.mark.slow), (6, 6144)],
)
def test_a_row_is_the_same_with_several_threads(threads: int, width: int) -> None:
    """They share the rows of a product, so that each must have enough of them; and the elements of an activation."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        torch.manual_seed(0)
        config = LlamaConfig(**{**SIZES, "intermediate_size": width})
        llm = AutoModelForCausalLM.from_config(config).eval()
        act = llm.model.layers[0].mlp.act_fn
        real = act.forward
        seen: list[int] = []

        def watched(x: torch.Tensor) -> torch.Tensor:
            seen.append(torch.get_num_threads())
            return real(x)  # type: ignore[no-any-return]

        act.forward = watched
        together = played(llm, [9, 5, 3, 0, 4], steps=1)
        # Differences of the last bit are too rare to be met in so few numbers.
        assert set(seen) == {2}
        for place, i in enumerate([9, 5, 3]):
            assert torch.equal(together[place], played(llm, [i], steps=1)[0])
        assert torch.get_num_threads() == threads  # put back
    finally:
        torch.set_num_threads(before)


def test_a_layer_that_sees_less_by_its_mask_alone_is_not_packed() -> None:
    llm = model("qwen3")
    llm.config = type(llm.config)(**llm.config.to_dict())
    llm.config.layer_types = ["full_attention", "chunked_attention"]
    llm.config.attention_chunk_size = 64  # longer than the trial
    assert not rows.can_pack(llm)


def test_rows_that_join_later_change_nothing() -> None:
    llm = model("llama")
    given = texts()
    alone = played(llm, [1], steps=2)[0]
    old, new = rows.Memory(80), rows.Memory(80)
    found = [rows.forward(llm, [(old, given[1])])[0]]
    found.append(rows.forward(llm, [(new, given[4]), (old, given[1][:1])])[1])
    found.append(rows.forward(llm, [(old, given[1][:1] * 2), (new, given[4][:1])])[0])
    assert torch.equal(torch.stack(found), alone)


@pytest.mark.parametrize("name", ["gemma2", "gpt2"])
def test_what_cannot_be_packed_is_found_out_or_right(name: str) -> None:
    """Soft caps (Gemma 2) are not computed here; GPT-2's own attention may or may not hand on what it is given."""
    llm = model(name)
    packs = rows.can_pack(llm)
    assert packs is False or name != "gemma2"
    found = played(llm, [0, 4, 6], packed=packs)
    for place, i in enumerate([0, 4, 6]):
        alone = played(llm, [i], packed=False)[0]
        torch.testing.assert_close(found[place], alone, rtol=1e-4, atol=1e-4)

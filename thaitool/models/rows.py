"""One forward pass of a causal LLM over rows of different lengths and ages, packed without padding between them.

A row attends to its own tokens alone, in a computation of its own; everything else in a causal LLM works token by
token. So a row's scores depend on no other row, and bit for bit so where the products of the linear layers do not
depend on the number of rows of the input: those of MKL, for at least four rows per thread, do not. Activations do on
many threads, and so have few (`_few_threads`). Chooses no tokens.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch.nn import functional
from transformers import DynamicCache
from transformers.activations import ACT2CLS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor, nn

#: Under this name transformers finds `_attend`.
_NAME = "thaitool_rows"
#: Least rows per thread for which MKL's products of one row are the same beside any other rows.
_ROWS_PER_THREAD = 4
#: Threads up to which every thread's share of an activation is a whole number of vector registers.
_FEW_THREADS = 2
_ACTIVATIONS = tuple({c[0] if isinstance(c, tuple) else c for c in ACT2CLS.values()})
#: Largest relative difference between packed scores and transformers' own, by which a family is known to fit.
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}


@dataclass
class Memory:
    """Keys and values of one row in every layer, and how many tokens there will be at most."""

    capacity: int
    length: int = 0
    held: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Layer to keys and values, each of shape (1, heads, capacity, width)."""
    alone: Any = None
    """The row's cache of transformers, where rows cannot be packed."""

    def extended(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """What the layer holds with the new tokens, of shape (1, heads, n, width) like all four."""
        end = self.length + key.shape[2]
        if layer not in self.held:
            self.held[layer] = (
                key.new_empty(1, key.shape[1], self.capacity, key.shape[3]),
                value.new_empty(1, value.shape[1], self.capacity, value.shape[3]),
            )
        keys, values = self.held[layer]
        keys[:, :, self.length : end] = key
        values[:, :, self.length : end] = value
        return keys[:, :, :end], values[:, :, :end]


@dataclass
class _Pack:
    """Which stretch of the packed sequence belongs to which row; and whether every layer asked for it."""

    places: list[tuple[Memory, int, int]]
    layers: set[int] = field(default_factory=set)
    unknown: bool = False


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    rows: _Pack,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention of a layer on the packed sequence, as transformers calls it: (1, heads, T, width) each."""
    del attention_mask  # None: it would be one mask for all rows
    # What changes the scores in another way (soft caps, sinks, position biases) is not done here.
    rows.unknown |= any(
        others.get(name) is not None for name in ("softcap", "s_aux", "position_bias")
    )
    # A layer that sees less by its mask alone; a trial of a few tokens would not show it.
    kinds = getattr(getattr(module, "config", None), "layer_types", None)
    kind = "full_attention" if kinds is None else kinds[module.layer_idx]
    windowed = kind == "sliding_attention" and sliding_window is not None
    rows.unknown |= kind != "full_attention" and not windowed
    rows.layers.add(module.layer_idx)
    out = query.new_zeros(1, query.shape[2], query.shape[1], value.shape[3])
    for memory, start, stop in rows.places:
        keys, values = memory.extended(
            module.layer_idx, key[:, :, start:stop], value[:, :, start:stop]
        )
        found = _one_row(query[:, :, start:stop], keys, values, scaling, sliding_window)
        out[:, start:stop] = found.transpose(1, 2)
    return out, None


def _one_row(
    query: Tensor, keys: Tensor, values: Tensor, scaling: float | None, window: int | None
) -> Tensor:
    """Causal attention of the last n tokens of one row, shape (1, heads, n, width)."""
    n, total = query.shape[2], keys.shape[2]
    groups = query.shape[1] // keys.shape[1]
    if n == 1:
        if window is not None:
            keys, values = keys[:, :, -window:], values[:, :, -window:]
        # The heads that share keys stand in the place of several queries.
        together = query.reshape(1, keys.shape[1], groups, -1)
        found = functional.scaled_dot_product_attention(together, keys, values, scale=scaling)
        return found.reshape(1, -1, 1, values.shape[3])
    keys, values = (t.repeat_interleave(groups, dim=1) for t in (keys, values))
    if n == total and (window is None or n <= window):
        return functional.scaled_dot_product_attention(
            query, keys, values, is_causal=True, scale=scaling
        )
    place = torch.arange(total - n, total, device=query.device)[:, None]
    other = torch.arange(total, device=query.device)[None]
    mask = other <= place
    if window is not None:
        mask &= other > place - window
    return functional.scaled_dot_product_attention(
        query, keys, values, attn_mask=mask, scale=scaling
    )


ALL_ATTENTION_FUNCTIONS.register(_NAME, _attend)


def causal(language_model: Any) -> Any:
    """The causal LLM itself, without the adapter's wrapper around it."""
    peft = hasattr(language_model, "get_base_model")
    return language_model.get_base_model() if peft else language_model


@torch.inference_mode()
def forward(
    language_model: Any, rows: Sequence[tuple[Memory, Tensor]], *, packed: bool = True
) -> Tensor:
    """Scores (rows, V) of each row's next token, in float32; the memories then hold the new tokens.

    Args:
        language_model: A causal LLM in evaluation mode, with or without adapter.
        rows: What each row holds, and the embeddings (n, D) of its new tokens.
        packed: All rows in one pass; without it one after the other, for LLMs that `can_pack` says no of.
    """
    if not packed:
        return torch.cat([_forward_alone(language_model, *row) for row in rows])
    scores, pack = _forward_packed(language_model, rows)
    for memory, start, stop in pack.places:
        memory.length += stop - start
    return scores


def _forward_packed(
    language_model: Any, rows: Sequence[tuple[Memory, Tensor]]
) -> tuple[Tensor, _Pack]:
    places, at = [], 0
    for memory, embeds in rows:
        places.append((memory, at, at + len(embeds)))
        at += len(embeds)
    first = rows[0][1]
    filled = _filled(at)
    embeds = torch.cat([*(e for _, e in rows), first.new_zeros(filled - at, first.shape[1])])
    positions = torch.zeros(filled, dtype=torch.long)
    for memory, start, stop in places:
        positions[start:stop] = torch.arange(memory.length, memory.length + stop - start)
    # The head, too, sees a number of rows that its products do not depend on.
    last = [stop - 1 for _, _, stop in places]
    last += [last[-1]] * (_filled(len(last)) - len(last))
    pack = _Pack(places)
    config = causal(language_model).config
    kept = config._attn_implementation  # noqa: SLF001 (transformers' own way to name it)
    config._attn_implementation = _NAME  # noqa: SLF001
    try:
        with _few_threads(language_model):
            out = language_model(
                inputs_embeds=embeds[None],
                position_ids=positions[None].to(embeds.device),
                use_cache=False,
                logits_to_keep=torch.tensor(last, device=embeds.device),
                rows=pack,
            )
    finally:
        config._attn_implementation = kept  # noqa: SLF001
    return out.logits[0, : len(places)].float(), pack


@contextmanager
def _few_threads(language_model: Any) -> Iterator[None]:
    """Within, activations run on few threads.

    Torch computes what is left over at the end of a thread's share with another exp, which differs in the last bit;
    where shares end depends on the number of rows.
    """
    before = torch.get_num_threads()
    if before <= _FEW_THREADS or language_model.device.type != "cpu":
        yield
        return
    hooks = []
    for module in language_model.modules():
        if isinstance(module, _ACTIVATIONS):
            hooks.append(
                module.register_forward_pre_hook(lambda *_: torch.set_num_threads(_FEW_THREADS))
            )
            hooks.append(module.register_forward_hook(lambda *_: torch.set_num_threads(before)))
    try:
        yield
    finally:
        torch.set_num_threads(before)
        for hook in hooks:
            hook.remove()


def _filled(count: int) -> int:
    """The next number of rows that products are made with."""
    step = _ROWS_PER_THREAD * max(2, torch.get_num_threads())
    return -(-count // step) * step


def _forward_alone(language_model: Any, memory: Memory, embeds: Tensor) -> Tensor:
    if memory.alone is None:
        memory.alone = DynamicCache(config=causal(language_model).config)
    out = language_model(
        inputs_embeds=embeds[None],
        past_key_values=memory.alone,
        use_cache=True,
        logits_to_keep=1,
    )
    memory.length += len(embeds)
    scores: Tensor = out.logits[:, -1].float()
    return scores


_known: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def can_pack(language_model: Any) -> bool:
    """Whether packed rows give the scores that transformers gives each row alone: tried once for every LLM.

    Not so for families whose layers do more than attention by transformers' interface (recurrences, soft caps, sinks).
    """
    llm = causal(language_model)
    if llm not in _known:
        _known[llm] = _tried(language_model)
    return _known[llm]


@torch.inference_mode()
def _tried(language_model: Any) -> bool:
    table = language_model.get_input_embeddings()
    ids = torch.arange(7, device=table.weight.device) % table.weight.shape[0]
    texts = [table(ids[:3]), table(ids[2:])]
    alone = [Memory(8) for _ in texts]
    wanted = forward(language_model, list(zip(alone, texts, strict=True)), packed=False)
    then = forward(language_model, [(m, table(ids[:1])) for m in alone], packed=False)
    together = [Memory(8) for _ in texts]
    try:
        found, pack = _forward_packed(language_model, list(zip(together, texts, strict=True)))
    except (TypeError, KeyError, AttributeError):
        return False  # the family does not hand `rows` to its attention
    if pack.unknown or len(pack.layers) != causal(language_model).config.num_hidden_layers:
        return False
    for memory, text in zip(together, texts, strict=True):
        memory.length = len(text)
    after = forward(language_model, [(m, table(ids[:1])) for m in together])
    limit = _TOLERANCE.get(table.weight.dtype, 0.1)
    return all(
        bool((a - b).abs().max() <= limit * b.abs().max().clamp_min(1e-6))
        for a, b in ((found, wanted), (after, then))
    )

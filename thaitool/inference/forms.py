"""What an answer may look like, token by token: one of some labels, or the JSON of the task `ner`. Runs no model.

Written for any tokenizer of bytes or characters: the JSON is followed byte by byte, through every token of the
vocabulary.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from thaitool.errors import InputError
from thaitool.records import ENTITY_KEYS_TH

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from torch import Tensor

#: Tokens, at most, from a comma to the first letter of a surface, or to the end of a character.
_TO_SETTLE = 6
#: Beginnings of answers whose place in the JSON is remembered.
_KEPT = 4096
_QUOTE, _BACKSLASH, _SPACE = ord('"'), ord("\\"), ord(" ")


@dataclass(frozen=True)
class LabelForm:
    """One of some labels, each as the tokens that training had for it."""

    nodes: dict[tuple[int, ...], Tensor]
    """What may follow each beginning of a label; the end token where a label ends."""
    least_tokens: int
    """That an answer must be allowed to have, its end included."""

    def allowed(self, tokens: Sequence[int], left: int) -> Tensor:  # noqa: ARG002 (one signature)
        """The ids that may follow, shape (n,), n > 0."""
        return self.nodes[tuple(tokens)]


def label_form(tokenizer: Any, labels: Iterable[str]) -> LabelForm:
    """The form of answers that are one of some labels.

    Raises:
        InputError: a label is blank.
    """
    follow: dict[tuple[int, ...], set[int]] = {}
    longest = 0
    for label in labels:
        if not label.strip():
            raise InputError(f"A label must be a text that is not blank, but one is {label!r}.")
        encoded = tokenizer(label.strip(), add_special_tokens=False, split_special_tokens=True)
        ids = encoded["input_ids"]
        longest = max(longest, len(ids) + 1)
        for n, token in enumerate([*ids, tokenizer.eos_token_id]):
            follow.setdefault(tuple(ids[:n]), set()).add(token)
    return LabelForm({k: torch.tensor(sorted(v)) for k, v in follow.items()}, longest)


@dataclass(frozen=True, slots=True)
class _State:
    """A place in the JSON: after `at` bytes of the fixed part number `part`, or in a surface of the list after it."""

    part: int
    at: int
    inside: bool = False
    rest: int = 0
    """Bytes that the character under way still needs; outside of surfaces -1 after a comma, -2 after its blank."""
    low: int = 0x80
    high: int = 0xBF
    """Range of its next byte."""
    begun: bool = False
    """Whether the surface has a character."""
    escaped: bool = False


#: What stands before the list of each entity type; after the last there is only the end.
_PARTS = [
    f"{'{' if n == 0 else '], '}{json.dumps(key, ensure_ascii=False)}: ["
    for n, key in enumerate(ENTITY_KEYS_TH.values())
]
_FIXED = [part.encode() for part in [*_PARTS, "]}"]]


def _after(state: _State, byte: int) -> Iterator[_State]:
    """Where a byte leads; nowhere, if it may not come."""
    if state.inside:
        yield from _in_surface(state, byte)
        return
    fixed = _FIXED[state.part]
    if state.at < len(fixed):
        if byte == fixed[state.at]:
            yield _State(state.part, state.at + 1)
        return
    if state.part == len(_FIXED) - 1:
        return
    # In a list: its first surface, another one, or its end.
    if byte == _QUOTE and not state.begun:
        yield _State(state.part, state.at, inside=True)
    elif byte == _FIXED[state.part + 1][0]:
        yield _State(state.part + 1, 1)
    elif byte == ord(",") and state.begun:
        yield _State(state.part, state.at, rest=-1)


def _in_surface(state: _State, byte: int) -> Iterator[_State]:
    here = _State(state.part, state.at, inside=True)
    if state.rest:
        if state.low <= byte <= state.high:
            # The first letter is a Thai consonant, or a vowel that is written before one.
            low, high = (
                (0x80, 0xBF) if state.begun else (0x81, 0xAE) if byte == 0xB8 else (0x80, 0x84)
            )
            begun = state.begun or state.rest == 1
            yield replace(here, rest=state.rest - 1, low=low, high=high, begun=begun)
    elif not state.begun:
        # What begins with neither letter nor digit may be no name at all: `metrics.entity_labels` cannot read it.
        if byte < 0x80 and chr(byte).isalnum():
            yield replace(here, begun=True)
        elif byte == 0xE0:
            yield replace(here, rest=2, low=0xB8, high=0xB9)
    elif state.escaped:
        if byte in {_QUOTE, _BACKSLASH}:
            yield replace(here, begun=True)
    elif byte == _QUOTE:
        yield _State(state.part, state.at, begun=True)
    elif byte == _BACKSLASH:
        yield replace(here, begun=True, escaped=True)
    elif byte < 0x80:
        if byte >= _SPACE and byte != 0x7F:
            yield replace(here, begun=True)
    elif 0xC2 <= byte <= 0xF4:
        # The first byte of a character of several (RFC 3629, section 4).
        rest = 1 if byte <= 0xDF else 2 if byte <= 0xEF else 3
        low = {0xE0: 0xA0, 0xF0: 0x90}.get(byte, 0x80)
        high = {0xED: 0x9F, 0xF4: 0x8F}.get(byte, 0xBF)
        yield replace(here, rest=rest, low=low, high=high, begun=True)


def _step(state: _State, byte: int) -> _State | None:
    if state.rest == -1:  # the blank between a comma and the next surface
        return _State(state.part, state.at, rest=-2) if byte == _SPACE else None
    if state.rest == -2:
        return _State(state.part, state.at, inside=True) if byte == _QUOTE else None
    return next(_after(state, byte), None)


def _is_settled(state: _State) -> bool:
    """Whether the JSON can be closed here: not within a character, an escape or an empty surface."""
    return not state.rest and not state.escaped and (state.begun or not state.inside)


def _closing(state: _State) -> bytes:
    """The shortest way from a settled place to the end."""
    if state.inside:
        return b'"' + b"".join(_FIXED[state.part + 1 :])
    return _FIXED[state.part][state.at :] + b"".join(_FIXED[state.part + 1 :])


@dataclass
class EntityForm:
    """The object of `synth`'s NER labels: each type with a list of surfaces, which may be empty."""

    pieces: dict[int, bytes]
    """Bytes of every token that has some."""
    end: int
    tree: dict[int, Any] = field(repr=False, default_factory=dict)
    found: dict[_State, Tensor] = field(repr=False, default_factory=dict)
    reached: dict[tuple[int, ...], _State] = field(repr=False, default_factory=dict)
    least_tokens: int = 0

    def __post_init__(self) -> None:
        for token, piece in self.pieces.items():
            node = self.tree
            for byte in piece:
                node = node.setdefault(byte, {})
            node.setdefault(-1, []).append(token)
        # What the end costs from any place, with its own token, and what is needed to settle before.
        whole = b"".join(_FIXED).decode()
        costs = [len(self._tokens(whole[n:].encode())) for n in range(len(whole))]
        self.least_tokens = max(costs) + 2 + _TO_SETTLE

    def allowed(self, tokens: Sequence[int], left: int) -> Tensor:
        """The ids that may follow, shape (n,), n > 0; towards the end of the room only those that close the JSON."""
        state = self._reached(tuple(tokens))
        if state.part == len(_FIXED) - 1 and state.at == len(_FIXED[-1]):
            return torch.tensor([self.end])
        if left > self.least_tokens:
            if state not in self.found:
                self.found[state] = torch.tensor(sorted(t for t, _ in self._ways(self.tree, state)))
            return self.found[state]
        if _is_settled(state):
            return torch.tensor(self._tokens(_closing(state))[:1])
        if not state.inside:
            return torch.tensor(self._tokens(b' "' if state.rest == -1 else b'"')[:1])
        ways = [
            (t, s) for t, s in self._ways(self.tree, state) if s.inside and s.part == state.part
        ]
        settled = [t for t, s in ways if _is_settled(s)]
        return torch.tensor(sorted(settled or [t for t, _ in ways]))

    def _reached(self, tokens: tuple[int, ...]) -> _State:
        if not tokens:
            return _State(0, 0)
        if tokens not in self.reached:
            before = self.reached.get(tokens[:-1])
            if before is None:
                before = _through(_State(0, 0), b"".join(self.pieces[t] for t in tokens[:-1]))
            if len(self.reached) == _KEPT:
                self.reached.clear()
            self.reached[tokens] = _through(before, self.pieces[tokens[-1]])
        return self.reached[tokens]

    def _ways(self, node: dict[int, Any], state: _State) -> Iterator[tuple[int, _State]]:
        """The tokens that may follow, and where they lead."""
        for byte, below in node.items():
            if byte == -1:
                yield from ((token, state) for token in below)
            elif (after := _step(state, byte)) is not None:
                yield from self._ways(below, after)

    def _tokens(self, text: bytes) -> list[int]:
        """Tokens for some bytes, always the longest that fits."""
        tokens = []
        at = 0
        while at < len(text):
            node, best = self.tree, (0, -1)
            for n in range(at, len(text)):
                if text[n] not in node:
                    break
                node = node[text[n]]
                if -1 in node:
                    best = (n + 1, min(node[-1]))
            if best[1] < 0:
                raise InputError(
                    "The LLM's tokenizer must be able to write the JSON of entities, but has no token for"
                    f" {text[at:].decode(errors='replace')[:1]!r}. Leave out the form."
                )
            at = best[0]
            tokens.append(best[1])
        return tokens


def _through(state: _State, piece: bytes) -> _State:
    for byte in piece:
        after = _step(state, byte)
        assert after is not None  # noqa: S101 (only what is allowed comes here)
        state = after
    return state


def entity_form(tokenizer: Any) -> EntityForm:
    """The form of answers that are a label of the task `ner`.

    Raises:
        InputError: the tokenizer cannot write it.
    """
    return EntityForm(_pieces(tokenizer), int(tokenizer.eos_token_id))


def _pieces(tokenizer: Any) -> dict[int, bytes]:
    """The bytes of each token of a vocabulary, without its special tokens."""
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    decoder = json.loads(tokenizer.backend_tokenizer.to_str())["decoder"] or {}
    of_bytes = "ByteLevel" in json.dumps(decoder)
    table = _byte_alphabet() if of_bytes else {}
    pieces: dict[int, bytes] = {}
    for piece, token in tokenizer.get_vocab().items():
        if token in special or not piece:
            continue
        if of_bytes:
            if all(c in table for c in piece):
                pieces[token] = bytes(table[c] for c in piece)
        elif len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
            pieces[token] = bytes([int(piece[3:5], 16)])
        else:
            pieces[token] = piece.replace("\u2581", " ").encode()
    return pieces


def _byte_alphabet() -> dict[str, int]:
    """The character that stands for each byte in byte-level vocabularies (Radford et al. 2019, as in GPT-2)."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(b): b for b in shown}
    others = [b for b in range(256) if b not in shown]
    return table | {chr(256 + n): b for n, b in enumerate(others)}

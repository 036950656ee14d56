"""fairseq's letter dictionary (`dict.ltr.txt`) as the tokenizer of a CTC model in transformers.

Holds no weights. fairseq's CTC blank is `<s>`, its first symbol; transformers calls its blank `<pad>`, so the two names
change places and every number keeps its meaning.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from transformers import Wav2Vec2CTCTokenizer

from thaitool.errors import InputError
from thaitool.models.fairseq.unpickle import Inert

if TYPE_CHECKING:
    from pathlib import Path

#: What fairseq puts before the file's own symbols (fairseq/data/dictionary.py).
_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
BLANK_ID, BEGIN_ID, END_ID = 0, 1, 2
WORD_BREAK = "|"


def own_dictionary(content: dict[Any, Any]) -> list[str] | None:
    """The symbols that a checkpoint of fairseq 1.0 and later carries itself; None where it does not."""
    state = content.get("task_state")
    record = state.get("target_dictionary") if isinstance(state, dict) else None
    if not isinstance(record, Inert) or not isinstance(record.state, dict):
        return None
    symbols = record.state.get("symbols")
    if not isinstance(symbols, list) or not all(isinstance(symbol, str) for symbol in symbols):
        return None
    return symbols if tuple(symbols[:4]) == _SPECIAL else None


def read_dictionary(path: Path) -> list[str]:
    """The symbols of a dictionary by number, fairseq's four special ones first.

    Raises:
        InputError: no such file, a line that is not `symbol count`, or a symbol that comes twice.
    """
    if not path.is_file():
        raise InputError(f"{path} must be fairseq's dictionary (dict.ltr.txt), but is no file.")
    try:
        lines = path.read_text("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} must be UTF-8 text, but is not: {error}.") from error
    symbols = list(_SPECIAL)
    known = set(symbols)
    for number, line in enumerate(lines, start=1):
        symbol, _, count = line.rstrip().rpartition(" ")
        if not line.strip() and number == len(lines):
            break
        if not symbol or not count.isdecimal():
            raise InputError(
                f"{path}, line {number}, must be `symbol count`, but is {line[:80]!r}."
            )
        if symbol in known:
            raise InputError(
                f"{path}, line {number}, must be a new symbol, but {symbol!r} is there already."
            )
        known.add(symbol)
        symbols.append(symbol)
    return symbols


def write_tokenizer(symbols: list[str], folder: Path) -> None:
    """Writes the tokenizer of transformers whose numbers are those of fairseq.

    Raises:
        InputError: transformers would number the symbols in another way.
    """
    renamed = {"<s>": "<pad>", "<pad>": "<s>"}
    numbers = {renamed.get(symbol, symbol): number for number, symbol in enumerate(symbols)}
    vocabulary = folder / "vocab.json"
    vocabulary.write_text(json.dumps(numbers, ensure_ascii=False, indent=2), "utf-8")
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    tokenizer = Wav2Vec2CTCTokenizer(
        str(vocabulary), **names, word_delimiter_token=WORD_BREAK, do_lower_case=False
    )
    if tokenizer.get_vocab() != numbers:
        odd = sorted(set(tokenizer.get_vocab().items()) ^ set(numbers.items()))[:6]
        raise InputError(
            f"The dictionary must keep its numbers in transformers, but differs in {odd}."
        )
    tokenizer.save_pretrained(folder)

"""Recognises the form of a source by its name and beginning, and reads any. Parses none itself: see `readers`."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, get_args

from thaitool.config.synth import SourceFormat
from thaitool.data.formats import recognise as recognise_speech
from thaitool.errors import ConfigError, InputError
from thaitool.records import SPLITS, Rejected
from thaitool.synth.cache import canonical_json
from thaitool.synth.jsonrows import (
    JsonObject,
    array_of_objects,
    lines_of_objects,
    raise_problems,
    read_text,
)
from thaitool.synth.readers.alpaca import read_alpaca
from thaitool.synth.readers.bio import read_bio, read_wikiann
from thaitool.synth.readers.lines import read_lines
from thaitool.synth.readers.reading import Found, Given
from thaitool.synth.readers.rows import read_rows
from thaitool.synth.readers.slurp import MASSIVE_KEYS, SLURP_KEYS, read_slurp
from thaitool.synth.readers.snips import read_snips
from thaitool.synth.readers.speech import read_speech
from thaitool.synth.readers.tsv import is_tsv, read_tsv
from thaitool.synth.readers.types import (
    BIO_TYPES,
    DIALOG_TYPES,
    OUR_TYPES,
    SLURP_TYPES,
    SNIPS_TYPES,
)
from thaitool.synth.sources import (
    UNKNOWN_LICENCE,
    Language,
    Source,
    SourceRow,
    content_id,
    normal_english,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Set
    from pathlib import Path

_TYPES: Mapping[str, Mapping[str, str | None]] = {
    "snips": SNIPS_TYPES,
    "bio": BIO_TYPES,
    "wikiann": BIO_TYPES,
    "slurp": SLURP_TYPES,
    "tsv": DIALOG_TYPES,
}
#: Names of files that hold columns of tokens and tags.
_BIO_SUFFIXES = frozenset((".conll", ".bio", ".iob", ".iob2", ".bioes"))
#: Lines that are looked at.
_HEAD = 20
_TAGGED = re.compile(r"\S.*[\t ](?:O|[BIESLUM][-_]\S+)\s*")
_WITH_LANGUAGE = re.compile(r"[a-z]{2,3}:.*[\t ](?:O|[BI]-\S+)\s*")
#: In English files such bytes are read before (see `decoded`); UTF-8 cannot hold what is left of them.
_STRAY = re.compile("[\ud800-\udfff]")
_Rows = list[tuple[str, SourceRow]]


def read_source(
    path: Path,
    *,
    form: SourceFormat | None = None,
    corpus: str | None = None,
    licence: str | None = None,
    language: Language = "en",
    entity_types: Mapping[str, str | None] | None = None,
    token_column: int = 1,
    tag_column: int = -1,
) -> Source:
    """All rows of one source, those of one sentence once.

    Args:
        path: A file, or for recordings any list or directory that `thaitool.data` reads.
        form: How it is written; None recognises it where that is safe.
        corpus: Of rows that do not name their own; None is the name of the file.
        licence: Of rows that do not name their own.
        language: Of rows that do not name their own.
        entity_types: Foreign entity type -> PER, LOC, ORG, OTH, or None for what is no name; goes before our tables.
        token_column: Column of the tokens in `bio`, from 1, or from -1 at the end.
        tag_column: Column of the tags in `bio`.

    Raises:
        ConfigError: the form cannot be recognised, or a column is 0.
        InputError: the source is unreadable, or rows are wrong (up to 20, with line and field).
    """
    if 0 in {token_column, tag_column}:
        raise ConfigError(
            "Columns are counted from 1, or from -1 at the end, but one is given as 0."
        )
    form = form or recognise(path)
    types = dict(_TYPES.get(form, OUR_TYPES)) | dict(entity_types or {})
    given, found = Given(language, types, token_column, tag_column), Found()
    rows = list(_read(path, form, given, found))
    found.check_types()
    _check_letters(rows, found.problems)
    _check_ids(rows, found.problems)
    _check_recordings(rows, found.problems)
    _check_splits(rows, found.problems)
    raise_problems(path, found.problems, "Correct these rows and run again.")
    if not rows:
        raise InputError(f"{path} holds no rows. Give a source with at least one row.")
    default = "snips" if form == "snips" else path.stem
    named = tuple(
        replace(
            row,
            corpus=row.corpus or corpus or default,
            licence=row.licence or licence or UNKNOWN_LICENCE,
        )
        for _, row in rows
    )
    kept, repeated = _without_repeats(named)
    rejected = (*found.rejected, *repeated)
    return Source(kept, rejected, tuple(found.notes), _sha256(path, kept))


def recognise(path: Path) -> SourceFormat:
    """The form of a source.

    Raises:
        ConfigError: its name and beginning do not say.
        InputError: it cannot be read.
    """
    if path.is_dir() or path.suffix in {".arrow", ".parquet", ".tar", ".scp", ".gz"}:
        return "speech"
    text = read_text(path)
    lines = [line.rstrip("\r") for line in text.split("\n") if line.strip()][:_HEAD]
    if path.suffix == ".json":
        return _recognise_value(path, _parsed(path, text))
    if path.suffix == ".jsonl":
        return _recognise_objects(path, lines)
    if not lines:
        raise InputError(f"{path} holds no rows. Give a source with at least one row.")
    return _recognise_lines(path, lines)


def _recognise_lines(path: Path, lines: list[str]) -> SourceFormat:
    if path.suffix == ".tsv":
        return "tsv" if is_tsv(lines) else _recognise_speech(path)
    if path.suffix != ".txt" and path.suffix not in _BIO_SUFFIXES:
        raise _unknown(path)
    if all(map(_WITH_LANGUAGE.fullmatch, lines)):
        return "wikiann"
    if path.suffix in _BIO_SUFFIXES:
        return "bio"
    content = [line for line in lines if not line.startswith(("-DOCSTART-", "# "))]
    tagged = [line for line in content if _TAGGED.fullmatch(line)]
    if len(tagged) == len(content) > 1:
        return "bio"
    # A sentence may end like a tag or hold a tab; where most of them do, it is something else.
    odd = [line for line in lines if line in tagged or "\t" in line or line.startswith("{")]
    if 2 * len(odd) > len(lines):
        raise _unknown(path)
    return "text"


def _recognise_objects(path: Path, lines: list[str]) -> SourceFormat:
    # A line that is not JSON is for the reader to complain about: it knows its number.
    for line in lines:
        try:
            first = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(first, dict) and first:
            return _form_of(first.keys()) or _recognise_speech(path)
    if not lines:
        raise InputError(f"{path} holds no rows. Give a source with at least one row.")
    raise _unknown(path)


def _recognise_value(path: Path, value: JsonObject | list[object]) -> SourceFormat:
    if isinstance(value, dict):
        return "snips"
    if not value:
        raise InputError(f"{path} holds no rows. Give a source with at least one row.")
    form = _form_of(value[0].keys()) if isinstance(value[0], dict) else None
    if form is None:
        raise _unknown(path)
    return form


def _form_of(keys: Set[str]) -> SourceFormat | None:
    if {"instruction", "output"} & keys:
        return "alpaca"
    if SLURP_KEYS[1] in keys or MASSIVE_KEYS[1] in keys:
        return "slurp"
    # Lists of recordings have `text` too.
    if {"audio_filepath", "recording", "supervisions"} & keys:
        return "speech"
    return "rows" if "text" in keys else None


def _recognise_speech(path: Path) -> SourceFormat:
    try:
        recognise_speech(path)
    except InputError as error:
        raise _unknown(path) from error
    return "speech"


def _unknown(path: Path) -> ConfigError:
    return ConfigError(
        f"What {path} is cannot be told from its name and its first lines. Say it with --format:"
        f" {', '.join(get_args(SourceFormat))}."
    )


def _parsed(path: Path, text: str) -> JsonObject | list[object]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path} is not JSON: {error.msg} in line {error.lineno}, column {error.colno}. "
            "Name a file of JSON Lines .jsonl."
        ) from error
    if not isinstance(value, list | dict):
        raise InputError(
            f"{path} must hold a JSON array (alpaca) or object (SNIPS), "
            f"not {type(value).__name__}. Give a file of one of these forms."
        )
    return value


def _read(
    path: Path, form: SourceFormat, given: Given, found: Found
) -> Iterator[tuple[str, SourceRow]]:
    if form == "speech":
        return read_speech(path, given, found)
    text = read_text(path)
    if form == "snips":
        intents = _parsed(path, text)
        if not isinstance(intents, dict):
            raise InputError(
                f"{path} must hold a JSON object of intents to be SNIPS, not an array."
            )
        return read_snips(intents, given, found)
    by_line = {"bio": read_bio, "wikiann": read_wikiann, "tsv": read_tsv, "text": read_lines}
    if form in by_line:
        return by_line[form](text, given, found)
    is_array = path.suffix == ".json" and isinstance(_parsed(path, text), list)
    records = (array_of_objects if is_array else lines_of_objects)(text, found.problems)
    if form == "rows":
        return read_rows(records, path.parent, given, found)
    return (read_slurp if form == "slurp" else read_alpaca)(records, given, found)


def _check_letters(rows: _Rows, problems: list[str]) -> None:
    for place, row in rows:
        names = (row.source_id, row.intent or "", row.corpus, row.licence, row.speaker)
        if _STRAY.search("\n".join((row.text, row.rephrase, row.output, *names))):
            problems.append(f"{place}: is not UTF-8 text")


def _check_ids(rows: _Rows, problems: list[str]) -> None:
    first: dict[str, tuple[str, SourceRow]] = {}
    for place, row in rows:
        earlier = first.setdefault(row.source_id, (place, row))
        # The same content hash is a repeated row, which is set aside, not a mistake.
        if earlier[0] != place and row.source_id != content_id(row.text, row.intent):
            problems.append(
                f"{place}: field 'id' repeats '{row.source_id}' of {earlier[0]}; ids must differ"
            )


def _check_recordings(rows: _Rows, problems: list[str]) -> None:
    english = [place for place, row in rows if row.audio and row.language != "th"]
    if english:
        problems.append(
            f"{english[0]}: has a recording, which is kept and not translated, so its language must be Thai (--lang th)"
        )


def _check_splits(rows: _Rows, problems: list[str]) -> None:
    without = [place for place, row in rows if not row.split]
    if without and len(without) < len(rows):
        problems.append(
            f"{without[0]}: has no split ({', '.join(SPLITS)}), as {len(without)} of {len(rows)} rows; either all rows"
            " say theirs or none does"
        )


def _sha256(path: Path, rows: tuple[SourceRow, ...]) -> str:
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    for row in rows:
        digest.update(canonical_json(asdict(row)).encode())
    return digest.hexdigest()


def _without_repeats(
    rows: tuple[SourceRow, ...],
) -> tuple[tuple[SourceRow, ...], tuple[Rejected, ...]]:
    kept: dict[tuple[str, str], SourceRow] = {}
    rejected: list[Rejected] = []
    for row in rows:
        # Two recordings of one sentence are two rows.
        first = kept.setdefault((normal_english(row.text), row.audio), row)
        if first is not row:
            detail = f"the sentence of row '{first.source_id}' again: {row.text}"
            rejected.append(Rejected(row.source_id, "duplicate_text", detail))
    return tuple(kept.values()), tuple(rejected)

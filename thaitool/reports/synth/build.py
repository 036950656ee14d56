"""A finished data-set directory to its report: shards, provenance, rejected rows, card, and real text to compare with.

Reads everything once, in batches; opens sound for the examples only. Writes nothing.
"""

from __future__ import annotations

import heapq
import json
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np

from thaitool.errors import InputError
from thaitool.records import Progress, silent
from thaitool.reports.synth.contents import (
    Balance,
    Labels,
    Licence,
    Loss,
    Part,
    Repeats,
    Shared,
    Step,
    SynthReport,
    Voice,
)
from thaitool.reports.synth.coverage import Sounds, coverage
from thaitool.reports.synth.draws import draw
from thaitool.reports.synth.examples import choose_examples
from thaitool.reports.synth.remarks import remarks
from thaitool.reports.synth.row_facts import RowFacts, provenance_batches, provenance_files
from thaitool.reports.synth.shard_rows import ShardRows, read_shards, require_shards
from thaitool.text.spoken import spoken_form

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

CARD = "dataset_card.json"
REJECTED = "rejected.jsonl"
SPLIT_ORDER = ("train", "dev", "test")
#: Cases of each reason that are shown.
CASES = 3
#: Of the hash in the id of a row.
_ID_LENGTH = 12


def build_report(
    root: Path,
    *,
    against: Sequence[Path] = (),
    seed: int = 0,
    examples: int = 2,
    progress: Progress = silent,
) -> SynthReport:
    """The report of the data set in `root`.

    Args:
        root: What `synth` wrote, or a published Thai-SUP directory, of which less is known.
        against: Files of real Thai text, UTF-8, one sentence a line.
        seed: Decides which rows are examples, and the samples of the comparison.
        examples: Rows of each task and split to listen to.
        progress: Told of each shard and each batch of provenance.

    Raises:
        InputError: there are no shards, or a file is damaged, or a file of `against` cannot be read.
    """
    real = _real_text(against, seed) if against else None
    shards = _shards(root, seed, progress)
    facts = _facts(root, shards, progress)
    card = _card(root)
    units, reference = coverage(facts.sounds, real, [path.name for path in against])
    has_provenance = bool(provenance_files(root))
    voices = _voices(facts) if has_provenance else ()
    report = SynthReport(
        title=_title(facts) if has_provenance else "Thai speech with labels",
        seed=seed,
        notes=(),
        rows=sum(shards.rows.values()),
        hours=round(sum(shards.seconds.values()) / 3600, 4),
        parts=_parts(shards),
        funnel=_funnel(card),
        losses=_losses(root, seed),
        labels=_labels(shards),
        balance=_balance(shards, card),
        coverage=units,
        words_unread=(facts.sounds.unread, facts.sounds.words),
        reference=reference,
        measures=tuple(facts.spreads[name].measure(name) for name in sorted(facts.spreads)),
        voices=voices,
        voice_entropy_bits=entropy_bits([voice.rows for voice in voices]),
        repeats=_repeats(shards, facts),
        licences=_licences(facts) if has_provenance else (),
        trainable=_trainable(facts),
        spending=card.get("spending"),
        gates=card.get("gates"),
        settings=card.get("fingerprint", {}).get("config", {}),
        examples=choose_examples(shards.candidates(), shards, facts, examples),
    )
    return remarks(report, facts, has_provenance=has_provenance, card=card)


def entropy_bits(counts: Sequence[int]) -> float:
    """Shannon entropy of counts in bits; 0 for one kind or none."""
    numbers = np.array([count for count in counts if count], np.float64)
    shares = numbers / numbers.sum() if len(numbers) else numbers
    return float(round(-np.sum(shares * np.log2(shares)), 6)) + 0.0


def _shards(root: Path, seed: int, progress: Progress) -> ShardRows:
    with progress("report: shards", len(require_shards(root))) as advance:
        return read_shards(root, seed, advance)


def _facts(root: Path, shards: ShardRows, progress: Progress) -> RowFacts:
    facts = RowFacts(shards.arrays(), shards.splits, Sounds(shards.seed))
    facts.wanted = {candidate.id: {} for candidate in shards.candidates()}
    with progress("report: provenance", len(facts.rows.ids)) as advance:
        for batch in provenance_batches(root):
            facts.take(batch)
            advance(len(batch))
    return facts


def _parts(shards: ShardRows) -> tuple[Part, ...]:
    return tuple(
        Part(*key, shards.rows[key], round(shards.seconds[key] / 3600, 4))
        for key in sorted(shards.rows, key=lambda key: (key[0], _split_place(key[1])))
    )


def check_real_text(files: Sequence[Path]) -> None:
    """That files to compare with can be read, for work that comes to them hours later.

    Raises:
        InputError: one is missing, or is not UTF-8.
    """
    for path in files:
        for _ in _real_lines(path):
            pass


def _real_lines(path: Path) -> Iterator[str]:
    """What is not empty, without white space around it."""
    try:
        with path.open(encoding="utf-8") as lines:
            yield from filter(None, map(str.strip, lines))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} must be Thai text in UTF-8, one sentence a line, but cannot be read: {error}."
        ) from error


def _real_text(files: Sequence[Path], seed: int) -> Sounds:
    sounds = Sounds(seed)
    for path in files:
        for line in _real_lines(path):
            sounds.add(spoken_form(line))
    if not sounds.counts["syllable"]:
        names = ", ".join(map(str, files))
        raise InputError(
            f"{names} must hold Thai text, but no syllable of it could be read; name other files."
        )
    return sounds


def _card(root: Path) -> dict[str, Any]:
    path = root / CARD
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} must be a card that synth wrote, but is not: {error}.") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} must be a card that synth wrote, but is no JSON object.")
    for name in ("fingerprint", "intents", "funnel"):
        if not isinstance(value.get(name, {}), dict):
            raise InputError(
                f"{path} must be a card that synth wrote, but its {name} is no object."
            )
    return value


def _title(facts: RowFacts) -> str:
    rows: Counter[str] = Counter()
    for (corpus, _), count in facts.licences.items():
        rows[corpus] += count
    names = [name for name, _ in rows.most_common(3)]
    more = f" and {len(rows) - 3} more" if len(rows) > 3 else ""
    return f"Thai speech from {', '.join(names)}{more}"


def _split_place(split: str) -> tuple[int, str]:
    return (SPLIT_ORDER.index(split) if split in SPLIT_ORDER else len(SPLIT_ORDER), split)


def _funnel(card: Mapping[str, Any]) -> tuple[Step, ...]:
    return tuple(Step(name, int(count)) for name, count in card.get("funnel", {}).items())


def _losses(root: Path, seed: int) -> tuple[Loss, ...]:
    path = root / REJECTED
    if not path.is_file():
        return ()
    counts: Counter[tuple[str, str]] = Counter()
    cases: dict[tuple[str, str], list[tuple[int, str, str]]] = defaultdict(list)
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                item, reason, detail = row["item"], row["reason"], row["detail"]
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"{path}, line {number}, must have item, reason and detail, but: {error!r}."
                ) from error
            key = ("row" if is_row_id(item) else "text", reason)
            counts[key] += 1
            case = (-draw(seed, f"{item}\x1f{detail}"), item, detail)
            if case in cases[key]:
                continue  # one source row may be set aside once for each of its variants
            if len(cases[key]) < CASES:
                heapq.heappush(cases[key], case)
            else:
                heapq.heappushpop(cases[key], case)
    return tuple(
        Loss(*key, counts[key], tuple((i, d) for _, i, d in sorted(cases[key], reverse=True)))
        for key in sorted(counts, key=lambda key: (key[0] == "row", -counts[key], key[1]))
    )


def is_row_id(item: str) -> bool:
    """Whether it has the form of a `data_id` (TASK-hash-variant), so that a clip was to be made of it."""
    task, _, rest = item.partition("-")
    digest, _, variant = rest.partition("-")
    return (
        task.isalpha()
        and task.isupper()
        and variant.isdecimal()
        and len(digest) == _ID_LENGTH
        and set(digest) <= set("0123456789abcdef")
    )


def _labels(shards: ShardRows) -> tuple[Labels, ...]:
    rows: Counter[str] = Counter()
    for (task, _), count in shards.rows.items():
        rows[task] += count
    return tuple(
        Labels(
            task,
            rows[task],
            shards.empty[task],
            shards.same_as_text[task],
            shards.unreadable[task],
        )
        for task in sorted(rows)
    )


def _balance(shards: ShardRows, card: Mapping[str, Any]) -> tuple[Balance, ...]:
    english = {thai: name for name, thai in card.get("intents", {}).items()}
    splits = sorted(shards.splits, key=_split_place)
    names = dict.fromkeys((task, name) for task, _, name in shards.labels)
    # Intents that the card lists and no row has are what a reader looks for.
    names |= dict.fromkeys(("IC", thai) for thai in english if ("IC" in shards.tasks))
    found = [
        Balance(
            task,
            name,
            english.get(name, "") if task == "IC" else "",
            {split: shards.labels[task, split, name] for split in splits},
        )
        for task, name in names
    ]
    return tuple(sorted(found, key=lambda b: (b.task, -sum(b.splits.values()), b.name)))


def _voices(facts: RowFacts) -> tuple[Voice, ...]:
    splits: dict[str, dict[str, int]] = defaultdict(dict)
    for (voice, split), count in sorted(
        facts.voices.items(), key=lambda item: _split_place(item[0][1])
    ):
        splits[voice][split] = count
    found = [
        Voice(name, sum(own.values()), round(facts.voice_seconds[name] / 3600, 4), own)
        for name, own in splits.items()
    ]
    return tuple(sorted(found, key=lambda voice: (-voice.rows, voice.name)))


def _licences(facts: RowFacts) -> tuple[Licence, ...]:
    return tuple(
        Licence(
            *key,
            count,
            round(facts.licence_seconds[key] / 3600, 4),
            len(facts.licence_sources[key]),
        )
        for key, count in sorted(facts.licences.items(), key=lambda item: (-item[1], item[0]))
    )


def _trainable(facts: RowFacts) -> dict[str, int]:
    without = max(0, len(facts.rows.ids) - facts.known)
    known = facts.trainable
    return {"yes": known["yes"], "no": known["no"], "unknown": known["unknown"] + without}


def _repeats(shards: ShardRows, facts: RowFacts) -> Repeats:
    rows = facts.rows
    texts = {
        task: int((mine := rows.texts[rows.tasks == k]).size - np.unique(mine).size)
        for k, task in sorted(enumerate(shards.tasks), key=lambda pair: pair[1])
    }
    splits = sorted(shards.splits, key=_split_place)
    number = {split: shards.splits.index(split) for split in splits}
    of_split = {split: rows.texts[rows.splits == number[split]] for split in splits}
    heard = {split: {v for v, s in facts.voices if s == split and v} for split in splits}
    shared = tuple(
        Shared(
            first,
            second,
            int(np.isin(of_split[second], of_split[first]).sum()),
            len(facts.split_sources[first] & facts.split_sources[second]),
            tuple(sorted(heard[first] & heard[second])),
        )
        for k, first in enumerate(splits)
        for second in splits[k + 1 :]
    )
    return Repeats(int(rows.ids.size - np.unique(rows.ids).size), texts, shared)

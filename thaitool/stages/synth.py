"""English rows to Thai-SUP shards: split, augment, translate with labels, speak, gate, pack (arXiv:2509.14804).

The directory appears whole or not at all. Splits are made by source row before augmentation, so that variants of a
sentence never straddle, and speakers of dev and test are never heard in training.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from thaitool.config import SynthConfig
from thaitool.data.shards import Provenance, ThaiSupRow, write_provenance, write_shard
from thaitool.errors import ConfigError, InputError, QuarantineError
from thaitool.files import write_json, writing_directory
from thaitool.records import Progress, Rejected, silent
from thaitool.synth.augment import augment
from thaitool.synth.sources import SourceRow, read_source
from thaitool.synth.splits import split_rows
from thaitool.synth.translate import MemoryTranslator, open_translator
from thaitool.synth.voicing import Cast, cast_voices, voice_row
from thaitool.training.interrupt import noting_signals, stop_if_asked

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CARD = "dataset_card.json"


@dataclass(frozen=True)
class SynthResult:
    """What `synth` made."""

    out: Path
    counts: tuple[tuple[str, str, int, float], ...]
    """(task, split, rows, hours)."""
    rejected: tuple[tuple[str, int], ...]
    """(reason, rows)."""
    train_voices: tuple[str, ...]
    dev_voices: tuple[str, ...]
    test_voices: tuple[str, ...]


def run(config: SynthConfig, progress: Progress = silent) -> SynthResult:
    """Makes the data set, or returns at once if `config.out` holds it already.

    Raises:
        ConfigError: an unknown backend, or shares and voices that leave nothing for training.
        InputError: the source is wrong, or `out` holds something else.
        QuarantineError: more rows are rejected than `max_rejected_share` allows.
    """
    for name, value, known in (("llm", config.llm, "embedded:"), ("tts", config.tts, "espeak:")):
        if value != known:
            raise ConfigError(
                f"The {name} backend must be {known} in this version, but is {value!r}."
            )
    source = read_source(config.source)
    translator = open_translator(config.translator, seed=config.seed)
    fingerprint: dict[str, object] = {
        "config": config.model_dump(mode="json", exclude={"out", "source"}),
        "source_sha256": hashlib.sha256(config.source.read_bytes()).hexdigest(),
        "translator": translator.name,
    }
    if config.out.exists():
        return _existing(config.out, fingerprint)
    splits = split_rows(source.rows, dev=config.dev_share, test=config.test_share)
    cast = cast_voices(dev=config.dev_voices, test=config.test_voices, seed=config.seed)
    with noting_signals() as received, writing_directory(config.out) as path, _one_thread():
        writer = _Writer(path, config.shard_rows)
        rejected = list(source.rejected)
        with progress("synth", len(source.rows)) as advance:
            for row in source.rows:
                for made in _rows(row, splits[row.source_id], cast, translator, config):
                    if isinstance(made, Rejected):
                        rejected.append(made)
                    else:
                        writer.add(*made)
                advance()
                stop_if_asked(received, "synth")
        _check_rejected(rejected, writer.total, config)
        writer.flush()
        # All of them: repeats of a sentence have one id, and each was counted.
        lines = (json.dumps(asdict(r), ensure_ascii=False) for r in rejected)
        (path / "rejected.jsonl").write_text("".join(f"{line}\n" for line in lines), "utf-8")
        result = SynthResult(
            config.out,
            writer.counts(),
            tuple(sorted(Counter(r.reason for r in rejected).items())),
            *(tuple(v.name for v in voices) for voices in (cast.train, cast.dev, cast.test)),
        )
        write_json(
            path / CARD,
            {"fingerprint": fingerprint, "intents": translator.memory.intents, **asdict(result)},
        )
    return result


def _check_rejected(rejected: list[Rejected], made: int, config: SynthConfig) -> None:
    """Raises `QuarantineError` with the reasons, as the directory with the full list is not kept then."""
    share = len(rejected) / max(1, made + len(rejected))
    if made and share <= config.max_rejected_share:
        return
    first = {r.reason: r for r in reversed(rejected)}
    counts = Counter(r.reason for r in rejected)
    listing = "\n".join(
        f"  - {reason}: {n}, first {first[reason].item}: {first[reason].detail}"
        for reason, n in counts.items()
    )
    raise QuarantineError(
        f"{len(rejected)} of {made + len(rejected)} rows of {config.source} were rejected, and {made} could be made;"
        f" the allowed share is {config.max_rejected_share:g}:\n{listing}\n"
        "Add what is missing (a translation memory: --translator memory:FILE), or raise max_rejected_share."
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Clips are too short to share among threads: waiting for each other takes them longer than the resampling."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _existing(out: Path, fingerprint: dict[str, object]) -> SynthResult:
    card_file = out / CARD
    if not card_file.is_file():
        raise InputError(
            f"{out} must be new, but exists and holds no data set of thaitool; choose another --out."
        )
    try:
        card = json.loads(card_file.read_text("utf-8"))
        known = card["fingerprint"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{card_file} must be a card that `synth` wrote, but is not: {error!r}."
        ) from error
    if known != json.loads(json.dumps(fingerprint)):
        raise InputError(
            f"{out} holds a data set made with another source or other settings; choose another --out or delete it."
        )
    return SynthResult(
        out,
        tuple((t, s, n, h) for t, s, n, h in card["counts"]),
        tuple((r, n) for r, n in card["rejected"]),
        *(tuple(card[name]) for name in ("train_voices", "dev_voices", "test_voices")),
    )


def _rows(
    row: SourceRow, split: str, cast: Cast, translator: MemoryTranslator, config: SynthConfig
) -> Iterator[tuple[ThaiSupRow, Provenance] | Rejected]:
    memory = translator.memory
    intent_th = memory.intents.get(row.intent) if row.intent else None
    for variant in augment(row, config.variants, config.seed, memory):
        renderings = translator.translate(variant)
        if isinstance(renderings, Rejected):
            yield renderings
            continue
        for number, task in enumerate(config.tasks):
            # Another wording for each task: the tasks of one sentence are not four copies of one clip.
            yield voice_row(
                task,
                variant,
                renderings[number % len(renderings)],
                intent_th=intent_th,
                split=split,
                voices=cast.of(split),
                speed=config.speed,
                seed=config.seed,
                trainable=config.trainable,
            )


class _Writer:
    """Collects rows per (task, split) and writes a shard whenever one is full."""

    def __init__(self, root: Path, shard_rows: int) -> None:
        self.root, self.shard_rows = root, shard_rows
        self.waiting: dict[tuple[str, str], list[ThaiSupRow]] = defaultdict(list)
        self.shards: Counter[tuple[str, str]] = Counter()
        self.rows: Counter[tuple[str, str]] = Counter()
        self.seconds: Counter[tuple[str, str]] = Counter()
        self.provenance: list[Provenance] = []

    @property
    def total(self) -> int:
        return sum(self.rows.values())

    def add(self, row: ThaiSupRow, provenance: Provenance) -> None:
        key = (row.task_id, provenance.split)
        self.waiting[key].append(row)
        self.provenance.append(provenance)
        self.rows[key] += 1
        self.seconds[key] += row.duration_s  # type: ignore[assignment]
        if len(self.waiting[key]) == self.shard_rows:
            self._write(key)

    def _write(self, key: tuple[str, str]) -> None:
        task, split = key
        write_shard(
            self.root / task / split / f"{split}-{self.shards[key]:05d}.parquet",
            self.waiting.pop(key),
        )
        self.shards[key] += 1

    def flush(self) -> None:
        for key in list(self.waiting):
            self._write(key)
        write_provenance(self.root / "provenance" / "part-00000.parquet", self.provenance)

    def counts(self) -> tuple[tuple[str, str, int, float], ...]:
        return tuple(
            (t, s, n, round(self.seconds[t, s] / 3600, 4))
            for (t, s), n in sorted(self.rows.items())
        )

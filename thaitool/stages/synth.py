"""English rows to Thai-SUP shards: split, augment, translate with labels, speak, gate, pack (arXiv:2509.14804).

The directory appears whole or not at all; until then its rows wait beside it, and the same command goes on with them.
Splits are made by source row before augmentation, so that variants of a sentence never straddle, and speakers of dev
and test are never heard in training.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections import Counter
from contextlib import aclosing, contextmanager
from dataclasses import asdict, dataclass
from itertools import chain
from typing import TYPE_CHECKING

from thaitool.config import SynthConfig
from thaitool.errors import EnvironmentProblem, InputError
from thaitool.files import write_json
from thaitool.records import Progress, Rejected, silent
from thaitool.reports.synth.build import build_report, check_real_text
from thaitool.reports.synth.form import write_synth_report
from thaitool.synth.assembly import (
    Lexicon,
    Opened,
    check_backends,
    open_lexicon,
    open_source,
    opened,
)
from thaitool.synth.backends.protocol import NotYetAnswered
from thaitool.synth.cache import Spending, canonical_json, sha256_of
from thaitool.synth.effects import noise_digest, open_acoustics
from thaitool.synth.engines import check_engine, make_clips
from thaitool.synth.engines.job import ClipJob
from thaitool.synth.estimate import Estimate, estimate
from thaitool.synth.funnel import funnel
from thaitool.synth.gates.canary import as_json, hear_voices
from thaitool.synth.gates.leaks import read_known
from thaitool.synth.gates.readback import recogniser_sha256
from thaitool.synth.gates.sentences import SentenceGates
from thaitool.synth.ledger import Ledger, Place
from thaitool.synth.llm_augment import closed_list
from thaitool.synth.packing import ShardWriter, unfinished, work_directory
from thaitool.synth.parallel import as_they_end
from thaitool.synth.rejections import check_rejected, write_rejected
from thaitool.synth.sources import Source
from thaitool.synth.splits import split_rows
from thaitool.synth.texts import Texts, make_texts
from thaitool.synth.voicing import Cast, cast_voices
from thaitool.training.interrupt import Received, noting_signals, stop_if_asked

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator, Mapping
    from pathlib import Path
    from typing import Any

    from thaitool.metrics.leakage import TestItems

CARD = "dataset_card.json"
#: Seconds between looks at whether a signal came while calls are under way.
_WATCH_S = 0.2


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


@dataclass(frozen=True)
class SynthDone:
    """What one command did."""

    result: SynthResult
    resumed_rows: int = 0
    """Rows that an interrupted command had already made."""
    spending: Spending | None = None
    """Calls of this data set over all commands; None where nothing was called."""
    notes: tuple[str, ...] = ()
    """What was repaired in the source."""


def run(config: SynthConfig, progress: Progress = silent) -> SynthResult:
    """`make`, without what it cost."""
    return make(config, progress).result


def make(config: SynthConfig, progress: Progress = silent) -> SynthDone:
    """Makes the data set, goes on with an unfinished one, or returns at once if `config.out` holds it already.

    Raises:
        ConfigError: an unknown backend, shares and voices that leave nothing for training, or the budget is used up.
        InputError: the source is wrong, `out` holds something else, or answers of a batch are missing.
        QuarantineError: more rows are rejected than `max_rejected_share` allows.
        EnvironmentProblem: an endpoint is down, or refuses.
    """
    _check(config)
    source = open_source(config)
    lexicon = open_lexicon(config, source.rows)
    known, against = read_known(config.gates.against)
    judges = {"against": against, "asr": recogniser_sha256(config.gates)}
    fingerprint = _fingerprint(config, source, lexicon, judges)
    if config.out.exists():
        return SynthDone(_existing(config.out, fingerprint))
    splits = split_rows(source.rows, dev=config.dev_share, test=config.test_share)
    digest = sha256_of(canonical_json(fingerprint))
    with (
        noting_signals() as received,
        unfinished(config.out, fingerprint, restart=config.restart) as (root, ledger),
        _one_thread(),
    ):
        resumed = sum(shard.rows for shard in ledger.shards())
        maker = _Maker(config, source, splits, lexicon, ledger, progress, received, known)
        cast, spending = _watched(maker.make(root, digest), received)
        # All of them: repeats of a sentence have one id, and each was counted.
        rejected = write_rejected(
            root / "rejected.jsonl", chain(source.rejected, ledger.rejections())
        )
        check_rejected(
            rejected,
            made=sum(shard.rows for shard in ledger.shards()),
            limit=config.max_rejected_share,
            source=config.source,
        )
        result = SynthResult(
            config.out,
            _counts(ledger),
            tuple((reason, n) for reason, (n, _) in sorted(rejected.items())),
            *(tuple(dict.fromkeys(names)) for names in (cast.train, cast.dev, cast.test)),
        )
        made = {k: v for k, v in asdict(result).items() if k != "out"}  # it may be moved
        write_json(
            root / CARD,
            {
                "fingerprint": fingerprint,
                "intents": dict(lexicon.intents),
                "source_notes": list(source.notes),
                "gates": {"settings": fingerprint["config"]["gates"], **judges, **maker.gates},
                "funnel": funnel(source, ledger, variants=config.variants, tasks=len(config.tasks)),
                "spending": None if spending is None else asdict(spending),
                **made,
            },
        )
        report = build_report(root, against=config.report_against, progress=progress)
        write_synth_report(report, root)
    return SynthDone(result, resumed, spending, source.notes)


def _check(config: SynthConfig) -> None:
    """Looks at everything that would otherwise be found wrong after the work."""
    check_backends(config)
    check_engine(config)
    check_real_text(config.report_against)


def plan(config: SynthConfig) -> Estimate:
    """What `make` would take, roughly; nothing is asked and nothing written.

    Raises:
        InputError: the source, or a file of the configuration, is wrong.
    """
    source = open_source(config)
    return estimate(config, source.rows, open_lexicon(config, source.rows).intents)


def _fingerprint(
    config: SynthConfig, source: Source, lexicon: Lexicon, judges: Mapping[str, str]
) -> dict[str, Any]:
    """What decides every row: not where answers are kept, nor how fast and often is asked."""
    left_out = {"out", "source", "cache", "calls", "max_rejected_share"}
    left_out |= {"engine", "workers", "restart", "report_against"}
    settings = config.model_dump(mode="json", exclude=left_out)
    del settings["gates"]["against"]  # by its content, in `judges`
    return {
        "config": settings,
        "source_sha256": source.sha256,
        "translator": lexicon.translator.name,
        "intents": sha256_of(canonical_json(dict(lexicon.intents))),
        "noise": noise_digest(open_acoustics(config.effects, config.seed)),
        "judges": dict(judges),
    }


class _Maker:
    """The two passes over the source: first all texts, then all clips, each from where the ledger says."""

    def __init__(
        self,
        config: SynthConfig,
        source: Source,
        splits: dict[str, str],
        lexicon: Lexicon,
        ledger: Ledger,
        progress: Progress,
        received: Received,
        known: TestItems,
    ) -> None:
        self.config, self.rows, self.splits, self.lexicon = config, source.rows, splits, lexicon
        self.ledger, self.progress, self.received = ledger, progress, received
        self.known = known
        self.gates: dict[str, Any] = {}
        """What the card says about them."""

    async def make(self, root: Path, digest: str) -> tuple[Cast, Spending | None]:
        """Both passes; the data set in `root` is whole afterwards, but for its card."""
        config = self.config
        async with opened(config, self.rows, self.lexicon, digest) as backends:
            cast = cast_voices(
                backends.booth.tts.voices,
                dev=config.dev_voices,
                test=config.test_voices,
                seed=config.seed,
            )
            gates = config.gates
            if gates.tone_canary:  # before anything that costs more
                voices = backends.booth.tts.voices
                heard = await hear_voices(backends.booth, voices, gates.min_semitones)
                self.gates["canary"] = as_json(heard)
            waiting = await self._make_texts(backends) or await self._gate_texts(backends)
            if not waiting:
                writer = ShardWriter(root, config.shard_rows, self.ledger)
                await self._make_clips(backends, cast, writer, digest)
                writer.flush()
            spending = None if backends.cache is None else backends.cache.spending()
        if waiting:  # after the backends have written down what they wait for
            raise InputError(
                f"{waiting} texts of {len(self.rows)} source rows wait for answers of the batch; have the requests in"
                " its requests.jsonl answered, put the file of answers beside it, and run the same command again."
            )
        return cast, spending

    async def _make_texts(self, backends: Opened) -> int:
        """Returns how many source rows wait for a batch."""
        done = self.ledger.positions_with_texts()
        left = (position for position in range(len(self.rows)) if position not in done)

        async def work(position: int) -> Texts | None:
            try:
                return await make_texts(
                    self.rows[position],
                    self.config.variants,
                    backends.annotate,
                    backends.augment,
                    backends.translate,
                )
            except NotYetAnswered:
                return None

        waiting = 0
        with self.progress("synth: texts", len(self.rows), len(done)) as advance:
            async for position, texts in as_they_end(left, work, backends.rows_at_once):
                if texts is None:
                    waiting += 1
                else:
                    self.ledger.add_texts(position, texts)
                    advance()
                stop_if_asked(self.received, "synth")
        return waiting

    async def _gate_texts(self, backends: Opened) -> int:
        """Returns how many sentences wait for a batch."""
        config = self.config
        with self.progress("synth: gates", len(self.rows)) as advance:

            def tick() -> None:
                advance()
                stop_if_asked(self.received, "synth")

            gates = SentenceGates(
                config.gates,
                self.ledger,
                rows=len(self.rows),
                tasks=config.tasks,
                known=self.known,
                asker=backends.judge,
                intents=closed_list(self.rows, self.lexicon.intents),
                seed=config.seed,
                width=2 * config.calls.in_flight,
                tick=tick,
            )
            waiting = await gates.run()
        if backends.judge is not None:
            self.gates["filter"] = gates.tally.as_json()
        return waiting

    async def _make_clips(
        self, backends: Opened, cast: Cast, writer: ShardWriter, run: str
    ) -> None:
        total = self.ledger.sentences() * len(self.config.tasks)
        jobs = self._unsettled(cast)
        with self.progress("synth: speech", total, self.ledger.settled_clips()) as advance:
            async with aclosing(make_clips(jobs, self.config, backends.booth, run)) as clips:
                async for job, made in clips:
                    if isinstance(made, Rejected):
                        self.ledger.reject(job.place, made)
                    else:
                        writer.add(job.place, *made)
                    advance()
                    stop_if_asked(self.received, "synth")

    def _unsettled(self, cast: Cast) -> Iterator[ClipJob]:
        for position, row in enumerate(self.rows):
            split = self.splits[row.source_id]
            settled = self.ledger.settled(position)
            for sentence in self.ledger.texts(position).sentences:
                intent = sentence.row.intent
                intent_th = self.lexicon.intents.get(intent) if intent else None
                for number in range(len(self.config.tasks)):
                    place = Place(position, sentence.row.variant, number)
                    if place not in settled:
                        yield ClipJob(place, sentence, split, intent_th, cast.of(split))


def _watched(
    work: Coroutine[Any, Any, tuple[Cast, Spending | None]], received: Received
) -> tuple[Cast, Spending | None]:
    """Runs `work`, and ends it when a signal comes, even while it waits for a server."""

    async def watch() -> tuple[Cast, Spending | None]:
        task = asyncio.create_task(work)
        while not task.done():
            await asyncio.wait({task}, timeout=_WATCH_S)
            if received.number is not None and not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                stop_if_asked(received, "synth")
        if isinstance(task.exception(), EnvironmentProblem):
            # A signal to the whole group ends what this process relies on, too, and is the better reason.
            stop_if_asked(received, "synth")
        return task.result()

    return asyncio.run(watch())


def _counts(ledger: Ledger) -> tuple[tuple[str, str, int, float], ...]:
    rows: Counter[tuple[str, str]] = Counter()
    seconds: dict[tuple[str, str], float] = {}
    for shard in ledger.shards():
        key = (shard.task, shard.split)
        rows[key] += shard.rows
        seconds[key] = seconds.get(key, 0.0) + shard.seconds
    return tuple((*key, n, round(seconds[key] / 3600, 4)) for key, n in sorted(rows.items()))


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
    # Left behind where a process died between the last two steps.
    if work_directory(out).exists():
        shutil.rmtree(work_directory(out))
    return SynthResult(
        out,
        tuple((t, s, n, h) for t, s, n, h in card["counts"]),
        tuple((r, n) for r, n in card["rejected"]),
        *(tuple(card[name]) for name in ("train_voices", "dev_voices", "test_voices")),
    )

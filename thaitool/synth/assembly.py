"""Opens what a configuration of `synth` names, and closes it again: memory, models, voices, cache, budget.

Decides which function annotates, varies, translates and speaks; does none of these itself.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from thaitool.errors import ConfigError
from thaitool.records import Rejected
from thaitool.synth import llm_augment
from thaitool.synth.asking import Asker
from thaitool.synth.augment import augment
from thaitool.synth.backends import LLM_FORMS, open_llm, open_tts, weighted
from thaitool.synth.cache import Answers, Cache
from thaitool.synth.calls import Budget, Endpoint, Limits, Price
from thaitool.synth.effects import open_acoustics
from thaitool.synth.formats import read_source
from thaitool.synth.gates.naturalness import CommandPredictor
from thaitool.synth.gates.panel import ClipGates
from thaitool.synth.gates.readback import open_listener
from thaitool.synth.labels import intent_labels
from thaitool.synth.llm_rephrase import LlmRephraser
from thaitool.synth.llm_translate import LlmTranslator
from thaitool.synth.memory import Memory, load_intents
from thaitool.synth.sources import Source, SourceRow
from thaitool.synth.texts import Annotate, Augment, Translate
from thaitool.synth.translate import MemoryTranslator, as_it_stands, open_translator
from thaitool.synth.voicing import Booth

if TYPE_CHECKING:
    from pathlib import Path

    from thaitool.config import Calls, SynthConfig
    from thaitool.synth.backends.protocol import Llm, Tts
    from thaitool.synth.translate import Rendering

EMBEDDED = "embedded:"
#: Backends in this process.
LOCAL = ("espeak:", "hf:", "hf-vits:", "piper:")


@dataclass(frozen=True)
class Opened:
    """Everything that makes rows, ready for use."""

    annotate: Annotate
    augment: Augment
    translate: Translate
    booth: Booth
    rows_at_once: int
    cache: Cache | None
    judge: Asker | None = None
    """The filter of `gates`."""


@dataclass(frozen=True)
class Lexicon:
    """What is looked up rather than asked: sentences, names, and the closed list of intents with their Thai names."""

    translator: MemoryTranslator
    """Of the embedded memory where a language model translates; the embedded augmentation looks names up in it."""
    intents: Mapping[str, str]

    @property
    def memory(self) -> Memory:
        """Sentences and names in both languages."""
        return self.translator.memory


def is_memory(url: str) -> bool:
    """Whether a translator is a translation memory, not a language model."""
    return url == EMBEDDED or url.startswith("memory:")


def open_source(config: SynthConfig) -> Source:
    """The rows that a configuration starts from.

    Raises:
        ConfigError: the form of the source cannot be recognised.
        InputError: the source is wrong.
    """
    return read_source(
        config.source,
        form=config.format,
        corpus=config.corpus,
        licence=config.licence,
        language=config.language,
        entity_types=config.entity_types,
        token_column=config.token_column,
        tag_column=config.tag_column,
    )


def open_lexicon(config: SynthConfig, rows: Sequence[SourceRow]) -> Lexicon:
    """The translation memory of a configuration, and the labels of intents for the rows of its source.

    Raises:
        InputError: a file is wrong.
        ConfigError: Thai rows have intents without a Thai name, and `ic` is a task.
    """
    url = config.translator if is_memory(config.translator) else EMBEDDED
    translator = open_translator(url, seed=config.seed)
    given = config.intents
    listed = translator.memory.intents if given is None else load_intents(given)
    if "ic" in config.tasks:
        listed = intent_labels(rows, listed, own=config.intent_names == "own")
    return Lexicon(translator, listed)


def check_backends(config: SynthConfig) -> None:
    """Looks at what is given in words alone, before anything is opened.

    Raises:
        ConfigError: a model without a price under `max_cost_usd`.
    """
    if config.calls.max_cost_usd is None:
        return
    for url in (config.llm, config.translator, _judge_url(config) or ""):
        model = url.partition("#")[2]
        if url.startswith(("openai:", "batch:")) and model not in config.calls.prices:
            raise ConfigError(
                f"max_cost_usd needs the price of the model of {url!r}: name it after # and set"
                f" calls.prices={{{model or 'MODEL'}: {{prompt: USD, completion: USD}}}} per million tokens."
            )


@asynccontextmanager
async def opened(
    config: SynthConfig, rows: Sequence[SourceRow], lexicon: Lexicon, run: str
) -> AsyncIterator[Opened]:
    """Opens all backends; `run` is what the cache counts calls under.

    Raises:
        ConfigError, InputError, EnvironmentProblem: a backend cannot be opened.
    """
    async with AsyncExitStack() as stack:
        endpoints: dict[str, Endpoint] = {}
        tts = _open_tts(config, stack)
        cache = _open_cache(config, run, stack, asks=_asks(config))
        askers = await _open_askers(config, cache, endpoints, stack)
        yield Opened(
            *_text_functions(config, rows, lexicon, askers),
            booth=_booth(config, tts, cache, endpoints, stack),
            rows_at_once=config.calls.in_flight if askers else 1,
            cache=cache,
            judge=_judge(config, askers),
        )


@asynccontextmanager
async def opened_booth(
    config: SynthConfig, run: str, answers: Answers | None = None
) -> AsyncIterator[Booth]:
    """The voices alone, for a process that only speaks; with `answers` where the file is on another machine."""
    async with AsyncExitStack() as stack:
        tts = _open_tts(config, stack)
        cache = answers or _open_cache(config, run, stack, asks=False)
        yield _booth(config, tts, cache, {}, stack)


def _asks(config: SynthConfig) -> bool:
    embedded = config.llm == EMBEDDED and is_memory(config.translator)
    return not embedded or config.gates.filter is not None


def _speaks(config: SynthConfig) -> bool:
    return config.tts != "espeak:"


def keeps_answers(config: SynthConfig) -> bool:
    """Whether clips, or what gates say about them, are kept: not where asking again is as fast."""
    return config.gates.asr is not None or config.gates.mos is not None or _speaks(config)


def _open_cache(
    config: SynthConfig, run: str, stack: AsyncExitStack, *, asks: bool
) -> Cache | None:
    if not (asks or keeps_answers(config)):
        return None
    cache = Cache(cache_file(config), run)
    stack.callback(cache.close)
    return cache


def _open_tts(config: SynthConfig, stack: AsyncExitStack) -> Tts:
    tts = open_tts(config.tts, weighted(config.voices), config.calls)
    stack.push_async_callback(tts.close)
    return tts


def _booth(
    config: SynthConfig,
    tts: Tts,
    cache: Answers | None,
    endpoints: dict[str, Endpoint],
    stack: AsyncExitStack,
) -> Booth:
    endpoint = _endpoint(endpoints, tts.identity.backend, config.calls, tts.in_flight)
    acoustics = open_acoustics(config.effects, config.seed)
    gates = _clip_gates(config, cache, endpoints, stack)
    return Booth(tts, endpoint, cache if _speaks(config) else None, acoustics, gates)


def _clip_gates(
    config: SynthConfig,
    cache: Answers | None,
    endpoints: dict[str, Endpoint],
    stack: AsyncExitStack,
) -> ClipGates:
    gates, calls = config.gates, config.calls
    listener = None
    if gates.asr is not None:
        server = _endpoint(endpoints, gates.asr.partition("#")[0], calls, calls.in_flight)
        listener = open_listener(gates.asr, calls, server)
        stack.push_async_callback(listener.close)
    predictor = None if gates.mos is None else CommandPredictor(gates.mos, calls.timeout_s)
    return ClipGates(gates, listener, predictor, cache)


def cache_file(config: SynthConfig) -> Path:
    """Where answers are kept."""
    return config.cache or config.out.with_name(f"{config.out.name}.cache.sqlite")


def _text_functions(
    config: SynthConfig, rows: Sequence[SourceRow], lexicon: Lexicon, askers: Mapping[str, Asker]
) -> tuple[Annotate, Augment, Translate]:
    async def as_it_is(row: SourceRow) -> SourceRow:
        return row

    async def embedded_augment(
        row: SourceRow,
    ) -> tuple[tuple[SourceRow, ...], tuple[Rejected, ...]]:
        return augment(row, config.variants, config.seed, lexicon.memory), ()

    async def look_up(row: SourceRow) -> tuple[Rendering, ...] | Rejected:
        return lexicon.translator.translate(row)

    annotate: Annotate = as_it_is
    vary: Augment = embedded_augment
    from_english: Translate = look_up
    if config.llm in askers:
        asker = askers[config.llm]
        names = llm_augment.closed_list(rows, lexicon.intents)
        annotate = partial(llm_augment.annotate, asker=asker, intents=names)
        vary = partial(llm_augment.augment, variants=config.variants, asker=asker)
    if config.translator in askers:
        asker = askers[config.translator]
        from_english = LlmTranslator(asker, answers="qa" in config.tasks).translate
    writer = askers.get(config.translator) or askers.get(config.llm)
    rephraser = (
        LlmRephraser(writer, is_alone=config.tasks == ["sr"])
        if writer is not None and "sr" in config.tasks
        else None
    )

    async def translate(row: SourceRow) -> tuple[Rendering, ...] | Rejected:
        if row.language == "en":
            return await from_english(row)
        rendering = as_it_stands(row)
        if rephraser is None or row.rephrase:
            return (rendering,)
        rephrased = await rephraser.rephrase(rendering, row.source_id)
        return rephrased if isinstance(rephrased, Rejected) else (rephrased,)

    return annotate, vary, translate


async def _open_askers(
    config: SynthConfig,
    cache: Cache | None,
    endpoints: dict[str, Endpoint],
    stack: AsyncExitStack,
) -> dict[str, Asker]:
    """One for each language model; a model that does two jobs is opened once."""
    calls = config.calls
    wanted = {"llm": config.llm} if config.llm != EMBEDDED else {}
    if not is_memory(config.translator):
        wanted["translator"] = config.translator
    if (judge := _judge_url(config)) is not None:
        wanted["gates.filter"] = judge
    askers: dict[str, Asker] = {}
    if cache is None:
        return askers
    budget = Budget(calls.max_cost_usd, cache.spending().usd)
    for option, url in wanted.items():
        if url in askers:
            continue
        llm: Llm = await open_llm(url, calls, option)
        stack.push_async_callback(llm.close)
        in_flight = 1 if llm.identity.backend == "hf:" else calls.in_flight
        endpoint = _endpoint(endpoints, llm.identity.backend, calls, in_flight)
        given = calls.prices.get(llm.identity.model)
        price = Price(0.0, 0.0) if given is None else Price(given.prompt, given.completion)
        more = config.request_fields.get(llm.identity.model, {})
        askers[url] = Asker(llm, endpoint, cache, budget, price, config.temperature, more=more)
    return askers


def _judge_url(config: SynthConfig) -> str | None:
    url = config.llm if config.gates.filter == "llm" else config.gates.filter
    if url == EMBEDDED:
        raise ConfigError(
            "gates.filter must name a language model that can judge Thai, but is embedded:, which writes by rules;"
            f" give one of {LLM_FORMS}, or leave it out."
        )
    return url


def _judge(config: SynthConfig, askers: Mapping[str, Asker]) -> Asker | None:
    url = _judge_url(config)
    # Judging is not writing: equal sentences get equal answers.
    return None if url is None else replace(askers[url], temperature=0.0)


def _endpoint(
    endpoints: dict[str, Endpoint], backend: str, calls: Calls, in_flight: int
) -> Endpoint:
    """The limits of a server hold for all that is asked of it, whichever stage asks."""
    server = backend.partition(":")[2] or backend
    if server not in endpoints:
        limits = Limits(
            in_flight,
            calls.requests_per_s,
            calls.tokens_per_minute,
            # What runs in this process cannot be stopped half-way, and will end.
            None if backend in LOCAL else calls.timeout_s,
            calls.attempts,
        )
        endpoints[server] = Endpoint(server, limits)
    return endpoints[server]

"""Opens what a configuration of `synth` names, and closes it again: memory, models, voices, cache, budget.

Decides which function annotates, varies, translates and speaks; does none of these itself.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from thaitool.errors import ConfigError
from thaitool.synth import llm_augment
from thaitool.synth.asking import Asker
from thaitool.synth.augment import augment
from thaitool.synth.backends import open_llm, open_tts, weighted
from thaitool.synth.cache import Cache
from thaitool.synth.calls import Budget, Endpoint, Limits, Price
from thaitool.synth.llm_translate import LlmTranslator
from thaitool.synth.memory import Memory, load_intents
from thaitool.synth.sources import SourceRow
from thaitool.synth.texts import Annotate, Augment, Translate
from thaitool.synth.translate import MemoryTranslator, open_translator
from thaitool.synth.voicing import Booth

if TYPE_CHECKING:
    from pathlib import Path

    from thaitool.config import Calls, SynthConfig
    from thaitool.records import Rejected
    from thaitool.synth.backends.protocol import Llm
    from thaitool.synth.translate import Rendering

EMBEDDED = "embedded:"
#: Backends in this process.
LOCAL = ("espeak:", "hf:", "hf-vits:")


@dataclass(frozen=True)
class Opened:
    """Everything that makes rows, ready for use."""

    annotate: Annotate
    augment: Augment
    translate: Translate
    booth: Booth
    rows_at_once: int
    clips_at_once: int
    cache: Cache | None


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


def open_lexicon(config: SynthConfig) -> Lexicon:
    """The translation memory and the intents of a configuration.

    Raises:
        InputError: a file is wrong.
    """
    url = config.translator if is_memory(config.translator) else EMBEDDED
    translator = open_translator(url, seed=config.seed)
    given = config.intents
    return Lexicon(translator, translator.memory.intents if given is None else load_intents(given))


def check_backends(config: SynthConfig) -> None:
    """Looks at what is given in words alone, before anything is opened.

    Raises:
        ConfigError: a model without a price under `max_cost_usd`.
    """
    if config.calls.max_cost_usd is None:
        return
    for url in (config.llm, config.translator):
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
    calls = config.calls
    async with AsyncExitStack() as stack:
        tts = open_tts(config.tts, weighted(config.voices), calls)
        stack.push_async_callback(tts.close)
        asks = not (config.llm == EMBEDDED and is_memory(config.translator))
        speaks = config.tts != "espeak:"
        cache = Cache(cache_file(config), run) if asks or speaks else None
        if cache is not None:
            stack.callback(cache.close)
        endpoints: dict[str, Endpoint] = {}
        askers = await _open_askers(config, cache, endpoints, stack)
        voice_endpoint = _endpoint(endpoints, tts.identity.backend, calls, tts.in_flight)
        many = calls.in_flight if askers else 1
        yield Opened(
            *_text_functions(config, rows, lexicon, askers),
            booth=Booth(tts, voice_endpoint, cache if speaks else None),
            rows_at_once=many,
            # Twice as many as are called: one that takes long does not leave the others without work.
            clips_at_once=1 if tts.in_flight == 1 else 2 * tts.in_flight,
            cache=cache,
        )


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
    translate: Translate = look_up
    if config.llm in askers:
        asker = askers[config.llm]
        names = llm_augment.closed_list(rows, lexicon.intents)
        annotate = partial(llm_augment.annotate, asker=asker, intents=names)
        vary = partial(llm_augment.augment, variants=config.variants, asker=asker)
    if config.translator in askers:
        translate = LlmTranslator(askers[config.translator]).translate
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
        askers[url] = Asker(llm, endpoint, cache, budget, price, config.temperature)
    return askers


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

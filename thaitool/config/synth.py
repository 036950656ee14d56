"""The section of `thaitool synth`: backends, how they are called, and what is made. Opens nothing.

Field descriptions are the documentation of the recipes.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, JsonValue

from thaitool.config.sections import Count, LoosePath, Positive, Section, Share, Task
from thaitool.config.synth_effects import Effects
from thaitool.config.synth_gates import Gates

SourceFormat = Literal[
    "alpaca", "snips", "bio", "wikiann", "slurp", "tsv", "text", "rows", "speech"
]


class ModelPrice(Section):
    """What a model costs, in USD per million tokens."""

    prompt: float = Field(ge=0, description="Tokens that are sent.")
    completion: float = Field(ge=0, description="Tokens that come back.")


class Calls(Section):
    """How language models and voices are called. Nothing here changes what is made."""

    in_flight: Count = Field(32, description="Calls to one server at once.")
    requests_per_s: Positive | None = Field(
        None, description="Calls to one server; null: no limit."
    )
    tokens_per_minute: Positive | None = Field(
        None, description="Tokens to and from one server, as estimated; null: no limit."
    )
    timeout_s: Positive = Field(120.0, description="A call that takes longer has failed.")
    attempts: Count = Field(6, description="Calls for one answer before its row is rejected.")
    prices: dict[str, ModelPrice] = Field(
        {}, description="Price of each model by name; one that is not here counts as free."
    )
    max_cost_usd: Positive | None = Field(
        None, description="Stops before the calls of this data set could cost more; needs prices."
    )
    key_variable: str = Field(
        "", description="Environment variable with the key of the servers; empty sends none."
    )
    key_variables: dict[str, str] = Field(
        {}, description="The same by host, such as api.deepseek.com; goes before key_variable."
    )
    record: LoosePath | None = Field(
        None, description="File to which answers of openai: are appended, for replay:."
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Of hf: and hf-vits:.")


class SynthConfig(Section):
    """`thaitool synth`: English text to Thai speech with labels."""

    source: LoosePath = Field(
        description="Sentences: a file in one of the forms of `format`, or recordings with transcripts."
    )
    format: SourceFormat | None = Field(
        None, description="How the source is written; null: by its name and first lines."
    )
    language: Literal["en", "th"] = Field(
        "en", description="Of the source; Thai sentences are not translated but spoken as they are."
    )
    corpus: str | None = Field(
        None, description="Name of the source in provenance; null: that of the file."
    )
    licence: str | None = Field(None, description="Of rows of the source that do not name theirs.")
    entity_types: dict[str, Literal["PER", "LOC", "ORG", "OTH"] | None] = Field(
        {}, description="Entity type of the source: ours, or null for what is no name."
    )
    token_column: int = Field(
        1, description="Column of the tokens, from 1, or from -1 at the end (bio, wikiann)."
    )
    tag_column: int = Field(-1, description="Column of the tags (bio, wikiann).")
    intent_names: Literal["listed", "own"] = Field(
        "listed",
        description="Labels of intents: from the closed list alone, or the intent's own name where that has none.",
    )
    out: LoosePath = Field(description="Directory of the Thai-SUP shards.")
    llm: str = Field(
        "embedded:",
        description="Labels and varies the rows: embedded: (no network, no key), openai:URL#MODEL, hf:PATH,"
        " batch:DIR#MODEL or replay:FILE#MODEL.",
    )
    translator: str = Field(
        "embedded:",
        description="embedded:, memory:PATH (JSONL translation memory), or a language model as for llm.",
    )
    tts: str = Field(
        "espeak:",
        description="espeak: (phonemes with tones), speech:URL#MODEL, hf-vits:PATH, piper:PATH or command:PROGRAM"
        " ARGUMENTS.",
    )
    voices: list[str] = Field(
        [], description="Voices to cast, NAME or NAME:WEIGHT; empty: all that the backend knows of."
    )
    intents: LoosePath | None = Field(
        None,
        description='Closed list of intents with their Thai names, JSONL of {"record": "intent", "id", "th"};'
        " null: that of the translation memory.",
    )
    temperature: float = Field(0.7, ge=0, description="Of the language models.")
    request_fields: dict[str, dict[str, JsonValue]] = Field(
        {},
        description="By model: fields of its server's own in each request, such as {thinking: {type: disabled}}.",
    )
    cache: LoosePath | None = Field(
        None,
        description="File of answers, shared by any number of data sets; null: OUT.cache.sqlite, beside OUT.",
    )
    tasks: list[Task] = Field(
        ["asr", "ic", "ner", "sr"], description="Tasks to make rows for.", min_length=1
    )
    variants: Count = Field(6, description="Variants per source row, the row itself included.")
    test_share: Share = Field(0.2, description="Share of source rows in test, within each intent.")
    dev_share: Share = Field(0.1, description="Share of source rows in dev, within each intent.")
    speed: Positive = Field(1.0, description="Factor on the speaking rate of every voice.")
    dev_voices: int = Field(
        2, ge=0, description="Speakers that are heard in dev only; 0: those of training."
    )
    test_voices: int = Field(
        3, ge=0, description="Speakers that are heard in test only; 0: those of training."
    )
    shard_rows: Count = Field(2000, description="Rows of one parquet shard.")
    seed: int = Field(0, ge=0, description="Decides variants, voices and their speed.")
    max_rejected_share: Share = Field(0.5, description="Share of rejected rows that stops the run.")
    trainable: bool = Field(
        False, description="Mark rows as fit for real training; embedded voices are smoke quality."
    )
    engine: Literal["local", "ray"] = Field(
        "local", description="Where clips are made: on this machine, or on those of a Ray cluster."
    )
    report_against: list[LoosePath] = Field(
        [],
        description="Files of real Thai text, one sentence a line, that report.html compares the sounds with.",
    )
    workers: Count = Field(
        1, description="Processes in which voices of this program speak; with ray, all its actors."
    )
    restart: bool = Field(
        False, description="Throws the unfinished work of an earlier command for OUT away."
    )
    calls: Calls = Field(
        default_factory=lambda: Calls.model_validate({}),
        description="How servers and local models are called; changes nothing that is made.",
    )
    gates: Gates = Field(
        default_factory=lambda: Gates.model_validate({}),
        description="What sentences and clips must pass.",
    )
    effects: Effects = Field(
        default_factory=lambda: Effects.model_validate({}),
        description="Room and noise on finished clips, after the gates.",
    )

"""One typed, strict configuration per stage; a YAML recipe and flags fill it. Never asks what machine it is on.

`load` reports every mistake at once (unknown, duplicate, ill-typed, missing), each with file and line or option, so
that a recipe is repaired in one go. Field descriptions are the documentation of the recipes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    Strict,
    ValidationError,
    field_validator,
    model_validator,
)

from thaitool.errors import ConfigError

#: Paths come as strings from YAML and flags, the one place where strictness would only annoy.
LoosePath = Annotated[Path, Strict(strict=False)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Task = Literal["asr", "ic", "ner", "sr"]


class Section(BaseModel):
    """A group of keys: strict types, no unknown keys, immutable."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, validate_default=True, allow_inf_nan=False
    )


class Training(Section):
    """What every training stage has. The unit of progress is the optimizer update."""

    updates: Count = Field(description="Optimizer updates to make.")
    batch_s: Positive = Field(
        description="Padded seconds of audio in one micro-batch of one process."
    )
    accumulation: Count = Field(1, description="Micro-batches of each process per update.")
    learning_rate: Positive = Field(description="Peak rate of AdamW.")
    warmup_share: Share = Field(
        0.1, description="Share of the updates with a linearly rising rate."
    )
    weight_decay: float = Field(0.01, ge=0, description="AdamW weight decay.")
    max_grad_norm: Positive = Field(1.0, description="Gradients are clipped to this norm.")
    eval_every: Count = Field(100, description="Updates between evaluations on held-out data.")
    save_every: Count = Field(100, description="Updates between checkpoints.")
    keep: Count = Field(2, description="Checkpoints kept; older ones are deleted.")
    workers: int = Field(0, ge=0, description="Processes that decode audio ahead.")
    seed: int = Field(0, ge=0, description="Decides order, masks, dropout and initial weights.")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="auto takes CUDA if there is one."
    )
    mixed_precision: Literal["no", "bf16"] = Field(
        "no", description="Precision of the forward pass."
    )
    max_rejected_share: Share = Field(
        0.1, description="Share of unusable recordings that stops a run."
    )


class EncoderShape(Section):
    """A new wav2vec 2.0 encoder, used when `init` is null. The defaults are the tiny one of the demo."""

    hidden_size: Count = 128
    layers: Count = 3
    heads: Count = 4
    intermediate_size: Count = 384
    conv_dim: list[Count] = [48, 96, 128]
    conv_kernel: list[Count] = [20, 16, 8]
    conv_stride: list[Count] = [10, 8, 4]
    codevectors_per_group: Count = 80
    codevector_dim: Count = 64
    dropout: Share = 0.05

    @model_validator(mode="after")
    def _fits(self) -> EncoderShape:
        if len({len(self.conv_dim), len(self.conv_kernel), len(self.conv_stride)}) > 1:
            raise ValueError("conv_dim, conv_kernel and conv_stride must be equally long")
        if self.hidden_size % self.heads or self.hidden_size % 8:
            raise ValueError("hidden_size must be a multiple of heads, and of 8")
        return self


class PretrainConfig(Section):
    """`thaitool pretrain`: unlabelled Thai audio to an encoder."""

    data: list[LoosePath] = Field(
        description="Directories, sound files, Thai-SUP shards or manifests.", min_length=1
    )
    out: LoosePath = Field(description="Run directory.")
    init: LoosePath | None = Field(
        None, description="Encoder to continue from; null makes a new one of `encoder`."
    )
    encoder: EncoderShape = Field(EncoderShape(), description="Shape of a new encoder.")
    crop_s: float = Field(
        15.0, ge=0.1, description="Longer audio is cut to a random window of this length."
    )
    dev_share: Share = Field(0.05, description="Share of the sources held out for validation.")
    gumbel_start: Positive = Field(2.0, description="Gumbel temperature at update 0.")
    gumbel_end: Positive = Field(0.5, description="Gumbel temperature at the last update.")
    train: Training


class SynthConfig(Section):
    """`thaitool synth`: English text to Thai speech with labels."""

    source: LoosePath = Field(description="alpaca JSONL or JSON, or SNIPS JSON.")
    out: LoosePath = Field(description="Directory of the Thai-SUP shards.")
    llm: str = Field(
        "embedded:", description="Backend that augments; embedded: needs no network and no key."
    )
    translator: str = Field(
        "embedded:", description="embedded: or memory:PATH (JSONL translation memory)."
    )
    tts: str = Field("espeak:", description="Voice backend; espeak: speaks phonemes with tones.")
    tasks: list[Task] = Field(
        ["asr", "ic", "ner", "sr"], description="Tasks to make rows for.", min_length=1
    )
    variants: Count = Field(6, description="Variants per source row, the row itself included.")
    test_share: Share = Field(0.2, description="Share of source rows in test, within each intent.")
    dev_share: Share = Field(0.1, description="Share of source rows in dev, within each intent.")
    speed: Positive = Field(1.0, description="Factor on the speaking rate of every voice.")
    dev_voices: int = Field(2, ge=0, description="Speakers that are heard in dev only.")
    test_voices: Count = Field(3, description="Speakers that are heard in test only.")
    shard_rows: Count = Field(2000, description="Rows of one parquet shard.")
    seed: int = Field(0, ge=0, description="Decides variants, voices and their speed.")
    max_rejected_share: Share = Field(0.5, description="Share of rejected rows that stops the run.")
    trainable: bool = Field(
        False, description="Mark rows as fit for real training; embedded voices are smoke quality."
    )


class AlignConfig(Section):
    """`thaitool align`: bring projected speech to the LLM's token embeddings, the LLM not in the loop (U-Align)."""

    data: LoosePath = Field(description="Thai-SUP directory.")
    encoder: LoosePath = Field(description="A run of `pretrain` or a wav2vec 2.0 directory.")
    llm: LoosePath = Field(
        description="Causal LLM in transformers form; only its token table is read."
    )
    out: LoosePath = Field(description="Run directory.")
    method: Literal["dtw", "none"] = Field(
        "dtw", description="dtw is U-Align; none writes an untrained projector (direct training)."
    )
    plain: bool = Field(
        False,
        description="The paper's bare DTW loss; it collapses (tests/bench/collapse.py).",
    )
    allow_untrainable: bool = Field(
        False, description="Train on rows that `synth` marked trainable: false."
    )
    projector_factor: Count = Field(2, description="Encoder frames per LLM embedding.")
    projector_hidden_size: Count = Field(256, description="Width inside the projector.")
    unfreeze_encoder: bool = Field(False, description="Train the encoder's transformer too.")
    unfreeze_convolutions: bool = Field(
        False, description="Train the convolutional feature encoder too."
    )
    encoder_learning_rate: Positive = Field(
        1e-4, description="Peak rate of the encoder if it is trained."
    )
    pool_weight: float = Field(0.5, ge=0, description="Weight of the pooled speech-text contrast.")
    transcript_weight: float = Field(
        1.0, ge=0, description="Weight of the contrast of DTW costs over transcripts."
    )
    temperature: Positive = Field(0.1, description="Of both contrasts.")
    ramp_start: Share = Field(0.2, description="Share of updates before the DTW term sets in.")
    ramp_end: Share = Field(
        0.4, description="Share of updates at which the DTW term has its full weight."
    )
    train: Training


class FinetuneConfig(Section):
    """`thaitool finetune`: multitask instruction training of the speech LLM."""

    data: LoosePath = Field(description="Thai-SUP directory.")
    model: LoosePath = Field(description="A run of `align` or `finetune`.")
    out: LoosePath = Field(description="Run directory.")
    llm: LoosePath | None = Field(
        None, description="Where the base LLM lies now, if not where it was."
    )
    tasks: list[Task] = Field(
        ["asr", "ic", "ner", "sr"], description="Tasks to train.", min_length=1
    )
    allow_untrainable: bool = Field(
        False, description="Train on rows that `synth` marked trainable: false."
    )
    lora_rank: int = Field(16, ge=0, description="Rank of LoRA on the LLM; 0 keeps the LLM frozen.")
    lora_alpha: Positive = Field(32.0, description="LoRA scale times rank.")
    lora_targets: str = Field(
        r".*(q|k|v|o|gate|up|down)_proj$",
        description="Regex of the LLM's linear layers that get LoRA.",
    )
    unfreeze_encoder: bool = Field(False, description="Train the encoder too.")
    encoder_learning_rate: Positive = Field(
        1e-4, description="Peak rate of the encoder if it is trained."
    )
    projector_learning_rate: Positive = Field(5e-4, description="Peak rate of the projector.")
    train: Training

    @field_validator("lora_targets")
    @classmethod
    def _is_regex(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"must be a regular expression ({error})") from error
        return value


class EvalConfig(Section):
    """`thaitool eval`: scores with intervals for a model or a predictions file."""

    task: Literal["slu", "asr", "ic", "ner", "sr"] = Field("slu", description="slu is all four.")
    data: LoosePath = Field(description="Thai-SUP directory.")
    out: LoosePath = Field(description="Report directory.")
    model: LoosePath | None = Field(
        None, description="Model directory; either this or predictions."
    )
    predictions: LoosePath | None = Field(
        None, description="JSONL of {id, task, text}; nothing is generated."
    )
    llm: LoosePath | None = Field(
        None, description="Where the base LLM lies now, if not where it was."
    )
    split: Literal["train", "dev", "test"] = Field("test", description="Split to score.")
    shuffled: bool = Field(True, description="Also answer with the audio of other utterances.")
    limit: Count | None = Field(
        None, description="At most this many utterances per task, spread evenly."
    )
    batch_s: Positive = Field(60.0, description="Padded seconds of audio per batch.")
    max_new_tokens: Count = Field(128, description="Length limit of an answer.")
    max_rejected_share: Share = Field(
        0.1, description="Share of unusable recordings that stops the run."
    )
    draws: Count = Field(2000, description="Bootstrap draws behind each interval.")
    seed: int = Field(0, ge=0, description="Decides the shuffle and the draws.")
    device: Literal["auto", "cpu", "cuda"] = "auto"


class InferConfig(Section):
    """`thaitool infer`: one JSON object a line for each recording."""

    model: LoosePath = Field(description="Model directory.")
    task: Task = Field("asr", description="What to ask.")
    prompt: str | None = Field(None, description="Ask this instead of the task's own prompt.")
    audio: list[LoosePath] = Field(description="Sound files.", min_length=1)
    llm: LoosePath | None = Field(
        None, description="Where the base LLM lies now, if not where it was."
    )
    batch_s: Positive = Field(60.0, description="Padded seconds of audio per batch.")
    max_new_tokens: Count = Field(128, description="Length limit of an answer.")
    device: Literal["auto", "cpu", "cuda"] = "auto"


@dataclass(frozen=True)
class _Found:
    """A value from a recipe or flag and where it stands, for messages."""

    value: Any
    where: str


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as PyYAML reads it, but 1e-4 is a number, as everywhere else."""


class _Dumper(yaml.SafeDumper):
    """Quotes what `_Loader` would take for a number."""


for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
        list("-+0123456789"),
    )

Config = TypeVar("Config", bound=Section)
RECIPES = Path(__file__).parent / "recipes"


def recipe_names() -> list[str]:
    """Recipes that ship with the package, by stage, e.g. `tiny`."""
    return sorted(p.stem for p in RECIPES.glob("*.yaml"))


def load(
    model: type[Config],
    stage: str,
    *,
    recipe: str | None = None,
    settings: list[str] | None = None,
    options: dict[str, Any] | None = None,
) -> Config:
    """Builds a stage's configuration: recipe, then `--set`, then named options; later ones win.

    Args:
        model: The configuration class.
        stage: Key of the stage inside a recipe, e.g. `pretrain`.
        recipe: A YAML file, or the name of a shipped recipe.
        settings: `a.b=value` strings; the value is YAML.
        options: Dotted key to value; None values are skipped.

    Raises:
        ConfigError: lists every unknown, duplicate, ill-typed, missing or out-of-range key, with its place.
    """
    problems: list[str] = []
    found: dict[tuple[str, ...], _Found] = {}
    if recipe is not None:
        found |= _read_recipe(recipe, stage, problems)
    for text in settings or []:
        key, equals, value = text.partition("=")
        if not equals:
            problems.append(f"--set {text}: must be key=value.")
            continue
        parsed = _parse(value, problems, f"--set {text}")
        found |= _flat(tuple(key.split(".")), parsed, f"--set {text}")
    for key, value in (options or {}).items():
        if value is not None:
            found[tuple(key.split("."))] = _Found(
                value, f"option --{key.split('.')[-1].replace('_', '-')}"
            )
    tree = _nest(found, problems)
    try:
        config = model.model_validate(tree)
    except ValidationError as error:
        problems.extend(_describe(e, found) for e in error.errors())
    else:
        if not problems:
            return config
    listing = "\n".join(f"  - {p}" for p in problems)
    raise ConfigError(f"The configuration of {stage} has {len(problems)} problem(s):\n{listing}")


def _parse(value: str, problems: list[str], where: str) -> Any:
    try:
        return yaml.load(value, _Loader)  # noqa: S506 (a SafeLoader)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date such as 2020-13-45
        problems.append(f"{where}: the value is not YAML: {_reason(error)}.")
        return None


def _flat(key: tuple[str, ...], value: Any, where: str) -> dict[tuple[str, ...], _Found]:
    # --set train={updates: 3} changes one key of the recipe's `train`, as --set train.updates=3 does.
    if not isinstance(value, dict) or not value:
        return {key: _Found(value, where)}
    return {
        k: v
        for name, below in value.items()
        for k, v in _flat((*key, str(name)), below, where).items()
    }


def _read_recipe(recipe: str, stage: str, problems: list[str]) -> dict[tuple[str, ...], _Found]:
    path = Path(recipe)
    if not path.suffix and (RECIPES / f"{recipe}.yaml").is_file():
        path = RECIPES / f"{recipe}.yaml"
    try:
        root = yaml.compose(path.read_text("utf-8"), Loader=_Loader)
    except FileNotFoundError:
        names = ", ".join(recipe_names())
        raise ConfigError(
            f"{recipe} must be a YAML file or a shipped recipe ({names}), but does not exist."
        ) from None
    except OSError as error:
        raise ConfigError(f"{path} must be a YAML file, but: {error.strerror or error}.") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} must be YAML, but is not: {error}") from error
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{path} must hold a mapping of stages, e.g. '{stage}:', but does not.")
    out: dict[tuple[str, ...], _Found] = {}
    try:
        _walk(root, (), path, out, problems)
    except RecursionError as error:
        raise ConfigError(f"{path} must not contain itself, but an anchor does.") from error
    mine = {k[1:]: v for k, v in out.items() if k[0] == stage and len(k) > 1}
    known = {"pretrain", "synth", "align", "finetune", "eval", "infer"}
    problems.extend(
        f"{out[k].where}: unknown stage {k[0]!r}." for k in out if len(k) == 1 and k[0] not in known
    )
    if not mine:
        problems.append(f"{path}: has no section {stage!r}.")
    return mine


def _walk(
    node: yaml.MappingNode,
    prefix: tuple[str, ...],
    path: Path,
    out: dict[tuple[str, ...], _Found],
    problems: list[str],
) -> None:
    for key_node, value_node in node.value:
        key = (*prefix, str(key_node.value))
        where = f"{path}:{key_node.start_mark.line + 1}"
        if key in out:
            problems.append(
                f"{where}: duplicate key {'.'.join(key)!r} (first at {out[key].where})."
            )
        if isinstance(value_node, yaml.MappingNode):
            out[key] = _Found({}, where)
            _walk(value_node, key, path, out, problems)
        else:
            out[key] = _Found(_construct(value_node, key, where, problems), where)


def _construct(node: yaml.Node, key: tuple[str, ...], where: str, problems: list[str]) -> Any:
    try:
        return _Loader("").construct_object(node, deep=True)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date such as 2020-13-45
        problems.append(
            f"{where}: the value of {'.'.join(key)!r} is not plain YAML: {_reason(error)}."
        )
        return None


def _reason(error: Exception) -> str:
    """One line; PyYAML's own text draws the place over several, and knows no file."""
    return str(getattr(error, "problem", None) or error)


def _nest(found: dict[tuple[str, ...], _Found], problems: list[str]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key in sorted(found, key=len):
        at = tree
        for part in key[:-1]:
            below = at.setdefault(part, {})
            if not isinstance(below, dict):
                problems.append(
                    f"{found[key].where}: {'.'.join(key)} goes below {part!r}, which is a value."
                )
                break
            at = below
        else:
            at[key[-1]] = {} if found[key].value == {} else found[key].value
    return tree


def _describe(error: Any, found: dict[tuple[str, ...], _Found]) -> str:
    key = tuple(str(part) for part in error["loc"])
    place = next((found[key[:n]].where for n in range(len(key), 0, -1) if key[:n] in found), None)
    name = ".".join(key)
    if error["type"] == "extra_forbidden":
        return f"{place}: unknown key {name!r}."
    if error["type"] == "missing":
        return f"{name!r} must be given, by a recipe, an option or --set, but is not."
    return f"{place}: {name!r}: {error['msg']}, but is {error['input']!r}."


def dump(config: Section, stage: str) -> str:
    """YAML of a complete configuration, as a run directory keeps it; `load` reads it back."""
    return yaml.dump(
        {stage: config.model_dump(mode="json")}, Dumper=_Dumper, sort_keys=False, allow_unicode=True
    )

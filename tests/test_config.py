"""Configuration: every mistake at once with its place, one order of precedence, and recipes that load."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from thaitool.config import (
    RECIPES,
    AlignConfig,
    EvalConfig,
    FinetuneConfig,
    InferConfig,
    PretrainConfig,
    RecogniseConfig,
    ScanConfig,
    Section,
    SynthConfig,
    dump,
    load,
    recipe_names,
)
from thaitool.config.sections import CompareConfig
from thaitool.errors import ConfigError

STAGES: dict[str, type[Section]] = {
    "scan": ScanConfig,
    "pretrain": PretrainConfig,
    "synth": SynthConfig,
    "align": AlignConfig,
    "finetune": FinetuneConfig,
    "recognise": RecogniseConfig,
    "eval": EvalConfig,
    "compare": CompareConfig,
    "infer": InferConfig,
}
#: What a recipe leaves to the command line.
OPTIONS: dict[str, dict[str, Any]] = {
    "scan": {"data": ["d"], "out": "o"},
    "pretrain": {"data": ["d"], "out": "o"},
    "synth": {"source": "s", "out": "o"},
    "align": {"data": "d", "encoder": "e", "llm": "l", "out": "o"},
    "finetune": {"data": "d", "model": "m", "out": "o"},
    "recognise": {"data": ["d"], "out": "o"},
    "eval": {"data": "d", "out": "o"},
    "compare": {"reports": ["a", "b"]},
    "infer": {"model": "m", "audio": ["a.wav"]},
}
TRAIN = {"train.updates": 5, "train.batch_s": 4.0, "train.learning_rate": 0.1}


def problems(error: ConfigError) -> list[str]:
    head, *lines = str(error).splitlines()
    assert head.endswith(f"has {len(lines)} problem(s):")
    return [line.removeprefix("  - ") for line in lines]


def write(path: Path, text: str) -> str:
    path.write_text(text, "utf-8")
    return str(path)


def test_every_mistake_is_reported_at_once_with_its_place(tmp_path: Path) -> None:
    recipe = write(
        tmp_path / "r.yaml",
        "pretrain:\n"  # 1
        "  data: [a]\n"
        "  dev_shar: 0.1\n"  # 3: unknown
        "  crop_s: long\n"  # 4: ill-typed
        "  train:\n"
        "    updates: 10\n"
        "    updates: 20\n"  # 7: duplicate
        "    batch_s: -1.0\n"  # 8: out of range
        "    device: gpu\n"  # 9: not one of
        "  encoder: {layerz: 3}\n"  # 10: unknown, nested
        "sorcery: {}\n",  # 11: unknown stage
    )
    with pytest.raises(ConfigError) as caught:
        load(
            PretrainConfig,
            "pretrain",
            recipe=recipe,
            settings=["train.seed=x", "train.nonsense=1", "no equals sign"],
            options={"train.warmup_share": 1.5},
        )
    assert caught.value.exit_code == 2
    found = problems(caught.value)
    expected = [
        f"{recipe}:3: unknown key 'dev_shar'.",
        f"{recipe}:4: 'crop_s': Input should be a valid number, but is 'long'.",
        f"{recipe}:7: duplicate key 'pretrain.train.updates' (first at {recipe}:6).",
        f"{recipe}:8: 'train.batch_s': Input should be greater than 0, but is -1.0.",
        f"{recipe}:9: 'train.device': Input should be 'auto', 'cpu' or 'cuda', but is 'gpu'.",
        f"{recipe}:10: unknown key 'encoder.layerz'.",
        f"{recipe}:11: unknown stage 'sorcery'.",
        "--set train.seed=x: 'train.seed': Input should be a valid integer, but is 'x'.",
        "--set train.nonsense=1: unknown key 'train.nonsense'.",
        "--set no equals sign: must be key=value.",
        "option --warmup-share: 'train.warmup_share': Input should be less than or equal to 1, but is 1.5.",
        "'out' must be given, by a recipe, an option or --set, but is not.",
        "'train.learning_rate' must be given, by a recipe, an option or --set, but is not.",
    ]
    assert sorted(found) == sorted(expected)


STRICT = [
    ("train.updates=true", "valid integer"),
    ("train.updates=1.5", "valid integer"),
    ("train.updates=0", "greater than or equal to 1"),
    ("train.learning_rate='0.1'", "valid number"),
    ("train.batch_s=.inf", "finite number"),
    ("train.batch_s=.nan", "finite number"),
    ("train=5", "valid dictionary"),
    ("data=one", "valid list"),
    ("data=[]", "at least 1 item"),
    ("out=[a]", "valid path"),
    ("data.below=1", "goes below 'data', which is a value"),
    ("train.seed=[", "is not YAML"),
    ("train.seed=2020-13-45", "is not YAML"),
    ("=1", "unknown key ''"),
]


@pytest.mark.parametrize(("setting", "phrase"), STRICT)
def test_values_are_not_bent_into_shape(setting: str, phrase: str) -> None:
    good = [f"{k}={v}" for k, v in {"data": "[d]", "out": "o", **TRAIN}.items()]
    load(PretrainConfig, "pretrain", settings=good)
    with pytest.raises(ConfigError) as caught:
        load(PretrainConfig, "pretrain", settings=[*good, setting])
    assert any(phrase in p and p.startswith(f"--set {setting}") for p in problems(caught.value))


def test_options_win_over_set_and_set_over_the_recipe(tmp_path: Path) -> None:
    recipe = write(
        tmp_path / "r.yaml",
        "pretrain:\n  data: [d]\n  out: recipe\n  dev_share: 0.3\n  crop_s: 7\n"
        "  train: {updates: 1, batch_s: 2.0, learning_rate: 1e-4, seed: 4}\n",
    )
    config = load(
        PretrainConfig,
        "pretrain",
        recipe=recipe,
        settings=["out=set", "dev_share=0.4", "train.updates=2", "train={seed: 5, keep: 9}"],
        options={"out": Path("option"), "train.updates": 3, "init": None},
    )
    assert (config.out, config.dev_share, config.crop_s) == (Path("option"), 0.4, 7.0)
    assert (config.train.updates, config.train.seed, config.train.keep) == (3, 5, 9)
    assert (config.train.batch_s, config.train.learning_rate) == (2.0, 1e-4)
    assert (config.init, config.gumbel_start) == (None, 2.0)
    last = load(PretrainConfig, "pretrain", recipe=recipe, settings=["crop_s=1", "crop_s=2"])
    assert last.crop_s == 2.0


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "1.0e-4", "0.0001", "1.e-4"])
def test_a_number_may_be_written_as_everywhere_else(text: str) -> None:
    settings = [
        f"train.learning_rate={text}",
        "data=[d]",
        "out=o",
        "train.updates=1",
        "train.batch_s=4",
    ]
    assert load(PretrainConfig, "pretrain", settings=settings).train.learning_rate == 1e-4


NOT_RECIPES = [
    (b"- a\n- b\n", "must hold a mapping of stages, e.g. 'infer:', but does not"),
    (b"", "must hold a mapping"),
    (b"just words", "must hold a mapping"),
    (b"infer: {model: m", "must be YAML, but is not"),
    (b"infer:\n\tmodel: m\n", "must be YAML, but is not"),
    (b"a: 1\n---\nb: 2\n", "must be YAML, but is not"),
    (
        "infer:\n  model: \u0e42".encode("cp874"),
        "must be YAML, but is not: 'utf-8' codec can't decode",
    ),
    (b"\x00\x01", "must be YAML, but is not"),
    (b"[" * 3_000, "must be YAML, but is not"),
    (b"infer: &a\n  model: *a\n", "must not contain itself"),
    (b"synth: {}\n", "has no section 'infer'"),
    (b"infer:\n", "has no section 'infer'"),
    (
        b"infer:\n  prompt: 2020-13-45\n",
        "r.yaml:2: the value of 'infer.prompt' is not plain YAML: month",
    ),
    (
        b"infer:\n  prompt: !!python/name:os.system\n",
        "r.yaml:2: the value of 'infer.prompt' is not plain YAML",
    ),
]


@pytest.mark.parametrize(("content", "phrase"), NOT_RECIPES)
def test_what_is_no_recipe_is_named(tmp_path: Path, content: bytes, phrase: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load(InferConfig, "infer", recipe=str(path))
    assert phrase in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_recipe_that_does_not_exist_lists_those_that_do(tmp_path: Path) -> None:
    assert recipe_names()
    for name in ("nosuch", str(tmp_path / "nosuch.yaml")):
        with pytest.raises(ConfigError) as caught:
            load(InferConfig, "infer", recipe=name)
        assert f"{name} must be a YAML file or a shipped recipe" in str(caught.value)
        assert all(shipped in str(caught.value) for shipped in recipe_names())
    with pytest.raises(ConfigError, match=r"must be a YAML file, but: Is a directory"):
        load(InferConfig, "infer", recipe=str(tmp_path))


@pytest.mark.parametrize("stage", STAGES)
def test_a_dumped_configuration_is_read_back_equal(tmp_path: Path, stage: str) -> None:
    options = dict(OPTIONS[stage])
    if "train" in STAGES[stage].model_fields:
        options |= TRAIN
    if stage == "infer":
        # Texts that YAML would take for something else unless they are quoted.
        options |= {
            "prompt": "1e-4",
            "audio": [Path("1e5"), Path("ไทย.wav"), Path("no"), Path("7")],
        }
    config = load(STAGES[stage], stage, options=options)
    text = dump(config, stage)
    again = load(STAGES[stage], stage, recipe=write(tmp_path / "config.yaml", text))
    assert again == config
    assert dump(again, stage) == text
    assert "\\u" not in text


def test_every_shipped_recipe_loads_for_every_stage_it_has() -> None:
    loaded = []
    for name in recipe_names():
        for stage in yaml.safe_load((RECIPES / f"{name}.yaml").read_text("utf-8")):
            config = load(STAGES[stage], stage, recipe=name, options=OPTIONS[stage])
            assert type(config) is STAGES[stage]
            loaded.append((name, stage))
    assert {"tiny", "xlsr-300m-thai"} <= {name for name, _ in loaded}
    assert set(STAGES) - {"infer", "scan"} <= {stage for name, stage in loaded if name == "tiny"}
    assert len(loaded) >= 6


def test_every_key_is_documented_and_every_section_refuses_strangers() -> None:
    undocumented = []
    for stage, model in STAGES.items():
        for name, field in model.model_fields.items():
            if not field.description and name not in {"train", "device"}:
                undocumented.append(f"{stage}.{name}")
        assert model.model_config["extra"] == "forbid"
    assert undocumented == []


def test_defaults_are_finite_numbers() -> None:
    config = load(PretrainConfig, "pretrain", options=OPTIONS["pretrain"] | TRAIN)
    numbers = [v for v in config.train.model_dump().values() if isinstance(v, float)]
    assert len(numbers) >= 5
    assert all(math.isfinite(n) for n in numbers)

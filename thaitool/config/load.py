"""Recipes, `--set` and options to a configuration, and a configuration back to YAML.

`load` reports every mistake at once (unknown, duplicate, ill-typed, missing), each with file and line or option, so
that a recipe is repaired in one go.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from thaitool.config.sections import Section
from thaitool.errors import ConfigError


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
RECIPES = Path(__file__).parents[1] / "recipes"


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
    known = {
        "scan",
        "pretrain",
        "synth",
        "align",
        "finetune",
        "recognise",
        "eval",
        "compare",
        "infer",
        "serve",
        "report",
    }
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
    if isinstance(error["input"], dict):
        # A section whose keys do not go together; all of them would bury the sentence.
        said = error["msg"].removeprefix("Value error, ")
        return f"{place}: {name!r}: {said}." if name else f"{said}."
    return f"{place}: {name!r}: {error['msg']}, but is {error['input']!r}."


def dump(config: Section, stage: str) -> str:
    """YAML of a complete configuration, as a run directory keeps it; `load` reads it back."""
    return yaml.dump(
        {stage: config.model_dump(mode="json")}, Dumper=_Dumper, sort_keys=False, allow_unicode=True
    )

"""One typed, strict configuration per stage; a YAML recipe and flags fill it."""

from thaitool.config.load import RECIPES, dump, load, recipe_names
from thaitool.config.sections import (
    AlignConfig,
    EncoderShape,
    EvalConfig,
    FinetuneConfig,
    InferConfig,
    PretrainConfig,
    Recordings,
    ScanConfig,
    Section,
    SynthConfig,
    Training,
)

__all__ = [
    "RECIPES",
    "AlignConfig",
    "EncoderShape",
    "EvalConfig",
    "FinetuneConfig",
    "InferConfig",
    "PretrainConfig",
    "Recordings",
    "ScanConfig",
    "Section",
    "SynthConfig",
    "Training",
    "dump",
    "load",
    "recipe_names",
]

"""One typed, strict configuration per stage; a YAML recipe and flags fill it."""

from thaitool.config.align import AlignConfig
from thaitool.config.asr import DecoderShape, RecogniseConfig, SpeechEncoderShape
from thaitool.config.finetune import FinetuneConfig
from thaitool.config.infer import InferConfig
from thaitool.config.load import RECIPES, dump, load, recipe_names
from thaitool.config.sections import (
    Decoding,
    EncoderShape,
    EvalConfig,
    PretrainConfig,
    Recordings,
    ScanConfig,
    Section,
    Training,
)
from thaitool.config.serve import ServeConfig
from thaitool.config.synth import Calls, SynthConfig

__all__ = [
    "RECIPES",
    "AlignConfig",
    "Calls",
    "DecoderShape",
    "Decoding",
    "EncoderShape",
    "EvalConfig",
    "FinetuneConfig",
    "InferConfig",
    "PretrainConfig",
    "RecogniseConfig",
    "Recordings",
    "ScanConfig",
    "Section",
    "ServeConfig",
    "SpeechEncoderShape",
    "SynthConfig",
    "Training",
    "dump",
    "load",
    "recipe_names",
]

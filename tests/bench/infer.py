"""Batched `infer` beside a loop over files with transformers' `generate`, on short clips. Trains nothing.

Untrained models of usual shapes; both give the same texts, which is verified before the clocks are read. Rounds of both
alternate, and medians are reported. `--quick` takes a small model and few clips.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile
import torch
from transformers import AutoModelForCausalLM, Qwen2Config

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # run as a file, from anywhere

from tests import llms, tiny  # noqa: E402
from tests.bench import measure  # noqa: E402
from thaitool.audio.decode import decode  # noqa: E402
from thaitool.inference.model import Model, load  # noqa: E402
from thaitool.models.checkpoint import load_speech_lm, load_tokenizer  # noqa: E402
from thaitool.text.prompts import task_prompt  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Shape:
    """Width and depth of an LLM; the encoder is the small one of `tests.tiny` for all."""

    hidden_size: int
    layers: int
    heads: int
    vocabulary: int


SHAPES = {
    "12 M parameters": Shape(256, 8, 4, 8_000),
    "110 M parameters": Shape(768, 12, 12, 32_000),
}


def make_model(base: Path, shape: Shape) -> Path:
    """A checkpoint of an untrained speech LLM."""
    llm = tiny.llm_directory(base / "llm")
    (llm / "model.safetensors").unlink()
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=max(shape.vocabulary, len(load_tokenizer(llm))),
        hidden_size=shape.hidden_size,
        intermediate_size=4 * shape.hidden_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads // 2,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=1,
        tie_word_embeddings=True,
        # A larger spread than usual, so that an untrained model says different things about different clips.
        initializer_range=0.1,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(llm)
    return llms.save(base / "model", *llms.speech_lm(llm), llm)


def make_clips(folder: Path, count: int) -> list[Path]:
    """Tones of 0.6 to 2.5 s, as commands are."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    paths = []
    for number in range(count):
        t = np.arange(int(16_000 * rng.uniform(0.6, 2.5))) / 16_000
        samples = 0.3 * np.sin(2 * np.pi * rng.uniform(90, 400) * t)
        samples += 0.05 * rng.standard_normal(len(t))
        paths.append(folder / f"{number:03d}.wav")
        soundfile.write(paths[-1], samples, 16_000)
    return paths


def loop_of(path: Path, paths: list[Path], tokens: int) -> Callable[[], list[str]]:
    """What people write: for each file decode, processor, generate."""
    model, processor = load_speech_lm(path)
    asked = processor.prompt(task_prompt("asr"), 1)

    def run() -> list[str]:
        texts = []
        for file in paths:
            inputs = processor(asked, audio=[decode(str(file), str(file))])
            out = model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
            new = out[0, inputs["input_ids"].shape[1] :]
            texts.append(processor.tokenizer.decode(new, skip_special_tokens=True).strip())
        return texts

    return run


def batched(model: Model, paths: list[Path], tokens: int) -> list[str]:
    """`infer` from Python."""
    return [str(answer.text) for answer in model(paths, max_new_tokens=tokens)]


def llm_megabytes(model: Model) -> float:
    """What the LLM's weights take, in 10^6 bytes."""
    decoder = model.engine.model.decoder
    if decoder is None:
        raise SystemExit("The model must be a speech LLM.")
    held = decoder.model.language_model.state_dict(keep_vars=True).values()
    tensors = {t.data_ptr(): t for t in held}
    n_bytes: int = sum(t.nbytes for t in tensors.values())
    return round(n_bytes / 1e6, 1)


def compare(shape: Shape, count: int, tokens: int, rounds: int) -> dict[str, Any]:
    """Seconds of both, and of forms with fewer bits; raises if the texts differ."""
    with tempfile.TemporaryDirectory() as base:
        path = make_model(Path(base), shape)
        paths = make_clips(Path(base) / "clips", count)
        loop = loop_of(path, paths, tokens)
        model = load(path, device="cpu")
        texts = loop()
        n_different = sum(a != b for a, b in zip(texts, batched(model, paths, tokens), strict=True))
        if n_different:
            raise SystemExit(f"{n_different} of {count} texts differ; nothing was timed.")
        runs: dict[str, Callable[[], Any]] = {
            "loop": loop,
            "infer": partial(batched, model, paths, tokens),
        }
        megabytes = {"infer": llm_megabytes(model)}
        for form in ("bfloat16", "int8"):
            other = load(path, device="cpu", llm_dtype=form)
            megabytes[form] = llm_megabytes(other)
            runs[form] = partial(batched, other, paths, tokens)
            runs[form]()
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(rounds):
            for name, run in runs.items():
                began = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - began)
        audio_s = sum(soundfile.info(file).duration for file in paths)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    return {
        "clips": count,
        "audio_s": round(audio_s, 1),
        "tokens_each": tokens,
        "texts_equal": True,
        "llm_megabytes": megabytes,
        "distinct_texts": len(set(texts)),
        "seconds": {name: round(value, 3) for name, value in medians.items()},
        "times_faster_than_loop": {
            name: round(medians["loop"] / value, 2) for name, value in medians.items()
        },
        "clips_per_s": {name: round(count / value, 2) for name, value in medians.items()},
    }


def main() -> None:
    """Prints the results, or writes them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    result: dict[str, Any] = {"machine": measure.machine("cpu"), "threads": torch.get_num_threads()}
    shapes = dict(list(SHAPES.items())[:1]) if args.quick else SHAPES
    for name, shape in shapes.items():
        result[name] = compare(shape, 24 if args.quick else 64, 24, 1 if args.quick else 5)
        print(name, json.dumps(result[name], indent=2), flush=True)  # noqa: T201
    if args.out is not None:
        args.out.write_text(json.dumps(result, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()

"""An update of `align` by DTW and by CTC beside ASR with the frozen LLM in the loop: time and peak memory, on the CPU.

    python tests/bench/align.py --out tests/bench/results/align-cpu.json    # some 6 minutes and 6 GB
    python tests/bench/align.py --whole    # the same with the LLM's 28 layers: 16 GB
    python tests/bench/align.py --quick    # tiny models only, under a minute

Random weights and noise: an update is encoder, projector, loss, backward, AdamW on the projector. Each method runs in a
process of its own, whose peak is that of weights, table or LLM, batch and update together. First is shown that the
gradient each method is timed with is that of a slow definition: plain autograd through `models.alignment` with the DTW
reference, the whole softmax, and transformers' own loss. `large` has the encoder of XLS-R 300M, and the width and the
vocabulary of a 3B LLM with few of its 28 layers, as memory is short; what is said of 28 layers is extrapolated from two
depths, and marked so, unless --whole measures them.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, Wav2Vec2Config, Wav2Vec2Model
from transformers.utils import logging

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # run as a file, from anywhere

from tests import tiny  # noqa: E402
from tests.bench import measure  # noqa: E402
from thaitool.config import AlignConfig  # noqa: E402
from thaitool.data.loader import Batch  # noqa: E402
from thaitool.models.checkpoint import (  # noqa: E402
    load_tokenizer,
    new_processor,
    new_speech_lm_config,
)
from thaitool.models.encoders.interface import SpeechEncoder  # noqa: E402
from thaitool.models.projector import Projector, ProjectorSettings  # noqa: E402
from thaitool.models.speech_lm import ThaiSpeechForConditionalGeneration  # noqa: E402
from thaitool.ops.dtw import dtw_alignment  # noqa: E402
from thaitool.records import AudioRef, Utterance  # noqa: E402
from thaitool.training.align import (  # noqa: E402
    AsrObjective,
    FrontEnd,
    Objective,
    TokenTable,
)
from thaitool.training.task import Step  # noqa: E402

MIB = 2**20
METHODS = ("dtw", "ctc", "asr")
#: What is timed: the frozen encoder alone, each method, and two of them from kept frames (`feature_cache`).
ROWS = ("encoder", *METHODS, "dtw kept", "asr kept")
STEP = Step(update=9, share=0.9, seed=0)
#: Layers of the LLM that `large` stands for (Llama 3.2 3B).
WHOLE_LAYERS = 28
#: Largest relative difference of gradients that is rounding.
ROUNDING = 2e-3
WORDS = ("เปิดไฟ", "ปิดไฟ", "ตั้งปลุก", "ฟังเพลง", "เปิดเพลง", "ปิดเพลง")


@dataclass(frozen=True)
class Shape:
    """Sizes of one comparison."""

    rows: int
    seconds: float
    words: int
    """Words of a transcript."""
    encoder: dict[str, Any]
    projector: int
    vocabulary: int
    llm: dict[str, Any]
    layers: int
    repeats: int


TINY = Shape(
    rows=8,
    seconds=3.0,
    words=3,
    encoder={
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "conv_dim": (32,) * 7,
    },
    projector=64,
    vocabulary=2000,
    llm={"hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 4},
    layers=8,
    repeats=7,
)
LARGE = Shape(
    rows=1,
    seconds=6.0,
    words=6,
    encoder={
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "conv_dim": (512,) * 7,
    },
    projector=1024,
    vocabulary=128_256,
    llm={
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_attention_heads": 24,
        "num_key_value_heads": 8,
    },
    layers=3,
    repeats=2,
)


def encoder_of(shape: Shape) -> SpeechEncoder:
    config = Wav2Vec2Config(
        feat_extract_norm="layer",
        conv_bias=True,
        do_stable_layer_norm=True,
        layerdrop=0.0,
        num_conv_pos_embedding_groups=4,
        **shape.encoder,
    )
    torch.manual_seed(0)
    return SpeechEncoder(Wav2Vec2Model(config)).eval().requires_grad_(False)


def llm_config(shape: Shape, layers: int) -> Any:
    return LlamaConfig(
        vocab_size=shape.vocabulary,
        num_hidden_layers=layers,
        tie_word_embeddings=True,
        **shape.llm,
    )


def batch_of(shape: Shape) -> Batch:
    """Noise, and words in turn for text; all rows are full."""
    samples = int(shape.seconds * 16_000)
    generator = torch.Generator().manual_seed(1)
    audio = torch.randn(shape.rows, samples, generator=generator)
    texts = [
        " ".join(WORDS[(row + k) % len(WORDS)] for k in range(shape.words))
        for row in range(shape.rows)
    ]
    utterances = tuple(
        Utterance(f"u{n}", AudioRef("none"), shape.seconds, 16_000, text=text)
        for n, text in enumerate(texts)
    )
    return Batch(0, 0, utterances, audio, torch.full((shape.rows,), samples), ())


def objective_of(method: str, shape: Shape, layers: int, folder: Path) -> Any:
    """The objective that `align` would train; the LLM exists for `asr` alone."""
    llm = tiny.llm_directory(folder)
    tokenizer = load_tokenizer(llm)
    values = {"data": folder, "encoder": folder, "llm": folder, "out": folder}
    train = {"updates": 10, "batch_s": 100.0, "learning_rate": 1e-3}
    config = tiny.make(
        AlignConfig, **values, method=method, train=train, projector_hidden_size=shape.projector
    )
    encoder = encoder_of(shape)
    settings = ProjectorSettings(hidden_size=shape.projector)
    speech_config = new_speech_lm_config(encoder.config, llm, tokenizer, projector=settings)
    torch.manual_seed(2)
    language_model = None
    if method == "asr":
        speech_config.text_config = llm_config(shape, layers)
        language_model = LlamaForCausalLM(speech_config.text_config).eval()
        table: torch.Tensor = language_model.get_input_embeddings().weight
    else:
        table = torch.randn(shape.vocabulary, shape.llm["hidden_size"]).mul_(0.02)
    torch.manual_seed(3)
    front_end = FrontEnd(encoder, Projector(encoder.hidden_size, table.shape[1], settings), config)
    counts = torch.zeros(shape.vocabulary, dtype=torch.long)
    rows = tokenizer(list(WORDS), add_special_tokens=False)["input_ids"]
    seen = sorted({*range(min(shape.vocabulary, 5000)), *(i for row in rows for i in row)})
    counts[seen] = 1
    tokens = TokenTable(table, tokenizer, counts, weighted=True)
    if language_model is None:
        return Objective(front_end, tokens, config, seen).train()
    whole = ThaiSpeechForConditionalGeneration(speech_config, encoder, language_model)
    whole.multi_modal_projector = front_end.projector
    return AsrObjective(front_end, tokens, whole, new_processor(speech_config, tokenizer)).train()


def one_update(objective: Any, batch: Batch, optimizer: Any) -> float:
    found = objective(batch, STEP)
    torch.autograd.backward(found.total / found.weight)
    optimizer.step()
    optimizer.zero_grad()
    return float(found.total.detach() / found.weight)


def measured(row: str, shape: Shape, layers: int) -> dict[str, Any]:
    """In a process of its own: milliseconds of an update, by the clock and of the processor (other programs lengthen
    only the first), and the peak above what importing holds."""
    found: dict[str, Any] = {}

    def work() -> None:
        with tempfile.TemporaryDirectory() as folder:
            method = "dtw" if row == "encoder" else row.removesuffix(" kept")
            made = objective_of(method, shape, layers, Path(folder))
        batch = batch_of(shape)
        if row.endswith(" kept"):
            with torch.no_grad():
                kept = made.front_end.frames(batch)
            made.front_end.frames = lambda _: kept
        trained = [p for p in made.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(made.front_end.projector.parameters(), lr=1e-4)

        def step() -> object:
            if row == "encoder":
                with torch.no_grad():
                    return made.front_end.frames(batch)
            return one_update(made, batch, optimizer)

        step()
        times, work_of = [], []
        for _ in range(shape.repeats):
            began, busy = time.perf_counter(), time.process_time()
            step()
            work_of.append(1e3 * (time.process_time() - busy))
            times.append(1e3 * (time.perf_counter() - began))
        sizes = {
            "encoder": made.front_end.encoder,
            "projector": made.front_end.projector,
        }
        found["weights_mib"] = {n: round(_bytes(m.parameters()) / MIB, 1) for n, m in sizes.items()}
        found["weights_mib"]["table"] = round(_bytes([made.tokens.table]) / MIB, 1)
        found["weights_mib"]["all"] = round(_bytes(made.parameters()) / MIB, 1)
        found["trained_mib"] = round(_bytes(trained) / MIB, 1)
        found["ms"] = round(measure.median_of(times), 2)
        found["processor_ms"] = round(measure.median_of(work_of), 2)

    gc.collect()
    found["peak_mib"] = round((measure.peak_over(work) or 0) / MIB, 1)
    return found


def _bytes(parameters: Any) -> int:
    return sum(p.numel() * p.element_size() for p in parameters)


def verified(shape: Shape) -> dict[str, float]:
    """Relative difference of the projector's gradient from that of the definition; ends the program if it is none."""
    found = {}
    for method in METHODS:
        with tempfile.TemporaryDirectory() as folder:
            made = objective_of(method, shape, shape.layers, Path(folder))
        batch = batch_of(shape)
        weights = list(made.front_end.projector.parameters())
        total = made(batch, STEP)
        ours = torch.cat([g.flatten() for g in torch.autograd.grad(total.total, weights)])
        slow = {"dtw": _slow_dtw, "ctc": _slow_ctc, "asr": _slow_asr}[method](made, batch)
        theirs = torch.cat([g.flatten() for g in torch.autograd.grad(slow, weights)])
        found[method] = float((ours - theirs).norm() / theirs.norm())
        if found[method] > ROUNDING:
            sys.exit(
                f"The gradient of {method} differs by {found[method]:.1e} from its definition; nothing is timed."
            )
    return found


def _slow_dtw(made: Any, batch: Batch) -> torch.Tensor:
    """The same terms, with the paths of the reference in plain Python."""
    reference = partial(dtw_alignment, backend="reference")
    with mock.patch("thaitool.models.alignment.dtw_alignment", reference):
        total: torch.Tensor = made(batch, STEP).total
    return total


def _slow_ctc(made: Any, batch: Batch) -> torch.Tensor:
    raw, counts = made.front_end(batch)
    ids = made.tokens.ids([u.text for u in batch.utterances])
    blank = functional.normalize(made.ctc.blank, dim=0)
    classes = torch.cat([blank[None], made.ctc.classes])
    logits = functional.normalize(raw, dim=-1) @ classes.T / made.ctc.temperature
    flat = torch.tensor([made.ctc.ids.index(i) + 1 for row in ids for i in row])
    sizes = torch.tensor([len(row) for row in ids])
    log_p = logits.log_softmax(-1).transpose(0, 1)
    return functional.ctc_loss(log_p, flat, counts, sizes, reduction="sum")


def _slow_asr(made: Any, batch: Batch) -> torch.Tensor:
    """Logits of every position and transformers' own loss."""
    from thaitool.text.prompts import task_prompt

    tokens = made.processor.tokens(
        [task_prompt("asr")] * len(batch.utterances),
        batch.audio_lengths.tolist(),
        [u.text or "" for u in batch.utterances],
    )
    frames = made.front_end.frames(batch)
    embeds = made.model.embed(tokens.input_ids, None, None, frames)
    llm = made.model.language_model
    out = llm(inputs_embeds=embeds, attention_mask=tokens.attention_mask, labels=tokens.labels)
    return out.loss * float((tokens.labels[:, 1:] != -100).sum())  # type: ignore[no-any-return]


def apart(row: str, name: str, layers: int) -> dict[str, Any]:
    """`measured` in a fresh process."""
    command = [sys.executable, __file__, "--one", row, name, str(layers)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{row} of {name} failed:\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def compare(name: str, shape: Shape, *, whole: bool = False) -> dict[str, Any]:
    rows = {row: apart(row, name, shape.layers) for row in ROWS}
    dtw, asr, encoder = rows["dtw"], rows["asr"], rows["encoder"]
    kept = [rows[f"{method} kept"]["processor_ms"] for method in ("asr", "dtw")]
    # AdamW: the weight, its gradient and two moments.
    law = encoder["peak_mib"] + 3 * dtw["trained_mib"]
    found: dict[str, Any] = {
        "shape": asdict(shape),
        "rows": rows,
        "time_ratio_asr_to_dtw": round(asr["processor_ms"] / dtw["processor_ms"], 2),
        "time_ratio_from_kept_frames": round(kept[0] / kept[1], 2),
        "memory_ratio_asr_to_dtw": round(asr["peak_mib"] / dtw["peak_mib"], 2),
        "dtw_peak_to_law": round(dtw["peak_mib"] / law, 3),
    }
    if whole:
        found["whole"] = _whole(apart("asr", name, WHOLE_LAYERS), dtw)
    elif shape.layers > 1 and shape is LARGE:
        found["extrapolated"] = _extrapolated(rows, apart("asr", name, 1), shape)
    return found


def _whole(asr: dict[str, Any], dtw: dict[str, Any]) -> dict[str, Any]:
    """ASR with all layers of the LLM, measured."""
    return {
        "layers": WHOLE_LAYERS,
        "asr": asr,
        "time_ratio_asr_to_dtw": round(asr["processor_ms"] / dtw["processor_ms"], 2),
        "memory_ratio_asr_to_dtw": round(asr["peak_mib"] / dtw["peak_mib"], 2),
    }


def _extrapolated(rows: dict[str, Any], shallow: dict[str, Any], shape: Shape) -> dict[str, Any]:
    """What the whole LLM would cost: linear in its layers from depths 1 and `layers`. Not measured."""
    deep, dtw = rows["asr"], rows["dtw"]
    whole = {
        key: deep[key]
        + (deep[key] - shallow[key]) / (shape.layers - 1) * (WHOLE_LAYERS - shape.layers)
        for key in ("processor_ms", "peak_mib")
    }
    return {
        "layers": WHOLE_LAYERS,
        "asr_one_layer": shallow,
        "asr": {key: round(value, 1) for key, value in whole.items()},
        "time_ratio_asr_to_dtw": round(whole["processor_ms"] / dtw["processor_ms"], 2),
        "memory_ratio_asr_to_dtw": round(whole["peak_mib"] / dtw["peak_mib"], 2),
    }


def show(name: str, found: dict[str, Any]) -> None:
    floor = found["rows"]["encoder"]["processor_ms"]
    print(f"{name}: the frozen encoder alone is the floor of every method")  # noqa: T201
    for method, row in found["rows"].items():
        print(  # noqa: T201
            f"  {method:8} {row['processor_ms']:10.1f} ms of processor an update ({row['ms']:.1f} by the clock,"
            f" {row['processor_ms'] / floor:.2f} x the floor)  {row['peak_mib']:9.1f} MiB at most"
        )
    print(  # noqa: T201
        f"  asr / dtw: {found['time_ratio_asr_to_dtw']} x time ({found['time_ratio_from_kept_frames']} x from kept"
        f" frames), {found['memory_ratio_asr_to_dtw']} x memory;"
        f" dtw's peak is {found['dtw_peak_to_law']} of encoder, projector with AdamW, table and batch"
    )
    for key, words in (("whole", "with"), ("extrapolated", "extrapolated, not measured, to")):
        if key in found:
            more = found[key]
            print(  # noqa: T201
                f"  {words} {more['layers']} layers of the LLM: {more['time_ratio_asr_to_dtw']} x time,"
                f" {more['memory_ratio_asr_to_dtw']} x memory"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--quick", action="store_true", help="tiny models only")
    parser.add_argument(
        "--whole", action="store_true", help="large: all 28 layers of the LLM, measured; 16 GB"
    )
    parser.add_argument("--out", type=Path, help="JSON file")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    logging.disable_progress_bar()
    shapes = {"tiny": TINY} if args.quick else {"tiny": TINY, "large": LARGE}
    if args.one:
        row, name, layers = args.one
        print(json.dumps(measured(row, {"tiny": TINY, "large": LARGE}[name], int(layers))))  # noqa: T201
        return
    found: dict[str, Any] = {
        "machine": measure.machine("cpu") | {"threads": torch.get_num_threads()},
        "gradient_difference": verified(TINY),
    }
    for name, shape in shapes.items():
        found[name] = compare(name, shape, whole=args.whole and shape is LARGE)
        show(name, found[name])
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

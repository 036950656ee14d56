"""Pretraining on a GPU: equality with the CPU and with transformers, speed, share of the matmul peak, memory.

    python tests/bench/gpu_pretraining.py --out FILE.json    # XLS-R 300M, bf16; some two minutes on an H200
    python tests/bench/gpu_pretraining.py --device cpu --tiny --no-compile    # the same code where there is no GPU

Random weights. An update is forward, backward and fused AdamW on 75 s of audio (5 x 15 s), for both sides the same
model, masks and negatives. Needs torch and transformers only.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import Wav2Vec2ForPreTraining

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # run as a file, from anywhere

from tests.bench import measure  # noqa: E402
from tests.bench.pretraining import (  # noqa: E402
    TEMPERATURE,
    TINY,
    WEIGHTS,
    XLSR,
    draws_for,
    gradients,
    make_config,
)
from tests.bench.transformers_loss import same_noise, their_loss, their_negatives  # noqa: E402
from thaitool.models.encoder import output_lengths  # noqa: E402
from thaitool.models.estimate import flop_per_audio_s  # noqa: E402
from thaitool.models.masking import lay_out  # noqa: E402
from thaitool.models.pretraining import (  # noqa: E402
    loss_of_encoded,
    loss_on_device,
    pretraining_loss,
)
from thaitool.models.wav2vec2 import Encoded, conv_features, prepare  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

#: Largest relative differences that are rounding: of float32 between devices, and of bf16 between implementations.
FLOAT32_LOSS, FLOAT32_GRADIENT, BF16_LOSS = 1e-5, 1e-3, 0.03
#: Compiling takes a while, and the step has a limit: it is left out, and said so, once this many seconds are gone.
LAST_COMPILE_S = 75.0


@dataclass(frozen=True)
class Setting:
    """What is run where."""

    device: torch.device
    shape: dict[str, Any]
    rows: int
    seconds: int
    repeats: int

    @property
    def batch_s(self) -> int:
        return self.rows * self.seconds

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def new_model(self) -> Any:
        """Random weights, made on the device; the same for the same shape."""
        torch.manual_seed(0)
        with torch.device(self.device):  # 317 million random numbers take the CPU a while
            model = Wav2Vec2ForPreTraining(make_config(**self.shape)).train()
        return model.to(
            self.device
        )  # transformers makes two tensors in a way that ignores the context

    def audio(self) -> tuple[Tensor, Tensor]:
        """Noise, and lengths on the CPU."""
        generator = torch.Generator().manual_seed(0)
        samples = 16_000 * self.seconds
        audio = torch.randn(self.rows, samples, generator=generator).to(self.device)
        return audio, torch.full((self.rows,), samples)


class Sides:
    """One update by thaitool or by transformers, on the same batch."""

    def __init__(self, at: Setting) -> None:
        self.at = at
        self.audio, self.lengths = at.audio()
        self.draws = draws_for(make_config(**at.shape), self.lengths)
        self.negatives = their_negatives(self.draws).to(at.device)

    def ours(self, model: Any, lengths: Tensor | None = None) -> Tensor:
        """With everything the host does: drawing masks and negatives, moving them."""
        generator = torch.Generator().manual_seed(0)
        with self.autocast():
            return pretraining_loss(
                model,
                self.audio,
                self.lengths if lengths is None else lengths,
                generator=generator,
                temperature=TEMPERATURE,
            ).total

    def theirs(self, model: Any) -> Tensor:
        """Without making their indices, which are on the device."""
        model.quantizer.temperature = TEMPERATURE
        with self.autocast():
            loss: Tensor = their_loss(
                model, self.audio, self.lengths, self.draws, self.negatives
            ).loss
        return loss

    def autocast(self) -> Any:
        return torch.autocast(self.at.device.type, dtype=torch.bfloat16)

    def updater(self, loss_of: Callable[[Any], Tensor], model: Any) -> Callable[[], float]:
        """Seconds of an update, from an idle device to an idle device."""
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

        def update() -> float:
            self.at.wait()
            began = time.perf_counter()
            optimizer.zero_grad()
            loss = loss_of(model)
            torch.autograd.backward(loss / self.draws.mask.sum().item())
            optimizer.step()
            self.at.wait()
            return time.perf_counter() - began

        return update


def relative(a: float, b: float) -> float:
    return abs(a - b) / abs(b)


def require(name: str, found: float, limit: float) -> float:
    """Ends the program where a difference is no rounding; NaN is none."""
    if not found <= limit:
        sys.exit(f"{name}: differs by {found:.2e} relative, more than {limit:g}.")
    return found


def device_against_cpu(device: torch.device) -> dict[str, float]:
    """Loss and gradients of a small model in float32, from the same weights, draws and noise."""
    torch.manual_seed(0)
    model = Wav2Vec2ForPreTraining(make_config(**TINY)).train()
    lengths = torch.tensor([48_000, 40_000, 17_000])
    audio = torch.randn(3, 48_000)
    for row, length in zip(audio, lengths.tolist(), strict=True):
        row[length:] = 0
    draws = draws_for(model.config, lengths)
    frames = output_lengths(model.config, lengths)
    layout = lay_out(draws, frames, int(frames.max()))
    kept = [True] * model.config.num_hidden_layers
    found = []
    for where in (torch.device("cpu"), device):
        there = copy.deepcopy(model).to(where)
        with same_noise(draws, 2, 320, str(where)):
            loss = loss_on_device(
                there, audio.to(where), layout.to(where), kept, TEMPERATURE, WEIGHTS
            )
        torch.autograd.backward(loss.total)
        found.append((float(loss.total.detach()), gradients([*there.parameters()]).cpu()))
    (a, da), (b, db) = found
    gradient = float((db - da).norm() / da.norm())
    return {
        "loss": require("loss on the device and on the CPU", relative(b, a), FLOAT32_LOSS),
        "gradient": require("gradient on the device and on the CPU", gradient, FLOAT32_GRADIENT),
    }


def against_transformers(sides: Sides, model: Any) -> dict[str, float]:
    """Loss of both sides in bf16 on the large batch, with the same noise."""
    with torch.no_grad(), same_noise(sides.draws, 2, 320, str(sides.at.device)):
        a, b = float(sides.ours(model)), float(sides.theirs(model))
    return {
        "thaitool": a,
        "transformers": b,
        "difference": require("bf16 loss of thaitool and transformers", relative(a, b), BF16_LOSS),
    }


def matmul_peak(at: Setting) -> float:
    """TFLOP/s of a large bf16 product of random matrices, median of ten."""
    n = 8192 if at.device.type == "cuda" else 256
    a, b = (torch.randn(n, n, device=at.device, dtype=torch.bfloat16) for _ in range(2))
    times = []
    for _ in range(13):
        at.wait()
        began = time.perf_counter()
        torch.mm(a, b)
        at.wait()
        times.append(time.perf_counter() - began)
    return 2 * n**3 / measure.median_of(times[3:]) / 1e12


def row(
    at: Setting, times: list[float], peak_tflops: float, memory: float | None
) -> dict[str, Any]:
    """What an update is worth; FLOP of the model, whatever an implementation adds to them."""
    seconds = measure.median_of(times)
    flop = flop_per_audio_s(make_config(**at.shape), at.seconds, checkpointing=False)
    tflops = flop * at.batch_s / seconds / 1e12
    return {
        "update_ms": round(1e3 * seconds, 3),
        "audio_hours_per_hour": round(at.batch_s / seconds, 1),
        "tflops": round(tflops, 3),
        "share_of_peak": round(tflops / peak_tflops, 4),
        "peak_memory_gib": memory,
    }


def peak_memory(at: Setting, run: Callable[[], object], others: int = 0) -> float | None:
    """GiB allocated at the worst moment of `run`, weights and optimizer included; None without CUDA.

    `others` bytes belong to something else.
    """
    if at.device.type != "cuda":
        run()
        return None
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    run()
    return round((torch.cuda.max_memory_allocated() - others) / 2**30, 3)


def updates(at: Setting, peak_tflops: float, began: float, *, compiling: bool) -> dict[str, Any]:
    """Both sides and our options, in turns; memory of each when it is alone."""
    sides = Sides(at)
    ragged = sides.lengths - torch.arange(at.rows) * 1600
    kinds: dict[str, tuple[Callable[[Any], Tensor], dict[str, Any]]] = {
        "transformers": (sides.theirs, {}),
        "thaitool": (sides.ours, {}),
        "thaitool, padded rows": (partial(sides.ours, lengths=ragged), {}),
        "thaitool, checkpointing": (sides.ours, {"gradient_checkpointing": True}),
        "thaitool, convolutions frozen": (sides.ours, {"feature_grad_scale": 0.0}),
        "thaitool, compiled": (sides.ours, {"compile": True}),
    }
    found: dict[str, Any] = {"equality": against_transformers(sides, at.new_model())}
    memory: dict[str, float | None] = {}
    runs: dict[str, Callable[[], float]] = {}
    for name, (loss_of, options) in kinds.items():
        late = time.monotonic() - began > LAST_COMPILE_S
        if options.get("compile") and (late or not compiling):
            reason = f"{LAST_COMPILE_S:.0f} s were gone" if late else "--no-compile"
            found[name] = {"not run": reason}
            continue
        model = at.new_model()
        prepare(model, **options)
        update = sides.updater(loss_of, model)
        held = torch.cuda.memory_allocated() if at.device.type == "cuda" else 0
        for _ in range(2):  # the optimizer's state, libraries, compiling
            update()
        # Models of earlier rows are still there; what is counted is this one with its optimizer.
        own = sum(p.numel() * p.element_size() for p in model.parameters())
        memory[name] = peak_memory(at, update, held - own)
        runs[name] = update
    times = measure.interleaved(runs, at.repeats)
    for name in runs:
        found[name] = row(at, times[name], peak_tflops, memory[name])
        found[name]["times_transformers"] = round(
            measure.median_ratio(times["transformers"], times[name]), 3
        )
    return found


def larger_batch(at: Setting, peak_tflops: float, *, compiled: bool) -> dict[str, Any]:
    """Our side with four times the audio in a micro-batch, which hides what the host does between kernels."""
    larger = Setting(at.device, at.shape, 4 * at.rows, at.seconds, at.repeats)
    sides, model = Sides(larger), larger.new_model()
    prepare(model, compile=compiled)
    update = sides.updater(sides.ours, model)
    held = torch.cuda.memory_allocated() if at.device.type == "cuda" else 0
    own = sum(p.numel() * p.element_size() for p in model.parameters())
    for _ in range(2):
        update()
    memory = peak_memory(larger, update, held - own)
    return row(larger, [update() for _ in range(at.repeats)], peak_tflops, memory)


def parts(at: Setting) -> dict[str, float]:
    """Milliseconds of forward and backward of each part, our convolutions beside those of transformers."""
    sides, model = Sides(at), at.new_model()
    encoder, config = model.wav2vec2.encoder, model.config
    frames = output_lengths(config, sides.lengths)
    layout = lay_out(sides.draws, frames, int(frames.max())).to(at.device)
    shape = (at.rows, int(frames.max()))
    hidden = torch.randn(*shape, config.hidden_size, device=at.device, requires_grad=True)
    features = torch.randn(*shape, config.conv_dim[-1], device=at.device, requires_grad=True)

    def heads() -> Tensor:
        out = Encoded(hidden, features, features.detach())
        return loss_of_encoded(model, out, layout, TEMPERATURE, WEIGHTS).total

    runs: dict[str, Callable[[], Tensor]] = {
        "convolutions": lambda: conv_features(model.wav2vec2, sides.audio),
        "convolutions of transformers": lambda: model.wav2vec2.feature_extractor(sides.audio),
        "positional convolution": lambda: encoder.pos_conv_embed(hidden),
        "one transformer layer": lambda: encoder.layers[0](hidden),
        "heads": heads,
    }

    def step(function: Callable[[], Tensor]) -> float:
        at.wait()
        began = time.perf_counter()
        with sides.autocast():
            out = function()
        torch.autograd.backward(out.float().square().mean())
        at.wait()
        return time.perf_counter() - began

    for function in runs.values():
        step(function)
    times = measure.interleaved({k: partial(step, f) for k, f in runs.items()}, at.repeats)
    return {name: round(1e3 * measure.median_of(t), 3) for name, t in times.items()}


def kernels(at: Setting) -> dict[str, float]:
    """Milliseconds of the fifteen dearest kernels of one of our updates."""
    sides = Sides(at)
    update = sides.updater(sides.ours, at.new_model())
    for _ in range(2):
        update()
    cuda = at.device.type == "cuda"
    activities = [torch.profiler.ProfilerActivity.CPU]
    if cuda:
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities, acc_events=True) as profiler:
        update()
    events = profiler.key_averages()
    if cuda:  # without the operators that launched the kernels, which count the same time again
        events = [e for e in events if e.device_type.name == "CUDA"]
    cost = {
        e.key: (e.self_device_time_total if cuda else e.self_cpu_time_total) / 1e3 for e in events
    }
    dearest = sorted(cost, key=lambda key: -cost[key])[:15]
    return {key[:100]: round(cost[key], 3) for key in dearest}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a small model on 2 x 2 s")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        sys.exit("--device cuda needs a GPU, but torch finds none; use --device cpu --tiny.")
    began = time.monotonic()
    device = torch.device(given.device)
    # Else convolutions in float32 would round like TF32, and devices would differ by that.
    torch.backends.cudnn.allow_tf32 = False
    large = Setting(device, {**XLSR, "num_hidden_layers": 24}, rows=5, seconds=15, repeats=10)
    at = Setting(device, TINY, rows=2, seconds=2, repeats=1) if given.tiny else large
    record: dict[str, Any] = {"machine": measure.machine(given.device), "tiny": given.tiny}

    def save() -> None:
        record["seconds"] = round(time.monotonic() - began, 1)
        if given.out is not None:
            given.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")

    record["device_against_cpu"] = device_against_cpu(device)
    record["matmul_peak_tflops"] = peak = matmul_peak(at)
    # After each part, so that a time limit loses only the rest.
    save()
    record["batch"] = f"{at.rows} x {at.seconds} s"
    record["updates"] = updates(at, peak, began, compiling=not given.no_compile)
    save()
    record["parts_ms"] = parts(at)
    save()
    record["kernels_ms"] = kernels(at)
    save()
    compiled = "update_ms" in record["updates"]["thaitool, compiled"]
    record["four_times_the_batch"] = {
        name: larger_batch(at, peak, compiled=compile_it)
        for name, compile_it in (("thaitool", False), ("thaitool, compiled", True))
        if compiled or not compile_it
    }
    save()
    sys.stdout.write(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()

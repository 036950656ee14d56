"""Clocks, memory and a description of the machine for the benchmarks. Knows nothing of alignment."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

MIB = 2**20


@dataclass(frozen=True)
class Row:
    """One implementation: how its scalar loss is made, and what gets a gradient."""

    loss: Callable[[], Tensor]
    leaves: tuple[Tensor, ...]


@dataclass(frozen=True)
class Seconds:
    """One forward and backward, or the medians of several."""

    forward: float
    backward: float
    processor: float

    @property
    def total(self) -> float:
        return self.forward + self.backward


def once(row: Row) -> Seconds:
    """The gradients are freed after the clock has stopped, for every row alike."""
    processor = time.process_time()
    began = time.perf_counter()
    loss = row.loss()
    middle = time.perf_counter()
    gradients = torch.autograd.grad(loss, row.leaves)
    end = time.perf_counter()
    processor = time.process_time() - processor
    del gradients, loss
    return Seconds(middle - began, end - middle, processor)


def floor_seconds(speech: Tensor, text: Tensor, dots: Tensor, kept: Tensor) -> dict[str, float]:
    """What any implementation must do: one GEMM, one read of speech, one write of its gradient.

    `dots` [B, I, J] and `kept` [B, I, D] exist and have been written before. "write" writes `kept`,
    "write_fresh" a tensor that the allocator has just given: first touch included.
    """
    parts = {}
    began = time.perf_counter()
    torch.bmm(speech, text.transpose(1, 2), out=dots)
    parts["gemm"] = time.perf_counter() - began
    began = time.perf_counter()
    speech.sum()
    parts["read"] = time.perf_counter() - began
    began = time.perf_counter()
    kept.fill_(1.0)
    parts["write"] = time.perf_counter() - began
    began = time.perf_counter()
    fresh = torch.empty_like(speech).fill_(1.0)
    parts["write_fresh"] = time.perf_counter() - began
    del fresh
    return parts


def interleaved(steps: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[Any]]:
    """Every step once, then every step again: what else the machine does meets all alike."""
    for step in steps.values():
        step()
    found: dict[str, list[Any]] = {name: [] for name in steps}
    gc.collect()
    gc.disable()
    for _ in range(repeats):
        for name, step in steps.items():
            found[name].append(step())
    gc.enable()
    return found


def milliseconds(times: list[Seconds]) -> dict[str, float]:
    """Medians, and the fastest run: on a machine that others use, only that one is undisturbed."""
    columns = {
        "forward": [t.forward for t in times],
        "backward": [t.backward for t in times],
        "total": [t.total for t in times],
        "processor": [t.processor for t in times],
    }
    found = {name: round(1e3 * median_of(column), 4) for name, column in columns.items()}
    return found | {"fastest": round(1e3 * min(columns["total"]), 4)}


def median_of(values: Iterable[float]) -> float:
    return statistics.median(values)


def median_ratio(numerators: Iterable[float], denominators: Iterable[float]) -> float:
    """Median of the ratios of neighbours in time, which share the state of the machine."""
    return median_of(a / b for a, b in zip(numerators, denominators, strict=True))


def peak_over(run: Callable[[], object]) -> int | None:
    """Most bytes that `run` held in memory beyond what was held before; None without Linux's /proc."""
    references = Path("/proc/self/clear_refs")
    if not references.exists():
        return None
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # glibc keeps freed blocks, and a run that reuses them would look smaller
        trim(0)
    before = _status_bytes("VmRSS")
    references.write_text("5", encoding="ascii")  # resets the peak, VmHWM
    run()
    return _status_bytes("VmHWM") - before


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


def profile(step: Callable[[], object], *, repeats: int, cuda: bool) -> dict[str, float]:
    """Milliseconds of a step in each op of thaitool and each GEMM, the ops they call included.

    On CUDA: time of the device. Wall-clock time of the calling thread otherwise.
    """
    activities = [torch.profiler.ProfilerActivity.CPU]
    if cuda:
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    step()
    with torch.profiler.profile(activities=activities, acc_events=True) as profiler:
        for _ in range(repeats):
            step()
    phases = {}
    for event in profiler.key_averages():
        if event.key.startswith("thaitool::") or event.key in {"aten::bmm", "aten::mm"}:
            microseconds = event.device_time_total if cuda else event.cpu_time_total
            phases[event.key] = round(microseconds / repeats / 1e3, 4)
    return phases


def machine(device: str) -> dict[str, Any]:
    """What the figures depend on."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text(encoding="utf-8").splitlines() if cpu.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    found: dict[str, Any] = {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "vector_unit": torch.backends.cpu.get_cpu_capability(),
        "date": time.strftime("%Y-%m-%d"),
    }
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "gpu": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "gpu_memory_gib": round(properties.total_memory / 2**30, 1),
            "multiprocessors": properties.multi_processor_count,
            "cuda": torch.version.cuda,
        }
    return found

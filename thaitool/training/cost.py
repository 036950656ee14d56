"""What training costs: FLOPs, processor seconds, peak memory. Leaves out evaluations, and changes nothing it measures.

A FLOP is an addition or a multiplication of a matrix product, a convolution, an attention or a DTW; what works element
by element is left out, as is usual. The operations of a few dozen updates, evenly spread, are counted as torch carries
them out; of every update the layers' shapes are. The second figure, corrected by what the two differ by where both
are known, is the estimate: exact for a run that is counted throughout.
"""

from __future__ import annotations

import math
import resource
import sys
import time
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from thaitool.training.state import Done

#: Updates whose operations are counted: all of a run of fewer than twice as many, else as many to twice as many.
COUNTED = 32
#: Figures of a run that differ when it is repeated.
MEASURED = frozenset({"train_s", "processor_s", "peak_rss_bytes", "peak_cuda_bytes"})


@dataclass(frozen=True)
class Cost:
    """What one process spent on some updates."""

    flops_counted: int
    """FLOPs of those updates whose operations were counted."""
    layer_flops_counted: int
    """The FLOPs of linear and convolutional layers in the same updates, by their shapes."""
    layer_flops: int
    """The same in all updates."""
    processor_s: float
    """Of this process, all threads; the processes that decode audio are others."""
    peak_rss_bytes: int
    """Largest memory of this process since it started."""
    peak_cuda_bytes: int
    """Largest memory that torch held on the GPU since it started; 0 without one."""


def add_cost(done: Done, cost: Cost) -> None:
    """Adds one process's cost to those of all; of memory, the largest counts."""
    done.flops_counted += cost.flops_counted
    done.layer_flops_counted += cost.layer_flops_counted
    done.layer_flops += cost.layer_flops
    done.processor_s += cost.processor_s
    done.peak_rss_bytes = max(done.peak_rss_bytes, cost.peak_rss_bytes)
    done.peak_cuda_bytes = max(done.peak_cuda_bytes, cost.peak_cuda_bytes)


def total_flops(done: Done) -> int | None:
    """FLOPs of all updates and processes so far; None of a compiled model, whose operations nobody sees."""
    if not done.layer_flops_counted:
        return done.flops_counted or None
    rest = done.layer_flops - done.layer_flops_counted
    return done.flops_counted + rest * done.flops_counted // done.layer_flops_counted


def cost_row(done: Done) -> dict[str, float]:
    """What a line of metrics says of the cost up to its update."""
    flops = total_flops(done)
    row: dict[str, float] = {
        "utterances": done.utterances,
        "audio_s": round(done.audio_s, 3),
        "processor_s": round(done.processor_s, 3),
        "peak_rss_bytes": done.peak_rss_bytes,
    }
    if done.peak_cuda_bytes:
        row["peak_cuda_bytes"] = done.peak_cuda_bytes
    return row if flops is None else {"flops": flops, **row}


class Meter:
    """Measures the updates of one process."""

    def __init__(self, module: nn.Module, updates: int, device: torch.device) -> None:
        """For a run of `updates` updates that train `module`, whose weights are frozen or not by now."""
        self.stride, self.device = max(1, updates // COUNTED), device
        self._active = False
        self._layers = 0
        self._spent = _Spent()
        # Counting looks at each operation; a compiled layer has none, and hooks would compile it anew.
        compiled = any(
            getattr(m, "_compiled_call_impl", None) is not None for m in module.modules()
        )
        self.counts = not compiled
        if self.counts:
            for layer in module.modules():
                if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d):
                    layer.register_forward_hook(self._note(layer))

    @contextmanager
    def update(self, number: int) -> Iterator[None]:
        """Measures update `number`, counted from 0; one that raises is not added."""
        counted = self.counts and number % self.stride == 0
        counter = _Counter() if counted else None
        began, self._layers, self._active = time.process_time(), 0, self.counts
        try:
            with counter or nullcontext():
                yield
        finally:
            self._active = False
        self._spent.processor_s += time.process_time() - began
        self._spent.layer_flops += self._layers
        if counter is not None:
            self._spent.flops_counted += counter.flops
            self._spent.layer_flops_counted += self._layers

    def take(self) -> Cost:
        """What was spent since the last call."""
        spent, self._spent = self._spent, _Spent()
        cuda = self.device.type == "cuda"
        return Cost(
            spent.flops_counted,
            spent.layer_flops_counted,
            spent.layer_flops,
            spent.processor_s,
            peak_rss_bytes(),
            torch.cuda.max_memory_allocated(self.device) if cuda else 0,
        )

    def _note(self, layer: nn.Linear | nn.Conv1d | nn.Conv2d) -> Callable[..., None]:
        trained = any(p.requires_grad for p in layer.parameters())
        if isinstance(layer, nn.Linear):
            each = 2 * layer.in_features
        else:
            each = 2 * layer.in_channels // layer.groups * math.prod(layer.kernel_size)

        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if self._active:
                # The gradients of the input and of the weight are a product of the same size each.
                passes = 1 + (trained + inputs[0].requires_grad) * output.requires_grad
                self._layers += passes * each * output.numel()

        return hook


@dataclass
class _Spent:
    flops_counted: int = 0
    layer_flops_counted: int = 0
    layer_flops: int = 0
    processor_s: float = 0.0


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the FLOPs of the operations that torch carries out, those of the backward pass too."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = FORMULAS.get(str(func.overloadpacket))
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        return out


def _convolution_backward(gradient: Tensor, x: Tensor, weight: Tensor, *rest: Any, **_: Any) -> int:
    """torch's own formula does not divide the weight's gradient by the groups, 16 in wav2vec 2.0 (torch 2.11)."""
    transposed, needed = rest[4], rest[7]
    once = 2 * (x if transposed else gradient).numel() * math.prod(weight.shape[1:])
    return once * (bool(needed[0]) + bool(needed[1]))


def _dtw_forward(speech: Tensor, text: Tensor, *rest: Any, **_: Any) -> int:
    """The products of frames and tokens."""
    index = rest[6]
    pairs = len(speech) if index is None else index.numel()
    return 2 * pairs * speech.shape[1] * text.shape[1] * speech.shape[2]


def _dtw_backward(gradient: Tensor, speech: Tensor, text: Tensor, *_: Any, **__: Any) -> int:
    """Each cell of a path, of which there are fewer than frames and tokens, adds a vector to a gradient."""
    return 2 * gradient.numel() * (speech.shape[1] + text.shape[1]) * speech.shape[2]


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    """Of shapes (B, heads, length, width); keys may have fewer heads, which torch's formula refuses (2.11)."""
    cells = math.prod(query.shape[:-1]) * key.shape[-2]
    return 2 * cells * (query.shape[-1] + value.shape[-1])


def _attention_backward(
    _: Tensor, query: Tensor, key: Tensor, value: Tensor, *__: Any, **___: Any
) -> int:
    """Scores are computed again; then the gradients of values and weights, and of queries and keys."""
    cells = math.prod(query.shape[:-1]) * key.shape[-2]
    return 2 * cells * (3 * query.shape[-1] + 2 * value.shape[-1])


_KERNELS = ("efficient_attention", "flash_attention", "cudnn_attention", "flash_attention_for_cpu")
_FUSED = [f"aten._scaled_dot_product_{kernel}" for kernel in _KERNELS]
FORMULAS: dict[str, Callable[..., int]] = {
    **{str(operation): formula for operation, formula in flop_registry.items()},
    **dict.fromkeys(_FUSED, _attention),
    **dict.fromkeys([f"{name}_backward" for name in _FUSED], _attention_backward),
    "aten.convolution_backward": _convolution_backward,
    "thaitool.dtw_forward": _dtw_forward,
    "thaitool.dtw_backward": _dtw_backward,
}


def peak_rss_bytes() -> int:
    """Largest resident memory of this process so far."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not ru_maxrss: Linux hands that of the parent down to a child.
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak

"""The CUDA kernels on the CPU, called like the ops of `torch.ops.thaitool`. Slow; knows no GPU.

`tests/ops/emulation` compiles the text of the kernels with a C++ compiler; this compiles that and
mirrors its structures.
"""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

HERE = Path(__file__).resolve().parent
SOURCES = HERE / "emulation"
KERNELS = HERE.parents[1] / "thaitool" / "ops" / "csrc"
TYPES = {torch.float64: 0, torch.float32: 1, torch.float16: 2, torch.bfloat16: 3}
#: Shared memory that a block of an A100 or newer may have, and what every GPU gives.
LARGE_SHARED, SMALL_SHARED = 163 * 1024, 48 * 1024
FLAGS = ["-std=c++17", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]


class PathCall(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("dtype", "seed")),
        ("dots", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("speech_stride", "place_stride", "frame_stride")),
        *((name, ctypes.c_void_p) for name in ("inverse_frame", "inverse_token", "frame_shift")),
        *((name, ctypes.c_void_p) for name in ("token_shift", "drop_cost", "token_weights")),
        *((name, ctypes.c_void_p) for name in ("text_index", "speech_lengths", "text_lengths")),
        *((name, ctypes.c_int64) for name in ("speeches", "places", "frames", "texts", "tokens")),
        *((name, ctypes.c_double) for name in ("band", "prior")),
        *((name, ctypes.c_int64) for name in ("monotonic", "shared_limit", "warps")),
        ("columns_per_lane", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("intervals", "path_length", "path_cost")),
    ]


class StatisticsCall(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("dtype", "seed")),
        ("vectors", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("batch_stride", "row_stride")),
        *((name, ctypes.c_void_p) for name in ("own_mean", "other_mean", "lengths")),
        *((name, ctypes.c_int64) for name in ("batch", "rows", "width", "centre_shift", "aligned")),
        *((name, ctypes.c_void_p) for name in ("inverse_norms", "shift")),
    ]


class GradientCall(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("dtype", "seed")),
        *((name, ctypes.c_void_p) for name in ("grad", "speech", "text")),
        *((name, ctypes.c_int64) for name in ("speech_batch_stride", "speech_row_stride")),
        *((name, ctypes.c_int64) for name in ("text_batch_stride", "text_row_stride")),
        *((name, ctypes.c_void_p) for name in ("speech_mean", "text_mean", "inverse_frame")),
        *((name, ctypes.c_void_p) for name in ("inverse_token", "intervals", "text_index")),
        *((name, ctypes.c_void_p) for name in ("speech_lengths", "text_lengths", "token_weights")),
        *((name, ctypes.c_int64) for name in ("speeches", "places", "frames", "texts", "tokens")),
        *((name, ctypes.c_int64) for name in ("width", "aligned")),
        *((name, ctypes.c_void_p) for name in ("grad_speech", "grad_text")),
        *((name, ctypes.c_void_p) for name in ("grad_speech_mean", "grad_text_mean")),
    ]


def compiler() -> str | None:
    """The C++ compiler, by the name that build tools use."""
    return shutil.which(os.environ.get("CXX", "c++"))


def compile_emulation(target: Path, sources: list[str], *flags: str) -> None:
    """Compile files of the emulation into a library or a program."""
    found = compiler()
    assert found is not None
    command = [found, *FLAGS, *flags, f"-I{SOURCES}", f"-I{KERNELS}"]
    command += [str(SOURCES / source) for source in sources]
    done = subprocess.run(
        [*command, "-o", str(target)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def address(tensor: Tensor | None) -> int | None:
    """Of the first element; None is a null pointer."""
    return None if tensor is None else tensor.data_ptr()


def aligned(*tensors: Tensor | None) -> bool:
    """Whether rows can be read 16 bytes at a time; `packs_fit` in dtw_cuda.cu decides alike."""
    for tensor in tensors:
        if tensor is None:
            continue
        sizes = [tensor.data_ptr(), tensor.shape[-1] * tensor.element_size()]
        sizes += [stride * tensor.element_size() for stride in tensor.stride()[:-1]]
        if any(size % 16 for size in sizes):
            return False
    return True


@dataclass(frozen=True)
class Emulation:
    """The kernels, and how they are launched."""

    library: ctypes.CDLL
    seed: int = 0
    shared_limit: int = LARGE_SHARED
    warps: int = 0
    columns_per_lane: int = 0

    def call(self, name: str, arguments: ctypes.Structure) -> None:
        """RuntimeError has the sentence of a check on the device."""
        problem = ctypes.create_string_buffer(256)
        if getattr(self.library, name)(ctypes.byref(arguments), problem) != 0:
            raise RuntimeError(problem.value.decode())

    def dtw_statistics(
        self,
        vectors: Tensor,
        own_mean: Tensor | None,
        other_mean: Tensor | None,
        lengths: Tensor,
        centre_shift: bool,
    ) -> tuple[Tensor, Tensor]:
        shape = vectors.shape[:2]
        inverse = torch.full(shape, -7.0, dtype=torch.float64)
        shift = inverse.clone() if own_mean is not None else torch.empty(0, 0, dtype=torch.float64)
        self.call(
            "emulate_statistics",
            StatisticsCall(
                *(TYPES[vectors.dtype], self.seed, vectors.data_ptr(), *vectors.stride()[:2]),
                *(address(own_mean), address(other_mean), lengths.data_ptr(), *vectors.shape),
                *(centre_shift, aligned(vectors, own_mean, other_mean), inverse.data_ptr()),
                shift.data_ptr() if own_mean is not None else None,
            ),
        )
        return inverse, shift

    def dtw_path(
        self,
        dots: Tensor,
        inverse_frame_norms: Tensor,
        inverse_token_norms: Tensor,
        frame_shift: Tensor,
        token_shift: Tensor,
        text_index: Tensor | None,
        speech_lengths: Tensor,
        text_lengths: Tensor,
        drop_cost: Tensor | None,
        token_weights: Tensor | None,
        band: float,
        prior: float,
        monotonic: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        speeches, places, frames, tokens = dots.shape
        texts = inverse_token_norms.shape[0]
        intervals = torch.full((speeches, places, frames, 2), -7, dtype=torch.int32)
        length = torch.full((speeches, places), -7, dtype=torch.int32)
        cost = torch.full((speeches, places), -7.0, dtype=torch.float64)
        centred = frame_shift.numel() > 0 or token_shift.numel() > 0
        self.call(
            "emulate_path",
            PathCall(
                *(TYPES[dots.dtype], self.seed, dots.data_ptr(), *dots.stride()[:3]),
                *(address(inverse_frame_norms), address(inverse_token_norms)),
                *((address(frame_shift), address(token_shift)) if centred else (None, None)),
                *(address(drop_cost), address(token_weights), address(text_index)),
                *(address(speech_lengths), address(text_lengths)),
                *(speeches, places, frames, texts, tokens, band, prior),
                *(monotonic, self.shared_limit, self.warps, self.columns_per_lane),
                *(intervals.data_ptr(), length.data_ptr(), cost.data_ptr()),
            ),
        )
        return intervals, length, cost

    def dtw_backward(
        self,
        grad: Tensor,
        speech: Tensor,
        text: Tensor,
        speech_mean: Tensor | None,
        text_mean: Tensor | None,
        inverse_frame_norms: Tensor,
        inverse_token_norms: Tensor,
        intervals: Tensor,
        text_index: Tensor | None,
        speech_lengths: Tensor,
        text_lengths: Tensor,
        token_weights: Tensor | None,
        *needed: bool,
    ) -> tuple[Tensor, ...]:
        wide = torch.float64 if speech.dtype == torch.float64 else torch.float32
        width = speech.shape[2]
        shapes = (speech.shape, text.shape, (width,), (width,))
        dtypes = (speech.dtype, speech.dtype, wide, wide)
        outputs = tuple(
            torch.full(shape if need else (0,), 77.0, dtype=dtype)
            for shape, dtype, need in zip(shapes, dtypes, needed, strict=True)
        )
        fits = aligned(speech, text, speech_mean, text_mean)
        self.call(
            "emulate_gradient",
            GradientCall(
                *(TYPES[speech.dtype], self.seed, grad.data_ptr(), speech.data_ptr()),
                *(text.data_ptr(), *speech.stride()[:2], *text.stride()[:2]),
                *(address(speech_mean), address(text_mean), inverse_frame_norms.data_ptr()),
                *(inverse_token_norms.data_ptr(), intervals.data_ptr(), address(text_index)),
                *(speech_lengths.data_ptr(), text_lengths.data_ptr(), address(token_weights)),
                *(speech.shape[0], intervals.shape[1], speech.shape[1], *text.shape[:2]),
                *(width, fits),
                *(
                    out.data_ptr() if need else None
                    for out, need in zip(outputs, needed, strict=True)
                ),
            ),
        )
        return outputs


@functools.cache
def load(folder: Path) -> Emulation:
    """Compile into a folder and load, once per session; skips the test where there is no compiler."""
    if compiler() is None:
        pytest.skip("no C++ compiler: set CXX")
    target = folder / "emulated_kernels.so"
    compile_emulation(target, ["harness.cpp"], "-O2", "-fPIC", "-shared")
    return Emulation(ctypes.CDLL(str(target)))

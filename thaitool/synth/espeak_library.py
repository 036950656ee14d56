"""espeak-ng as a C library: starts it, gives it a voice, takes its samples and times. Knows neither Thai nor voices."""

from __future__ import annotations

import ctypes
import os
import tempfile
import threading
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from thaitool.errors import EnvironmentProblem

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Names and numbers of the C interface (speak_lib.h).
_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE_DONT_EXIT = 0x8000
_CHARS_UTF8 = 0x1
_PHONEME_INPUT = 0x100
_END_OF_EVENTS, _WORD = 0, 1


@dataclass(frozen=True, slots=True)
class Engine:
    """The started library and what it hands over, one text at a time."""

    espeak: Any
    """The functions of speak_lib.h."""
    rate_hz: int
    blocks: list[NDArray[np.int16]]
    starts: list[int]
    """Samples at which what stands between two spaces begins; here that is a syllable."""
    lock: threading.Lock
    callback: Any
    """Held because ctypes frees a callback that nothing refers to."""


class _Event(ctypes.Structure):
    """`espeak_EVENT`."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_ms", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),
    )


@cache
def engine() -> Engine:
    """The library, started at the first call.

    Raises:
        EnvironmentProblem: espeak-ng or its data cannot be loaded.
    """
    try:
        import espeakng_loader

        library: Any = ctypes.CDLL(espeakng_loader.get_library_path())
        data_path = str(espeakng_loader.get_data_path())
    except (ImportError, OSError) as error:
        raise EnvironmentProblem(
            "The embedded voice needs espeak-ng from the package espeakng-loader, which cannot be "
            f"loaded: {error}. Install it with `pip install espeakng-loader`."
        ) from error
    blocks: list[NDArray[np.int16]] = []
    starts: list[int] = []

    def receive(samples: Any, count: int, events: Any) -> int:
        if samples and count > 0:
            blocks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        told = takewhile(lambda event: event.type != _END_OF_EVENTS, events)
        starts.extend(event.sample for event in told if event.type == _WORD)
        return 0

    signature = ctypes.CFUNCTYPE(
        ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
    )
    callback = signature(receive)
    rate_hz = library.espeak_Initialize(
        _OUTPUT_SYNCHRONOUS, 0, data_path.encode(), _INITIALIZE_DONT_EXIT
    )
    if rate_hz <= 0:
        raise EnvironmentProblem(
            f"espeak-ng did not start with the data in {data_path} (status {rate_hz}); reinstall "
            "espeakng-loader."
        )
    library.espeak_SetSynthCallback(callback)
    return Engine(library, rate_hz, blocks, starts, threading.Lock(), callback)


def load_voice(library: Any, definition: str) -> None:
    """Speak with the voice of a voice file's text from now on.

    Raises:
        EnvironmentProblem: espeak-ng does not accept it.
    """
    if hasattr(os, "memfd_create"):
        handle = os.memfd_create("voice")
        try:
            os.write(handle, definition.encode())
            status = library.espeak_ng_SetVoiceByFile(f"/proc/self/fd/{handle}".encode())
        finally:
            os.close(handle)
    else:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "v"
            path.write_text(definition, encoding="ascii")
            status = library.espeak_ng_SetVoiceByFile(str(path).encode())
    if status != 0:
        raise EnvironmentProblem(
            "espeak-ng did not accept a voice file (status "
            f"{status & 0xFFFFFFFF:#x}). It needs its data for `th`, and where there is no memfd a "
            "temporary directory with a lower-case path shorter than 58 characters; reinstall "
            "espeakng-loader or set TMPDIR."
        )


def say(library: Engine, code: str) -> tuple[NDArray[np.float32], list[int]]:
    """What is audible of one phrase, and at which of its samples each syllable begins."""
    library.blocks.clear()
    library.starts.clear()
    request = f"[[{code}]]".encode("ascii")
    library.espeak.espeak_Synth(
        request, len(request) + 1, 0, 1, 0, _CHARS_UTF8 | _PHONEME_INPUT, None, None
    )
    library.espeak.espeak_Synchronize()
    samples = np.zeros(0, np.float32)
    if library.blocks:
        samples = np.concatenate(library.blocks).astype(np.float32) / np.float32(32768)
    loud = np.flatnonzero(np.abs(samples) > 0.005)
    first, end = (loud[0], loud[-1] + 1) if len(loud) else (0, 0)
    # The first syllable may begin with a silence that is cut off.
    return samples[first:end], [max(0, n - int(first)) for n in library.starts]

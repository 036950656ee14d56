"""What this machine has and lacks, check by check. Changes nothing and needs no network."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from thaitool.errors import Interrupted

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Check:
    """One finding; `state` is ok, note (worth knowing) or missing (stages will fail)."""

    name: str
    state: str
    detail: str


def run(recipe: str | None = None) -> list[Check]:
    """All checks, in the order in which stages would trip over them."""
    checks = [_torch(), _op(), _device(), _audio(), _voice(), _disk(), _memory()]
    if recipe:
        checks.append(_estimate(recipe))
    return checks


def _guard(name: str, look: Callable[[], str]) -> Check:
    # A doctor reports every failure, whatever its kind (a wrong torchaudio fails in many ways), and goes on.
    try:
        return Check(name, "ok", look())
    except Interrupted:
        raise
    except Exception as error:  # noqa: BLE001
        return Check(name, "missing", f"{type(error).__name__}: {error}")


def _torch() -> Check:
    def look() -> str:
        import torch
        import torchaudio
        import transformers

        found = ", ".join(
            f"{m.__name__} {m.__version__}" for m in (torch, torchaudio, transformers)
        )
        if not (
            torch.__version__.startswith("2.11.") and torchaudio.__version__.startswith("2.11.")
        ):
            raise RuntimeError(
                f"found {found}; install torch==2.11.* and torchaudio==2.11.* together"
            )
        return found

    return _guard("torch and torchaudio (both must be 2.11)", look)


def _op() -> Check:
    def look() -> str:
        import torch

        from thaitool.ops.dtw import dtw_alignment
        from thaitool.ops.kernels import kernel_problem

        def run(device: str) -> None:
            one = torch.ones(1, 2, 3, device=device)
            length = torch.tensor([2])
            loss = float(dtw_alignment(one, one, length, length).loss)
            # written so that NaN fails
            if not abs(loss) < 1e-6:
                raise RuntimeError(f"the {device} kernel computes {loss} where 0 is right")

        run("cpu")
        problem = kernel_problem(torch.device("cuda"))
        if torch.cuda.is_available():
            if problem is not None:
                raise RuntimeError(problem)
            run("cuda")
            return "CPU and CUDA kernels built and right on a known case"
        cuda = "not built" if problem is not None else "built, but there is no device to try it on"
        return f"CPU kernel built and right on a known case; CUDA kernel {cuda}"

    return _guard("DTW op", look)


def _device() -> Check:
    try:
        import torch
    except (ImportError, OSError) as error:
        return Check("device", "missing", f"{type(error).__name__}: {error}")
    if not torch.cuda.is_available():
        return Check(
            "device",
            "note",
            f"no CUDA device; CPU with {os.cpu_count()} cores",
        )
    p = torch.cuda.get_device_properties(0)
    return Check(
        "device", "ok", f"{torch.cuda.device_count()} x {p.name}, {p.total_memory / 2**30:.0f} GiB"
    )


def _audio() -> Check:
    def look() -> str:
        import soundfile

        wanted = ("WAV", "FLAC", "OGG", "MP3")
        missing = [f for f in wanted if f not in soundfile.available_formats()]
        if missing:
            raise RuntimeError(
                f"libsndfile {soundfile.__libsndfile_version__} cannot read {', '.join(missing)}"
            )
        return f"libsndfile {soundfile.__libsndfile_version__} reads {', '.join(wanted)}"

    return _guard("audio codecs", look)


def _voice() -> Check:
    def look() -> str:
        from thaitool.synth.espeak import VOICES, tone_canary

        canary = tone_canary(VOICES[0])
        if not canary.passed:
            raise RuntimeError(f"voice {VOICES[0].name} does not tell the five Thai tones apart")
        return f"{len(VOICES)} espeak-ng speakers; the five tones differ"

    return _guard("embedded voices", look)


def _disk() -> Check:
    free = shutil.disk_usage(".").free / 1e9
    state = "ok" if free > 5 else "note"
    return Check("disk", state, f"{free:.0f} GB free here")


def _memory() -> Check:
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return Check("memory", "ok", f"{pages * size / 2**30:.0f} GiB")


def _estimate(recipe: str) -> Check:
    """What `pretrain` with that recipe needs on this machine."""
    from thaitool.config import PretrainConfig, load

    placeholder: dict[str, Any] = {"data": ["."], "out": "."}
    config = load(PretrainConfig, "pretrain", recipe=recipe, options=placeholder)
    import torch
    from transformers import AutoConfig

    from thaitool.models.device import choose_device
    from thaitool.models.encoder import new_config
    from thaitool.models.estimate import describe, estimate

    if config.init is not None and not (config.init / "config.json").is_file():
        return Check(
            "recipe", "note", f"pretrain of {recipe}: unknown, {config.init} is not on this machine"
        )
    shape = (
        AutoConfig.from_pretrained(config.init)
        if config.init
        else new_config(**config.encoder.model_dump())
    )
    device = choose_device(config.train.device)
    needs = estimate(
        shape,
        updates=config.train.updates,
        accumulation=config.train.accumulation,
        batch_s=config.train.batch_s,
        crop_s=config.crop_s,
        processes=1,
        keep=config.train.keep,
        checkpointing=config.gradient_checkpointing,
        bf16=config.train.mixed_precision == "bf16",
        device=torch.device(device),
    )
    rows = describe(needs, device=device, processes=1, hours=None)
    listing = "; ".join(f"{name}: {value}" for name, value in rows)
    return Check("recipe", "note", f"pretrain of {recipe}: {listing}")

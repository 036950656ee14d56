"""What a run of `finetune` needs on this machine, told before it starts, and how long it takes, measured soon after.

Refuses only what cannot fit whatever happens: weights, gradients and optimizer alone are more than the memory there is.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from thaitool.audio.decode import SAMPLE_RATE_HZ
from thaitool.errors import EnvironmentProblem
from thaitool.models.estimate import span
from thaitool.models.estimate_speech_lm import GIB, describe_speech_lm, estimate_speech_lm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from accelerate import Accelerator
    from numpy.typing import NDArray
    from torch import nn

    from thaitool.data.plan import BatchPlan
    from thaitool.records import Advance, Progress
    from thaitool.training.finetune import Objective
    from thaitool.training.finetune_data import Fitting

#: The first update warms up (kernels, caches); these many after it are timed, and the middle one counts, as an
#: evaluation or a checkpoint may lie in between.
TIMED_UPDATES = 5


def needs(
    objective: Objective,
    data: Fitting,
    plan: BatchPlan,
    trained: Sequence[nn.Parameter],
    accelerator: Accelerator,
) -> list[tuple[str, str]]:
    """Memory and disk as rows for people.

    Args:
        objective: With its configuration.
        data: Rows of training.
        plan: Their order, whose first epoch is looked at.
        trained: What is trained.
        accelerator: Of the run.

    Raises:
        EnvironmentProblem: weights, gradients and optimizer cannot fit.
    """
    config, processor = objective.config, objective.processor
    tokens, duration_s = data.tokens, data.train.duration_s
    audio = np.array(
        [processor.audio_tokens(round(s * SAMPLE_RATE_HZ)) for s in duration_s.tolist()]
    )
    order = plan.epoch(0)
    rows, starts = order.utterances, order.starts[:-1]
    counts = np.diff(order.starts)

    def largest(of_row: NDArray[Any], *, padded: bool) -> float:
        if padded:
            return float((counts * np.maximum.reduceat(of_row[rows], starts)).max())
        return float(np.add.reduceat(of_row[rows], starts).max())

    most = round(largest(tokens, padded=not config.packing))
    found = estimate_speech_lm(
        objective.model,
        trained_parameters=sum(p.numel() for p in trained),
        tokens=most,
        text_tokens=round(largest(tokens - audio, padded=False)),
        audio_s=largest(duration_s, padded=True),
        lora=config.lora_rank > 0,
        unfrozen_layers=config.unfreeze_layers,
        unfrozen_encoder=config.unfreeze_encoder,
        checkpointing=config.gradient_checkpointing,
        autocast=config.train.mixed_precision == "bf16",
        keep=config.train.keep,
    )
    memory = memory_bytes(accelerator.device)
    if found.state > memory:
        raise EnvironmentProblem(
            f"Weights, gradients and optimizer alone take {found.state / GIB:.1f} GiB, and {accelerator.device} has"
            f" {memory / GIB:.1f} GiB in all. Set llm_dtype: bfloat16, lower lora_rank, unfreeze fewer layers, or"
            " choose a smaller LLM."
        )
    return list(describe_speech_lm(found, tokens=most))


def memory_bytes(device: torch.device) -> int:
    """All memory of a GPU, or of the machine for the CPU, whoever uses it now."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def timed(
    progress: Progress,
    announce: Callable[[Sequence[tuple[str, str]]], None],
    *,
    after: int = 0,
) -> Progress:
    """A `Progress` that announces, after the first updates, how long the others will take.

    Args:
        progress: What is shown besides.
        announce: Told once.
        after: Updates at the start of the run that are of another kind, and are not timed.
    """

    @contextmanager
    def watched(description: str, total: int, done: int = 0) -> Iterator[Advance]:
        made, times = 0, list[float]()
        with progress(description, total, done) as advance:

            def counted(steps: int = 1, note: str = "") -> None:
                nonlocal made
                advance(steps, note)
                made += steps
                if done + made <= after or len(times) > TIMED_UPDATES:
                    return
                times.append(time.perf_counter())
                left = total - done - made
                if len(times) > TIMED_UPDATES and left:
                    each = median(b - a for a, b in pairwise(times))
                    announce(
                        [
                            (
                                "time",
                                f"about {span(left * each / 3600)} for the other {left:,} updates, at {each:.2f} s each"
                                f" as the middle one of the last {TIMED_UPDATES}, evaluations not counted",
                            )
                        ]
                    )

            yield counted

    return watched

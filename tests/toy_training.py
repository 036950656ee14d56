"""A toy objective on real audio, and the training loop around it. Holds no tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from thaitool.config import Training
from thaitool.data.loader import Batch
from thaitool.data.manifest import Manifest
from thaitool.data.plan import BatchPlan, make_plan
from thaitool.records import silent
from thaitool.training.loop import Loss, Step, Task, TrainingResult, make_accelerator, train
from thaitool.training.run_dir import open_run


class Objective(nn.Module):
    """Learns the level of the audio: per clip, summed; the weight is the number of clips."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        self.steps: list[Step] = []
        self.seen: list[str] = []

    def first_layer(self) -> torch.Tensor:
        weights: torch.Tensor = self.net[0].weight  # type: ignore[assignment]
        return weights.detach()

    def forward(self, batch: Batch, step: Step) -> Loss:
        self.steps.append(step)
        self.seen += [u.id for u in batch.utterances]
        features = torch.stack(
            [row[: int(n)][:6000].reshape(4, -1).abs().mean(1) for row, n in rows(batch)]
        )
        total = (self.net(features)[:, 0] - features.mean(1)).square().sum()
        n = float(len(features))
        return Loss(total, n, {"error": (float(total.detach()), n)}, used=len(features))


def rows(batch: Batch) -> Any:
    return zip(batch.audio, batch.audio_lengths, strict=True)


def settings(**changes: Any) -> Training:
    values = {
        "updates": 6,
        "batch_s": 2.0,
        "learning_rate": 1e-2,
        "device": "cpu",
        "eval_every": 100,
        "save_every": 100,
    }
    return Training(**{**values, **changes})


def go(
    objective: nn.Module,
    manifest: Manifest,
    out: Path,
    config: Training,
    plan: BatchPlan | None = None,
    **task: Any,
) -> TrainingResult:
    def save(path: Path) -> None:
        torch.save(objective.state_dict(), path / "weights.pt")

    groups = [{"name": "all", "params": list(objective.parameters()), "lr": config.learning_rate}]
    parts: dict[str, Any] = {"evaluate": dict, "save": save, **task}
    return train(
        Task(objective, groups, **parts),
        manifest=manifest,
        plan=plan or make_plan(manifest.duration_s, batch_s=config.batch_s, seed=config.seed),
        config=config,
        run=open_run(
            out, config.model_dump(exclude={"keep", "workers", "max_rejected_share"}), "test: {}\n"
        ),
        accelerator=make_accelerator(config),
        progress=silent,
        description="test",
    )


class Listed(BatchPlan):
    """A plan whose batches are written down."""

    def __init__(self, *batches: Sequence[int]) -> None:
        object.__setattr__(self, "batches", [np.array(b, np.int32) for b in batches])
        object.__setattr__(self, "seed", 0)

    def epoch(self, epoch: int) -> Any:  # noqa: ARG002
        return self.batches  # type: ignore[attr-defined]

    @property
    def batches_per_epoch(self) -> int:
        return len(self.batches)  # type: ignore[attr-defined]


#: Ragged on purpose: a mean of means would weigh the batches of three and of one clip alike.
WHOLE = Listed(range(4), range(4, 8), range(8, 12))
SPLIT = Listed(range(3), [3], range(4, 7), [7], range(8, 11), [11])

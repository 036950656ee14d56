"""What a checkpoint needs to go on exactly: weights, optimizer, average, counts and monitors. Decides nothing.

The file is the same for one process, for DDP and for FSDP2 (whole tensors, optimizer state by parameter number), so a
run may go on with another number of processes or another way of sharing the work.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed.tensor import DTensor, distribute_tensor

from thaitool.errors import TrainingFailed

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

STATE = "training_state.pt"


@dataclass
class Done:
    """What all processes together have done so far; saved in every checkpoint."""

    updates: int = 0
    batches: int = 0
    utterances: int = 0
    rejected: int = 0
    unused: int = 0
    skipped: int = 0
    """Updates in which nothing could be used, so that no step was made."""
    nonfinite: int = 0
    """Updates that were skipped because the loss or the gradient was NaN or infinite."""
    nonfinite_in_a_row: int = 0
    audio_s: float = 0.0
    train_s: float = 0.0
    best: float | None = None
    best_update: int = 0
    evaluated: int = 0
    """Update of the last evaluation that came to its end."""
    flops_counted: int = 0
    """This and what follows: the cost of training, as in `thaitool.training.cost`."""
    layer_flops_counted: int = 0
    layer_flops: int = 0
    processor_s: float = 0.0
    peak_rss_bytes: int = 0
    peak_cuda_bytes: int = 0


@dataclass(frozen=True)
class Saved:
    """The content of a checkpoint's state file; tensors whole and on the CPU."""

    trained: dict[str, Tensor]
    optimizer: dict[str, Any]
    average: list[Tensor] | None
    done: Done
    metrics: dict[str, float]
    watch: dict[str, Any] | None
    unusable: list[tuple[str, str, str]] = field(default_factory=list)
    """Bad recordings that training has met: item, reason, detail."""


def whole(tensor: Tensor, *, keep: bool) -> Tensor:
    """A tensor with all its shards, on the CPU; every process must ask, those with `keep` False get nothing."""
    tensor = tensor.detach()
    if not isinstance(tensor, DTensor):
        return tensor.cpu() if keep else torch.empty(0)
    tensor = tensor.full_tensor()
    # A copy also on the CPU: what comes from a collective is a wrapper that nothing but torch can write.
    return tensor.to("cpu", copy=True) if keep else torch.empty(0)


def like(value: Tensor, tensor: Tensor) -> Tensor:
    """A whole tensor, shared out as `tensor` is."""
    if isinstance(tensor, DTensor):
        value = value.to(tensor.device)
        return distribute_tensor(value, tensor.device_mesh, tensor.placements)
    return value.clone()  # not the pages of a file that is going to be deleted


def trained_state(module: nn.Module) -> dict[str, Tensor]:
    """Parameters that are trained, and all buffers; frozen weights are not copied into every checkpoint."""
    frozen = {
        name for name, p in module.named_parameters(remove_duplicate=False) if not p.requires_grad
    }
    return {name: value for name, value in module.state_dict().items() if name not in frozen}


def gather_state(tensors: dict[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """Whole tensors by name, in the processes that keep them. Collective where tensors are sharded."""
    found = {name: whole(value, keep=keep) for name, value in tensors.items()}
    return found if keep else {}


def gather_optimizer(optimizer: Any, *, keep: bool) -> dict[str, Any]:
    """The state of an optimizer with whole tensors. Collective where tensors are sharded."""
    state = optimizer.state_dict()
    by_number = {
        number: {k: whole(v, keep=keep) if torch.is_tensor(v) else v for k, v in entry.items()}
        for number, entry in sorted(state["state"].items())
    }
    return {**state, "state": by_number} if keep else {}


def write_state(folder: Path, saved: Saved) -> None:
    """Writes the state file into a checkpoint that is being made."""
    content = {
        "trained": saved.trained,
        "optimizer": saved.optimizer,
        "average": saved.average,
        "done": asdict(saved.done),
        "metrics": saved.metrics,
        "watch": saved.watch,
        "unusable": saved.unusable,
    }
    # To a file object: of a path, torch does not say that the disk is full.
    with (folder / STATE).open("wb") as file:
        torch.save(content, file)


def read_state(folder: Path) -> Saved:
    """What `write_state` wrote. Memory-mapped: processes of one machine share its pages."""
    content = torch.load(folder / STATE, map_location="cpu", weights_only=True, mmap=True)
    return Saved(**{**content, "done": Done(**content["done"])})


@torch.no_grad()
def put_weights(module: nn.Module, trained: dict[str, Tensor], origin: Path) -> None:
    """Copies weights into a module that has the same ones.

    Raises:
        TrainingFailed: names or shapes differ.
    """
    current = trained_state(module)
    wrong = sorted({*current} ^ {*trained}) or sorted(
        name for name in current if current[name].shape != trained[name].shape
    )
    if wrong:
        raise TrainingFailed(
            f"{origin} holds other weights than this run trains ({len(wrong)} differ, e.g. {wrong[0]})."
        )
    for name, value in current.items():
        value.copy_(like(trained[name], value))


def put_optimizer(optimizer: Any, state: dict[str, Any]) -> None:
    """Gives an optimizer a state of whole tensors."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    by_number = {
        number: {
            key: like(value, parameters[number])
            if value.shape == parameters[number].shape
            else value
            for key, value in entry.items()
        }
        for number, entry in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": by_number})

"""The processes of a run: Accelerate set up for our configuration, and work that only the first of them does.

Trains nothing. Starting the processes is the business of `accelerate launch` or torchrun:

    accelerate launch --multi_gpu --num_processes 2 -m thaitool pretrain ...

starts two on a machine without a GPU as well; `accelerate launch --cpu` starts a single one, unless told to use MPI.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch import distributed, nn
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy

from thaitool.errors import EnvironmentProblem, Interrupted, ThaitoolError, TrainingFailed
from thaitool.models.device import choose_device

if TYPE_CHECKING:
    from collections.abc import Callable

    from thaitool.config import Training

Result = TypeVar("Result")
#: Longer than any scan. Without it, the processes that wait give up after half an hour (gloo) or ten minutes (NCCL).
PATIENCE = timedelta(days=7)


def make_accelerator(config: Training) -> Accelerator:
    """Accelerate with our precision and device; reads the environment of `accelerate launch`.

    Raises:
        EnvironmentProblem: no such device, FSDP of version 1, or DeepSpeed.
    """
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        raise EnvironmentProblem(
            "DeepSpeed is not supported, as its engine makes the updates itself and they could not be resumed exactly;"
            " use --use_fsdp --fsdp_version 2, which shards weights, gradients and optimizer in the same way."
        )
    accelerator = Accelerator(
        cpu=choose_device(config.device) == "cpu", mixed_precision=config.mixed_precision
    )
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        _shard(accelerator)
    return accelerator


def _shard(accelerator: Accelerator) -> None:
    state = accelerator.state
    if accelerator.distributed_type == DistributedType.MULTI_CPU:
        # Accelerate 1.15 quietly turns sharding off on the CPU, though fully_shard works there with gloo.
        # Kept in two places, of which one is copied over the other whenever Accelerate looks at it.
        PartialState().distributed_type = state.distributed_type = DistributedType.FSDP
        state.fsdp_plugin = FullyShardedDataParallelPlugin()
    if accelerator.distributed_type != DistributedType.FSDP:
        return  # one process has nothing to shard
    if not accelerator.is_fsdp2:
        raise EnvironmentProblem(
            "Sharding of version 1 is not supported; add --fsdp_version 2 to `accelerate launch`."
        )
    # Every process has built or loaded the whole model, and Accelerate's way of sending it around forgets buffers.
    state.fsdp_plugin.cpu_ram_efficient_loading = False
    # Autocast decides the precision, as without sharding: heads and losses stay in float32.
    state.fsdp_plugin.mixed_precision_policy = None


def shard_by_layer(accelerator: Accelerator, module: nn.Module) -> None:
    """Under FSDP2, makes each transformer layer a unit of its own, as one is in use at a time. Before `prepare`."""
    if is_sharded(accelerator):
        stacks = [
            part
            for name, part in module.named_modules()
            if isinstance(part, nn.ModuleList) and name.rpartition(".")[2] == "layers"
        ]
        plugin = accelerator.state.fsdp_plugin
        plugin.auto_wrap_policy = transformer_auto_wrap_policy
        plugin.transformer_cls_names_to_wrap = sorted(
            {type(layer).__name__ for s in stacks for layer in s}
        )


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether each process holds only its share of every parameter (FSDP2)."""
    return bool(accelerator.distributed_type == DistributedType.FSDP)


def world_size() -> int:
    """Number of processes of this run, before or after an Accelerator exists."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_world_size()
    return int(os.environ.get("WORLD_SIZE", "1"))


def on_main_first(accelerator: Accelerator, work: Callable[[], Result]) -> Result | None:
    """Runs `work` in the first process while the others wait, for as long as it takes.

    Returns:
        What `work` returned in the first process, None in the others, which read the result from disk.

    Raises:
        ThaitoolError: `work` failed; the same sentence in every process, so that none waits for ever.
    """
    if accelerator.num_processes == 1:
        return work()
    group = distributed.new_group(backend="gloo", timeout=PATIENCE)
    result: Result | None = None
    failure: BaseException | None = None
    told: list[tuple[str, str] | None] = [None]
    if accelerator.is_main_process:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001  (raised again below, after the others know)
            failure = error
            told = [(type(error).__name__, str(error))]
    distributed.broadcast_object_list(told, src=0, group=group, device=torch.device("cpu"))
    distributed.destroy_process_group(group)
    if failure is not None:
        raise failure
    if told[0] is not None:
        raise _as_told(*told[0])
    return result


def _as_told(name: str, message: str) -> ThaitoolError:
    """The first process's error, for the others; an interrupt or a bug of it is a failure for them."""
    known = {c.__name__: c for c in _family(ThaitoolError) if c is not Interrupted}
    if name in known:
        return known[name](message)
    return TrainingFailed(f"The first process stopped with {name}: {message}")


def _family(base: type[ThaitoolError]) -> list[type[ThaitoolError]]:
    return [base, *(c for child in base.__subclasses__() for c in _family(child))]


def gathered(accelerator: Accelerator, mine: Result) -> list[Result]:
    """Any picklable value of every process, in the order of their ranks. Waits for all; not for every update."""
    if accelerator.num_processes == 1:
        return [mine]
    everyone: list[Result | None] = [None] * accelerator.num_processes
    distributed.all_gather_object(everyone, mine)
    return everyone  # type: ignore[return-value]  # all are filled now

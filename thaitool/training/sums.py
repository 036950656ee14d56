"""Sums of an update over micro-batches and processes: kept on the device, fetched to the host once.

Knows no loss and no model. A name may be missing in some processes (a batch may have nothing to say about it); the
processes agree on the names when a new one turns up, and otherwise exchange a single vector.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.distributed import all_gather_object

if TYPE_CHECKING:
    from accelerate import Accelerator

#: Name to shape; () is a scalar.
Layout = dict[str, tuple[int, ...]]


class Sums:
    """Named sums of tensors and numbers. Adding makes the device compute and never waits for it."""

    def __init__(self) -> None:
        self._numbers: dict[str, float] = {}
        self._tensors: dict[str, Tensor] = {}

    def add(self, name: str, value: Tensor | float) -> None:
        """Adds to the sum of that name; a tensor always with the same shape."""
        if isinstance(value, Tensor):
            value = value.detach().double()
            known = self._tensors.get(name)
            self._tensors[name] = value if known is None else known + value
        else:
            self._numbers[name] = self._numbers.get(name, 0.0) + value

    def layout(self) -> Layout:
        """The names and shapes of this process."""
        names = sorted({*self._numbers, *self._tensors})
        return {n: tuple(self._tensors[n].shape) if n in self._tensors else () for n in names}

    def vector(self, layout: Layout, device: torch.device) -> Tensor:
        """All sums in the order of a layout, flat, float64; 0 where this process has none."""
        # Numbers travel in one copy, and one for all, whatever their count.
        numbers = [self._numbers.get(name, 0.0) for name in layout]
        on_device = torch.tensor(numbers, dtype=torch.float64).to(device)
        parts = []
        for index, (name, shape) in enumerate(layout.items()):
            part = on_device[index].expand(shape).reshape(-1)
            known = self._tensors.get(name)
            # A count is a number in one process and a tensor in another: the two add up.
            parts.append(part if known is None else part + known.reshape(-1))
        return torch.cat(parts) if parts else on_device


class Exchange:
    """Adds `Sums` over processes. Keeps the names that the processes have agreed on."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.layout: Layout = {}

    def total(self, sums: Sums) -> dict[str, Tensor]:
        """The sums of all processes by name, on the CPU, the same numbers everywhere.

        One collective and one copy to the host, except when a process brings a new name.
        """
        while True:
            new = any(name not in self.layout for name in sums.layout())
            if self.accelerator.num_processes == 1:
                self.layout |= sums.layout()
                new = False
            vector = sums.vector(self.layout, self.accelerator.device)
            flag = torch.tensor([float(new)], dtype=torch.float64).to(vector.device)
            vector = torch.cat([flag, vector])
            if self.accelerator.num_processes > 1:
                vector = self.accelerator.reduce(vector)
            fetched = vector.cpu()
            if not fetched[0]:
                break
            self._agree(sums.layout())
        found, place = {}, 1
        for name, shape in self.layout.items():
            size = int(torch.Size(shape).numel())
            found[name] = fetched[place : place + size].reshape(shape)
            place += size
        return found

    def _agree(self, mine: Layout) -> None:
        everyone: list[Layout] = [{} for _ in range(self.accelerator.num_processes)]
        all_gather_object(everyone, mine)
        for layout in everyone:
            for name, shape in layout.items():
                known = self.layout.setdefault(name, shape)
                if known == ():
                    self.layout[name] = shape

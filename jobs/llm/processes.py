"""The processes that train one model together: one a GPU, started by torchrun or accelerate."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed

_LONGEST_WAIT = timedelta(hours=2)  # the first process reads and packs, and evaluates alone


@dataclass(frozen=True)
class Processes:
    """This process among those that train together.

    Attributes:
        rank: its number; 0 alone reads checkpoints' names, writes and speaks.
        n: how many there are.
        local_rank: its number on this machine, hence its GPU.
    """

    rank: int = 0
    n: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this one writes."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place; every process must call."""
        if self.n > 1:
            distributed.all_reduce(tensor)
        return tensor

    def largest(self, value: int, device: torch.device) -> int:
        """The largest `value` of all processes."""
        if self.n == 1:
            return value
        shared = torch.tensor([value], device=device)
        distributed.all_reduce(shared, op=distributed.ReduceOp.MAX)
        return int(shared.item())

    def of_first(self, value: int, device: torch.device) -> int:
        """The first process's `value`."""
        if self.n == 1:
            return value
        shared = torch.tensor([value], device=device)
        distributed.broadcast(shared, src=0)
        return int(shared.item())


ALONE = Processes()


def from_environment() -> Processes:
    """This process as torchrun or accelerate named it; alone without them."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return ALONE
    return Processes(int(os.environ["RANK"]), size, int(os.environ.get("LOCAL_RANK", "0")))


@contextmanager
def connected(processes: Processes, device: torch.device) -> Iterator[Processes]:
    """The processes can speak to each other inside: NCCL between GPUs, Gloo between CPUs."""
    if processes.n == 1:
        yield processes
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo", timeout=_LONGEST_WAIT
    )
    try:
        yield processes
    finally:
        distributed.destroy_process_group()

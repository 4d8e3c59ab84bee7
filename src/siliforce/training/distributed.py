"""Several processes, one training: started by `torchrun` or `srun`, or a single process.

Gradients are added up once per step, after the whole double backward: the hooks of PyTorch's
DistributedDataParallel fire during the first backward and would reduce half of them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from siliforce.errors import TrainingError


class World:
    """This process among all.

    Attributes:
        rank: 0 writes files and talks.
        size: number of processes.
        local_rank: on this machine: which GPU is ours.
    """

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0) -> None:
        self.rank = rank
        self.size = size
        self.local_rank = local_rank

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def add(self, tensor: Tensor) -> Tensor:
        """Sum over the processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def total(self, values: Sequence[float]) -> list[float]:
        """Sum of a few numbers over the processes, without touching the GPU."""
        if self.size == 1:
            return list(values)
        return self.add(torch.tensor(values, dtype=torch.float64)).tolist()

    def smallest(self, value: int) -> int:
        """Least value of all processes."""
        if self.size == 1:
            return value
        box = torch.tensor([value])
        dist.all_reduce(box, dist.ReduceOp.MIN)
        return int(box)

    def copy_from_main(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite the tensors by rank 0's."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor.detach(), src=0)

    def share(self, value: Any) -> Any:
        """Rank 0's value, JSON-like."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def barrier(self) -> None:
        """Wait for all processes."""
        self.total([0.0])

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Rank 0 goes through alone, so that the others find what it cached."""
        if not self.is_main:
            self.barrier()
        yield
        if self.is_main:
            self.barrier()

    def close(self) -> None:
        """Leave the group, if this process is in one."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()


def join_world() -> World:
    """The processes that a launcher's environment variables announce.

    `torchrun` sets RANK, WORLD_SIZE and LOCAL_RANK; in a Slurm step the same is read from
    SLURM_PROCID, SLURM_STEP_NUM_TASKS and SLURM_LOCALID.

    Raises:
        TrainingError: the others cannot be found.
    """
    env = os.environ
    if "RANK" in env and "WORLD_SIZE" in env:
        rank, size, local = int(env["RANK"]), int(env["WORLD_SIZE"]), int(env.get("LOCAL_RANK", 0))
    elif int(env.get("SLURM_STEP_NUM_TASKS", 1)) > 1 and "SLURM_PROCID" in env:
        rank, size = int(env["SLURM_PROCID"]), int(env["SLURM_STEP_NUM_TASKS"])
        local = int(env.get("SLURM_LOCALID", 0))
        env.setdefault("MASTER_ADDR", _first_host(env.get("SLURM_STEP_NODELIST", "localhost")))
        env.setdefault("MASTER_PORT", str(20000 + int(env.get("SLURM_JOB_ID", 0)) % 40000))
    else:
        return World()
    if size == 1:
        return World()
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        try:
            dist.init_process_group(backend, rank=rank, world_size=size)
        except (RuntimeError, ValueError) as error:
            raise TrainingError(
                f"process {rank} of {size} found no partners ({error}); start all of them with "
                "torchrun or srun, or unset RANK and WORLD_SIZE for a single process"
            ) from None
    return World(rank, size, local)


def _first_host(nodes: str) -> str:
    """First host of a Slurm list such as `node[03-05,9]` or `a1,b2`."""
    match = re.match(r"([^\[,]+)(?:\[([^\],-]+))?", nodes)
    return "".join(part or "" for part in match.groups()) if match else "localhost"

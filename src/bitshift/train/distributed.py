"""One process or the processes of torchrun: who we are, and the few collectives that the loop needs."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore  # where torch.distributed has them from


@dataclass(frozen=True, kw_only=True)
class World:
    """This process among its peers."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0

    def sum(self, value: Tensor) -> Tensor:
        """``value`` summed over the processes, in place; unchanged for one process."""
        if self.size > 1:
            moved = value.to(self.device)
            dist.all_reduce(moved)
            value.copy_(moved)
        return value

    def gather(self, value: Tensor) -> list[Tensor]:
        """``value`` of every process (same shape and dtype everywhere), by rank, on the CPU."""
        if self.size == 1:
            return [value]
        moved = value.to(self.device)
        out = [torch.empty_like(moved) for _ in range(self.size)]
        dist.all_gather(out, moved)
        return [t.cpu() for t in out]

    def share_from_main(self, model: nn.Module) -> None:
        """Copy parameters and buffers of rank 0 to every process (norm statistics differ between ranks otherwise)."""
        if self.size > 1:
            with torch.no_grad():
                for tensor in model.state_dict().values():
                    dist.broadcast(tensor, src=0)

    def share_buffers(self, model: nn.Module) -> None:
        """Copy the buffers of rank 0 to every process, in one message for each type."""
        if self.size == 1:
            return
        kinds: dict[torch.dtype, list[Tensor]] = {}
        for buffer in model.buffers():
            kinds.setdefault(buffer.dtype, []).append(buffer)
        with torch.no_grad():
            for buffers in kinds.values():
                flat = torch.cat([b.reshape(-1) for b in buffers])
                dist.broadcast(flat, src=0)
                for buffer, part in zip(buffers, flat.split([b.numel() for b in buffers]), strict=True):
                    buffer.copy_(part.view(buffer.shape))

    def barrier(self) -> None:
        """Wait for every process."""
        if self.size > 1:
            dist.barrier()


def pick_device(name: str, local_rank: int = 0) -> torch.device:
    """``auto``, ``cpu`` or ``cuda`` as a device; ValueError when cuda is asked for and missing."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device 'cuda' was asked for, but torch finds no CUDA device; use device='cpu' or 'auto'")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", local_rank)


def _store_of_this_life(rank: int, size: int, patience: timedelta) -> Store:
    """A part of torchrun's store that only the processes of this life of the job know.

    torchrun keeps one store over its restarts, so a restarted process reads the addresses that its dead predecessors
    left there (pytorch issues 135712 and 167288), and its restart count is not the same on every node. So: every
    process leaves a fresh word, the main one answers with a fresh name and the words that it has read, and who finds
    its own word there takes that name.
    """
    port = int(os.environ["MASTER_PORT"])
    store = TCPStore(os.environ["MASTER_ADDR"], port, size, is_master=False, timeout=patience)
    word, end = uuid.uuid4().hex, time.monotonic() + patience.total_seconds()
    store.set(f"bitshift/word/{rank}", word)
    answer, others = "bitshift/answer", [f"bitshift/word/{r}" for r in range(1, size)]
    written: list[str] | None = None
    while time.monotonic() < end:
        if rank == 0:
            words = [store.get(key).decode() if store.check([key]) else "" for key in others]
            if words != written:  # first with the words of dead processes, perhaps
                store.set(answer, " ".join([word, *words]))
                written = words
            if all(w and store.check([f"bitshift/{word}/{w}"]) for w in words):
                return PrefixStore(f"bitshift/{word}", store)
        elif store.check([answer]):
            name, *words = store.get(answer).decode().split(" ")
            if words[rank - 1 : rank] == [word]:
                store.set(f"bitshift/{name}/{word}", "1")
                return PrefixStore(f"bitshift/{name}", store)
        time.sleep(0.02)
    raise TimeoutError(
        f"process {rank} of {size} waited {patience.total_seconds():.0f} s for the others to start; do all nodes reach "
        f"{os.environ['MASTER_ADDR']}:{port}? (TrainConfig.peer_timeout sets how long to wait)"
    )


@contextmanager
def join_world(device: str = "auto", *, timeout: float = 600.0) -> Iterator[World]:
    """The world that torchrun's environment describes (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR), else one process.

    Starts the process group when there is none (nccl for cuda, gloo for cpu) and ends what it started. A process that
    waits longer than ``timeout`` seconds for its peers ends with an error; one whose peer has died does so at once.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if dist.is_available() and dist.is_initialized():
        target = pick_device(device, int(os.environ.get("LOCAL_RANK", dist.get_rank())))
        yield World(rank=dist.get_rank(), size=dist.get_world_size(), device=target)
        return
    if size == 1:
        yield World(device=pick_device(device))
        return
    target = pick_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if target.type == "cuda":
        torch.cuda.set_device(target)
    patience = timedelta(seconds=timeout)
    backend = "nccl" if target.type == "cuda" else "gloo"
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        rank = int(os.environ["RANK"])
        store = _store_of_this_life(rank, size, patience)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=patience)
    else:
        dist.init_process_group(backend, timeout=patience)
    try:
        yield World(rank=dist.get_rank(), size=dist.get_world_size(), device=target)
    finally:
        dist.destroy_process_group()


__all__ = ["World", "join_world", "pick_device"]

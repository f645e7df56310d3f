"""One of two processes: three data-parallel steps of every method; rank 0 also does them alone on the joint batch."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import bitshift.nn.methods  # noqa: F401 - fills the registry
from bitshift.nn.method import METHODS


class Net(nn.Module):
    """One weight of every method and width, all on the same input."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.methods = nn.ModuleDict(
            {
                f"{name}_{bits}": cls.random((5, 8), cls.format_for(bits), generator=generator)
                for name, cls in sorted(METHODS.items())
                for bits in cls.bits
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        # tanh bounds the outputs: a 6-bit set reaches 2^31 in units of its scale
        return torch.stack(
            [torch.tanh(x @ m.weight().T / m.scale() / m.format.max_level) for m in self.methods.values()]
        )


def train(model: nn.Module, net: Net, batches: list[Tensor]) -> dict[str, Tensor]:
    groups = [group for m in net.methods.values() for group in m.param_groups(lr=0.05, weight_decay=1e-4)]
    optimiser = torch.optim.SGD(groups, momentum=0.9)
    for x in batches:
        optimiser.zero_grad()
        loss = model(x).square().mean(1).sum() + sum(m.penalty() for m in net.methods.values())
        loss.backward()
        optimiser.step()
        for m in net.methods.values():
            m.after_step()
    return net.state_dict()


def main(folder: Path, rank: int) -> None:
    store = f"file://{folder / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    joint = list(torch.randn(3, 16, 8, generator=torch.Generator().manual_seed(2)))
    net = Net()
    state = train(DistributedDataParallel(net), net, [x[rank * 8 : rank * 8 + 8] for x in joint])
    torch.save(state, folder / f"rank{rank}.pt")
    if rank == 0:
        alone = Net()
        torch.save(train(alone, alone, joint), folder / "joint.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))

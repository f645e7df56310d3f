"""The mean of gradients over processes, overlapped with the backward pass and the same after every restart.

Not DistributedDataParallel: that one rearranges its buckets after the first step, so a run that is restarted there sums
in another order and, with three processes or more, ends with other bits. Here the buckets follow from the parameters.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

BUCKET_BYTES = 25 << 20


@dataclass
class _Bucket:
    """Parameters whose gradients travel together."""

    params: list[nn.Parameter] = field(default_factory=list)
    waiting: int = 0
    flat: Tensor | None = None
    work: Any = None

    def start(self) -> None:
        """Send what has been gathered, and who has a gradient; a parameter without one adds zeros."""
        parts = [(p.grad if p.grad is not None else torch.zeros_like(p)).reshape(-1) for p in self.params]
        there = parts[0].new_tensor([float(p.grad is not None) for p in self.params])
        self.flat = torch.cat([*parts, there])
        self.work = dist.all_reduce(self.flat, async_op=True)

    @torch.no_grad()
    def finish(self, size: int) -> None:
        """Put the mean into the gradients."""
        assert self.flat is not None
        self.work.wait()
        self.flat.div_(size)
        lacking = any(p.grad is None for p in self.params)
        there = self.flat[-len(self.params) :].tolist() if lacking else [1.0] * len(self.params)
        place = 0
        for p, used in zip(self.params, there, strict=True):
            mean = self.flat[place : place + p.numel()].view(p.shape)
            place += p.numel()
            if p.grad is not None:
                p.grad.copy_(mean)
            elif used:  # by another process, whose optimiser decays it even where its gradient is zero
                p.grad = mean.clone()
        self.flat = self.work = None


class GradientMean:
    """Sends each bucket of gradients as soon as it and all buckets in front of it are complete.

    Call :meth:`arm` in front of the backward pass whose end holds the step's whole gradient, and :meth:`finish`
    behind it. Every process must hold the same parameters.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], size: int, *, bucket_bytes: int = BUCKET_BYTES) -> None:
        self._size, self._armed, self._next = size, False, 0
        self._buckets: list[_Bucket] = []
        taken: set[int] = set()
        room = 0
        # a backward pass ends with the first parameters
        for p in reversed([p for p in parameters if p.requires_grad]):
            if id(p) in taken:
                continue
            taken.add(id(p))
            last = self._buckets[-1].params[-1] if self._buckets else None
            if last is None or room < p.numel() * p.element_size() or last.dtype != p.dtype:
                self._buckets.append(_Bucket())
                room = bucket_bytes
            self._buckets[-1].params.append(p)
            room -= p.numel() * p.element_size()
        self._of = {id(p): bucket for bucket in self._buckets for p in bucket.params}
        self._hooks = [
            p.register_post_accumulate_grad_hook(self._arrived) for bucket in self._buckets for p in bucket.params
        ]

    def arm(self) -> None:
        """The next backward pass completes the gradients."""
        self._armed, self._next = True, 0
        for bucket in self._buckets:
            bucket.waiting = len(bucket.params)

    def finish(self) -> None:
        """Send what is left and wait for everything; then every ``.grad`` is the mean over the processes."""
        for bucket in self._buckets[self._next :]:
            bucket.start()
        for bucket in self._buckets:
            bucket.finish(self._size)
        self._armed = False

    def close(self) -> None:
        """Leave the parameters alone."""
        for hook in self._hooks:
            hook.remove()

    def _arrived(self, param: Tensor) -> None:
        if not self._armed:
            return
        self._of[id(param)].waiting -= 1
        # in one order on all processes, whatever order the gradients come in
        while self._next < len(self._buckets) and not self._buckets[self._next].waiting:
            self._buckets[self._next].start()
            self._next += 1


__all__ = ["BUCKET_BYTES", "GradientMean"]

"""Norms over the joint batch of several processes, on any backend (torch's SyncBatchNorm knows GPUs only).

With equal shares the processes compute what one process computes on the joint batch, forward and backward, up to the
order of float sums.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from bitshift.nn.norms import AffineNorm, ShiftNorm, widened
from bitshift.train.progress import logger


def joint_sum(*values: Tensor) -> list[Tensor]:
    """Float32 or float64 vectors summed over the processes, in one message."""
    flat = torch.cat([v.reshape(-1) for v in values])
    dist.all_reduce(flat)
    return [part.view(v.shape) for part, v in zip(flat.split([v.numel() for v in values]), values, strict=True)]


def joint_moments(y: Tensor) -> tuple[Tensor, Tensor, int]:
    """Mean and biased variance per channel (axis 1) of the joint ``y``, and how many values a channel has in all.

    One message: parts are combined by their means and sums of squared deviations (Chan, Golub and LeVeque, 1979),
    which loses nothing when the mean is large.
    """
    dims = [0, *range(2, y.dim())]
    shape = [1, -1] + [1] * (y.dim() - 2)
    count = y.numel() // y.shape[1]
    mean = y.mean(dims)
    squares = (y - mean.view(shape)).square_().sum(dims)
    mine = torch.cat([mean, squares, mean.new_tensor([float(count)])])
    parts = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, mine)
    stacked = torch.stack(parts).double()
    channels = y.shape[1]
    means, deviations, counts = stacked[:, :channels], stacked[:, channels:-1], stacked[:, -1:]
    total = counts.sum()
    joint = (means * counts).sum(0) / total
    variance = (deviations + counts * (means - joint).square()).sum(0) / total
    return joint.to(y.dtype), variance.to(y.dtype), int(total)


class _JointNorm(torch.autograd.Function):
    """``(y - mean) * gain + bias``, ``mean`` and the deviation in ``gain`` being those of the joint batch.

    With ``g`` the gradient, ``v = y - mean`` and means over the joint batch:
    d y = gain * (g - mean(g) - v * mean(g v) / variance). The last term is the gradient through the deviation that
    the gain follows, and is there only where ``variance`` is given. Parameters get this process's part of their
    gradient, as those of every other layer do.
    """

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, mean: Tensor, variance: Tensor | None, gain: Tensor, bias: Tensor, count: int
    ) -> Tensor:
        shape = [1, -1] + [1] * (y.dim() - 2)
        centred = y - mean.view(shape)
        ctx.save_for_backward(centred, variance, gain)
        ctx.count = count
        return (centred * gain.view(shape)).add_(bias.view(shape))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, Tensor, Tensor, None]:
        (g,) = grads
        centred, variance, gain = ctx.saved_tensors
        dims = [0, *range(2, g.dim())]
        shape = [1, -1] + [1] * (g.dim() - 2)
        total, d_gain = g.sum(dims), (g * centred).sum(dims)
        joint_total, joint_gain = joint_sum(total, d_gain)
        d_y = g * gain.view(shape)
        if variance is not None:
            d_y.addcmul_(centred, (-gain * joint_gain / (ctx.count * variance)).view(shape))
        return d_y.sub_((gain * joint_total / ctx.count).view(shape)), None, None, d_gain, total, None


def _batch_norm(norm: Any, y: Tensor) -> Tensor:
    """What ``F.batch_norm`` does in training, over the joint batch."""
    dtype = y.dtype
    with torch.autocast(y.device.type, enabled=False):
        z = y if dtype == torch.float64 else y.float()
        with torch.no_grad():
            mean, variance, count = joint_moments(z)
            if count < 2:
                raise ValueError(f"expected more than 1 value per channel in the joint batch, got {list(y.shape)}")
            if norm.running_mean is not None:
                norm.num_batches_tracked.add_(1)
                rate = norm.momentum if norm.momentum is not None else 1.0 / float(norm.num_batches_tracked)
                norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), rate)
                norm.running_var.lerp_((variance * (count / (count - 1))).to(norm.running_var.dtype), rate)
            variance = variance + norm.eps
            slope = variance.rsqrt()
        weight = norm.weight if norm.weight is not None else torch.ones_like(slope)
        bias = norm.bias if norm.bias is not None else torch.zeros_like(slope)
        return _JointNorm.apply(z, mean, variance, weight * slope, bias, count).to(dtype)  # type: ignore[no-any-return]


class _JointBatchNorm1d(nn.BatchNorm1d):
    def forward(self, input: Tensor) -> Tensor:
        return _batch_norm(self, input) if self.training else super().forward(input)


class _JointBatchNorm2d(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        return _batch_norm(self, input) if self.training else super().forward(input)


class _JointBatchNorm3d(nn.BatchNorm3d):
    def forward(self, input: Tensor) -> Tensor:
        return _batch_norm(self, input) if self.training else super().forward(input)


class _JointAffineNorm(AffineNorm):
    def forward(self, input: Tensor) -> Tensor:
        return _batch_norm(self, input) if self.training else super().forward(input)


class _JointShiftNorm(ShiftNorm):
    def _batch_moments(self, y: Tensor) -> tuple[Tensor, Tensor, int]:
        return joint_moments(widened(y))

    def _normalised(self, y: Tensor, mean: Tensor, follows: Tensor | None, gain: Tensor, _count: int) -> Tensor:
        return _JointNorm.apply(widened(y), mean, follows, gain, self.bias, _count).to(y.dtype)  # type: ignore[no-any-return]


_JOINT: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: _JointBatchNorm1d,
    nn.BatchNorm2d: _JointBatchNorm2d,
    nn.BatchNorm3d: _JointBatchNorm3d,
    AffineNorm: _JointAffineNorm,
    ShiftNorm: _JointShiftNorm,
}


def keep_from_compiler() -> None:
    """Leave collectives out of what torch.compile compiles. Decorators would import all of the compiler, always."""
    for kind in _JOINT.values():
        if not hasattr(kind.forward, "_torchdynamo_disable"):
            kind.forward = torch.compiler.disable(kind.forward)


@contextmanager
def joint_norms(model: nn.Module) -> Iterator[None]:
    """Inside the block the norms of ``model`` use the joint batch of all processes in training; names stay.

    A user's own class derived from a batch norm may compute anything, is left alone and named in a warning;
    ``nn.SyncBatchNorm`` does the same by itself.
    """
    for path, module in model.named_modules():
        kind = type(module)
        if kind not in _JOINT and isinstance(module, nn.modules.batchnorm._BatchNorm) and kind is not nn.SyncBatchNorm:
            logger.warning(
                "norm %r (%s) keeps to each process's own part of the batch: only torch's and bitshift's own classes "
                "can be joined; several processes will not equal one",
                path, kind.__name__,
            )  # fmt: skip
    with _exchanged(model, _JOINT):
        yield


@contextmanager
def own_norms(model: nn.Module) -> Iterator[None]:
    """Inside the block, and inside one of :func:`joint_norms`, each process is alone: all of them see the same rows."""
    with _exchanged(model, {joint: own for own, joint in _JOINT.items()}):
        yield


@contextmanager
def _exchanged(model: nn.Module, kinds: dict[type[nn.Module], type[nn.Module]]) -> Iterator[None]:
    before = {module: type(module) for module in model.modules() if type(module) in kinds}
    for module, kind in before.items():
        module.__class__ = kinds[kind]
    try:
        yield
    finally:
        for module, kind in before.items():
            module.__class__ = kind


__all__ = ["joint_moments", "joint_norms", "joint_sum", "keep_from_compiler", "own_norms"]

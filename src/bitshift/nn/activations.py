"""Activation quantisers: learned power-of-two grids of 2 to 8 bits, and the papers' fixed point."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from math import log2
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.autograd.function import once_differentiable

from bitshift.core.fixed import FixedPoint
from bitshift.nn.kernels import cpu, fused
from bitshift.nn.modes import kept_modes
from bitshift.nn.norms import ChannelNorm
from bitshift.nn.ops import exact_quantize, power_of_two

_SAMPLES = 1 << 18


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


class _GridSTE(torch.autograd.Function):
    """``clamp(floor(x / s + 1/2), lo, hi) * s``, ``s = 2**round(t)``.

    Backward (LSQ through the power of two, TQT's clipping): ``dx = g`` where ``lo <= x/s <= hi``, else 0;
    ``dt = ln2 * s * factor * sum g * (q - x/s inside, q outside)``.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, t: Tensor, lo: int, hi: int) -> Tensor:
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        step = power_of_two(torch.floor(t.detach().double() + 0.5)).to(dtype)
        ctx.range, ctx.fused = (lo, hi), fused(x)
        if ctx.fused is not None:
            x = cpu.dense(x)
            ctx.save_for_backward(x, step)
            return ctx.fused.grid_forward(x, step, lo, hi)
        half = torch.full_like(step, 0.5)
        y = torch.addcmul(half, x.to(dtype), 1 / step).floor_().clamp_(lo, hi).mul_(step).to(x.dtype)
        ctx.save_for_backward(x, step, y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (g,) = grads
        x, step = ctx.saved_tensors[:2]
        lo, hi = ctx.range
        if ctx.fused is not None:
            d_x, total = ctx.fused.grid_backward(g, x, step, lo, hi)
        else:
            d_x = _inside(g, x, lo, hi, step)
            # s * (q - x/s) is y - x, and s * q is y: both brackets at once.
            total = _dot(g, ctx.saved_tensors[2]) - _dot(d_x, x) if ctx.needs_input_grad[1] else 0.0
        if not ctx.needs_input_grad[1]:
            return d_x, None, None, None
        factor = 0.6931471805599453 / (max(x.numel(), 1) * hi) ** 0.5
        return d_x, torch.as_tensor(total * factor, dtype=step.dtype, device=step.device), None, None


def _inside(g: Tensor, x: Tensor, lo: int, hi: int, step: Tensor) -> Tensor:
    """``g`` where ``lo * step <= x <= hi * step``, else 0."""
    outside = (x < lo * step) | (x > hi * step)  # no host read of the step, which would wait for the device
    return torch.where(outside, 0.0, g)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Sum of products, in float32 at least."""
    a, b = _at_least_float32(a), _at_least_float32(b)
    if a.is_contiguous() and b.is_contiguous():
        return torch.dot(a.view(-1), b.view(-1))
    return (a * b).sum()


def best_log2_step(values: Tensor, bits: int, signed: bool) -> int:
    """The integer ``t`` whose grid ``2**t`` gives finite ``values`` the least mean squared error; 0 for all zeros."""
    values = values.float()
    top = float(values.abs().max()) if values.numel() else 0.0
    if top == 0.0:
        return 0
    lo, hi = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    start = int(torch.tensor(log2(top / hi)).ceil())
    errors = []
    for t in range(start, start - 8, -1):
        step = 2.0**t
        q = (values / step + 0.5).floor_().clamp_(lo, hi).mul_(step)
        errors.append((float((q - values).square_().sum(dtype=torch.float64)), t))
    return min(errors)[1]


def _sample(x: Tensor, at_most: int) -> Tensor:
    """At most ``at_most`` elements at even distances."""
    flat = x.detach().flatten()
    return flat[:: max(1, -(-flat.numel() // at_most))].float()


class ActQuant(nn.Module):
    """Rounds to ``q * 2**-frac`` with ``bits`` bits, ties up; ``frac = -round(t)``, ``t`` (``log2_step``) is learned.

    ``train`` has the gradient of :class:`_GridSTE`; ``eval`` is exact. The first training batch sets ``t`` to the
    power of two with the least squared error (the batches of all processes together); :func:`calibrate` does it from
    data without training.

    Buffer ``initialised`` (bool) says whether ``t`` has been set.
    """

    initialised: Tensor

    def __init__(self, bits: int, *, signed: bool) -> None:
        super().__init__()
        if not 2 <= bits <= 8:
            raise ValueError(f"activation quantiser of {bits} bits: allowed are 2 to 8")
        self.bits, self.signed = bits, signed
        self.log2_step = nn.Parameter(torch.zeros(()))
        self.register_buffer("initialised", torch.tensor(False))
        self.path = ""
        """Name of the quantised value, for messages."""
        self.given = False
        """Whether the grid came with a model that was quantised before: :func:`calibrate` leaves it."""
        self._ready = False  # a copy of ``initialised`` on the host, so that no training step waits for the device
        self._seen: list[Tensor] | None = None

    @property
    def grid(self) -> FixedPoint:
        """The grid; RuntimeError if no data has set it."""
        if not self._is_ready():
            raise RuntimeError(
                f"activation quantiser {self.path or '(unnamed)'!r} has no scale yet: train for a batch, or call "
                "bitshift.nn.activations.calibrate(model, batches), or load a trained state dict"
            )
        return FixedPoint(self.bits, -int(torch.floor(self.log2_step.detach().double() + 0.5)), self.signed)

    @property
    def observing(self) -> bool:
        """Whether values only pass through and are recorded (inside :func:`calibrate`)."""
        return self._seen is not None

    def _is_ready(self) -> bool:
        if not self._ready:
            self._ready = bool(self.initialised)
        return self._ready

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._ready = False

    @torch.no_grad()
    def initialise(self, values: Tensor) -> None:
        """Set ``t`` from ``values`` (any shape), averaged over the processes if torch.distributed runs."""
        values = values[values.isfinite()]
        t = torch.tensor(float(best_log2_step(values, self.bits, self.signed)), device=self.log2_step.device)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(t)
            t = torch.floor(t / torch.distributed.get_world_size() + 0.5)
        self.log2_step.copy_(t)
        self.initialised.fill_(True)
        self._ready = True

    def forward(self, input: Tensor) -> Tensor:
        """Any shape; ``train`` keeps the dtype, ``eval`` gives float32."""
        if self._seen is not None:
            self._seen.append(_sample(input, _SAMPLES).cpu())
            return input.float()  # an exact average pool in front gives float64
        if not self.training:
            kind = self.grid
            if torch.is_grad_enabled() and input.requires_grad:
                return _GridSTE.apply(input.double(), self.log2_step, kind.lo, kind.hi).float()  # type: ignore[no-any-return]
            return exact_quantize(input, kind.bits, kind.frac, kind.signed, "half_up")
        if not self._is_ready():
            self.initialise(_sample(input, _SAMPLES))
        lo, hi = (-(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1) if self.signed else (0, (1 << self.bits) - 1)
        return _GridSTE.apply(input, self.log2_step, lo, hi)  # type: ignore[no-any-return]

    def describe(self) -> str:
        """``s8.4`` or, before the first data, ``s8, grid from the first data``."""
        kind = f"{'s' if self.signed else 'u'}{self.bits}"
        return str(self.grid) if self._is_ready() else f"{kind}, grid from the first data"

    def extra_repr(self) -> str:
        """The grid."""
        return self.describe()


class _FloorIdentity(torch.autograd.Function):
    """Fixed point by floor; the gradient passes unchanged, also where it clamps."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bits: int, frac: int, top: float) -> Tensor:
        ctx.dtype = x.dtype
        return exact_quantize(x, bits, frac, True, "floor").clamp(max=top)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        return grads[0].to(ctx.dtype), None, None, None


class FixedPointQuant(nn.Module):
    """DeepShift's fixed point "I.F": ``floor(x * 2**F) * 2**-F``, clamped; I bits with the sign, F of fraction.

    ``upper="deepshift"`` (default) clamps to ``-2**(I-1) .. 2**(I-1) - 1`` as the papers' code does; ``upper="full"``
    to the largest number of the type, ``2**(I-1) - 2**-F``. The gradient is the identity, without a mask. float32
    carries the result, so of a 32-bit fixed point the lowest bits of large values are lost, as in the papers' own
    simulation. Source: DeepShift (arXiv 1905.13298); its
    PS linear layers leave their input unrounded (a gap in its code), ours round in every layer.
    """

    def __init__(self, spec: str, *, upper: str = "deepshift") -> None:
        super().__init__()
        found = re.fullmatch(r"(\d+)\.(\d+)", spec)
        if not found:
            raise ValueError(f"fixed point {spec!r}: write INTEGER.FRACTION bits, for example '16.16' or '3.5'")
        self.integer_bits, self.fraction_bits = int(found[1]), int(found[2])
        if self.integer_bits < 2 or not 2 <= self.integer_bits + self.fraction_bits <= 32:
            raise ValueError(
                f"fixed point {spec!r}: needs at least 2 integer bits (one is the sign) and at most 32 bits in all"
            )
        if upper not in ("deepshift", "full"):
            raise ValueError(f"upper={upper!r}: allowed are 'deepshift' and 'full'")
        self.spec, self.upper = spec, upper

    @property
    def bits(self) -> int:
        """All bits."""
        return self.integer_bits + self.fraction_bits

    @property
    def top(self) -> float:
        """The largest value."""
        return 2.0 ** (self.integer_bits - 1) - (1.0 if self.upper == "deepshift" else 2.0**-self.fraction_bits)

    def forward(self, input: Tensor) -> Tensor:
        """Any shape, float32 out."""
        return _FloorIdentity.apply(input, self.bits, self.fraction_bits, self.top)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        """The specification."""
        return f"{self.spec}, upper={self.upper}"


def _inputs_of(batch: Any, model: nn.Module, at: int) -> tuple[Any, ...]:
    """The inputs of ``model`` that batch number ``at`` starts with."""
    if isinstance(model, fx.GraphModule):
        inputs = [n for n in model.graph.nodes if n.op == "placeholder" and not str(n.target).startswith("**")]
        need = max((at for at, n in enumerate(inputs, 1) if not n.args), default=1)  # args: a default
    else:
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        parameters = inspect.signature(model.forward).parameters.values()
        need = max(1, sum(p.kind in kinds and p.default is p.empty for p in parameters))
    given = tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
    if len(given) < need:
        raise ValueError(
            f"calibrate: batch {at} holds {len(given)} of the {need} inputs of {type(model).__name__}.forward; give "
            "each batch as a tuple that starts with all of them"
        )
    return given[:need]


@torch.no_grad()
def calibrate(model: nn.Module, batches: Iterable[Any], *, norms: bool = True, gains: bool = True) -> nn.Module:
    """Set every activation quantiser of ``model`` from data, without training; returns ``model``.

    The batches run through the network with quantised weights and float activations. With ``norms`` the norms use
    batch statistics, and their running ones become the average over these batches: quantised weights shift means, and
    scales taken from the uncorrected network come out too small. With ``gains`` the weights that a pretrained norm was
    folded into get their gain back first, once, from the first batch (:mod:`bitshift.nn.gains`); some hundred images
    are enough. Grids minimise the squared error.

    Args:
        model: from ``convert``; its training flags are restored.
        batches: input tensors, or tuples that start with as many as forward takes; what follows, a label say, is left
            out. Those are its parameters without a default. At least one batch; make them equally large, as each has
            the same weight in the norms' average.
        norms: re-estimate the norms' statistics too.
        gains: match the gains of folded weights that have not been trained or matched yet.

    Raises:
        ValueError: no batch, one with fewer inputs than forward takes, or a quantiser that no value reached.
    """
    from bitshift.nn.gains import match_gains, unmatched_layers  # layers import this file

    quants = [(name, m) for name, m in model.named_modules() if isinstance(m, ActQuant)]
    if not quants:
        return model
    stats = (
        [m for m in model.modules() if isinstance(m, (ChannelNorm, nn.modules.batchnorm._BatchNorm))] if norms else []
    )
    stats = [m for m in stats if m.running_mean is not None]
    momenta = [m.momentum for m in stats]
    try:
        for _, quant in quants:
            quant._seen = []
        count = 0
        with kept_modes(model):
            model.eval()
            for batch in batches:
                x = _inputs_of(batch, model, count)
                if count == 0:
                    if gains and unmatched_layers(model):
                        match_gains(model, *x)
                    for _, quant in quants:
                        quant._seen = []
                    for m in stats:  # only now: matching the gains needs the running statistics of before
                        m.train()
                        m.num_batches_tracked.zero_()  # type: ignore[union-attr]
                        m.momentum = None
                model(*x)
                count += 1
        if count == 0:
            raise ValueError("calibrate needs at least one batch")
        for name, quant in quants:
            seen = quant._seen or []
            if not seen:
                raise ValueError(f"quantiser {name!r} saw no value: forward does not reach it")
            if not quant.given:
                quant.initialise(torch.cat([_sample(s, max(1, _SAMPLES // len(seen))) for s in seen]))
    finally:
        for _, quant in quants:
            quant._seen = None
        for m, momentum in zip(stats, momenta, strict=True):
            m.momentum = momentum
    return model


__all__ = ["ActQuant", "FixedPointQuant", "best_log2_step", "calibrate"]

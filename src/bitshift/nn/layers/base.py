"""What every shift layer shares: its method, bias, norm, input type, and the integers it stands for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bitshift.core.fixed import FixedPoint
from bitshift.core.formats import ShiftFormat
from bitshift.nn.activations import ActQuant, FixedPointQuant
from bitshift.nn.method import Method
from bitshift.nn.norms import ChannelNorm
from bitshift.nn.ops import power_of_two

_INT32 = 2**31 - 1
PACE = "gradient_factor"
"""The buffer of :meth:`ShiftLayer.fold_gain`. A state of an older version lacks it; a layer then keeps its own."""


class IntegerError(ValueError):
    """A layer that cannot be written in integers; the message names the channel, the number and a remedy."""


class _Replace(torch.autograd.Function):
    """The value of one tensor with the gradient of another, for evaluation that someone differentiates."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, smooth: Tensor) -> Tensor:
        ctx.dtype = smooth.dtype
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        return None, grads[0].to(ctx.dtype)


class _ScaledGradient(torch.autograd.Function):
    """The weight as it is; its gradient times a factor per output channel."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(factor)
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (factor,) = ctx.saved_tensors
        return grads[0] * factor.view(-1, *[1] * (grads[0].dim() - 1)), None


@dataclass(frozen=True)
class IntegerForm:
    """``(acc * mult + offset) * 2**-frac``; ``acc`` is the sum of ``levels(codes) * q`` for ``q`` of type ``input``.

    ``codes`` uint8 of the weight's shape; ``mult`` int32, ``offset`` int64, ``frac`` int32, each ``(O)``;
    ``acc_bound`` float64 ``(O)``, the largest ``|acc|`` that the codes and the input's range allow; ``misfit`` bool
    ``(O)``, whether a gain other than 0 is held more than 2 % off, because another channel's is far larger;
    ``raised`` float64 ``(O)``, the gain that is held over the one asked for.
    """

    codes: Tensor
    mult: Tensor
    offset: Tensor
    frac: Tensor
    format: str
    input: FixedPoint
    acc_bound: Tensor
    misfit: Tensor
    raised: Tensor


def flip_table(format: ShiftFormat) -> list[int]:
    """For each code the code of the negated level; reserved codes map to themselves."""
    code_of = {level: code for code, level in enumerate(format.levels) if code not in format.reserved}
    return [code if code in format.reserved else code_of[-level] for code, level in enumerate(format.levels)]


def integer_form(
    codes: Tensor,
    gain: Tensor,
    shift: Tensor,
    format: ShiftFormat,
    input: FixedPoint,
    *,
    fit_int32: bool = False,
    sums: Tensor | None = None,
) -> IntegerForm:
    """Integers for ``y = acc * 2**-input.frac * gain + shift``.

    If every ``|gain|`` is a power of two so is every ``mult``, all channels share one grid, and the sum is exact up to
    the rounding of ``shift`` to it; gains are raised to 2**-15 of the largest (up to 2**-8 where ``fit_int32`` leaves
    less room). Otherwise ``mult`` has at most 16 bits and each channel a grid of its own, up to 2**8 finer than the one
    of the largest gain; with ``fit_int32`` one grid serves all. Gains are raised to one unit of ``mult``. A negative
    gain flips the codes of its channel. Behind equal accumulators a raised channel adds nothing that an 8-bit
    activation could show; a channel whose norm met a vanishing variance can push others there (``misfit``).

    Args:
        codes: uint8 ``(O, ...)``.
        gain: float64 ``(O)``, any sign.
        shift: float64 ``(O)``.
        format: of the codes.
        input: type of the layer's input.
        fit_int32: narrow the multipliers so that the sum fits an accumulator.
        sums: float64 ``(O)``, the largest sum of ``|level|`` that one output adds; all levels of a channel if None.

    Raises:
        IntegerError: a gain or shift that is not finite, or too large for the grid.
    """
    _check_finite(gain, shift)
    flips = torch.tensor(flip_table(format), dtype=torch.uint8, device=codes.device)
    negative = (gain < 0).view(-1, *[1] * (codes.dim() - 1))
    codes = torch.where(negative, flips[codes.long()], codes)
    levels = torch.tensor(format.levels, dtype=torch.float64, device=codes.device)
    reach = float(max(-input.lo, input.hi))
    acc_bound = (levels.abs()[codes.long()].flatten(1).sum(1) if sums is None else sums) * reach
    # The widest multiplier that keeps acc * mult in 30 bits, so that the sum still fits int32 when nothing is fused.
    room = 30 - int(acc_bound.max().clamp_min(1).log2().ceil()) if acc_bound.numel() else 16
    mantissa, exponent = torch.frexp(gain.abs().clamp_min(2.0**-1000))
    exponent = exponent.long()
    if bool((mantissa == 0.5).all()):
        power = exponent - 1
        floor = power.max() - (min(15, max(8, room)) if fit_int32 else 15)
        power = torch.maximum(power, floor.clamp_min(input.frac - 60))
        least = power.min()
        mult, frac = torch.ones_like(power) << (power - least), torch.full_like(power, input.frac - int(least))
    else:
        # Grids of their own for channels of smaller gain, up to 2**8 finer: 24 bits below the largest gain. Not more:
        # the sum with another layer's output must stay in a float64. One grid serves all where the sum stays unfused.
        bits = min(16, max(8, room)) if fit_int32 else 16
        spread = 0 if fit_int32 else 8
        top = exponent.clamp_min(int(exponent.max()) - spread).clamp_min(input.frac - 44)
        mult = torch.floor(gain.abs() * power_of_two(bits - top) + 0.5).clamp(1, (1 << bits) - 1).long()
        frac = input.frac + bits - top
    outside = (frac < -64) | (frac > 64)
    if bool(outside.any()):
        grid = f"2**-{int(frac[outside][0])}"
        raise IntegerError(f"the output grid {grid} is outside 2**-64..2**64; is a scale or a norm degenerate?")
    offset = torch.floor(shift * power_of_two(frac) + 0.5)
    worst = int((acc_bound * mult + offset.abs()).argmax())
    total = float(acc_bound[worst] * mult[worst] + offset[worst].abs())
    if total >= 2.0**53:
        overflow = accumulator_overflow(acc_bound, format, input)
        sum_too_large = f"|acc * mult + offset| of channel {worst} may reach {total:.6g}, over 2**53"
        raise IntegerError(overflow or f"{sum_too_large}; shrink its bias or norm shift")
    held = mult.double() * power_of_two(input.frac - frac)
    misfit = (gain != 0) & ((held - gain.abs()).abs() > 0.02 * gain.abs())
    raised = torch.where(gain != 0, held / gain.abs(), 1.0)
    return IntegerForm(codes, mult.int(), offset.long(), frac.int(), format.name, input, acc_bound, misfit, raised)


def accumulator_overflow(acc_bound: Tensor, format: ShiftFormat, input: FixedPoint) -> str:
    """What to tell a person whose accumulators, bounded by ``acc_bound`` (O), leave int32; ``""`` if they do not."""
    worst = int(acc_bound.argmax())
    bound = int(acc_bound[worst])
    if bound <= _INT32:
        return ""
    levels = bound // max(-input.lo, input.hi)
    bits = max((b for b in range(2, input.bits) if levels * 2 ** (b - input.signed) <= _INT32), default=0)
    remedy = f"activations of at most {bits} bits or " if bits else ""
    return (
        f"accumulator bound {bound} of channel {worst} exceeds int32 ({_INT32}): the sum of |level| is {levels}, "
        f"inputs are {input}. Use {remedy}a format with a smaller largest level than {format.name}'s"
    )


def _check_finite(gain: Tensor, shift: Tensor) -> None:
    bad = ~(gain.isfinite() & shift.isfinite())
    if bool(bad.any()):
        at = int(bad.nonzero()[0])
        raise IntegerError(
            f"channel {at}: gain {float(gain[at])}, shift {float(shift[at])} must be finite; has training diverged?"
        )


class ShiftLayer(nn.Module, ABC):
    """A layer whose weight is ``level * scale[c]``; the weight's latents belong to ``method``.

    ``train``: a float operation on ``method.weight()``, then the bias, then ``norm``. ``eval`` of an integer layer
    (one that knows its input quantiser) evaluates rule 4 of the arithmetic contract without its rounding and returns
    the *wide* value, exact in float64. ``eval`` of a float layer is ``(sum x * level) * scale + bias`` in float32.
    Both are bit-equal to the frozen layer.

    Args of the subclasses: ``method``; ``bias`` ``(O)`` or None; ``norm`` of the channels or None; ``input_quant``,
    the papers' fixed-point rounding of input and bias, which makes a float layer.
    """

    method: Method
    bias: nn.Parameter | None
    gradient_factor: Tensor | None

    def __init__(
        self,
        method: Method,
        *,
        bias: Tensor | None = None,
        norm: ChannelNorm | None = None,
        input_quant: FixedPointQuant | None = None,
    ) -> None:
        super().__init__()
        channels = method.shape[0]
        if bias is not None and tuple(bias.shape) != (channels,):
            raise ValueError(f"bias of shape {tuple(bias.shape)}: needs ({channels},)")
        if norm is not None and norm.num_features != channels:
            raise ValueError(f"norm of {norm.num_features} channels behind a layer with {channels}")
        self.method = method
        if bias is not None and not isinstance(bias, nn.Parameter):
            bias = nn.Parameter(bias.detach().clone())
        self.register_parameter("bias", bias)
        self.norm = norm
        self.input_quant = input_quant
        self.unmatched: Any = None
        """What a weight with a folded norm was made of, until data have set its gains (nn/gains.py) or it trains."""
        self.ahead: Tensor | None = None
        """The training weight of the passes that follow, where somebody has computed it (``train/compiled.py``)."""
        self.register_buffer("gradient_factor", None)
        self._input: tuple[ActQuant, ...] = ()  # in a tuple: the quantiser belongs to the graph, not to this layer

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        if self.gradient_factor is not None:  # state_dict is load_state_dict's own copy
            state_dict.setdefault(f"{prefix}{PACE}", self.gradient_factor)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self.unmatched = None  # a trained weight has its gains

    @abstractmethod
    def _convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        """The linear operation without bias, in the dtype of ``x``."""

    @abstractmethod
    def _exact(self, x: Tensor, form: IntegerForm) -> Tensor:
        """The exact operation on grid values, as the frozen layer does it."""

    @abstractmethod
    def _exact_float(self, x: Tensor, codes: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        """The operation on float activations, as the frozen layer does it."""

    @abstractmethod
    def _per_channel(self, v: Tensor) -> Tensor:
        """A vector ``(O)`` shaped to broadcast against the output."""

    @property
    def weight(self) -> Tensor:
        """Effective weight, differentiable to the latents."""
        return self.method.weight()

    @property
    def input_type(self) -> FixedPoint | None:
        """Type of the integers that arrive, or None for a layer with float activations."""
        return self._input[0].grid if self._input else None

    @property
    def is_integer(self) -> bool:
        """Whether evaluation is in integers."""
        return bool(self._input)

    def fold_gain(self, gain: Tensor) -> None:
        """Tell that the weight is a float weight times ``gain`` (O): a step then changes it as it would that weight.

        With ``w' = gain * w`` a step of SGD on w moves w' by ``gain**2`` times what a step on w' would. A published
        ResNet-20 has gains of 0.1 to 4, most of them 0.35: without the factor its layers learn 8 times too fast, and no
        two of them alike. Methods whose latents have no unit of their own need none (``Method.weight_units``).
        The factor is part of the state dict: latents go on at the pace that they had.
        """
        if self.method.weight_units:
            self.gradient_factor = gain.detach().float().square().to(self.method.scale().device)

    def trained_weight(self) -> Tensor:
        """The effective weight as training uses it."""
        if self.ahead is not None:
            return self.ahead
        weight = self.method.weight()
        if self.unmatched is not None and self.training and weight.requires_grad and not torch.compiler.is_compiling():
            weight.register_hook(self._is_trained)
        return weight if self.gradient_factor is None else _ScaledGradient.apply(weight, self.gradient_factor)  # type: ignore[no-any-return]

    def _is_trained(self, grad: Tensor) -> None:  # noqa: ARG002 - a hook on the weight
        self.unmatched = None  # a step follows; the gains must not be matched with the weight of the start

    def set_input(self, quant: ActQuant) -> None:
        """Make this an integer layer that reads the output of ``quant``."""
        if self.input_quant is not None:
            raise ValueError("a layer with fixed-point inputs (input_quant) is a float layer")
        self._input = (quant,)

    def float_bias(self) -> Tensor:
        """The bias as evaluation adds it: zeros if there is none, rounded by ``input_quant`` if that is set."""
        if self.bias is None:
            return self.method.scale().new_zeros(self.method.shape[0])
        return self.bias if self.input_quant is None else self.input_quant(self.bias)

    def integer_form(self) -> IntegerForm:
        """The integers of ``eval``, from the current latents, norm statistics and input type.

        Raises:
            IntegerError: see :func:`integer_form`.
            RuntimeError: the input quantiser or the norm has seen no data.
        """
        if not self._input:
            raise RuntimeError("this layer has float activations; convert(..., activations=8) makes integer layers")
        with torch.no_grad():
            gain = self.method.scale().double()
            shift = torch.zeros_like(gain) if self.bias is None else self.bias.double()
            if self.norm is not None:
                norm_gain, norm_shift = self.norm.gain_shift()
                gain, shift = gain * norm_gain, shift * norm_gain + norm_shift
            alone = self.norm is None  # such a layer may be the network's output, which is an int32 accumulator
            kind = self._input[0].grid
            codes, form = self.method.codes(), self.method.format
            return integer_form(codes, gain, shift, form, kind, fit_int32=alone, sums=self._sums(codes))

    def _sums(self, codes: Tensor) -> Tensor | None:  # noqa: ARG002
        """The largest sum of ``|level|`` that one output of a channel adds; None for all of the channel's."""
        return None

    def _float(self, x: Tensor) -> Tensor:
        """The differentiable float evaluation; the norm follows its own training flag."""
        weight = self.trained_weight()  # float32; an embedding's x are ids
        y = self._convolve(x, weight.to(x.dtype) if x.is_floating_point() else weight)
        if self.bias is not None:
            y = y + self._per_channel(self.float_bias()).to(y.dtype)
        return y if self.norm is None else self.norm(y)

    def forward(self, input: Tensor) -> Tensor:
        """``(N, I, ...)`` to ``(N, O, ...)`` (linear: ``(..., I)`` to ``(..., O)``)."""
        if self.input_quant is not None:
            input = self.input_quant(input)
        if self.training or (self._input and self._input[0].observing):
            return self._float(input)
        with torch.no_grad():
            if self._input:
                value = self._exact(input, self.integer_form())
            else:
                value = self._exact_float(input, self.method.codes(), self.method.scale(), self.float_bias())
                value = value.to(input.dtype) if input.is_floating_point() else value
                value = value if self.norm is None else self.norm(value)
        if torch.is_grad_enabled() and (input.requires_grad or any(p.requires_grad for p in self.parameters())):
            return _Replace.apply(value, self._float(input.float()))  # type: ignore[no-any-return]
        return value

    def extra_repr(self) -> str:
        """Format, method and channels."""
        kind = f"input={self._input[0].describe()}" if self._input else "float activations"
        return f"{self.method.name} {self.method.format.name}, shape={list(self.method.shape)}, {kind}"


__all__ = ["PACE", "IntegerError", "IntegerForm", "ShiftLayer", "accumulator_overflow", "flip_table", "integer_form"]

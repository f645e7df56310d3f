"""The interface of a training method: who owns the latents of one weight, and what they mean."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Self, TypeVar

import torch
from torch import Tensor, nn

from bitshift.core.formats import ShiftFormat, get_format
from bitshift.nn.wide import wide_again


class Method(nn.Module, ABC):
    """Latents of one weight tensor of shape ``(O, ...)`` and the rule that turns them into levels.

    The effective weight is ``levels(codes()) * scale()`` with one positive scale per output channel.
    ``weight()`` equals it exactly in value and carries the method's gradient to the latents. A forward
    never writes a parameter: projections of latents happen in :meth:`after_step`.

    A final class sets ``name``, ``bits`` (bit-widths it defines) and ``format_for``, and is registered
    with :func:`register`. Its docstring gives the paper, forward, gradient as implemented, level set,
    latents per weight, and where it differs from the paper.
    """

    name: ClassVar[str]
    bits: ClassVar[tuple[int, ...]]
    options: ClassVar[dict[str, Any]] = {}
    """Keyword options of :meth:`random` and :meth:`from_float` with their defaults (for the CLI and the docs).

    Both accept every option; one that does not bear on the way a weight starts is ignored there.
    """

    weight_units: ClassVar[bool] = False
    """Whether the latents are in the unit of the weight, so that a weight of twice the size needs latents of twice the
    size (rounding methods); False where they only stand for signs and exponents."""

    unit_start: ClassVar[bool] = False
    """Whether a random start has weights of size 1 and more, which need a batch norm behind them or a scale."""

    format: ShiftFormat
    shape: tuple[int, ...]

    def holds_weights(self, tensor: Tensor) -> bool:
        """Whether ``tensor``, of this method, has a number for each weight: no scale, step or clip."""
        return tuple(tensor.shape[-len(self.shape) :]) == self.shape

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move or cast; scales, steps and clips stay float32 at least: float16 ends where scales of weights lie.

        FSDP wants parameters of one type: leave them float32 there, with ``MixedPrecision(param_dtype=...)``.
        """
        own = (*self.named_parameters(recurse=False), *self.named_buffers(recurse=False))
        before = {n: t.detach() for n, t in own if t.is_floating_point() and not self.holds_weights(t)}
        super()._apply(fn, recurse)
        wide_again(self, before)
        return self

    @property
    def last_set_from(self) -> float:
        """Fraction of training from which ``format`` is the one that was asked for."""
        return 0.0

    @staticmethod
    @abstractmethod
    def format_for(bits: int) -> str:
        """Name of the format that this method trains at ``bits`` bits; ValueError names the allowed widths."""

    @classmethod
    @abstractmethod
    def random(
        cls, shape: Iterable[int], format: str, *, generator: torch.Generator | None = None, **options: Any
    ) -> Method:
        """The method's own from-scratch initialisation for a weight of ``shape`` (O, I/groups, *kernel)."""

    @classmethod
    @abstractmethod
    def from_float(
        cls, weight: Tensor, format: str, *, generator: torch.Generator | None = None, **options: Any
    ) -> Method:
        """Latents that start at a pretrained (or randomly initialised) float ``weight``."""

    @classmethod
    def formats(cls) -> tuple[str, ...]:
        """Names of the formats that the method trains."""
        return tuple(cls.format_for(bits) for bits in cls.bits)

    @classmethod
    def check_format(cls, format: str) -> ShiftFormat:
        """The format called ``format``; ValueError if the method does not train it."""
        known = get_format(format)
        if format not in cls.formats():
            raise ValueError(
                f"method {cls.name!r} does not train format {format!r}; allowed: {', '.join(cls.formats())}"
            )
        return known

    @classmethod
    def check_options(cls, options: Iterable[str]) -> None:
        """ValueError, with the near miss, for the name of an option that the method does not have."""
        for option in options:
            if option not in cls.options:
                near = difflib.get_close_matches(option, cls.options, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else "."
                allowed = ", ".join(cls.options) or "none"
                raise ValueError(f"method {cls.name!r} has no option {option!r}{hint} Its options: {allowed}")

    @abstractmethod
    def weight(self) -> Tensor:
        """Effective weight, float32, shape ``self.shape``, differentiable to the latents."""

    @abstractmethod
    def codes(self) -> Tensor:
        """Codes of ``self.format``, uint8, shape ``self.shape``; no gradient."""

    @abstractmethod
    def scale(self) -> Tensor:
        """Positive scale per output channel, float32 ``(O,)``; powers of two where the method promises them."""

    @abstractmethod
    def latents(self) -> dict[str, Tensor]:
        """The trained tensors by name, for metrics and for parameter groups."""

    @abstractmethod
    def threshold_distance(self) -> Tensor:
        """How far each weight is from changing its code: float32, ``self.shape``, >= 0; no gradient.

        In units of the latents: the smallest distance of one of the weight's latents to a threshold at which the code
        changes.
        """

    def penalty(self) -> Tensor:
        """The method's regulariser (a sum, already weighted), a scalar; zero unless the paper has one."""
        return next(self.parameters()).new_zeros(())

    def param_groups(self, *, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Optimiser groups of this weight: ``{"params": [...], "lr": ..., "weight_decay": ...}``."""
        return [{"params": list(self.parameters()), "lr": lr, "weight_decay": weight_decay}]

    def set_progress(self, fraction: float) -> bool:  # noqa: ARG002 - most methods have no schedule
        """Move to the stage of training that ``fraction`` (step / all steps, in [0, 1)) belongs to.

        The training loop calls it before every step, in every process. What it does is a function of ``fraction`` and
        of what :meth:`state_dict` holds, and it never goes back: a second call with the same fraction, or with a
        smaller one, changes nothing. So a resumed run equals an undisturbed one, and a method whose schedule is over
        stays finished. It may write latents, buffers and ``format``, never replace a parameter by a new object (the
        optimiser holds it). Without any call a method is in its first stage.

        Returns:
            Whether all weights were rounded anew, to another set. Behind a folded norm their gain is then lost; the
            loop gives it back with :func:`bitshift.nn.gains.match_again`, which needs :meth:`rescaled`.
        """
        return False

    def rescaled(self, factor: Tensor) -> Method:
        """A copy of this method at its present stage for its weight times ``factor`` (O), rounded anew.

        Needed of methods whose :meth:`set_progress` may return True.
        """
        raise NotImplementedError(f"method {self.name!r} cannot be rescaled")

    def after_step(self) -> None:
        """Project the latents after an optimiser step (under ``torch.no_grad``)."""

    def extra_repr(self) -> str:
        """Format and shape, for ``print(model)``."""
        return f"{self.format.name}, {self.shape}"

    def levels(self) -> Tensor:
        """Integer levels of the current codes as float32, shape ``self.shape``."""
        codes = self.codes()
        table = torch.tensor(self.format.levels, dtype=torch.float32, device=codes.device)
        return table[codes.long()]


METHODS: dict[str, type[Method]] = {}
M = TypeVar("M", bound=type[Method])


def register(cls: M) -> M:
    """Class decorator: files the method under its ``name``."""
    if cls.name in METHODS:
        raise ValueError(f"method {cls.name!r} is registered twice")
    METHODS[cls.name] = cls
    return cls


def get_method(name: str) -> type[Method]:
    """The method called ``name``; ValueError lists the near misses and what exists."""
    import bitshift.nn.methods  # noqa: F401 - fills the registry

    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, n=3)
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
        raise ValueError(f"unknown method {name!r}{hint} Known methods: {', '.join(sorted(METHODS))}")
    return METHODS[name]


__all__ = ["METHODS", "Method", "get_method", "register"]

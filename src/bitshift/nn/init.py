"""Float weights to start from, and the seeds of random starts."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod, sqrt
from numbers import Real
from typing import Any

import torch
from torch import Tensor


def default_weight(shape: Iterable[int], generator: torch.Generator | None) -> Tensor:
    """The default of PyTorch's linear and convolution layers: float32 U(+-1/sqrt(fan_in)) of ``shape`` (O, ...)."""
    shape = tuple(shape)
    bound = 1 / sqrt(max(prod(shape[1:]), 1))
    return torch.empty(shape, device=device_of(generator)).uniform_(-bound, bound, generator=generator)


def draw_seed(generator: torch.Generator | None) -> int:
    """A seed from ``generator`` (PyTorch's global one if None)."""
    return int(torch.randint(1 << 62, (), generator=generator, device=device_of(generator)))


def device_of(generator: torch.Generator | None) -> torch.device | None:
    """Where ``generator`` can draw; None, the default device, without one."""
    return None if generator is None else generator.device


def he_std(shape: Iterable[int]) -> float:
    """He's standard deviation by fan-out for a weight (O, I, *kernel): ``sqrt(2 / (kernel area * O))``."""
    shape = tuple(shape)
    return sqrt(2 / max(prod(shape[2:]) * shape[0], 1))


def check_positive(who: str, **values: float) -> None:
    """ValueError for an option that is not a positive finite number."""
    for name, value in values.items():
        if not _is_number(value) or not 0 < value < float("inf"):
            raise ValueError(f"{who}: {name}={value!r} must be a positive number")


def check_penalty(who: str, **values: float) -> None:
    """ValueError for an option that is neither 0 nor a positive finite number."""
    for name, value in values.items():
        if not _is_number(value) or not 0 <= value < float("inf"):
            raise ValueError(f"{who}: {name}={value!r} must be 0 or a positive number")


def numbers_of(who: str, **values: Any) -> list[tuple[float, ...]]:
    """Each of ``values``, a number or several, as a tuple; ValueError for what is neither."""
    found = []
    for name, value in values.items():
        one = isinstance(value, str) or not isinstance(value, Iterable) or getattr(value, "ndim", 1) == 0
        several: tuple[Any, ...] = (value,) if one else tuple(value)
        if not all(map(_is_number, several)):
            raise ValueError(f"{who}: {name}={value!r} must be a number or a list of numbers")
        found.append(tuple(map(float, several)))
    return found


def _is_number(value: object) -> bool:
    found = value.item() if getattr(value, "ndim", None) == 0 and isinstance(value, Tensor) else value
    return isinstance(found, Real) and not isinstance(found, bool)


def check_rate(who: str, **rates: float | None) -> None:
    """ValueError for a learning rate of its own that is neither None, which is that of the weights, nor a number."""
    for name, rate in rates.items():
        if rate is not None and not (_is_number(rate) and 0 <= rate < float("inf")):
            raise ValueError(f"{who}: {name}={rate!r} must be None, 0 or a positive number")


def check_flag(who: str, **flags: bool) -> None:
    """ValueError for an option that is neither True nor False: the word "off" would count as True."""
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise ValueError(f"{who}: {name}={value!r} must be true or false")


__all__ = [
    "check_flag", "check_penalty", "check_positive", "check_rate", "default_weight", "device_of", "draw_seed", "he_std",
    "numbers_of",
]  # fmt: skip

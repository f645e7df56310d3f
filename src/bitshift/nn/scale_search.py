"""Scales for a given weight tensor: the power of two, or the free number, with the least squared error."""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from bitshift.core.formats import ShiftFormat, get_format

SCALE_EXP_MIN, SCALE_EXP_MAX = -100, 90
"""Exponents of a scale: within them ``level * scale`` is a normal float32 for every level of every format."""

_OCTAVES_BELOW, _OCTAVES_ABOVE = 9, 1
# Searched around the scale that puts the largest weight on the largest level: heavy tails are clipped.
_SILENT_CHANNEL_OCTAVES = 8
# An all-zero channel in a zero-free set gets a scale this far below the smallest of the other channels.


@lru_cache(maxsize=64)
def sorted_levels(name: str) -> tuple[tuple[float, ...], tuple[float, ...], tuple[int, ...]]:
    """Levels in rising order, the midpoints between neighbours, and the codes, of the format ``name``."""
    fmt = get_format(name)
    pairs = sorted((level, code) for code, level in enumerate(fmt.levels) if code not in fmt.reserved)
    levels = tuple(float(level) for level, _ in pairs)
    return levels, tuple((a + b) / 2 for a, b in pairwise(levels)), tuple(c for _, c in pairs)


def nearest_index(values: Tensor, format: ShiftFormat) -> Tensor:
    """Index (int32) into the rising list of levels of the level nearest to ``values``; a tie goes to the upper level.

    The rule of ``ShiftFormat.nearest``, by thresholds, on the tensor's device.
    """
    thresholds = torch.tensor(sorted_levels(format.name)[1], dtype=values.dtype, device=values.device)
    return torch.bucketize(values.contiguous(), thresholds, right=True, out_int32=True)


def nearest_level(values: Tensor, format: ShiftFormat) -> Tensor:
    """The level nearest to ``values`` (at unit scale), in the dtype of ``values``."""
    levels = torch.tensor(sorted_levels(format.name)[0], dtype=values.dtype, device=values.device)
    return levels.index_select(0, nearest_index(values, format).flatten()).view(values.shape)


def nearest_code(values: Tensor, format: ShiftFormat) -> Tensor:
    """Code (uint8) of the level nearest to ``values`` (at unit scale)."""
    codes = torch.tensor(sorted_levels(format.name)[2], dtype=torch.uint8, device=values.device)
    return codes.index_select(0, nearest_index(values, format).flatten()).view(values.shape)


def midpoint_distance(values: Tensor, format: ShiftFormat) -> Tensor:
    """Distance of ``values`` (at unit scale) to the nearest midpoint between two neighbouring levels."""
    thresholds = torch.tensor(sorted_levels(format.name)[1], dtype=values.dtype, device=values.device)
    above = torch.bucketize(values.contiguous(), thresholds, out_int32=True)
    upper = thresholds.index_select(0, above.clamp(max=len(thresholds) - 1).flatten()).view(values.shape)
    lower = thresholds.index_select(0, (above - 1).clamp(min=0).flatten()).view(values.shape)
    return torch.minimum((upper - values).abs(), (values - lower).abs())


def per_channel(scale: Tensor, ndim: int) -> Tensor:
    """``scale`` of shape ``(O,)`` as ``(O, 1, ...)`` with ``ndim`` axes."""
    return scale.view(-1, *(1,) * (ndim - 1))


def check_weight(weight: Tensor, who: str) -> Tensor:
    """``weight`` detached in float32; ValueError if it has no elements, no channel axis, or a value not finite."""
    if weight.ndim < 1 or weight.numel() == 0:
        raise ValueError(f"{who}: a weight of shape {tuple(weight.shape)} has no elements; expected (O, ...)")
    weight = weight.detach().float()
    bad = ~torch.isfinite(weight)
    if bad.any():
        at = tuple(int(i) for i in bad.nonzero()[0])
        raise ValueError(
            f"{who}: weight[{at}] is {weight[at].item()}; weights must be finite. Start from a healthy checkpoint"
        )
    return weight


def exponents_of(scale: Tensor, channels: int, who: str) -> Tensor:
    """Exponents (int32, ``(channels,)``) of a power-of-two ``scale`` of shape ``(channels,)``.

    Raises:
        ValueError: wrong shape, or a scale that is no power of two in 2**-100..2**90; names the channel.
    """
    if isinstance(scale, (str, bool)):
        raise ValueError(
            f"{who}: scale={scale!r}; expected None or a tensor with one scale per output channel, ({channels},)"
        )
    scale = torch.as_tensor(scale).detach()
    if scale.shape != (channels,):
        raise ValueError(
            f"{who}: scale has shape {tuple(scale.shape)}; expected one scale per output channel, ({channels},)"
        )
    mantissa, exponent = torch.frexp(scale.double())
    exponent = exponent.int() - 1
    good = (mantissa == 0.5) & (exponent >= SCALE_EXP_MIN) & (exponent <= SCALE_EXP_MAX)
    if not bool(good.all()):
        c = int((~good).nonzero()[0])
        raise ValueError(
            f"{who}: scale {scale[c].item()!r} of channel {c} is no power of two in 2**{SCALE_EXP_MIN} .."
            f" 2**{SCALE_EXP_MAX}; round it, or take a method with free scales (nearest with scale='free', uniform)"
        )
    return exponent


def scale_of(exponents: Tensor) -> Tensor:
    """``2.0 ** exponents`` in float32, exact, for int32 exponents in -126 .. 127."""
    return ((exponents + 127) << 23).view(torch.float32)


def squared_error(rows: Tensor, scale: Tensor, format: ShiftFormat) -> Tensor:
    """Sum of ``(row - nearest level * scale)**2`` per row of ``rows`` (R, K); ``scale`` is (R,), all float64."""
    values = rows / scale[:, None]
    return (nearest_level(values, format) - values).square().sum(1) * scale.square()


def search_exponents(rows: Tensor, format: ShiftFormat) -> Tensor:
    """Exponent ``e`` (int32, (R,)) per row of ``rows`` (R, K, float64) with the least squared error at scale ``2**e``.

    Searches the octaves around the scale at which the largest magnitude meets the largest level. Of equal errors the
    larger scale wins. A row of zeros gets 0 error from any scale of a set with a zero; in a zero-free set it takes a
    scale far below the other rows'.
    """
    top = rows.abs().amax(1)
    silent = top == 0
    start = torch.floor(torch.log2(torch.where(silent, torch.ones_like(top), top) / format.max_level)).to(torch.int32)
    best = torch.full_like(top, math.inf)
    best_exp = start.clone()
    for offset in range(_OCTAVES_ABOVE, -_OCTAVES_BELOW - 1, -1):
        exponent = (start + offset).clamp(SCALE_EXP_MIN, SCALE_EXP_MAX)
        error = squared_error(rows, torch.exp2(exponent.double()), format)
        better = error < best
        best = torch.where(better, error, best)
        best_exp = torch.where(better, exponent, best_exp)
    loud = best_exp[~silent]
    quiet = (int(loud.min()) if loud.numel() else -format.max_level.bit_length()) - _SILENT_CHANNEL_OCTAVES
    return torch.where(silent, max(quiet, SCALE_EXP_MIN), best_exp).clamp(SCALE_EXP_MIN, SCALE_EXP_MAX)


def _rows(weight: Tensor, granularity: str, who: str) -> Tensor:
    if granularity not in ("channel", "tensor"):
        raise ValueError(f"{who}: granularity {granularity!r}; allowed: 'channel', 'tensor'")
    weight = check_weight(weight, who).double()
    return weight.reshape(weight.shape[0] if granularity == "channel" else 1, -1)


def search_pot_scale(weight: Tensor, format: ShiftFormat, *, granularity: str = "channel") -> Tensor:
    """Power-of-two scale (float32, ``(O,)``) of ``weight`` (O, ...) with the least squared rounding error.

    ``granularity`` "tensor" finds one scale for all channels.
    """
    exponents = search_exponents(_rows(weight, granularity, "search_pot_scale"), format)
    return scale_of(exponents).expand(weight.shape[0]).clone()


def start_scale(scale: Tensor | str | None, weight: Tensor, format: ShiftFormat, who: str) -> Tensor | None:
    """The option ``scale`` of a method without one of its own: None and tensors as they are, "search" searched."""
    if not isinstance(scale, str):
        return scale
    if scale != "search":
        raise ValueError(
            f"{who}: scale={scale!r}; allowed: None, 'search', or a tensor of powers of two, one a channel"
        )
    return search_pot_scale(weight, format)


def search_free_scale(weight: Tensor, format: ShiftFormat, *, granularity: str = "channel") -> Tensor:
    """Scale (float32, ``(O,)``, any positive number) of ``weight`` with (nearly) the least squared rounding error.

    The best power of two, then eighths of an octave around it, then least-squares refits for the codes found; never
    worse than the best power of two.
    """
    rows = _rows(weight, granularity, "search_free_scale")
    start = torch.exp2(search_exponents(rows, format).double())
    best, best_error = start, squared_error(rows, start, format)

    def keep(scale: Tensor) -> None:
        nonlocal best, best_error
        scale = scale.float().double()  # what will be stored
        error = squared_error(rows, scale, format)
        better = error < best_error
        best, best_error = torch.where(better, scale, best), torch.where(better, error, best_error)

    low, high = 2.0**SCALE_EXP_MIN, 2.0**SCALE_EXP_MAX
    for eighth in range(-8, 9):
        keep((start * 2 ** (eighth / 8)).clamp(low, high))
    for _ in range(4):
        levels = nearest_level(rows / best[:, None], format)
        fit = (rows * levels).sum(1) / levels.square().sum(1).clamp_min(1)
        keep(torch.where(fit > 0, fit, best).clamp(low, high))
    return best.float().expand(weight.shape[0]).clone()


__all__ = [
    "SCALE_EXP_MAX",
    "SCALE_EXP_MIN",
    "check_weight",
    "exponents_of",
    "midpoint_distance",
    "nearest_code",
    "nearest_index",
    "nearest_level",
    "per_channel",
    "scale_of",
    "search_exponents",
    "search_free_scale",
    "search_pot_scale",
    "sorted_levels",
    "squared_error",
    "start_scale",
]

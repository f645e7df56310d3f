"""Which kernel each layer gets: the fewest estimated cycles within the flash for layers and the scratch memory of each.

Flash adds up over layers: a knapsack, solved exactly but for rounding up to units of flash. Scratch lives during a
layer only, so each layer has a limit of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bitshift.backends.c99.kernels import KERNELS, MODES
from bitshift.backends.c99.layer import Estimate, Kernel, Layer
from bitshift.backends.c99.targets import Target

ASSUMED = {4: 256 * 1024, 1: 24 * 1024}
"""Flash where none is given, by bytes of a register: that of usual parts."""


def usable(flash: int) -> int:
    """What of ``flash`` the estimates may fill: a sixteenth and 256 bytes wait for code that comes out larger."""
    return flash - flash // 16 - 256


def needed(used: int) -> int:
    """The least flash of which ``used`` bytes are usable."""
    return used + 256 + (used + 255) // 15


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A layer's kernel, what it is expected to cost, and a sentence why."""

    kernel: Kernel
    estimate: Estimate
    why: str


class BudgetError(ValueError):
    """No choice of kernels fits; ``least`` is the smallest budget that does."""

    def __init__(self, message: str, least: int) -> None:
        super().__init__(message)
        self.least = least


@dataclass(frozen=True, kw_only=True)
class _Option:
    kernel: Kernel
    estimate: Estimate


def choose(
    layers: Sequence[Layer],
    target: Target,
    *,
    mode: str = "auto",
    flash: int | None = None,
    room: Mapping[str, int] | None = None,
) -> dict[str, Choice]:
    """A kernel for each of ``layers`` by its name.

    Args:
        layers: in order.
        target: the processor.
        mode: ``auto`` weighs all kernels; another name of ``MODES`` its own, and ``plain`` where they refuse.
        flash: bytes for the layers' constants and code; None: what of :data:`ASSUMED` is :func:`usable`, and more
            where nothing fits it.
        room: bytes of scratch that a layer may take, by its name; None or absent: any.

    Raises:
        BudgetError: ``flash`` or ``room`` is too small for every choice; says the smallest that would do.
    """
    if not layers:
        return {}
    room = room or {}
    options = [_options(layer, target, mode, room.get(layer.name)) for layer in layers]
    least = sum(min(o.estimate.flash for o in of) for of in options)
    if flash is None:
        assumed = ASSUMED[4 if target.word == 4 else 1]
        limit, whose = max(usable(assumed), least), f"the {assumed // 1024} KiB assumed (no flash given)"
    else:
        limit, whose = flash, "the budget"
        if least > limit:
            raise BudgetError(_too_much(layers, options, flash, least, mode), least)
    picked = _knapsack([[(o.estimate.cycles, o.estimate.flash) for o in of] for of in options], limit)
    spent = sum(of[i].estimate.flash for of, i in zip(options, picked, strict=True))
    return {
        layer.name: _choice(of, of[i], limit - spent, whose)
        for layer, of, i in zip(layers, options, picked, strict=True)
    }


def _options(layer: Layer, target: Target, mode: str, room: int | None) -> list[_Option]:
    """The kernels that can compute ``layer`` in its room; none of them worse in cycles and flash than another."""
    plain = KERNELS["plain"]
    kernels = [KERNELS[name] for name in MODES[mode]]
    found = [_Option(kernel=k, estimate=k.estimate(layer, target)) for k in kernels if not k.refuses(layer, target)]
    fitting = [o for o in found if room is None or o.estimate.scratch <= room]
    if not found or mode == "auto":
        fitting.append(_Option(kernel=plain, estimate=plain.estimate(layer, target)))
    if room is not None and all(o.estimate.scratch > room for o in fitting):
        least = min(o.estimate.scratch for o in [*found, *fitting])
        raise BudgetError(
            f"{layer.title}: needs {least:,} bytes of working memory besides its input and output, {max(room, 0):,} "
            "are left: use fewer channels or a smaller kernel in this layer, or more RAM",
            least,
        )
    fitting = [o for o in fitting if room is None or o.estimate.scratch <= room]
    return [o for o in fitting if not any(_beats(other.estimate, o.estimate) for other in fitting)]


def _beats(a: Estimate, b: Estimate) -> bool:
    key = (a.cycles, a.flash, a.scratch)
    return a.cycles <= b.cycles and a.flash <= b.flash and key < (b.cycles, b.flash, b.scratch)


def _knapsack(options: Sequence[Sequence[tuple[int, int]]], limit: int) -> list[int]:
    """The index of the option (cycles, flash) of each layer: least cycles, total flash up to ``limit``.

    ``limit`` is known to hold the smallest options; flash above the smallest of a layer is counted in units, rounded
    up.
    """
    floor = [min(flash for _, flash in of) for of in options]
    spare = limit - sum(floor)
    unit = max(16, spare // 8192)
    size = spare // unit + 1
    best = np.zeros(size, dtype=np.float64)
    chosen: list[np.ndarray] = []
    for of, low in zip(options, floor, strict=True):
        costs = np.full((len(of), size), np.inf)
        for i, (cycles, flash) in enumerate(of):
            units = -(-(flash - low) // unit)
            if units < size:
                costs[i, units:] = best[: size - units] + cycles
        pick = costs.argmin(axis=0)
        best = np.take_along_axis(costs, pick[None], axis=0)[0]
        chosen.append(pick)
    picked, at = [], size - 1
    for of, low, pick in zip(reversed(options), reversed(floor), reversed(chosen), strict=True):
        i = int(pick[at])
        picked.append(i)
        at -= -(-(of[i][1] - low) // unit)
    return picked[::-1]


def _choice(options: Sequence[_Option], taken: _Option, left: int, whose: str) -> Choice:
    """``taken`` with the reason: against the fastest one that was left out of ``whose`` flash, or the smallest."""
    fastest = min(options, key=lambda o: o.estimate.cycles)
    smallest = min(options, key=lambda o: o.estimate.flash)
    if len(options) == 1:
        why = "the fastest and the smallest of this mode that its memory allows"
    elif taken is fastest:
        times = smallest.estimate.cycles / max(1, taken.estimate.cycles)
        more = taken.estimate.flash - smallest.estimate.flash
        why = f"fastest: {times:.1f} times as fast as {smallest.kernel.name} for {more:,} bytes of flash more"
    else:
        lack = fastest.estimate.flash - taken.estimate.flash - left
        times = taken.estimate.cycles / max(1, fastest.estimate.cycles)
        short = f"{lack:,} bytes short in {whose}" if lack > 0 else f"{whose} serves other layers better"
        why = f"{fastest.kernel.name} would be {times:.1f} times as fast: {short}"
    return Choice(kernel=taken.kernel, estimate=taken.estimate, why=why)


def _too_much(layers: Sequence[Layer], options: Sequence[Sequence[_Option]], flash: int, least: int, mode: str) -> str:
    sizes = [min(o.estimate.flash for o in of) for of in options]
    worst = int(np.argmax(sizes))
    hint = "" if mode in ("auto", "plain") else "mode 'auto' or 'plain', "
    return (
        f"{layers[worst].title}: takes {sizes[worst]:,} of the {least:,} bytes of flash that the layers need at the "
        f"smallest, {flash:,} are left for them: use {hint}a format of fewer bits, or fewer channels in this layer"
    )


__all__ = ["ASSUMED", "BudgetError", "Choice", "choose", "needed", "usable"]

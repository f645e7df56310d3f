"""What the kernels cost: cycles and bytes of flash by target, from what they would write, without a compiler.

Straight-line code takes the same instructions every time, but for its clamps, so a model needs only what an
instruction of each kind costs and how many are written. The rates below follow Arm's published timing for Cortex-M0,
two cycles a load on larger ones, and one cycle an instruction on RISC-V; they were fitted to counted instructions of
GCC 12 (``bench/mcu.py``) and stand within a fifth of them on the layers of the tests.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bitshift.backends.c99.layer import Estimate, Layer
from bitshift.backends.c99.targets import Target

if TYPE_CHECKING:
    from bitshift.backends.c99.kernels import depthwise as depthwises
    from bitshift.backends.c99.kernels import packed_plan as packeds
    from bitshift.backends.c99.kernels import unrolled_plan as unrolleds
    from bitshift.backends.c99.kernels.image import Image


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Cycles of a load, a store, an addition, a turn of a loop, a call, an output's rounding; bytes of the same.

    ``look`` is a look-up without its loads and additions, ``fetch`` and ``term`` bytes of a load and of a weight's term
    in straight-line code, ``spill`` what few registers add to a straight-line output.
    """

    load: float
    store: float
    add: float
    turn: float
    call: float
    finish: float
    look: float
    spill: float
    fetch: int
    term: float
    code: int
    output: int


RATES = {
    "generic": Rates(
        load=1, store=1, add=1, turn=2, call=30, finish=13, look=4, spill=0, fetch=4, term=4, code=500, output=50
    ),
    "cortex-m0": Rates(
        load=2, store=2, add=1, turn=4, call=55, finish=20, look=9, spill=26, fetch=2, term=2.1, code=420, output=46
    ),
    "cortex-m": Rates(
        load=2, store=1, add=1, turn=3, call=45, finish=11, look=5, spill=0, fetch=4, term=3.6, code=420, output=27
    ),
    "rv32": Rates(
        load=1, store=1, add=1, turn=2, call=35, finish=10, look=4, spill=0, fetch=4, term=4, code=560, output=50
    ),
    "avr": Rates(
        load=2, store=2, add=2, turn=6, call=90, finish=60, look=16, spill=0, fetch=2, term=4, code=900, output=110
    ),
}


def rates(target: Target) -> Rates:
    """The rates of ``target``."""
    if target.name in RATES:
        return RATES[target.name]
    return RATES[
        "cortex-m" if target.name.startswith("cortex") else "rv32" if target.name.startswith("rv") else "generic"
    ]


def filled(image: Image, target: Target) -> float:
    """Cycles that the images of all strips take."""
    if image.direct:
        return 0
    rate, lanes = rates(target), image.lanes
    cell = rate.load * lanes + rate.store + rate.add * (2 * lanes + 1 + (2 * lanes - 2)) + rate.turn / 3
    return image.geo.groups * image.strips * (image.cells * cell + image.size[0] * image.geo.channels * 10 * rate.add)


def packed(layer: Layer, plan: packeds.Plan, target: Target) -> Estimate:
    """Packed codes: filling the table, a look-up a symbol, the sums of blocks, rounding."""
    rate, geo, symbols = rates(target), plan.geo, plan.symbols
    pairs, blocks = symbols.pairs, len(plan.ends)
    tiles = geo.groups * plan.image.strips * -(-plan.image.rows * plan.image.pairs[1] // pairs)
    rows = geo.inputs / symbols.codes
    entries = 1 << symbols.bits
    fill = rows * pairs * (entries * (rate.add + rate.store) + symbols.codes * rate.load + rate.turn)
    adds = rows * geo.outputs * (rate.look * (0.4 + 0.15 * pairs) + pairs * (rate.load + rate.add))
    pixels = pairs * plan.image.lanes
    begin = geo.outputs * (blocks * rate.call + blocks * pairs * (rate.load + rate.store))
    spills = plan.spills * geo.outputs * pixels * (rate.load + rate.store + 6 * rate.add)
    finish = geo.outputs * pixels * (rate.finish + rate.load)
    cycles = filled(plan.image, target) + tiles * (fill + adds + begin + spills + finish + 20 * pairs)
    boxes = sum(
        full * symbols.box // 8 + -(-(tail * symbols.bits + 1) // 8) * (tail > 0) for full, tail in plan.lengths
    )
    tables = geo.groups * geo.outputs * boxes + _vectors(layer)
    return Estimate(cycles=int(cycles), flash=tables + rate.code + 300, scratch=plan.scratch)


def unrolled(plan: unrolleds.Plan, target: Target) -> Estimate:
    """Straight-line code: a load for ``joint`` outputs, an addition a term, joining, rounding."""
    rate, geo, image = rates(target), plan.geo, plan.image
    cells = image.pairs[0] * image.pairs[1]
    outputs = len(plan.rows)
    terms = sum(row.terms for row in plan.rows)
    loads = geo.groups * -(-geo.outputs // plan.joint) * geo.inputs
    joins = sum(
        sum(len(g) for g in group) * 2 * plan.by_plane + (0 if row.fused else 4 * image.lanes * len(group))
        for row in plan.rows
        for group in row.groups
    )
    shifts = 0 if plan.by_plane or target.free_shift else terms
    width = 1 if target.word == 4 else 2
    per_cell = loads * rate.load + (terms + shifts + joins) * rate.add * width
    per_cell += outputs * (image.lanes * rate.finish + rate.spill) + rate.call / 2
    cycles = filled(image, target) + cells * per_cell
    flash = loads * rate.fetch + terms * rate.term * width + joins * 2 + outputs * (image.lanes * rate.output + 10)
    return Estimate(cycles=int(cycles), flash=int(flash) + 300, scratch=plan.scratch)


def depthwise(layer: Layer, plan: depthwises.Plan, target: Target) -> Estimate:
    """A pass over a channel's sums a term, then rounding."""
    rate = rates(target)
    one = rate.load * 2 + rate.store + rate.add * 2 + rate.turn / 3
    terms, outputs = plan.terms.size, len(layer.codes)
    cycles = terms * (plan.sums * one + rate.call) + outputs * plan.sums * (plan.image.lanes * rate.finish + rate.turn)
    flash = terms + _vectors(layer) + rate.code + 60
    return Estimate(cycles=int(cycles + filled(plan.image, target)), flash=flash, scratch=plan.scratch)


def lists(layer: Layer, counts: np.ndarray, places: np.ndarray, target: Target) -> Estimate:
    """Index lists: two loads, an addition and a turn a term; two loops a plane."""
    rate = rates(target)
    rows = math.prod(layer.x.shape[:-1])
    width = 1 if target.word == 4 else 4
    term = 2 * rate.load + 3 * rate.add * width + rate.turn
    cycles = rows * (places.size * term + counts.size * 3 * rate.turn + len(counts) * rate.finish)
    wide = 2 if layer.codes.shape[1] > 256 else 1
    flash = places.size * wide + counts.size + _vectors(layer) + rate.code // 3
    return Estimate(cycles=int(cycles), flash=flash, scratch=0)


def _vectors(layer: Layer) -> int:
    """Bytes of rule 4's constants: four of an offset, and one for each shift that is not the same everywhere."""
    uneven = sum(len(set(v.tolist())) > 1 for v in (layer.shift, layer.mult, layer.res_shift))
    return len(layer.codes) * (4 + uneven)


__all__ = ["Rates", "depthwise", "filled", "lists", "packed", "rates", "unrolled"]

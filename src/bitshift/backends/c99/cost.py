"""What the kernels cost: cycles and bytes of flash by target, from what they would write, without a compiler.

Straight-line code takes the same instructions every time, but for its clamps, so a model needs only what an
instruction of each kind costs and how many are written. The rates below follow Arm's published timing for Cortex-M0,
two cycles a load on larger ones, and one cycle an instruction on RISC-V; they were fitted to counted instructions of
GCC 12, and stand within a third of them, mostly a tenth, on the layers of ``tests/backends/c99/test_c99_cost.py``;
on AVR within two fifths. Bytes are those of the larger of -Os and -O2, rather too many than too few: helpers that
layers share are counted for each.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bitshift.backends.c99.layer import Estimate, Layer
from bitshift.backends.c99.targets import Target
from bitshift.backends.c99.text import narrowest

if TYPE_CHECKING:
    from bitshift.backends.c99.kernels import depthwise as depthwises
    from bitshift.backends.c99.kernels import lists as indexed
    from bitshift.backends.c99.kernels import packed_plan as packeds
    from bitshift.backends.c99.kernels import unrolled_plan as unrolleds
    from bitshift.backends.c99.kernels.image import Image


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Cycles of what kernels do often, and bytes of their code.

    Args:
        load, store, add, turn, call: an instruction of each kind, a turn of a loop, a call with what it saves.
        finish, round: an output's rounding in a loop, and in straight-line code.
        look: a look-up without its loads and additions.
        tap, window: a weight of the plain kernel, and what a window's loops add to it.
        fetch, term, output, group: bytes of a load, a weight's term, a lane's rounding and what a group of channels
            adds in straight-line code.
        code: bytes of a depthwise layer's code; other kernels' are in proportion.
        wide, more: bytes that a lane's rounding in 64 bits adds, and a residual to that, each in a loop and in
            straight-line code; helpers: what they add once a layer.
        long: cycles that a rounding in 64 bits adds; half of them a residual.
        loop, statement, helper: bytes of a loop, a statement, a call in 64 bits of an op without weights.
    """

    load: float
    store: float
    add: float
    turn: float
    call: float
    finish: float
    round: float
    look: float
    tap: float
    window: float
    fetch: float
    term: float
    output: int
    group: int
    code: int
    wide: tuple[int, int]
    more: tuple[int, int]
    helpers: int
    long: int
    loop: float
    statement: float
    helper: float


RATES = {
    "generic": Rates(
        load=1, store=1, add=1, turn=2, call=32, finish=6, round=6, look=5, tap=16, window=3,
        fetch=2, term=4.7, output=45, group=95, code=600,
        wide=(135, 60), more=(130, 60), helpers=160, long=50, loop=32, statement=3, helper=30,
    ),
    "cortex-m0": Rates(
        load=2, store=2, add=1, turn=6, call=95, finish=30, round=22, look=6, tap=31, window=6,
        fetch=2.2, term=1.9, output=41, group=87, code=380,
        wide=(65, 55), more=(75, 55), helpers=225, long=90, loop=24, statement=1.5, helper=20,
    ),
    "cortex-m": Rates(
        load=2, store=1, add=1, turn=3, call=42, finish=6, round=5, look=5.5, tap=20, window=5,
        fetch=0.3, term=4.1, output=26, group=70, code=400,
        wide=(70, 50), more=(75, 52), helpers=200, long=50, loop=24, statement=1.5, helper=16,
    ),
    "rv32": Rates(
        load=1, store=1, add=1, turn=1.7, call=31, finish=5, round=5, look=5, tap=15, window=1.5,
        fetch=2, term=4.7, output=45, group=95, code=650,
        wide=(135, 60), more=(130, 75), helpers=160, long=50, loop=32, statement=3, helper=30,
    ),
    "avr": Rates(
        load=2, store=2, add=2, turn=15, call=160, finish=310, round=65, look=16, tap=58, window=20,
        fetch=2, term=4.5, output=120, group=119, code=600,
        wide=(290, 75), more=(260, 125), helpers=670, long=900, loop=40, statement=8, helper=110,
    ),
}  # fmt: skip


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
    channels = image.geo.channels
    if image.tall:
        return channels * (image.pairs[0] * cell + image.strips * 10 * rate.add)
    return image.geo.groups * image.strips * (image.cells * cell + image.size[0] * channels * 10 * rate.add)


def plain(layer: Layer, buckets: int, target: Target) -> tuple[int, int]:
    """Cycles and bytes of the fallback: a turn of several loops a weight, the buckets of every output."""
    rate = rates(target)
    outputs, weights = math.prod(layer.y.shape), layer.codes[0].size
    window = rate.window * (layer.kind == "conv" and weights > layer.codes.shape[1])
    width = 1 if target.word == 4 else 4
    cycles = outputs * ((rate.tap + window) * weights + (6 * buckets + 30) * rate.add * width)
    flash = (
        len(layer.codes) * ((weights * layer.format.bits + 7) // 8)
        + _vectors(layer)
        + (rate.code if target.word == 4 else rate.code * 2 // 3 + 52 * buckets)
    )
    return int(cycles), flash


def packed(layer: Layer, plan: packeds.Plan, target: Target) -> Estimate:
    """Packed codes: filling the table, a look-up a symbol, the sums of blocks, rounding."""
    rate, geo, symbols = rates(target), plan.geo, plan.symbols
    pairs, blocks = symbols.pairs, len(plan.ends)
    full, columns = plan.image.strips - 1, plan.image.pairs[1]
    last = plan.image.pairs[0] - full * plan.image.rows
    tiles = geo.groups * (full * -(-plan.image.rows * columns // pairs) + -(-last * columns // pairs))
    rows = geo.inputs / symbols.codes
    entries = 1 << symbols.bits
    fill = rows * pairs * (entries * (rate.add + rate.store) + symbols.codes * rate.load + rate.turn)
    look = rate.look * (0.4 + 0.15 * pairs) + pairs * (rate.load + rate.add)
    if pairs == 4 and target.thumb1:
        look = 13  # thumb1.py
    adds = rows * geo.outputs * look
    pixels = pairs * plan.image.lanes
    begin = geo.outputs * (blocks * rate.call + blocks * pairs * (rate.load + rate.store))
    spills = plan.spills * geo.outputs * pixels * (rate.load + rate.store + 6 * rate.add)
    finish = geo.outputs * pixels * (rate.finish + rate.load)
    cycles = filled(plan.image, target) + tiles * (fill + adds + begin + spills + finish + 20 * pairs)
    boxes = sum(
        full * symbols.box // 8 + -(-(tail * symbols.bits + 1) // 8) * (tail > 0) for full, tail in plan.lengths
    )
    tables = geo.groups * geo.outputs * boxes + _vectors(layer)
    code = rate.code * (1.2 + 0.2 * pairs + 0.75 * (blocks > 1) + 0.35 * (plan.spills > 0))
    found = Estimate(cycles=int(cycles), flash=tables + int(code), scratch=plan.scratch)
    return widened(found, layer, target, lanes=plan.image.lanes)


def unrolled(plan: unrolleds.Plan, target: Target) -> Estimate:
    """Straight-line code: a load for ``joint`` outputs, an addition a term, joining, rounding."""
    rate, geo, image = rates(target), plan.geo, plan.image
    cells = image.pairs[0] * image.pairs[1]
    outputs = len(plan.rows)
    terms = sum(row.terms for row in plan.rows)
    loads = geo.groups * -(-geo.outputs // plan.joint) * geo.inputs
    small = target.word < 4
    flush = 12 if small else 4 * image.lanes
    joins = sum(
        sum(len(g) for g in group) * 2 * plan.by_plane + (0 if row.fused else flush * len(group))
        for row in plan.rows
        for group in row.groups
    )
    digits = max(len(row.digits) for row in plan.rows)
    shifts = loads * max(0, digits - 1) if plan.chained else 0 if plan.by_plane or target.free_shift else terms
    signed = ("int8_t",) if small else ("int8_t", "int16_t")  # Thumb has no signed load by a constant offset
    signs = loads * (1.5 if small else 1) if plan.chained and not target.far and image.cell in signed else 0
    width = 2 if small and not plan.chained else 1  # sums of all planes do not fit AVR's registers
    per_cell = loads * rate.load + (terms * width + shifts + signs + joins) * rate.add
    per_cell += outputs * image.lanes * rate.round + rate.call / 2
    cycles = filled(image, target) + cells * per_cell
    word = 4 if small else 2
    flash = loads * rate.fetch + terms * rate.term * width + (plan.chained * shifts + signs + joins) * word
    flash += outputs * (image.lanes * rate.output + 10)
    if plan.chained and target.thumb1:
        # what -O2 spills around the end of a block
        flash += 32 * sum(len(row.ends) for row in plan.rows if len(row.ends) > 1)
    flash += geo.groups * rate.group * (geo.groups > 1)
    return Estimate(cycles=int(cycles), flash=int(flash) + 300, scratch=plan.scratch)


def depthwise(layer: Layer, plan: depthwises.Plan, target: Target) -> Estimate:
    """A pass over a channel's sums a term, then rounding."""
    rate = rates(target)
    one = rate.load * 2 + rate.store + rate.add * 2 + rate.turn / 3
    terms, outputs = plan.terms.size, len(layer.codes)
    cycles = terms * (plan.sums * one + rate.call) + outputs * plan.sums * (plan.image.lanes * rate.finish + rate.turn)
    flash = terms + _vectors(layer) + rate.code + 160
    found = Estimate(cycles=int(cycles + filled(plan.image, target)), flash=flash, scratch=plan.scratch)
    return widened(found, layer, target, lanes=plan.image.lanes)


def lists(layer: Layer, plan: indexed.Plan, target: Target) -> Estimate:
    """Index lists: two loads, an addition and a turn, or its part of one, a term; two loops a plane."""
    rate = rates(target)
    rows = math.prod(layer.x.shape[:-1])
    width = 1 if target.word == 4 else 4
    counts, places, burst = plan.counts, plan.places, plan.burst
    # the place of a value: its shift, and its sum with the base where no load adds them
    index = 0 if target.free_shift else (layer.x.type.dtype.itemsize > 1) + target.far
    term = 2 * rate.load + rate.add * width + rate.add * index
    alone = (counts % burst).sum() if burst > 1 else places.size
    turns = (2 * rate.add * width + rate.turn) * (alone + (places.size - alone) / burst)
    cycles = rows * (places.size * term + turns + counts.size * 3 * rate.turn + len(counts) * rate.finish)
    wide = 2 if layer.codes.shape[1] > 256 else 1
    flash = (
        places.size * wide + counts.size + _vectors(layer) + rate.code // 3 + (burst - 1) * (118 if width > 1 else 40)
    )
    return widened(Estimate(cycles=int(cycles), flash=flash, scratch=0), layer, target, lanes=1)


def _vectors(layer: Layer) -> int:
    """Bytes of rule 4's constants: the offset's, and one for each shift that is not the same everywhere."""
    uneven = sum(len(set(v.tolist())) > 1 for v in (layer.shift, layer.mult, layer.res_shift))
    return len(layer.codes) * (8 if layer.wide else narrowest(layer.offset)[1]) + len(layer.codes) * uneven


def widened(estimate: Estimate, layer: Layer, target: Target, *, lanes: int, straight: bool = False) -> Estimate:
    """``estimate`` with what rounding in 64 bits adds, at ``lanes`` places of the code."""
    if not layer.wide:
        return estimate
    rate, more = rates(target), layer.residual is not None
    flash = rate.helpers + lanes * (rate.wide[straight] + more * rate.more[straight])
    cycles = math.prod(layer.y.shape) * rate.long * (1 + 0.5 * more)
    return replace(estimate, cycles=estimate.cycles + int(cycles), flash=estimate.flash + flash)


def op_bytes(text: str, target: Target) -> int:
    """Bytes of the code of an op without weights, about, from its C text."""
    rate, loops = rates(target), text.count("for (")
    statements, helpers = text.count(";") - 2 * loops, len(_HELPER.findall(text))
    return int(rate.loop * loops + rate.statement * statements + rate.helper * helpers)


_HELPER = re.compile(r"= bs_wide_\w+\(")


__all__ = ["Rates", "depthwise", "filled", "lists", "op_bytes", "packed", "rates", "unrolled", "widened"]

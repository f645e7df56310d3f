"""``conv -> [add residual] -> [clamp] -> requantize`` becomes one node with one rounding, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bitshift.core.fixed import FixedPoint
from bitshift.core.graph import Graph, Node
from bitshift.core.roles import MAX_MULT, MAX_SHIFT
from bitshift.lower.errors import LoweringError
from bitshift.lower.passes.cleanup import merge_equal
from bitshift.lower.passes.edit import Edit, without
from bitshift.lower.passes.rounding import Rounding, hoist, rounding_of
from bitshift.lower.wide import is_wide

SUMMING = ("conv", "conv_transpose", "linear")
"""Layers that can add a residual."""
LAYERS = (*SUMMING, "embedding")


def fuse(graph: Graph) -> Graph:
    """Fold every rounding into the node that computes what it rounds.

    A rounding first moves up through clamps, pools, concatenations and moves of elements, which commute with it, and is
    then folded into the ``conv``, ``linear``, ``add``, ``avg_pool`` or ``rescale`` above: the half step goes into the
    offset, the grid into the shift. A sum whose one side is a layer becomes that layer's residual; when both are, the
    side that is already quantised is the residual.
    """
    edit = Edit(graph)
    while _step(edit) or merge_equal(edit):
        pass
    return edit.finish()


def _step(edit: Edit) -> bool:
    for node in edit.nodes:
        rounding = rounding_of(edit, node)
        if rounding is not None and (hoist(edit, node, rounding) or _fold(edit, node, rounding)):
            return True
    return False


def _fold(edit: Edit, node: Node, rounding: Rounding) -> bool:
    x = node.inputs[0]
    above = edit.producer(x)
    if above is None or not is_wide(edit.type(x)) or not edit.single_use(x) or "clamp" in above.attrs:
        return False
    if above.op in LAYERS:
        edit.remove(above)
        edit.replace(node, _fused(edit, above, node, rounding, None))
        return True
    if above.op == "add":
        return _fold_add(edit, node, above, rounding)
    if above.op == "avg_pool":
        pool = _fused_pool(edit, above, node, rounding)
        if pool.attrs.get("mult", 1) > MAX_MULT:
            return False  # a finer grid than the pool's: the rounding stays a node of its own
        edit.remove(above)
        edit.replace(node, pool)
        return True
    if above.op == "rescale" and "shift" not in above.consts:
        edit.remove(above)
        edit.replace(node, _fused_rescale(edit, above, node, rounding))
        return True
    return False


def _fold_add(edit: Edit, node: Node, above: Node, rounding: Rounding) -> bool:
    layers = [i for i, name in enumerate(above.inputs) if _is_free_layer(edit, name)]
    if layers:
        # The other side is read as the residual, an s32 at most: keep the one with the wider numbers inside.
        main = max(
            layers, key=lambda i: (not is_wide(edit.type(above.inputs[1 - i])), _widest(edit, above.inputs[i]), i)
        )
        layer = edit.producer(above.inputs[main])
        assert layer is not None
        edit.remove(layer)
        edit.remove(above)
        edit.replace(node, _fused(edit, layer, node, rounding, above.inputs[1 - main]))
        return True
    if not rounding.half_up:
        return False
    attrs = without(above.attrs, clamp=rounding.clamp)
    edit.remove(above)
    edit.replace(node, replace(above, output=node.output, attrs=attrs))
    return True


def _is_free_layer(edit: Edit, name: str) -> bool:
    """Whether ``name`` is the unrounded result of a layer that nothing else reads."""
    layer = edit.producer(name)
    return (
        layer is not None
        and layer.op in SUMMING
        and is_wide(edit.type(name))
        and len(layer.inputs) == 1
        and "clamp" not in layer.attrs
        and edit.single_use(name)
    )


def _widest(edit: Edit, name: str) -> int:
    layer = edit.producer(name)
    assert layer is not None
    return int(edit.const(layer, "mult", 1, _length(edit, layer)).max())


def _length(edit: Edit, layer: Node) -> int:
    return int(edit.constants[layer.consts["codes"]].shape[0])


@dataclass(frozen=True)
class Scale:
    """Rule 4 for one channel: ``(acc*mult + offset + (residual << res_shift)) >> shift``."""

    mult: int
    offset: int
    shift: int
    res_shift: int

    def reduced(self, residual: bool) -> Scale:
        """The same function with the smallest ``mult``.

        ``floor((A*2**t + o) / 2**s) == floor((A + floor(o / 2**t)) / 2**(s-t))`` for integers and ``t <= s``.
        """
        t = min((self.mult & -self.mult).bit_length() - 1, self.shift)
        if residual:
            t = min(t, self.res_shift)
        return Scale(self.mult >> t, self.offset >> t, self.shift - t, self.res_shift - t if residual else 0)


def scale_of(mult: int, offset: int, frac: int, rounding: Rounding, res_frac: int | None) -> Scale:
    """One channel: ``acc*mult + offset`` at grid ``2**-frac``, plus a residual at ``res_frac``, then rounded."""
    finest = frac if res_frac is None else max(frac, res_frac)
    mult, offset = mult << (finest - frac), offset << (finest - frac)
    res_shift = 0 if res_frac is None else finest - res_frac
    shift = rounding.step(finest)
    if shift < 0:
        mult, offset, res_shift, shift = mult << -shift, offset << -shift, res_shift - shift, 0
    return Scale(mult, offset + rounding.half(shift), shift, res_shift).reduced(res_frac is not None)


def _checked(scales: Sequence[Scale], node: Node) -> dict[str, np.ndarray]:
    """The scales as constants, without the ones that equal their default."""
    for c, s in enumerate(scales):
        if max(s.shift, s.res_shift) > MAX_SHIFT or abs(s.offset) >= 1 << 62:
            raise LoweringError(
                f"{node}: channel {c} needs a shift of {max(s.shift, s.res_shift)} and the offset {s.offset} (allowed: "
                f"{MAX_SHIFT} and 62 bits): its scale is far from the quantiser's. Remedy: calibrate the activation "
                "quantisers, or retrain the channel's norm"
            )
    parts = {
        "mult": (np.array([s.mult for s in scales], np.int64), 1),
        "offset": (np.array([s.offset for s in scales], np.int64), 0),
        "shift": (np.array([s.shift for s in scales], np.uint8), 0),
        "res_shift": (np.array([s.res_shift for s in scales], np.uint8), 0),
    }
    return {role: array for role, (array, default) in parts.items() if (array != default).any()}


def _fused(edit: Edit, layer: Node, node: Node, rounding: Rounding, residual: str | None) -> Node:
    kind = edit.type(layer.output)
    assert isinstance(kind, FixedPoint)
    length = _length(edit, layer)
    mult, offset = edit.const(layer, "mult", 1, length), edit.const(layer, "offset", 0, length)
    res_kind = None if residual is None else edit.type(residual)
    res_frac = res_kind.frac if isinstance(res_kind, FixedPoint) else None
    scales = [scale_of(int(m), int(o), kind.frac, rounding, res_frac) for m, o in zip(mult, offset, strict=True)]
    consts = edit.new_consts(layer, _checked(scales, layer))
    return replace(
        layer,
        inputs=(layer.inputs[0],) if residual is None else (layer.inputs[0], residual),
        output=node.output,
        attrs=without(layer.attrs, clamp=rounding.clamp),
        consts={"codes": layer.consts["codes"], **consts},
    )


def _fused_pool(edit: Edit, pool: Node, node: Node, rounding: Rounding) -> Node:
    kind = edit.type(pool.output)
    assert isinstance(kind, FixedPoint)
    scale = scale_of(pool.attrs["mult"], pool.attrs["offset"], kind.frac, rounding, None)
    _checked([scale], pool)
    attrs = without(pool.attrs, mult=scale.mult, offset=scale.offset, shift=scale.shift, clamp=rounding.clamp)
    return replace(pool, output=node.output, attrs=attrs)


def _fused_rescale(edit: Edit, above: Node, node: Node, rounding: Rounding) -> Node:
    kind = edit.type(above.output)
    assert isinstance(kind, FixedPoint)
    length = max((edit.constants[c].size for c in above.consts.values()), default=1)
    mult, offset = edit.const(above, "mult", 1, length), edit.const(above, "offset", 0, length)
    scales = [scale_of(int(m), int(o), kind.frac, rounding, None) for m, o in zip(mult, offset, strict=True)]
    consts = _checked(scales, above)
    attrs = without(above.attrs, clamp=rounding.clamp)
    return replace(above, output=node.output, attrs=attrs, consts=edit.new_consts(above, consts))

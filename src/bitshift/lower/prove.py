"""The finished graph against the model it came from, on the sample: the last link before the file."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from bitshift.core.fixed import FixedPoint, Float32
from bitshift.core.graph import Graph
from bitshift.core.ops.quantize import quantize
from bitshift.core.reference import run_checked
from bitshift.lower.errors import LoweringError

log = logging.getLogger("bitshift")


def prove_equal(model: nn.Module, graph: Graph, inputs: Sequence[Tensor]) -> None:
    """Compare a checked ``graph`` with ``model`` on at most two samples of ``inputs``; integers must agree exactly.

    Several inputs are taken from different samples each, so that one cannot stand for another; where there are fewer
    samples than inputs, float ones have their elements rolled inside the sample.

    A graph that computes in floats anywhere is not compared: its sums round in an order of their own. Neither is a
    sample that holds NaN, for which a model need not do what the quantiser does.

    Raises:
        LoweringError: the first output and index that differ, with both values.
    """
    floats = next((n for n in graph.nodes if isinstance(graph.values[n.output].type, Float32)), None)
    rows = [_rows(x.detach(), at) for at, x in enumerate(inputs)]
    if floats is not None or any(bool(x.isnan().any()) for x in rows):
        log.debug("graph not compared with the model: %s", f"{floats} is float" if floats else "the sample holds NaN")
        return
    with torch.no_grad():
        expected = [np.asarray(y.cpu(), dtype=np.float64) for y in tree_leaves(model(*rows))]
    feed = {name: _feed(graph, name, x) for name, x in zip(graph.inputs, rows, strict=True)}
    results = run_checked(graph, feed)
    for name, wanted in zip(graph.outputs, expected, strict=True):
        kind = graph.values[name].type
        assert isinstance(kind, FixedPoint)  # outputs are results of nodes, none of which is float
        got = results[name] * 2.0**-kind.frac
        if got.shape != wanted.shape:
            raise LoweringError(
                f"output {name!r}: the model gives shape {wanted.shape}, the graph {got.shape}. {_REPORT}"
            )
        differs = np.argwhere(got != wanted)
        if len(differs):
            at = tuple(int(i) for i in differs[0])
            raise LoweringError(
                f"output {name!r} at index {list(at)} of the sample: expected {wanted[at]!s} (the frozen model), got "
                f"{got[at]!s} (its graph); {len(differs)} of {got.size} values differ. {_REPORT}"
            )


def _rows(x: Tensor, at: int) -> Tensor:
    """Two samples of input number ``at``: others than those of the inputs before it, as far as there are any."""
    rows = x[(torch.arange(2, device=x.device) + at) % len(x)]
    times = at // len(x)  # ids stay in their places: each may have a table of its own
    return rows.reshape(2, -1).roll(times, 1).view(rows.shape) if times and x.is_floating_point() else rows


_REPORT = "This is a bug in bitshift, nothing was written: please report it with the model and the sample"


def _feed(graph: Graph, name: str, x: Tensor) -> np.ndarray:
    kind = graph.values[name].type
    array = x.float().cpu().numpy() if x.dtype == torch.bfloat16 else x.cpu().numpy()
    if isinstance(kind, FixedPoint) and array.dtype.kind == "f":
        return quantize(array, kind)
    return np.ascontiguousarray(array, dtype=kind.dtype)

"""The numpy reference: executes any graph, op by op, as the definitions read."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bitshift.core.bounds import check_bounds, input_ranges
from bitshift.core.check import check
from bitshift.core.fixed import FixedPoint
from bitshift.core.graph import Graph, GraphError, Value
from bitshift.core.ops import get_op
from bitshift.core.ops.base import Range


def execute(graph: Graph, inputs: Mapping[str, np.ndarray], *, keep: bool = False) -> dict[str, np.ndarray]:
    """Check ``graph`` and run it on ``inputs`` by name, each (N, *shape) in the dtype of its type.

    Returns the outputs by name; with ``keep`` every value.

    Raises:
        GraphError: the graph breaks a rule or a bound.
        ValueError: an input is missing, unknown, or has a wrong dtype, shape or range.
    """
    check(graph)
    check_bounds(graph)
    return run_checked(graph, inputs, keep=keep)


def run_checked(graph: Graph, inputs: Mapping[str, np.ndarray], *, keep: bool = False) -> dict[str, np.ndarray]:
    """:func:`execute` for a graph that has passed ``check`` and ``check_bounds``."""
    values = check_inputs(graph, inputs)
    last = {name: i for i, node in enumerate(graph.nodes) for name in node.inputs}
    for i, node in enumerate(graph.nodes):
        out = graph.values[node.output]
        array = get_op(node.op).reference(node, [values[name] for name in node.inputs], graph)
        if array.dtype != out.type.dtype or array.shape[1:] != out.shape:
            raise GraphError(
                f"{node}: the reference gave {array.dtype} {array.shape}, declared are {out.type} {out.shape}"
            )
        values[node.output] = array
        if not keep:
            for name in {*node.inputs, node.output}:
                if last.get(name, -1) <= i and name not in graph.outputs:
                    values.pop(name, None)
    return values if keep else {name: values[name] for name in graph.outputs}


def check_inputs(graph: Graph, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inputs as given, after every refusal that a backend needs: names, dtypes, shapes, batch sizes, ranges."""
    if set(inputs) != set(graph.inputs):
        raise ValueError(f"inputs {sorted(inputs)} given; the graph takes {sorted(graph.inputs)}")
    batches, ranges = {}, input_ranges(graph)
    for name in graph.inputs:
        value, array = graph.values[name], inputs[name]
        if not isinstance(array, np.ndarray) or array.dtype != value.type.dtype:
            found = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
            raise ValueError(f"input {name!r} is {found}; {value.type} is stored as {value.type.dtype}")
        if array.shape[1:] != value.shape or array.ndim != len(value.shape) + 1:
            raise ValueError(
                f"input {name!r} has shape {array.shape}; needed is {('N', *value.shape)} with a batch axis N"
            )
        _check_range(value, array, ranges[name])
        batches[name] = array.shape[0]
    if len(set(batches.values())) > 1:
        raise ValueError(f"the inputs have batches of different sizes: {batches}")
    return dict(inputs)


def _check_range(value: Value, array: np.ndarray, allowed: Range) -> None:
    """The bounds hold for integers in the range of the input only, which may be narrower than its dtype."""
    if not isinstance(value.type, FixedPoint) or not array.size or allowed is None:
        return
    info = np.iinfo(array.dtype)
    if (info.min, info.max) == allowed:
        return
    lo, hi = int(array.min()), int(array.max())
    if lo >= allowed[0] and hi <= allowed[1]:
        return
    if allowed == (value.type.lo, value.type.hi):
        raise ValueError(
            f"input {value.name!r} holds {lo} to {hi}; {value.type} goes from {allowed[0]} to {allowed[1]}"
        )
    at = tuple(int(i) for i in np.argwhere((array < allowed[0]) | (array > allowed[1]))[0])
    raise ValueError(
        f"input {value.name!r} holds the id {int(array[at])} at sample {at[0]}, index {list(at[1:])}; "
        f"the embedding that reads it has the rows {allowed[0]} to {allowed[1]}"
    )

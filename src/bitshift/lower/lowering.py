"""``lower`` and ``export``: a frozen torch model as a checked graph, and as a file."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from bitshift.core import modelfile
from bitshift.core.bounds import check_bounds
from bitshift.core.check import check
from bitshift.core.graph import Graph
from bitshift.lower.errors import LoweringError
from bitshift.lower.literal import literal_graph
from bitshift.lower.passes import optimise
from bitshift.lower.prove import prove_equal
from bitshift.nn.freeze import FrozenModel


def lower(
    frozen: nn.Module,
    *,
    labels: Sequence[str] | None = None,
    preprocess: Mapping[str, Any] | None = None,
    name: str | None = None,
    sample: Tensor | Sequence[Tensor] | None = None,
) -> Graph:
    """The graph of a frozen model: fused, types and shapes checked, accumulators bounded, equal to it on the sample.

    Args:
        frozen: what :func:`bitshift.freeze` returns (it remembers its sample), or any module in eval mode.
        labels: names of the classes, as many as the last axis of the last output.
        preprocess: how an image becomes the input, docs/model-file.md section 5.
        name: free text, stored in the file.
        sample: inputs ``(N, ...)`` for a module that is no ``FrozenModel``; the first two are compared too.

    Raises:
        LoweringError: an op without a rule, or a value the integer graph cannot hold; names op, module and remedy.
            Or the graph computes other integers than the model on the sample; names output, index and both values.
        GraphError: an accumulator bound over int32; names the layer.
    """
    model = frozen.model if isinstance(frozen, FrozenModel) else frozen  # so that paths are the user's own
    inputs = _inputs(frozen, sample)
    graph = optimise(literal_graph(model, inputs))
    meta = _meta(graph, labels, preprocess, name)
    graph = Graph(graph.inputs, graph.outputs, graph.values, graph.nodes, graph.constants, meta)
    check(graph)
    check_bounds(graph)
    prove_equal(model, graph, inputs)
    return graph


def export(
    frozen: nn.Module,
    path: str | os.PathLike[str],
    *,
    labels: Sequence[str] | None = None,
    preprocess: Mapping[str, Any] | None = None,
    name: str | None = None,
    sample: Tensor | Sequence[Tensor] | None = None,
) -> Graph:
    """:func:`lower` ``frozen`` and write the model file ``path`` (atomically); returns the graph.

    Raises:
        LoweringError, GraphError: as :func:`lower`.
        ModelFileError: a value the file cannot hold.
        OSError: the path cannot be written.
    """
    graph = lower(frozen, labels=labels, preprocess=preprocess, name=name, sample=sample)
    modelfile.save(graph, path)
    return graph


def _inputs(frozen: nn.Module, sample: Tensor | Sequence[Tensor] | None) -> tuple[Tensor, ...]:
    found = frozen.example if sample is None and isinstance(frozen, FrozenModel) else sample
    if isinstance(found, Tensor):
        return (found,)
    if found is None or not all(isinstance(x, Tensor) for x in found):
        raise LoweringError(
            f"{type(frozen).__name__} does not remember a sample input: give the result of freeze(model, sample), or "
            "sample=x"
        )
    return tuple(found)


def _meta(
    graph: Graph, labels: Sequence[str] | None, preprocess: Mapping[str, Any] | None, name: str | None
) -> dict[str, Any]:
    meta: dict[str, Any] = {}
    if labels is not None:
        if isinstance(labels, str):
            raise LoweringError(f"labels is the text {labels[:40]!r}; give a list of strings, one a class")
        labels = [str(label) for label in labels]
        classes = graph.values[graph.outputs[-1]].shape
        if classes and classes[-1] != len(labels):
            raise LoweringError(
                f"{len(labels)} labels, but the model's output has {classes[-1]} classes (shape {list(classes)})"
            )
        meta["labels"] = labels
    if preprocess is not None:
        meta["preprocess"] = _preprocess(graph, preprocess)
    if name is not None:
        meta["name"] = name
    modelfile.check_meta(meta)
    return meta


def _preprocess(graph: Graph, found: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(found, Mapping):
        raise LoweringError(f"preprocess is {str(found)[:40]!r}; give a dict, docs/model-file.md section 5")
    plain: dict[str, Any] = {k: list(v) if isinstance(v, (tuple, list)) else v for k, v in found.items()}
    plain = {
        k: [_as_float(x) for x in v] if k in ("mean", "scale") and isinstance(v, list) else v for k, v in plain.items()
    }
    shape = graph.values[graph.inputs[0]].shape
    modelfile.check_meta({"preprocess": plain})
    made = (plain["channels"], *plain["size"])
    if shape not in (made, (math.prod(made),), *([made[1:]] if made[0] == 1 else [])):
        raise LoweringError(
            f"preprocess makes {made[0]} channels of {plain['size']}, but the model's input has shape {list(shape)}; "
            f"it must be {list(made)}, channels first, or its {math.prod(made)} numbers in a row"
        )
    return plain


def _as_float(number: Any) -> Any:
    """A number (also numpy's) as a float; what is none, or too large, stays for the check that names it."""
    try:
        return number if isinstance(number, str) else float(number)
    except (TypeError, ValueError, OverflowError):
        return number

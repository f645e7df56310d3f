"""Quantised ops in a graph of torch.fx, as ``convert_fx`` writes them: as float ops, with the known grids behind."""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from bitshift.nn.foreign_range import KnownRange
from bitshift.nn.plan import ConvertError
from bitshift.nn.trace import argument

_BOUNDS = {torch.qint8: (-128, 127), torch.quint8: (0, 255)}
_PLAIN = {"hardswish": F.hardswish, "relu6": F.relu6}
_SUMS = {"add": operator.add, "add_relu": operator.add, "mul": operator.mul, "mul_relu": operator.mul}


def plain_graph(module: fx.GraphModule) -> None:
    """Rewrite every quantised op of ``module`` in place; ConvertError names one that has no float counterpart."""
    changed = False
    for node in list(module.graph.nodes):
        new = _float_form(module, node)
        if new is not None:
            node.replace_all_uses_with(new)
            module.graph.erase_node(node)
            changed = True
    if changed:
        module.graph.eliminate_dead_code()
        module.delete_all_unused_submodules()
        module.recompile()


def _float_form(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """What takes the place of ``node``, None if it is a float op already."""
    if node.op == "call_method" and node.target == "dequantize":
        return _source(node)
    if node.op != "call_function":
        return None
    if node.target is torch.dequantize:
        return _source(node)
    if node.target is torch.quantize_per_tensor:
        return _ranged(
            module, node, _source(node), scale=argument(node, 1, "scale"), zero_point=argument(node, 2, "zero_point"),
            dtype=argument(node, 3, "dtype"),
        )  # fmt: skip
    name = str(node.target)
    if not name.startswith("quantized."):
        return None
    op = name.split(".")[1]
    with module.graph.inserting_before(node):
        if op in _SUMS:
            new = module.graph.call_function(_SUMS[op], node.args[:2])
            if op.endswith("_relu"):
                new = module.graph.call_function(F.relu, (new,))
        elif op == "cat":
            parts = node.args[0] if node.args else node.kwargs["qx"]
            new = module.graph.call_function(torch.cat, (parts, argument(node, 1, "dim", 0)))
        elif op in _PLAIN:
            new = module.graph.call_function(_PLAIN[op], node.args[:1])
        else:
            raise ConvertError(
                f"the graph calls the quantised op {op!r} at {node.name!r}, which has no float counterpart here (there "
                f"is one for {', '.join(sorted([*_SUMS, *_PLAIN, 'cat']))}); convert the float model it was made from"
            )
    at = 1 if op in _PLAIN else 2
    grid = [*node.args[at : at + 2], *(node.kwargs.get(k) for k in ("scale", "zero_point") if k in node.kwargs)]
    if len(grid) != 2:
        return new
    return _ranged(module, node, new, scale=grid[0], zero_point=grid[1], dtype=_dtype_of(module, new))


def _source(node: fx.Node) -> fx.Node:
    source = node.args[0]
    if not isinstance(source, fx.Node):
        raise ConvertError(f"{node.name!r} dequantises several values at once; convert the float model")
    return source


def _dtype_of(module: fx.GraphModule, value: fx.Node) -> torch.dtype:
    """That of the integers nearest in front of ``value``: the result of a quantised op has its input's."""
    while value.all_input_nodes:
        value = value.all_input_nodes[0]
        if value.op == "call_module":
            ranges = [m for m in module.get_submodule(str(value.target)).modules() if isinstance(m, KnownRange)]
            if ranges:
                return torch.qint8 if ranges[-1].low < 0 else torch.quint8
    return torch.quint8


def _ranged(
    module: fx.GraphModule, node: fx.Node, value: fx.Node, *, scale: Any, zero_point: Any, dtype: Any
) -> fx.Node:
    """``value``, behind it the grid that the quantised op had; none behind integers that are not of 8 bits."""
    numbers = [_constant(module, v) for v in (scale, zero_point)]
    if numbers[0] is None or numbers[1] is None or dtype not in _BOUNDS:
        return value
    path, n = f"{node.name}_range", 1
    while hasattr(module, path):
        n += 1
        path = f"{node.name}_range_{n}"
    module.add_submodule(path, KnownRange(numbers[0], int(numbers[1]), *_BOUNDS[dtype]))
    with module.graph.inserting_before(node):
        return module.graph.call_module(path, (value,))


def _constant(module: nn.Module, argument: Any) -> float | None:
    if isinstance(argument, fx.Node):
        if argument.op != "get_attr":
            return None
        argument = operator.attrgetter(str(argument.target))(module)
    if isinstance(argument, Tensor):
        return float(argument.reshape(-1)[0]) if argument.numel() == 1 else None
    return float(argument) if isinstance(argument, (int, float)) else None


__all__ = ["plain_graph"]

"""Trace a model with torch.fx and say of each node what it does to numbers on a grid."""

from __future__ import annotations

import inspect
import linecache
import operator
import re
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partialmethod
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.graph import CodeGen

from bitshift.nn.activations import ActQuant
from bitshift.nn.foreign_range import KnownRange
from bitshift.nn.layers import ShiftLayer
from bitshift.nn.layers.pointwise import FUNCTIONS, Pointwise
from bitshift.nn.layers.pool import AvgPool
from bitshift.nn.modes import kept_modes
from bitshift.nn.observe import as_args, run_sample
from bitshift.nn.plan import CONVERTIBLE, ConvertError

Kind = Literal[
    "input",
    "output",
    "layer",
    "norm",
    "relu",
    "shape",
    "add",
    "cat",
    "avg_pool",
    "fn",
    "dropout",
    "quant",
    "number",
    "other",
]
"""What a node does: ``shape`` moves or picks numbers (max-pool too), ``relu`` clamps, ``fn`` is a non-linear function,
``number`` is no tensor, ``other`` computes in float."""

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)

_RELU: set[Any] = {F.relu, F.relu_, torch.relu, torch.relu_, F.relu6, "relu", "relu_"}
_CLAMP: set[Any] = {torch.clamp, torch.clamp_min, torch.clip, F.hardtanh, "clamp", "clamp_", "clamp_min", "clip"}
VIEWS: set[Any] = {
    operator.getitem, torch.flatten, torch.reshape, torch.squeeze, torch.unsqueeze, torch.transpose, torch.permute,
    torch.chunk, torch.split, torch.narrow, torch.swapaxes, torch.movedim, "flatten", "reshape", "view", "squeeze",
    "unsqueeze", "transpose", "permute", "contiguous", "chunk", "split", "narrow", "view_as", "reshape_as", "t",
    "unflatten", "movedim", "swapaxes",
}  # fmt: skip
"""Integers pass through these, and the result may lie in the memory of the argument."""
_SHAPE: set[Any] = VIEWS | {
    F.max_pool1d, F.max_pool2d, torch.max_pool1d, torch.max_pool2d, F.adaptive_max_pool1d, F.adaptive_max_pool2d,
    F.max_pool3d, torch.max_pool3d, F.adaptive_max_pool3d, F.pixel_shuffle, F.channel_shuffle, F.pad, "clone",
}  # fmt: skip
_ADD: set[Any] = {operator.add, operator.iadd, torch.add, "add", "add_"}
_UPSAMPLE: set[Any] = {F.interpolate, F.upsample}
_CAT: set[Any] = {torch.cat, torch.concat, torch.concatenate}
_MEAN: set[Any] = {
    torch.mean, "mean", F.avg_pool1d, F.avg_pool2d, F.avg_pool3d, F.adaptive_avg_pool1d, F.adaptive_avg_pool2d,
    F.adaptive_avg_pool3d,
    torch.avg_pool1d, torch.adaptive_avg_pool1d,
}  # fmt: skip
_DROPOUT: set[Any] = {
    F.dropout,
    F.dropout3d,
    F.dropout2d,
    F.dropout1d,
    F.alpha_dropout,
    F.feature_alpha_dropout,
    torch.dropout,
}
_FN: dict[Any, str] = {
    **{getattr(F, name): name for name in FUNCTIONS if hasattr(F, name)},
    torch.sigmoid: "sigmoid", torch.tanh: "tanh", "sigmoid": "sigmoid", "tanh": "tanh",
    "sigmoid_": "sigmoid", "tanh_": "tanh", torch.celu: "celu", torch.selu: "selu",
}  # fmt: skip
_SHAPE_MODULES = (
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
    nn.ZeroPad3d, nn.Flatten, nn.Unflatten, nn.Identity,
    nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle, nn.ZeroPad1d, nn.ZeroPad2d, nn.ReflectionPad1d,
    nn.ReflectionPad2d, nn.ReplicationPad1d, nn.ReplicationPad2d,
)  # fmt: skip
_POOL_MODULES = (
    nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
)  # fmt: skip
_NEAREST = ("nearest", "nearest-exact")
_DROPOUT_MODULES = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
_DROP_PATHS = ("StochasticDepth", "DropPath", "DropBlock2d")
"""Classes of torchvision and timm that drop whole branches in training and pass their input on in evaluation."""
_FN_MODULES: dict[type[nn.Module], str] = {
    nn.Sigmoid: "sigmoid", nn.Tanh: "tanh", nn.GELU: "gelu", nn.SiLU: "silu", nn.Hardswish: "hardswish",
    nn.Hardsigmoid: "hardsigmoid", nn.LeakyReLU: "leaky_relu", nn.ELU: "elu", nn.SELU: "selu", nn.CELU: "celu",
    nn.Softplus: "softplus", nn.Mish: "mish",
}  # fmt: skip
_FN_OPTIONS = ("negative_slope", "alpha", "approximate", "beta", "threshold")
_FN_POSITIONS = {
    "leaky_relu": ("negative_slope",), "elu": ("alpha",), "celu": ("alpha",), "softplus": ("beta", "threshold"),
}  # fmt: skip
_NUMBER_METHODS = {"size", "dim", "numel", "ndimension", "get_device", "is_floating_point"}


def _drops_paths(module: nn.Module | None) -> bool:
    """Whether this is one of ``_DROP_PATHS`` and really hands on its input in evaluation."""
    if type(module).__name__ not in _DROP_PATHS or module is None or any(True for _ in module.parameters()):
        return False
    probe = torch.ones(1, 1, 1, 1)
    with kept_modes(module):
        return module.eval().forward(probe) is probe  # no call: torch.fx is listening to calls while it traces


WRITERS: dict[Callable[..., Any], Callable[..., Any]] = {
    operator.iadd: operator.add, operator.isub: operator.sub, operator.imul: operator.mul,
    operator.itruediv: operator.truediv, operator.ifloordiv: operator.floordiv, operator.imod: operator.mod,
    operator.ipow: operator.pow, operator.iand: operator.and_, operator.ior: operator.or_,
    operator.ixor: operator.xor, operator.ilshift: operator.lshift, operator.irshift: operator.rshift,
}  # fmt: skip
"""Statements like ``x += y``, and what gives the same value without a write."""


class _Proxy(fx.Proxy):
    """A stand-in that notes ``x += y`` as the write that it is; torch.fx takes it for ``x = x + y``.

    Names are those that torch.fx gives: quantisers, and so the keys of state dicts, are called by them.
    """

    def _write(self, operation: Callable[..., Any], other: Any) -> fx.Proxy:
        name = operation.__name__.removeprefix("i")
        return self.tracer.create_proxy("call_function", operation, (self, other), {}, name=name)


for _operation in WRITERS:
    setattr(_Proxy, f"__{_operation.__name__}__", partialmethod(_Proxy._write, _operation))


class _Tracer(fx.Tracer):
    """Leaves: torch's own modules (not containers), this package's, and those that drop paths."""

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        own = m.__module__.startswith("bitshift.nn") or _drops_paths(m)
        return own or super().is_leaf_module(m, module_qualified_name)


def _user_line(error: BaseException) -> str:
    """``file:line: text`` of the deepest frame outside torch and this package."""
    frames = traceback.extract_tb(error.__traceback__)
    here = __file__.rsplit("/", 1)[0]
    own = [f for f in frames if "/torch/" not in f.filename and not f.filename.startswith(here)]
    if not own:
        return "an unknown line"
    last = own[-1]
    text = last.line or linecache.getline(last.filename, last.lineno or 0).strip()
    return f"{last.filename}:{last.lineno}: {text}"


def _left_out(model: nn.Module, given: int | None) -> dict[str, Any]:
    """The parameters of ``forward`` that the sample does not give (all with a default, without one), and defaults."""
    try:
        parameters = list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):  # no python function
        return {}
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    optional = [p for p in parameters[given or 0 :] if p.kind in kinds and p.default is not p.empty]
    return {p.name: p.default for p in optional if p.default is None or isinstance(p.default, (bool, int, float, str))}


def trace(model: nn.Module, sample: Tensor | Sequence[Any] | None = None) -> fx.GraphModule:
    """``model`` as a GraphModule over the same submodules, traced in eval mode.

    Arguments of ``forward`` that ``sample`` does not give keep their defaults for good.

    Raises:
        ConvertError: torch.fx cannot follow it; names the line.
    """
    try:
        with kept_modes(model):
            model.eval()
            fixed = _left_out(model, None if sample is None else len(as_args(sample)))
            graph = _Tracer().trace(model, fixed or None)
            _forget_inputs(graph, fixed)
            traced = fx.GraphModule(model, graph, type(model).__name__)
    except Exception as error:  # torch.fx runs the user's forward with stand-ins, so anything can come out of it
        first = str(error).splitlines()[0] if str(error) else ""
        raise ConvertError(
            f"cannot trace {type(model).__name__} for an integer network, at {_user_line(error)} "
            f"({type(error).__name__}: {first}). Write that line without control flow on tensor values, move it out of "
            "the model, or use activations=None, which swaps layers without tracing"
        ) from error
    return traced


def _forget_inputs(graph: fx.Graph, names: Mapping[str, Any]) -> None:
    """Take out placeholders that were given a constant, and torch.fx's checks of them."""
    for node in [n for n in graph.nodes if n.op == "placeholder"]:
        if not any(re.fullmatch(rf"{name}(_\d+)?", str(node.target)) for name in names):  # torch.fx counts them
            continue
        checks = [u for u in node.users if "assert" in getattr(u.target, "__name__", "") or u.target is operator.eq]
        for check in [*(u for c in checks for u in c.users), *checks]:
            graph.erase_node(check)
        if not node.users:
            graph.erase_node(node)
    graph._codegen = CodeGen()  # concrete arguments make torch.fx flatten the inputs; they are flat now


class _Shapes(fx.Interpreter):
    """Runs a graph and notes each tensor's shape."""

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            n.meta["shape"] = tuple(result.shape)
        return result


def propagate_shapes(traced: fx.GraphModule, sample: Tensor | Sequence[Any] | None) -> None:
    """Store each tensor's shape in ``node.meta["shape"]`` by running ``sample``; without one nothing is known."""
    if sample is None:
        return
    with kept_modes(traced):
        traced.eval()
        run_sample(_Shapes(traced).run, sample)


def argument(node: fx.Node, index: int, name: str, default: Any = None) -> Any:
    """A call's argument by position or name."""
    return node.args[index] if len(node.args) > index else node.kwargs.get(name, default)


def function_of(node: fx.Node, module: nn.Module | None) -> tuple[str, dict[str, Any]]:
    """Name and options of an ``fn`` node."""
    if isinstance(module, Pointwise):
        return module.fn, module.options
    if module is not None:
        return _FN_MODULES[type(module)], {k: getattr(module, k) for k in _FN_OPTIONS if hasattr(module, k)}
    options = {k: v for k, v in node.kwargs.items() if k in _FN_OPTIONS}
    name = _FN[node.target]
    options |= dict(zip(_FN_POSITIONS.get(name, ()), node.args[1:], strict=False))
    return name, options


def _on_coarse_grid(limit: Any) -> bool:
    """Whether a clamp's limit lies on every grid that a network has in practice, so that clamping stays exact."""
    return isinstance(limit, (int, float)) and (limit * 256 == int(limit * 256) if abs(limit) < 2**40 else True)


@dataclass
class Flow:
    """The kinds of a traced model's nodes. State: a cache, dropped by :meth:`forget` after the graph has changed."""

    traced: fx.GraphModule
    _kinds: dict[fx.Node, Kind] = field(default_factory=dict)

    def forget(self) -> None:
        """Drop what is cached."""
        self._kinds.clear()

    def module(self, node: fx.Node) -> nn.Module | None:
        """The module that a node calls."""
        return self.traced.get_submodule(str(node.target)) if node.op == "call_module" else None

    def kind(self, node: fx.Node) -> Kind:
        """What ``node`` does."""
        if node not in self._kinds:
            self._kinds[node] = self._find(node)
        return self._kinds[node]

    def _find(self, node: fx.Node) -> Kind:
        if node.op == "placeholder":
            return "input"
        if node.op == "output":
            return "output"
        if node.op == "get_attr":
            return "other"
        if node.op == "call_module":
            return self._module_kind(self.module(node))
        target: Any = node.target
        inputs = node.all_input_nodes
        if node.op == "call_method" and target in _NUMBER_METHODS:
            return "number"
        if target is getattr and argument(node, 1, "") in ("shape", "ndim", "device", "dtype", "is_cuda"):
            return "number"
        if inputs and all(self.kind(n) == "number" for n in inputs):
            return "number"
        return self._call_kind(node, target)

    def _call_kind(self, node: fx.Node, target: Callable[..., Any] | str) -> Kind:
        if target in _RELU:
            return "relu"
        if target in _CLAMP:
            limits = [
                *node.args[1:3],
                *(v for k, v in node.kwargs.items() if k in ("min", "max", "min_val", "max_val")),
            ]
            return "relu" if all(_on_coarse_grid(v) for v in limits if v is not None) else "other"
        if target in _SHAPE:
            constant_pad = target is F.pad and argument(node, 2, "mode", "constant") == "constant"
            return "other" if constant_pad and argument(node, 3, "value", None) not in (None, 0, 0.0) else "shape"
        if target in _UPSAMPLE:
            return "shape" if argument(node, 3, "mode", "nearest") in _NEAREST else "other"
        if target in _ADD:
            a, b = argument(node, 0, "input"), argument(node, 1, "other")
            both = all(isinstance(v, fx.Node) and self.kind(v) != "number" for v in (a, b))
            return "add" if both and argument(node, 2, "alpha", 1) == 1 else "other"
        if target in _CAT:
            return "cat"
        if target in _MEAN:
            return "avg_pool"
        if target in _DROPOUT:
            return "dropout"
        return "fn" if target in _FN else "other"

    @staticmethod
    def _module_kind(module: nn.Module | None) -> Kind:
        if isinstance(module, ShiftLayer) or type(module) in CONVERTIBLE:
            return "layer"
        if type(module) in BATCH_NORMS:
            return "norm"
        if isinstance(module, nn.Hardtanh):  # nn.ReLU6 is one
            return "relu" if _on_coarse_grid(module.min_val) and _on_coarse_grid(module.max_val) else "other"
        if isinstance(module, nn.ReLU):
            return "relu"
        if isinstance(module, ActQuant):
            return "quant"
        if isinstance(module, AvgPool):
            return "avg_pool"
        if isinstance(module, Pointwise):
            return "fn"
        if isinstance(module, _DROPOUT_MODULES) or _drops_paths(module):
            return "dropout"
        if isinstance(module, _POOL_MODULES):
            return "avg_pool"
        if type(module) in _FN_MODULES:
            return "fn"
        if isinstance(module, nn.Upsample):  # nn.UpsamplingNearest2d is one
            return "shape" if module.mode in _NEAREST else "other"
        plain = isinstance(module, (*_SHAPE_MODULES, KnownRange)) and not getattr(module, "return_indices", False)
        return "shape" if plain else "other"

    def source(self, node: fx.Node) -> fx.Node:
        """The tensor that a one-input node works on."""
        return argument(node, 0, "input") if node.args or "input" in node.kwargs else node.all_input_nodes[0]

    def origins(self, node: fx.Node) -> list[fx.Node]:
        """The nodes whose numbers ``node`` passes on: up through shapes, dropout and concatenation."""
        kind = self.kind(node)
        if node.target is operator.getitem and self.kind(self.source(node)) == "other":
            return [node]  # one of several results (of an LSTM, of max over an axis): there is no tensor further up
        if kind in ("shape", "dropout"):
            return self.origins(self.source(node))
        if kind == "cat":
            found = [o for part in argument(node, 0, "tensors") for o in self.origins(part)]
            return list(dict.fromkeys(found))
        return [node]

    def never_negative(self, node: fx.Node) -> bool:
        """Whether the values of ``node`` are surely >= 0."""
        kind = self.kind(node)
        if kind == "relu":
            return self._clamps_at_zero(node)
        if kind in ("shape", "dropout", "avg_pool"):
            return self.never_negative(self.source(node))
        if kind == "cat":
            return all(self.never_negative(part) for part in argument(node, 0, "tensors"))
        if kind == "add":
            return all(self.never_negative(n) for n in node.all_input_nodes)
        if kind == "fn":
            return function_of(node, self.module(node))[0] in ("sigmoid", "hardsigmoid", "softplus")
        if kind == "quant":
            quant = self.module(node)
            return isinstance(quant, ActQuant) and not quant.signed
        return False

    def _clamps_at_zero(self, node: fx.Node) -> bool:
        module = self.module(node)
        if isinstance(module, nn.Hardtanh):  # nn.ReLU6 is one
            return module.min_val >= 0
        if module is not None or node.target in _RELU:
            return True
        low = argument(node, 1, "min_val" if node.target is F.hardtanh else "min")
        return isinstance(low, (int, float)) and low >= 0


__all__ = ["BATCH_NORMS", "VIEWS", "Flow", "Kind", "argument", "function_of", "propagate_shapes", "trace"]

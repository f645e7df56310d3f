"""Make an integer network of a traced model: fuse norms, place quantisers on values, replace average pools."""

from __future__ import annotations

import logging
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import log2
from typing import Any

import torch
from torch import Tensor, fx, nn

from bitshift.nn.activations import ActQuant
from bitshift.nn.config import ShiftConfig
from bitshift.nn.convert import layer_row, make_layer, other_rows, stay_row
from bitshift.nn.layers import ShiftConv1d, ShiftConv2d, ShiftLayer, ShiftLinear
from bitshift.nn.layers.pointwise import Pointwise
from bitshift.nn.layers.pool import AvgPool
from bitshift.nn.method import Method, get_method
from bitshift.nn.norms import AffineNorm, ChannelNorm, ShiftNorm
from bitshift.nn.plan import Choice, ConvertError, make_method, plan
from bitshift.nn.report import ConversionReport, Row
from bitshift.nn.trace import Flow, argument, function_of, propagate_shapes, trace

logger = logging.getLogger("bitshift")

_GAIN_RANGE = 6.0


def convert_integer(
    model: nn.Module,
    config: ShiftConfig,
    *,
    sample: Tensor | Sequence[Any] | None,
    generator: torch.Generator | None,
) -> tuple[nn.Module, ConversionReport]:
    """The integer branch of ``convert``; ``model`` (a copy already) gives its modules to the result."""
    before = other_rows(model)
    paths = {m: p for p, m in model.named_modules()}
    if not any(type(m) in (nn.Linear, nn.Conv1d, nn.Conv2d) for m in paths) and any(isinstance(m, ActQuant) for m in paths):
        return model, ConversionReport(rows=tuple(before.values()))  # an integer network already
    traced = trace(model)
    propagate_shapes(traced, sample)
    work = _Conversion(traced, config, generator, paths, before)
    work.choose(model)
    work.replace_dropout()
    work.replace_layers()
    work.replace_lone_norms()
    work.replace_pools()
    work.replace_functions()
    work.place_quantisers()
    work.fence_float_operations()
    traced.graph.lint()
    traced.delete_all_unused_submodules()
    traced.recompile()
    traced.train(model.training)
    return traced, ConversionReport(rows=tuple(work.report(model)))


@dataclass
class _Demand:
    """``reader`` needs quantised numbers from ``value``; ``bits`` is a wish."""

    value: fx.Node
    bits: int


class _Groups:
    """Union-find over nodes: those of one group share a quantiser."""

    def __init__(self) -> None:
        self._parent: dict[fx.Node, fx.Node] = {}

    def find(self, node: fx.Node) -> fx.Node:
        self._parent.setdefault(node, node)
        while self._parent[node] is not node:
            node = self._parent[node]
        return node

    def join(self, nodes: Iterable[fx.Node]) -> None:
        first: fx.Node | None = None
        for node in nodes:
            root = self.find(node)
            first = first or root
            self._parent[root] = self.find(first)

    def __contains__(self, node: fx.Node) -> bool:
        return node in self._parent

    def members(self) -> dict[fx.Node, list[fx.Node]]:
        """Groups by their root, in order of registration."""
        groups: dict[fx.Node, list[fx.Node]] = {}
        for node in self._parent:
            groups.setdefault(self.find(node), []).append(node)
        return groups


class _Conversion:
    """One conversion. State: the graph that is being rewritten, and the report's rows so far."""

    def __init__(
        self,
        traced: fx.GraphModule,
        config: ShiftConfig,
        generator: torch.Generator | None,
        paths: dict[nn.Module, str],
        rows: dict[nn.Module, Row],
    ) -> None:
        assert isinstance(config.activations, int)
        self.traced, self.config, self.generator, self.bits = traced, config, generator, config.activations
        self.flow = Flow(traced)
        self.paths, self.rows = paths, rows
        self.extra: list[Row] = []
        self.choices: dict[nn.Module, Choice] = {}
        self.kept: set[nn.Module] = set()

    # --- modules -------------------------------------------------------------------------------------------------

    def calls(self, kind: str) -> list[fx.Node]:
        """The nodes of one kind, in order."""
        return [n for n in self.traced.graph.nodes if self.flow.kind(n) == kind]

    def set_module(self, path: str, module: nn.Module) -> None:
        """Put ``module`` at ``path``, over what is there."""
        parent, _, name = path.rpartition(".")
        owner = self.traced.get_submodule(parent)
        owner._modules[name] = module
        self.flow.forget()

    def add_module(self, name: str, module: nn.Module) -> str:
        """Put ``module`` at a free path like ``name``; returns the path."""
        path = "".join(c if c.isalnum() else "_" for c in name)
        taken, n = path, 1
        while hasattr(self.traced, taken):
            n += 1
            taken = f"{path}_{n}"
        self.traced.add_submodule(taken, module)
        return taken

    def insert(self, after: fx.Node, path: str, args: tuple[Any, ...]) -> fx.Node:
        """Append a call of the module at ``path`` behind ``after``."""
        with self.traced.graph.inserting_after(after):
            node = self.traced.graph.call_module(path, args)
        if "shape" in after.meta:
            node.meta["shape"] = after.meta["shape"]
        return node

    def rank(self, node: fx.Node) -> int | None:
        """Axes of a node's tensor with the batch, where a sample told."""
        shape = node.meta.get("shape")
        return None if shape is None else len(shape)

    # --- steps ---------------------------------------------------------------------------------------------------

    def choose(self, model: nn.Module) -> None:
        """Decide for every layer; layers that the trace does not call stay."""
        called = [self.flow.module(n) for n in self.calls("layer")]
        reached = {m for m in called if m is not None}
        self.choices = plan(model, self.config, [m for m in called if m is not None])
        for module, choice in self.choices.items():
            path = self.paths[module]
            note = choice.note if module in reached else "not called in the traced forward (inside a torch module, or unused)"
            if choice.method is None or module not in reached:
                self.kept.add(module)
                self.rows[module] = stay_row(path, module, note)
                if not note.startswith("kept float"):
                    logger.warning("convert: %r stays float: %s", path, note)

    def replace_dropout(self) -> None:
        """Functional dropout was traced in eval mode; a module follows ``train()`` again."""
        for node in [n for n in self.calls("dropout") if n.op == "call_function"]:
            name = getattr(node.target, "__name__", "dropout")
            cls = {"dropout1d": nn.Dropout1d, "dropout2d": nn.Dropout2d, "alpha_dropout": nn.AlphaDropout}.get(name, nn.Dropout)
            path = self.add_module(node.name, cls(argument(node, 1, "p", 0.5)))
            new = self.insert(node, path, (self.flow.source(node),))
            self.swap(node, new)

    def swap(self, old: fx.Node, new: fx.Node) -> None:
        """``new`` instead of ``old`` everywhere."""
        old.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)
        self.traced.graph.erase_node(old)
        self.flow.forget()

    def norm_behind(self, node: fx.Node) -> fx.Node | None:
        """The norm node that is the only reader of layer ``node``, if it can be fused."""
        users = list(node.users)
        if len(users) != 1 or self.flow.kind(users[0]) != "norm" or self.flow.source(users[0]) is not node:
            return None
        norm, layer = self.flow.module(users[0]), self.flow.module(node)
        both = [n.target for n in self.traced.graph.nodes if n.op == "call_module"]
        if both.count(node.target) > 1 or both.count(users[0].target) > 1:
            return None
        if isinstance(layer, (nn.Linear, ShiftLinear)) and self.rank(node) not in (None, 2):
            return None
        channels = layer.method.shape[0] if isinstance(layer, ShiftLayer) else layer.weight.shape[0]  # type: ignore[union-attr]
        return users[0] if norm.running_mean is not None and norm.num_features == channels else None  # type: ignore[union-attr]

    def replace_layers(self) -> None:
        """Shift layers for the chosen ones, with the norm behind them."""
        methods: dict[Any, tuple[Method, str]] = {}
        done: set[nn.Module] = set()
        for node in self.calls("layer"):
            module = self.flow.module(node)
            if module is None or module in self.kept or module in done:
                continue
            behind = self.norm_behind(node)
            norm = self.flow.module(behind) if behind is not None else None
            if isinstance(module, ShiftLayer):
                layer, described = self._adopt(str(node.target), module, norm), type(norm).__name__ if norm else ""
            else:
                layer, described, note = self._build(module, norm, methods)
                self.rows[module] = layer_row(self.paths[module], module, layer, norm=described, note=note)
                self.set_module(str(node.target), layer)
            done.add(layer)
            if behind is not None and norm is not None:
                self.rows[norm] = Row(path=self.paths[norm], was=type(norm).__name__, became=f"(part of {node.target})")
                self.swap_for_input(behind, node)

    def swap_for_input(self, node: fx.Node, source: fx.Node) -> None:
        """Remove a one-input node."""
        node.replace_all_uses_with(source)
        self.traced.graph.erase_node(node)
        self.flow.forget()

    def _adopt(self, path: str, layer: ShiftLayer, norm: nn.Module | None) -> ShiftLayer:
        """A weight-only shift layer from an earlier conversion joins the integer network."""
        if layer.is_integer:
            return layer
        if layer.input_quant is not None:
            raise ConvertError(f"layer {path!r} has fixed-point inputs; convert the original model instead")
        if norm is not None and not self.config.multiplier:
            raise ConvertError(
                f"layer {path!r} is a shift layer already and a norm follows: without a multiplier the norm must be folded into the "
                "weight before it is quantised. Convert the original model, or set multiplier=True"
            )
        if norm is not None:
            layer.norm = _affine_norm(norm)
        return layer

    def _build(
        self, module: nn.Module, norm: nn.Module | None, methods: dict[Any, tuple[Method, str]]
    ) -> tuple[ShiftLayer, str, str]:
        """Layer, description of its norm and a note for one nn.Linear or nn.Conv."""
        choice, weight, bias = self.choices[module], module.weight, module.bias
        assert isinstance(weight, Tensor)
        new_norm: ChannelNorm | None = None
        described, fold = "", None
        if norm is not None and self.config.multiplier:
            new_norm, described = _affine_norm(norm), "AffineNorm (16-bit multiplier)"
        elif norm is not None and choice.pretrained:
            fold = _bn_gain(norm)
            new_norm, described = _folded_norm(norm, bias), "folded; mean-only ShiftNorm"
            bias = None
        elif norm is not None:
            new_norm, described = _fresh_shift_norm(norm), "ShiftNorm"
        if fold is not None:
            folded = weight.detach().float() * fold.float().view(-1, *[1] * (weight.dim() - 1))
            folded.requires_grad_(weight.requires_grad)
            method, note = make_method(choice, folded, norm_behind=True, generator=self.generator)
        elif weight in methods:
            method, note = methods[weight]
        else:
            method, note = make_method(choice, weight, norm_behind=norm is not None, generator=self.generator)
            methods[weight] = (method, note)
        layer = make_layer(module, method, norm=new_norm, bias=bias)  # type: ignore[arg-type]
        return layer, described, note

    def replace_lone_norms(self) -> None:
        """A norm that no layer can take in becomes a layer of its own: one weight of +1 per channel."""
        for node in self.calls("norm"):
            norm, source = self.flow.module(node), self.flow.source(node)
            assert norm is not None
            path = str(node.target)
            float_layer = self.flow.kind(source) == "layer" and self.flow.module(source) in self.kept
            if norm.running_mean is None or float_layer:
                reason = "norm behind a float layer" if float_layer else "norm without running statistics"
                self.rows[norm] = stay_row(self.paths[norm], norm, f"{reason}, in float")
                continue
            if isinstance(norm, (ShiftLayer,)):
                continue
            layer = self._norm_layer(norm, self.rank(node))
            self.set_module(path, layer)
            note = "no layer before it can take it in: one weight of +1 a channel"
            described = "AffineNorm" if self.config.multiplier else "ShiftNorm"
            self.rows[norm] = Row(
                path=self.paths[norm], was=type(norm).__name__, became=type(layer).__name__, method="nearest", format=layer.method.format.name,
                bits=layer.method.format.bits, weights=layer.method.codes().numel(), scale="1", norm=described, note=note,
            )  # fmt: skip

    def _norm_layer(self, norm: nn.Module, rank: int | None) -> ShiftLayer:
        channels = int(norm.num_features)  # type: ignore[arg-type]
        new_norm: ChannelNorm = _affine_norm(norm) if self.config.multiplier else _fresh_shift_norm(norm)
        if not self.config.multiplier and self.config.init == "pretrained":
            new_norm.running_mean.copy_(norm.running_mean)  # type: ignore[arg-type]
            new_norm.running_var.copy_(norm.running_var)  # type: ignore[arg-type]
            new_norm.num_batches_tracked.fill_(1)
        nearest: Any = get_method("nearest")
        flat = isinstance(norm, nn.BatchNorm1d) and rank in (None, 2)
        if flat:
            weight, form = torch.eye(channels), "pot2"
        else:
            weight, form = torch.ones(channels, 1, *[1] * (1 if isinstance(norm, nn.BatchNorm1d) or rank == 3 else 2)), "pot1"
        method = nearest.from_float(weight, form, scale=torch.ones(channels)).requires_grad_(False)
        method = method.to(norm.running_mean.device)  # type: ignore[union-attr]
        if flat:
            return ShiftLinear(method, norm=new_norm)
        cls = ShiftConv1d if weight.dim() == 3 else ShiftConv2d
        return cls(method, groups=channels, norm=new_norm)

    def replace_pools(self) -> None:
        """Average pools and means over all spatial axes become ``AvgPool``; others are left in float."""
        for node in self.calls("avg_pool"):
            found = self._pool(node)
            if isinstance(found, str):
                self.extra.append(Row(path=str(node.target) if node.op == "call_module" else node.name, was=_name(node), note=found))
                continue
            pool, flat = found
            module = self.flow.module(node)
            was = type(module).__name__ if module is not None else _name(node)
            if module is not None:
                self.set_module(str(node.target), pool)
                new, path = node, str(node.target)
            else:
                path = self.add_module(node.name, pool)
                new = self.insert(node, path, (self.flow.source(node),))
                self.swap(node, new)
            if flat:
                with self.traced.graph.inserting_after(new):
                    flatten = self.traced.graph.call_function(torch.flatten, (new, 1))
                new.replace_all_uses_with(flatten, delete_user_cb=lambda user, keep=flatten: user is not keep)
                self.flow.forget()
            self.extra.append(Row(path=path, was=was, became="AvgPool", note=pool.extra_repr()))

    def _pool(self, node: fx.Node) -> tuple[AvgPool, bool] | str:
        """The pool for an average, and whether the spatial axes vanish; or why it stays in float."""
        from bitshift.nn.pools import pool_of

        shape = self.flow.source(node).meta.get("shape")
        return pool_of(node, self.flow.module(node), shape, power_of_two=not self.config.multiplier)

    def replace_functions(self) -> None:
        """Non-linear functions become ``Pointwise`` modules."""
        for node in self.calls("fn"):
            name, options = function_of(node, self.flow.module(node))
            path = self.add_module(node.name, Pointwise(name, **options))
            new = self.insert(node, path, (self.flow.source(node),))
            self.swap(node, new)
            self.extra.append(Row(path=path, was=name, became="Pointwise", note="a table between two quantisers"))

    # --- quantisers ----------------------------------------------------------------------------------------------

    def reads_integers(self, node: fx.Node) -> bool:
        """Whether ``node`` calls one of our modules that needs quantised input."""
        module = self.flow.module(node)
        return isinstance(module, (ShiftLayer, AvgPool, Pointwise)) and module not in self.kept

    def place_quantisers(self) -> None:
        """Quantise each value that an integer module reads, and the second of two wide values that are added."""
        groups, demands, by_module = _Groups(), [], {}
        for node in self.traced.graph.nodes:
            if not self.reads_integers(node):
                continue
            module, source = self.flow.module(node), self.flow.source(node)
            wish = 8 if isinstance(module, Pointwise) else self.bits
            origins = self.flow.origins(source)
            demands += [_Demand(o, wish) for o in origins]
            groups.join(origins)
            groups.join([*by_module.setdefault(module, []), *origins])
            by_module[module] += origins
            if isinstance(module, Pointwise):  # its output is a table's: quantised at once
                demands.append(_Demand(node, self.bits))
                groups.join([node])
        for node in self.calls("add"):
            node.target, node.op = operator.add, "call_function"  # in place it would round to the first one's dtype
            node.args, node.kwargs = (argument(node, 0, "input"), argument(node, 1, "other")), {}
            a, b = (self.flow.origins(n) for n in node.args)
            if not all(o in groups or self.flow.kind(o) == "quant" for o in a) and not all(o in groups or self.flow.kind(o) == "quant" for o in b):
                demands += [_Demand(o, self.bits) for o in b]
                groups.join(b)
        self.flow.forget()
        placed = self._insert_quantisers(groups, demands)
        for node in list(self.traced.graph.nodes):
            if self.reads_integers(node) and not isinstance(self.flow.module(node), AvgPool):
                module = self.flow.module(node)
                assert isinstance(module, (ShiftLayer, Pointwise))
                module.set_input(placed[self.flow.origins(self.flow.source(node))[0]])

    def _insert_quantisers(self, groups: _Groups, demands: list[_Demand]) -> dict[fx.Node, ActQuant]:
        """Insert one shared quantiser per group; returns the quantiser by quantised node and by inserted node."""
        placed: dict[fx.Node, ActQuant] = {}
        wishes: dict[fx.Node, list[int]] = {}
        for demand in demands:
            wishes.setdefault(groups.find(demand.value), []).append(demand.bits)
        for root, members in groups.members().items():
            existing = [m for m in members if self.flow.kind(m) == "quant"]
            bits = 8 if any(self.flow.kind(m) == "input" for m in members) else min(wishes[root])
            if existing:
                quant, path = self.flow.module(existing[0]), str(existing[0].target)
                assert isinstance(quant, ActQuant)
            else:
                quant = ActQuant(bits, signed=not all(self.flow.never_negative(m) for m in members))
                path = self.add_module(f"{members[0].name}_quant", quant)
                quant.path = path
                values = ", ".join(m.name for m in members)
                self.extra.append(Row(path=path, was=f"value {values}", became="ActQuant", quantiser=quant.describe()))
            for node in members:
                placed[node] = quant
                if self.flow.kind(node) == "quant":
                    continue
                new = self.insert(node, path, (node,))
                node.replace_all_uses_with(new, delete_user_cb=lambda user, keep=new: user is not keep)
                placed[new] = quant
            self.flow.forget()
        return placed

    def fence_float_operations(self) -> None:
        """Operations that are not exact on wide values get float32, and are reported."""
        for node in list(self.traced.graph.nodes):
            kind, module = self.flow.kind(node), self.flow.module(node)
            is_float = kind == "other" or (kind in ("layer", "norm") and not self.reads_integers(node))
            is_float = is_float or (kind == "avg_pool") or (kind == "other" and module is not None)
            if isinstance(module, (AvgPool, Pointwise)) or not is_float or node.op == "get_attr":
                continue
            for source in node.all_input_nodes:
                if self.flow.kind(source) in ("number", "other", "quant") or source.op == "get_attr":
                    continue
                with self.traced.graph.inserting_before(node):
                    cast = self.traced.graph.call_method("float", (source,))
                node.replace_input_with(source, cast)
            if kind == "other" and (module is None or module not in self.rows):
                path = str(node.target) if module is not None else node.name
                note = "computed in float; export refuses what integers cannot do"
                self.extra.append(Row(path=path, was=_name(node) if module is None else type(module).__name__, note=note))
        self.flow.forget()

    def report(self, model: nn.Module) -> list[Row]:
        """Rows of the modules in their order, then those of quantisers, pools and functions."""
        return [*(self.rows[m] for m in model.modules() if m in self.rows), *self.extra]


def _name(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


def _bn_gain(norm: nn.Module) -> Tensor:
    """gamma / sigma of a batch norm, float64."""
    gain = torch.rsqrt(norm.running_var.double() + norm.eps)  # type: ignore[union-attr, operator]
    return gain if norm.weight is None else gain * norm.weight.detach().double()  # type: ignore[operator]


def _affine_norm(norm: nn.Module) -> AffineNorm:
    """The same norm as ours, with all its state."""
    new = AffineNorm(int(norm.num_features), eps=norm.eps, momentum=norm.momentum).to(norm.running_mean.device)  # type: ignore
    with torch.no_grad():
        if norm.weight is not None:
            new.weight.copy_(norm.weight)  # type: ignore[arg-type]
            new.bias.copy_(norm.bias)  # type: ignore[arg-type]
        new.running_mean.copy_(norm.running_mean)  # type: ignore[arg-type]
        new.running_var.copy_(norm.running_var)  # type: ignore[arg-type]
        new.num_batches_tracked.copy_(norm.num_batches_tracked)  # type: ignore[arg-type]
    return new.train(norm.training)


def _fresh_shift_norm(norm: nn.Module) -> ShiftNorm:
    """A norm for a weight that starts anew: the learned gain is |gamma|, at least 2**-6 so that it can grow."""
    new = ShiftNorm(int(norm.num_features), eps=norm.eps, momentum=norm.momentum).to(norm.running_mean.device)  # type: ignore
    with torch.no_grad():
        if norm.weight is not None and new.log2_gain is not None:
            new.log2_gain.copy_(norm.weight.abs().clamp_min(2.0**-_GAIN_RANGE).log2())  # type: ignore[operator]
            new.bias.copy_(norm.bias)  # type: ignore[arg-type]
    return new.train(norm.training)


def _folded_norm(norm: nn.Module, bias: Tensor | None) -> ShiftNorm:
    """The mean-only norm behind a weight that the norm's gain has been folded into."""
    gain = _bn_gain(norm)
    new = ShiftNorm(int(norm.num_features), eps=norm.eps, momentum=norm.momentum, learn_scale=False)  # type: ignore
    new = new.to(norm.running_mean.device)  # type: ignore[union-attr]
    with torch.no_grad():
        mean = norm.running_mean.double()  # type: ignore[operator]
        new.running_mean.copy_((mean if bias is None else mean - bias.double()) * gain)
        new.running_var.copy_(norm.running_var.double() * gain.square())  # type: ignore[operator]
        new.num_batches_tracked.copy_(norm.num_batches_tracked)  # type: ignore[arg-type]
        if norm.bias is not None:
            new.bias.copy_(norm.bias)  # type: ignore[arg-type]
    return new.train(norm.training)


__all__ = ["convert_integer", "log2"]

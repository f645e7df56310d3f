"""Make an integer network of a traced model: fuse norms, place quantisers on values, replace average pools."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from bitshift.nn.activations import ActQuant
from bitshift.nn.config import ShiftConfig
from bitshift.nn.convert import layer_row, make_layer, other_rows, stay_row
from bitshift.nn.fold import BatchNorm, affine_norm, folded_gain, folded_norm, fresh_shift_norm, norm_layer
from bitshift.nn.foreign_range import KnownRange
from bitshift.nn.gains import Unmatched
from bitshift.nn.inplace import follow_writes
from bitshift.nn.layers import ShiftEmbedding, ShiftLayer, ShiftLinear
from bitshift.nn.layers.pointwise import Pointwise
from bitshift.nn.layers.pool import AvgPool
from bitshift.nn.method import Method
from bitshift.nn.norms import ChannelNorm
from bitshift.nn.place import fence_float_operations, operation_name, place_quantisers
from bitshift.nn.plan import CONVERTIBLE, Choice, ConvertError, make_method, plan
from bitshift.nn.pools import pool_of
from bitshift.nn.report import ConversionReport, Row
from bitshift.nn.trace import Flow, argument, function_of, propagate_shapes, trace
from bitshift.nn.weights import method_weight, output_channels

logger = logging.getLogger("bitshift")


def convert_integer(
    model: nn.Module,
    config: ShiftConfig,
    *,
    sample: Tensor | Sequence[Any] | None,
    generator: torch.Generator | None,
    new: Sequence[str] = (),
) -> tuple[nn.Module, ConversionReport]:
    """The integer branch of ``convert``; ``model`` (a copy already) gives its modules to the result."""
    if type(model) in CONVERTIBLE:
        raise ConvertError(
            f"the model is a {type(model).__name__} alone, which leaves no place for quantisers: convert "
            "nn.Sequential(model), or its weights only (activations=None)"
        )
    before = other_rows(model)
    modes = {m: m.training for m in model.modules()}
    paths = {m: p for p, m in model.named_modules()}
    if not any(type(m) in CONVERTIBLE for m in paths) and any(isinstance(m, ActQuant) for m in paths):
        return model, ConversionReport(rows=tuple(before.values()))  # an integer network already
    traced = trace(model, sample)
    follow_writes(traced)
    propagate_shapes(traced, sample)
    work = _Conversion(traced, config, generator, paths, before)
    work.choose(model, new)
    work.take_ranges()
    work.replace_dropout()
    work.replace_layers()
    work.replace_lone_norms()
    work.replace_pools()
    work.replace_functions()
    place_quantisers(work)
    fence_float_operations(work)
    traced.graph.lint()
    traced.delete_all_unused_submodules()
    traced.recompile()
    for module in traced.modules():  # layers and norms have the flags of those that they replace
        if not isinstance(module, (ShiftLayer, Method, ChannelNorm)):
            module.training = modes.get(module, model.training)
    return traced, ConversionReport(rows=tuple(work.report(model)))


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

    def choose(self, model: nn.Module, new: Sequence[str]) -> None:
        """Decide for every layer; layers that the trace does not call stay."""
        called = [self.flow.module(n) for n in self.calls("layer")]
        reached = {m for m in called if m is not None}
        self.choices = plan(model, self.config, [m for m in called if m is not None], new)
        for node in self.traced.graph.nodes:
            owner = str(node.target).rpartition(".")[0] if node.op == "get_attr" else ""
            choice = self.choices.get(self.traced.get_submodule(owner)) if owner else None
            if choice is not None and choice.method is not None:
                raise ConvertError(
                    f"forward uses {node.target!r} itself, of a layer that is converted, and an integer layer has no "
                    "float weight; call a layer that shares the weight (nn.Linear with the embedding's weight), or "
                    f"keep {owner!r} float by a rule"
                )
        for module, choice in self.choices.items():
            path = self.paths[module]
            note = choice.note if module in reached else "the traced forward does not call it (inside a torch module?)"
            if choice.method is None or module not in reached:
                self.kept.add(module)
                self.rows[module] = stay_row(path, module, note)
                if not choice.intended:
                    logger.warning("convert: %r stays float: %s", path, note)

    def take_ranges(self) -> None:
        """A grid that another method chose for a value becomes its quantiser where we have the very same one."""
        for node in [n for n in self.traced.graph.nodes if isinstance(self.flow.module(n), KnownRange)]:
            known, path = self.flow.module(node), str(node.target)
            assert isinstance(known, KnownRange)
            entry = all(self.flow.kind(n) == "input" for n in self.flow.origins(self.flow.source(node)))
            quant = known.quantiser(8 if entry else self.bits)
            if isinstance(quant, str):
                node.replace_all_uses_with(self.flow.source(node))
                self.traced.graph.erase_node(node)
                note = f"not taken over: {quant}; calibrate(model, batches) or training sets a new one"
                self.extra.append(Row(path=path, was="grid of a value", note=note))
                self.flow.forget()
                continue
            quant.path = path
            self.set_module(path, quant.to(next((p.device for p in self.traced.parameters()), None)))
            row = Row(
                path=path, was="grid of a value", became="ActQuant", quantiser=quant.describe(), note="taken over"
            )
            self.extra.append(row)

    def replace_dropout(self) -> None:
        """Functional dropout was traced in eval mode; a module follows ``train()`` again."""
        for node in [n for n in self.calls("dropout") if n.op == "call_function"]:
            name = getattr(node.target, "__name__", "dropout")
            kinds = {
                "dropout1d": nn.Dropout1d,
                "dropout2d": nn.Dropout2d,
                "dropout3d": nn.Dropout3d,
                "alpha_dropout": nn.AlphaDropout,
                "feature_alpha_dropout": nn.FeatureAlphaDropout,
            }
            cls = kinds.get(name, nn.Dropout)
            p = argument(node, 1, "p", 0.5)
            path = self.add_module(node.name, cls(p))
            # without a word functional's drop, but for the two of alpha; torch.dropout has to be told
            on = argument(node, 2, "train" if node.target is torch.dropout else "training", "alpha" not in name)
            if on is True and p:
                note = "on in eval, too, in the float network (training=True, or left out); here in training only"
                self.extra.append(Row(path=path, was=name, became=cls.__name__, note=note))
            new = self.insert(node, path, (self.flow.source(node),))
            self.swap(node, new)

    def swap(self, old: fx.Node, new: fx.Node) -> None:
        """``new`` instead of ``old`` everywhere."""
        old.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)
        self.traced.graph.erase_node(old)
        self.flow.forget()

    def norm_behind(self, node: fx.Node) -> fx.Node | None:
        """The norm node that is the only reader of layer ``node``, if the layer can take it in."""
        users = list(node.users)
        if len(users) != 1 or self.flow.kind(users[0]) != "norm" or self.flow.source(users[0]) is not node:
            return None
        norm, layer = self.flow.module(users[0]), self.flow.module(node)
        assert isinstance(norm, BatchNorm)
        assert layer is not None
        called = [n.target for n in self.traced.graph.nodes if n.op == "call_module"]
        if called.count(node.target) > 1 or called.count(users[0].target) > 1:
            return None
        if isinstance(layer, (nn.Linear, ShiftLinear)) and self.rank(node) not in (None, 2):
            return None  # the norm's channels are then not the layer's
        if isinstance(layer, ShiftLayer) and layer.norm is not None:
            return None
        if isinstance(layer, (nn.Embedding, ShiftEmbedding)):
            return None  # its scales belong to rows, not to channels
        channels = layer.method.shape[0] if isinstance(layer, ShiftLayer) else output_channels(layer)
        return users[0] if norm.running_mean is not None and norm.num_features == channels else None

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
            assert norm is None or isinstance(norm, BatchNorm)
            if isinstance(module, ShiftLayer):
                layer = self._adopt(str(node.target), module, norm)
            else:
                layer, described, note = self._build(module, norm, methods)
                self.rows[module] = layer_row(self.paths[module], module, layer, norm=described, note=note)
                self.set_module(str(node.target), layer)
            done.add(layer)
            if behind is not None and norm is not None:
                self.rows[norm] = Row(path=self.paths[norm], was=type(norm).__name__, became=f"(part of {node.target})")
                behind.replace_all_uses_with(node)
                self.traced.graph.erase_node(behind)
                self.flow.forget()

    def _adopt(self, path: str, layer: ShiftLayer, norm: BatchNorm | None) -> ShiftLayer:
        """A weight-only shift layer from an earlier conversion joins the integer network."""
        if layer.is_integer:
            return layer
        if layer.input_quant is not None:
            raise ConvertError(f"layer {path!r} has fixed-point inputs; convert the original model instead")
        if norm is not None and not self.config.multiplier:
            raise ConvertError(
                f"layer {path!r} is a shift layer already and a norm follows: without a multiplier the norm must be "
                "folded into the weight before that is quantised. Convert the original model, or set multiplier=True"
            )
        if norm is not None:
            layer.norm = affine_norm(norm)
        return layer

    def _build(
        self, module: nn.Module, norm: BatchNorm | None, methods: dict[Any, tuple[Method, str]]
    ) -> tuple[ShiftLayer, str, str]:
        """Layer, description of its norm and a note for one convertible module."""
        choice, weight, bias = self.choices[module], method_weight(module), getattr(module, "bias", None)
        key = module.weight  # tied weights share one method
        assert bias is None or isinstance(bias, Tensor)
        new_norm: ChannelNorm | None = None
        described, fold = "", None
        if norm is not None and self.config.multiplier:
            new_norm, described = affine_norm(norm), "AffineNorm (16-bit multiplier)"
        elif norm is not None and choice.pretrained:
            fold = folded_gain(norm)
            new_norm, described = folded_norm(norm, bias), "folded; mean-only ShiftNorm"
            bias = None
        elif norm is not None:
            new_norm, described = fresh_shift_norm(norm), "ShiftNorm"
        if fold is not None:
            folded = weight.detach().float() * fold.float().view(-1, *[1] * (weight.dim() - 1))
            folded.requires_grad_(weight.requires_grad)
            method, note = make_method(choice, folded, norm_behind=True, generator=self.generator)
            if sum(m.weight is key for m in self.choices) > 1:
                note = "; ".join(filter(None, [note, "its weight is no longer tied: its own norm is folded in"]))
        elif key in methods:
            method, note = methods[key]
            note = choice.note or note
        else:
            method, note = make_method(
                choice, weight, norm_behind=norm is not None, generator=self.generator, pot_step=True
            )
            methods[key] = (method, note)
        layer = make_layer(module, method, norm=new_norm, bias=bias)
        if new_norm is not None and norm is not None:
            new_norm.train(norm.training)  # which may be held still in a layer that trains
        if fold is not None:
            layer.unmatched = Unmatched(choice, folded.detach())
            layer.fold_gain(fold)
        return layer, described, note

    def replace_lone_norms(self) -> None:
        """A norm that no layer can take in becomes a layer of its own: one weight of +1 or -1 per channel."""
        for node in self.calls("norm"):
            norm, source = self.flow.module(node), self.flow.source(node)
            assert isinstance(norm, BatchNorm)
            path = self.paths[norm]
            after_float = self.flow.kind(source) == "layer" and self.flow.module(source) in self.kept
            if norm.running_mean is None or after_float:
                reason = "behind a float layer" if after_float else "has no running statistics"
                self.rows[norm] = stay_row(path, norm, f"norm {reason}: in float")
                continue
            if isinstance(norm, nn.BatchNorm1d) and self.rank(node) is None:
                raise ConvertError(
                    f"norm {path!r} has no layer before it, and whether its values are (N, C) or (N, C, L) decides "
                    "what becomes of it: give convert(..., sample=)"
                )
            multiplier, pretrained = self.config.multiplier, self.config.init == "pretrained"
            layer = norm_layer(norm, self.rank(node), multiplier=multiplier, pretrained=pretrained)
            self.set_module(str(node.target), layer)
            note = "no layer before it can take it in" + ("" if multiplier else "; its gain is now a power of two")
            described = "AffineNorm (16-bit multiplier)" if multiplier else "ShiftNorm"
            self.rows[norm] = layer_row(path, norm, layer, norm=described, note=note)

    def replace_pools(self) -> None:
        """Average pools and means over all spatial axes become ``AvgPool``; others are left in float."""
        for node in [n for n in self.calls("avg_pool") if not isinstance(self.flow.module(n), AvgPool)]:
            found = self._pool(node)
            module = self.flow.module(node)
            was = operation_name(node, module)
            if isinstance(found, str):
                path = str(node.target) if module is not None else node.name
                self.extra.append(Row(path=path, was=was, note=found))
                continue
            pool, flat = found
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
        shape = self.flow.source(node).meta.get("shape")
        return pool_of(node, self.flow.module(node), shape, power_of_two=not self.config.multiplier)

    def replace_functions(self) -> None:
        """Non-linear functions become ``Pointwise`` modules."""
        for node in [n for n in self.calls("fn") if not isinstance(self.flow.module(n), Pointwise)]:
            name, options = function_of(node, self.flow.module(node))
            path = self.add_module(node.name, Pointwise(name, **options))
            new = self.insert(node, path, (self.flow.source(node),))
            self.swap(node, new)
            self.extra.append(Row(path=path, was=name, became="Pointwise", note="a table between two quantisers"))

    def report(self, model: nn.Module) -> list[Row]:
        """Rows of the modules in their order, then those of quantisers, pools and functions."""
        return [*(self.rows[m] for m in model.modules() if m in self.rows), *self.extra]


__all__ = ["convert_integer"]

"""Models that another method has quantised, or whose weights are computed: as plain float layers that mean the same.

What is known of other libraries is known by the shape of their classes; none of them is imported.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from bitshift.nn.foreign_graph import plain_graph
from bitshift.nn.foreign_range import KnownRange, brevitas_range, range_of
from bitshift.nn.plan import CONVERTIBLE, ConvertError

_AO = "torch.ao.nn."
_TOOLKITS = ("torch.ao.quantization", "torchao.quantization")
_WATCHERS = ("FakeQuantizeBase", "FakeQuantizerBase", "ObserverBase", "QuantStub", "DeQuantStub")
"""Modules that only round or watch a value."""
_QUANTISERS = ("weight_fake_quant", "weight_fake_quantizer", "weight_quantizer", "_weight_quantizer")
"""Where torch.ao, torchao and NVIDIA's toolkits keep the module that rounds a layer's weight."""
_SAME: dict[str, Callable[[Any], nn.Module]] = {
    "ReLU6": lambda _: nn.ReLU6(),
    "Hardswish": lambda _: nn.Hardswish(),
    "Sigmoid": lambda _: nn.Sigmoid(),
    "ELU": lambda m: nn.ELU(m.alpha),
    "LeakyReLU": lambda m: nn.LeakyReLU(m.negative_slope),
    "Softmax": lambda m: nn.Softmax(m.dim),
    "Dropout": lambda m: nn.Dropout(m.p),
}
"""torch.ao's quantised modules without weights, and what they do in float."""
_BREVITAS: dict[str, Callable[[], nn.Module]] = {
    "QuantReLU": nn.ReLU, "QuantIdentity": nn.Identity, "QuantSigmoid": nn.Sigmoid, "QuantTanh": nn.Tanh
}  # fmt: skip
"""Activations of brevitas, which would hand on tensors of their own kind."""
_FUSED: dict[str, Callable[[Any], nn.Module]] = {
    "LeakyReLU": lambda m: nn.LeakyReLU(m.negative_slope),
    "ReLU": lambda _: nn.ReLU(),
    "Tanh": lambda _: nn.Tanh(),
}
"""Functions that torch.ao fuses into layers, by the end of the class's name; the first that fits."""


def to_float(model: nn.Module, *, integer: bool = False) -> tuple[nn.Module, dict[str, str]]:
    """``model`` (changed) with plain float layers in place of quantised ones, and a note a layer by its new path.

    Taken over: quantised and quantisation-aware layers of torch.ao (eager and FX, static and dynamic), torchao's tensor
    subclasses and fake-quantised layers, brevitas' layers, weights under a parametrisation or ``weight_norm``,
    transformers' ``Conv1D``. A weight becomes what its quantiser made of it. Grids of activations are kept as
    :class:`KnownRange` modules, which ``convert`` uses or drops. For an ``integer`` network timm's norms with a
    function inside are taken apart too.

    Raises:
        ConvertError: a quantised module or op that has no float counterpart here; names it.
    """
    notes: dict[nn.Module, str] = {}
    done: dict[nn.Module, nn.Module] = {}
    tied: dict[int, nn.Parameter] = {}

    def replace(path: str, module: nn.Module) -> nn.Module:
        if module not in done:
            done[module] = _norm_and_function(module) if integer else module
            if done[module] is module:
                done[module] = _replaced(path, module, notes, tied)
            if done[module] is module or isinstance(done[module], fx.GraphModule):
                for name, child in list(module._modules.items()):
                    if child is not None:
                        module._modules[name] = replace(f"{path}.{name}" if path else name, child)
        return done[module]

    result = replace("", model)
    for module in list(result.modules()):
        if isinstance(module, fx.GraphModule):
            plain_graph(module)
    return result, {path: notes[m] for path, m in result.named_modules() if m in notes}


def _replaced(path: str, module: nn.Module, notes: dict[nn.Module, str], tied: dict[int, nn.Parameter]) -> nn.Module:
    kind = type(module)
    name, ao = kind.__name__, kind.__module__.startswith(_AO)
    if any(base.__name__ in _WATCHERS and base.__module__.startswith(_TOOLKITS) for base in kind.__mro__):
        observer = module._modules.get("activation_post_process")
        return range_of(module) or range_of(observer) or nn.Identity()
    if ao and name in ("Quantize", "DeQuantize"):
        return range_of(module) or nn.Identity()
    if ao and name == "QFunctional":
        return _functional(module)
    if ao and kind.__module__.startswith(_AO + "quantized.modules") and name in _SAME:
        return _with_range(_SAME[name](module), module)
    if ao and ("BatchNorm" in name or name.startswith("BNReLU")) and "quantized" in kind.__module__:
        return _with_range(_norm(module, name), module)
    if name in _BREVITAS and hasattr(module, "act_quant"):
        function, known = _BREVITAS[name](), brevitas_range(module.act_quant)
        return function if known is None else nn.Sequential(OrderedDict(function=function, range=known))
    found = _weight_of(module)
    if found is None:
        quantised = kind.__module__.startswith(
            (_AO + "quantized.modules", _AO + "quantized.dynamic", _AO + "intrinsic.q")
        )
        if quantised and ".qat." not in kind.__module__ and not name.endswith("FloatFunctional"):
            raise ConvertError(
                f"module {path!r} is a quantised {name} of torch.ao, which has no float counterpart here; convert the "
                "float model it was made from"
            )
        return _without_observer(module)
    weight, note = found
    layer = _plain_layer(path, module, weight, tied)
    notes[layer] = note
    return _with_range(_with_companions(module, layer), module)


# --- weights ----------------------------------------------------------------------------------------------------------


def _weight_of(module: Any) -> tuple[Tensor, str] | None:
    """The float weight of a layer that another library made, and what it was; None for a layer of no such kind."""
    kind: type = type(module)
    where = kind.__module__
    layer: Any = module if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding)) else None
    with torch.no_grad():
        if where.startswith(_AO) and callable(getattr(module, "weight", None)):
            quantised: Any = cast("Any", module).weight()
            per = "channel" if quantised.is_quantized and "channel" in str(quantised.qscheme()) else "tensor"
            return _value(quantised), f"weight dequantised from torch.ao {quantised.dtype}, one scale a {per}"
        if where.startswith(_AO + "quantized.reference") and callable(getattr(module, "get_weight", None)):
            return _value(cast("Any", module).get_weight()), "weight dequantised from a torch.ao reference layer"
        if kind.__name__ == "Linear" and where.startswith("timm.") and layer is not None:
            return _value(layer.weight), "Linear of timm"
        if kind.__name__ == "Conv1D" and hasattr(module, "nf") and _matrix(module):
            return module.weight.detach().t().contiguous(), "Conv1D of transformers: weight transposed"
        if layer is None:
            return None
        if callable(getattr(layer, "quant_weight", None)):
            value: Any = layer.quant_weight()
            return _value(getattr(value, "value", value)), f"weight as the {kind.__name__} of brevitas rounds it"
        for name in _QUANTISERS:
            quantiser = getattr(layer, name, None)
            if isinstance(quantiser, nn.Module):
                return _fake_quantised(layer, quantiser), f"weight as the {name} of {kind.__name__} rounds it"
        base = kind.__bases__[0] if parametrize.is_parametrized(layer) else kind
        if base not in CONVERTIBLE:
            return None  # a subclass, whose forward may differ
        if parametrize.is_parametrized(layer, "weight"):
            kinds = ", ".join(type(p).__name__ for p in layer.parametrizations["weight"])
            return _value(layer.weight), f"weight computed by {kinds}, folded"
        if "weight_g" in layer._parameters and "weight_v" in layer._parameters:
            hooks = [h for h in layer._forward_pre_hooks.values() if hasattr(h, "compute_weight")]
            if hooks:
                return _value(hooks[0].compute_weight(layer)), "weight computed by weight_norm, folded"
        weight = layer._parameters.get("weight")
        if weight is not None and _is_wrapper(weight):
            return _value(weight), f"weight dequantised from torchao's {type(weight).__name__}"
    return None


def _matrix(module: Any) -> bool:
    weight = module._parameters.get("weight")
    return weight is not None and weight.dim() == 2 and weight.shape[1] == module.nf


def _value(weight: Any) -> Tensor:
    """Plain float values of a weight, without a gradient."""
    plain: Any = weight.dequantize() if weight.is_quantized or _is_wrapper(weight) else weight
    return plain.detach().clone()


def _is_wrapper(weight: Any) -> bool:
    """Whether a weight is a tensor subclass of its own kind that knows its float values."""
    return is_traceable_wrapper_subclass(weight) and hasattr(type(weight), "dequantize")


def _fake_quantised(module: Any, quantiser: nn.Module) -> Tensor:
    """The weight that a quantisation-aware layer computes with in evaluation."""
    before = quantiser.training
    quantiser.eval()
    try:
        norm = getattr(module, "bn", None)
        if not isinstance(norm, nn.modules.batchnorm._BatchNorm):
            return _value(quantiser(module.weight))
        # torch.ao rounds the weight with the norm's gain in it, and takes the gain out again.
        assert norm.running_var is not None
        gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        gain = gain.view(-1, *[1] * (module.weight.dim() - 1))
        return torch.where(gain == 0, module.weight, quantiser(module.weight * gain) / gain).detach().clone()
    finally:
        quantiser.train(before)


def _plain_layer(path: str, module: Any, weight: Tensor, tied: dict[int, nn.Parameter]) -> nn.Module:
    """The layer of torch with the geometry of ``module``."""
    common = {"device": weight.device, "dtype": weight.dtype}
    kind = type(module).__name__
    with torch.no_grad():
        bias = module.bias() if callable(getattr(module, "bias", None)) else getattr(module, "bias", None)
    if kind == "EmbeddingBag":
        raise ConvertError(f"module {path!r} is a quantised EmbeddingBag; convert the float model it was made from")
    if isinstance(module, nn.Embedding) or kind == "Embedding":  # torch.ao's has rows alone
        layer: nn.Module = nn.Embedding(*weight.shape, padding_idx=getattr(module, "padding_idx", None), **common)
    elif weight.dim() == 2:
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, **common)
    elif "Transpose" in kind:
        raise ConvertError(
            f"module {path!r} is a quantised {kind} of torch.ao; convert the float model it was made from"
        )
    else:
        cls = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}[weight.dim()]
        axes = weight.dim() - 2
        window = {n: _per_axis(getattr(module, n), axes) for n in ("stride", "padding", "dilation")}
        layer = cls(
            weight.shape[1] * module.groups, weight.shape[0], tuple(weight.shape[2:]), bias=bias is not None,
            groups=module.groups, padding_mode=module.padding_mode, **window, **common,
        )  # fmt: skip
    own = module._parameters.get("weight") if isinstance(module._parameters, dict) else None
    parameter = nn.Parameter(weight, requires_grad=bool(own is None or own.requires_grad))
    layer.register_parameter("weight", tied.setdefault(id(own), parameter) if own is not None else parameter)
    if bias is not None:
        layer.register_parameter("bias", nn.Parameter(bias.detach().clone().to(weight.dtype)))
    return layer.train(module.training)


def _per_axis(value: Any, axes: int) -> Any:
    """A Conv1d of torch.ao may keep two numbers for its one axis, of which the last counts."""
    return tuple(value)[-axes:] if isinstance(value, (tuple, list)) else value


# --- what stands beside a weight --------------------------------------------------------------------------------------


def _with_companions(module: Any, layer: nn.Module) -> nn.Module:
    """The layer with the norm and the function that torch.ao fused into it."""
    kind = type(module)
    if not kind.__module__.startswith(_AO + "intrinsic"):
        return layer
    parts: OrderedDict[str, nn.Module] = OrderedDict(layer=layer)
    if isinstance(getattr(module, "bn", None), nn.modules.batchnorm._BatchNorm):
        parts["norm"] = module.bn
    if "Add" in kind.__name__:
        raise ConvertError(f"a fused {kind.__name__} of torch.ao adds inside the layer; convert the float model")
    fused = next(
        (make for end, make in sorted(_FUSED.items(), key=lambda kv: -len(kv[0])) if end in kind.__name__), None
    )
    if fused is not None:
        parts["function"] = fused(module)
    return nn.Sequential(parts) if len(parts) > 1 else layer


def _with_range(module: nn.Module, quantised: nn.Module) -> nn.Module:
    """``module``, behind it the grid that the output of ``quantised`` had."""
    if ".dynamic." in type(quantised).__module__:
        return module  # its output is float; the module's scale is a default
    known = range_of(quantised) or range_of(quantised._modules.get("activation_post_process"))
    if known is None:
        return module
    if not isinstance(module, nn.Sequential):
        module = nn.Sequential(OrderedDict(layer=module))
    module.add_module("range", known)
    return module


def _norm(module: Any, name: str) -> nn.Module:
    cls = nn.BatchNorm3d if name.endswith("3d") else nn.BatchNorm2d
    norm = cls(module.num_features, eps=module.eps).eval()
    norm.load_state_dict({k: v for k, v in module.state_dict().items() if k in norm.state_dict()}, strict=False)
    return nn.Sequential(OrderedDict(norm=norm, function=nn.ReLU())) if "ReLU" in name else norm


def _norm_and_function(module: nn.Module) -> nn.Module:
    """BatchNormAct2d of timm as a norm and what it does behind; any other module as it is."""
    if type(module).__name__ != "BatchNormAct2d" or not isinstance(module, nn.BatchNorm2d):
        return module
    norm = nn.BatchNorm2d(module.num_features, module.eps, module.momentum).train(module.training)
    norm.affine, norm.track_running_stats = module.affine, module.track_running_stats
    norm._parameters.update(module._parameters)
    norm._buffers.update({name: module._buffers[name] for name in norm._buffers})
    parts: dict[str, Any] = {name: module._modules.get(name) or nn.Identity() for name in ("drop", "act")}
    return nn.Sequential(OrderedDict(norm=norm, **parts))


def _functional(module: nn.Module) -> nn.Module:
    """torch.ao's holder of quantised sums as its holder of float sums, with the grid behind."""
    from torch.ao.nn.quantized import FloatFunctional

    new: Any = FloatFunctional()
    new.activation_post_process = range_of(module) or nn.Identity()
    return new.train(module.training)


def _without_observer(module: nn.Module) -> nn.Module:
    """A module that ``prepare`` hung an observer on: without its hooks, its grid behind it if there is one."""
    observer = module._modules.get("activation_post_process")
    if observer is None or type(module).__name__ in ("FloatFunctional", "FXFloatFunctional"):
        return module
    for hooks in (module._forward_hooks, module._forward_pre_hooks):
        for key in [k for k, h in hooks.items() if getattr(h, "__name__", "").startswith("_observer_forward")]:
            del hooks[key]
    del module._modules["activation_post_process"]
    known = range_of(observer)
    return module if known is None else nn.Sequential(OrderedDict(layer=module, range=known))


__all__ = ["KnownRange", "to_float"]

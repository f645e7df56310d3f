"""Rules for layers that stay float: convolutions, linear layers, embeddings and batch norms."""

from __future__ import annotations

import numpy as np

from bitshift.core.fixed import Float32
from bitshift.lower.context import Call, Context, Item
from bitshift.lower.rules.pooling import spatial
from bitshift.lower.rules.registry import rule
from bitshift.lower.rules.shift import ids_of


@rule(
    "aten.conv2d.default",
    "aten.conv1d.default",
    "aten.conv2d.padding",
    "aten.conv1d.padding",
    "aten.conv3d.default",
    "aten.conv3d.padding",
    "aten.convolution.default",
)
def conv(context: Context, call: Call) -> Item:
    """A convolution with float weights."""
    weight, bias = call.array("weight"), call.array("bias")
    assert weight is not None
    axes = weight.ndim - 2
    if call.raw.get("transposed"):
        return conv_transpose(context, call)
    if axes not in (1, 2, 3):
        raise call.error(f"has {axes} spatial axes; the graph has convolutions with 1 to 3")
    dilation = spatial(call, call["dilation"], axes, ())
    attrs = {
        "stride": spatial(call, call["stride"], axes, ()),
        "padding": _padding(call, weight.shape[2:], dilation),
        "dilation": dilation,
        "groups": int(call["groups"]),
    }
    x = context.as_float(call.value("self" if "self" in call.raw else "input"), call)
    return context.emit("conv", [x], Float32(), call, attrs=attrs, consts=_consts(call, weight, bias))


@rule("aten.conv_transpose1d.default", "aten.conv_transpose2d.input", "aten.conv_transpose3d.input")
def conv_transpose(context: Context, call: Call) -> Item:
    """A transposed convolution with float weights, whose output channels come first in the graph."""
    weight, bias = call.array("weight"), call.array("bias")
    assert weight is not None
    axes, groups = weight.ndim - 2, int(call["groups"])
    inputs, outputs, kernel = weight.shape[0], weight.shape[1], weight.shape[2:]
    turned = weight.reshape(groups, inputs // groups, outputs, *kernel).swapaxes(1, 2)
    attrs = {
        "stride": spatial(call, call["stride"], axes, ()),
        "padding": tuple((p, p) for p in spatial(call, call["padding"], axes, ())),
        "output_padding": spatial(call, call["output_padding"], axes, ()),
        "dilation": spatial(call, call["dilation"], axes, ()),
        "groups": groups,
    }
    x = context.as_float(call.value("self" if "self" in call.raw else "input"), call)
    consts = _consts(call, turned.reshape(groups * outputs, inputs // groups, *kernel), bias)
    return context.emit("conv_transpose", [x], Float32(), call, attrs=attrs, consts=consts)


@rule("aten.embedding.default")
def embedding(context: Context, call: Call) -> Item:
    """Rows of a float table by their number."""
    weight = call.array("weight")
    assert weight is not None
    ids = ids_of(context, call, "indices")
    return context.emit("embedding", [ids], Float32(), call, consts=_consts(call, weight, None))


def _padding(call: Call, kernel: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    padding = call["padding"]
    if padding == "valid":
        return ((0, 0),) * len(kernel)
    if padding == "same":  # torch puts the odd zero behind
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return tuple((t // 2, t - t // 2) for t in total)
    return tuple((p, p) for p in spatial(call, padding, len(kernel), ()))


def _consts(call: Call, weight: np.ndarray, bias: np.ndarray | None) -> dict[str, np.ndarray]:
    consts = {"weight": np.ascontiguousarray(weight, dtype=np.float32)}
    if bias is not None and bias.any():
        consts["bias"] = bias.astype(np.float32)
    if not all(np.isfinite(c).all() for c in consts.values()):
        raise call.error("a weight or bias is not finite; the model has not trained properly")
    return consts


@rule("aten.linear.default")
def linear(context: Context, call: Call) -> Item:
    """A linear layer with float weights."""
    weight, bias = call.array("weight"), call.array("bias")
    assert weight is not None
    x = context.as_float(call.value("input"), call)
    return context.emit("linear", [x], Float32(), call, consts=_consts(call, weight, bias))


@rule(
    "aten.batch_norm.default",
    "aten._native_batch_norm_legit_no_training.default",
    "aten.native_batch_norm.default",
    "aten.cudnn_batch_norm.default",
)
def batch_norm(context: Context, call: Call) -> Item:
    """A batch norm with running statistics: one scale and shift per channel."""
    mean, variance = call.array("running_mean"), call.array("running_var")
    if call.raw.get("training") or mean is None or variance is None:
        raise call.error("uses the batch's own statistics; call model.eval() and keep track_running_stats=True")
    weight, bias = call.array("weight"), call.array("bias")
    eps = call["eps"] if "eps" in call.raw else call["epsilon"]
    if not (np.isfinite(mean).all() and np.isfinite(variance).all() and (variance >= 0).all()):
        raise call.error("its running statistics are no finite mean and variance; the model has not trained properly")
    scale = (1.0 if weight is None else weight.astype(np.float64)) / np.sqrt(variance.astype(np.float64) + eps)
    shift = (0.0 if bias is None else bias.astype(np.float64)) - mean * scale
    if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
        raise call.error("its weight or bias is not finite; the model has not trained properly")
    x = context.as_float(call.value("input" if "input" in call.raw else "self"), call)
    consts = {"scale": scale.astype(np.float32), "bias": shift.astype(np.float32)}
    result = context.emit("affine", [x], Float32(), call, consts=consts)
    return result if call.op == "aten.batch_norm.default" else (result, None, None)

"""A twin as a torch module: the float network in eager mode, its norms folded into weights and biases."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitshift.cli.bench.twin import Layer, Twin
from bitshift.nn.ops import convolve_transposed


class TorchTwin(nn.Module):
    """Runs the layers of a twin one after the other; float32 (N, *shape) in, the first output out."""

    def __init__(self, twin: Twin) -> None:
        super().__init__()
        self.twin = twin
        for i, layer in enumerate(twin.layers):
            for role, array in layer.arrays.items():
                if role not in ("levels", "level_scale"):
                    self.register_buffer(f"{role}{i}", torch.tensor(array))

    def forward(self, *inputs: Tensor) -> Tensor:
        """Values of the first output."""
        values = dict(zip(self.twin.inputs, inputs, strict=True))
        for i, layer in enumerate(self.twin.layers):
            arrays = {role: getattr(self, f"{role}{i}") for role in layer.arrays if not role.startswith("level")}
            values[layer.output] = _OPS[layer.op]([values[n] for n in layer.inputs], layer, arrays)
        return values[self.twin.outputs[0]]


Arrays = dict[str, Tensor]


def _padded(x: Tensor, padding: Sequence[tuple[int, int]], value: float) -> Tensor:
    return F.pad(x, list(itertools.chain(*reversed(padding))), value=value)


def _conv(x: list[Tensor], layer: Layer, w: Arrays) -> Tensor:
    a, y = layer.attrs, x[0]
    pads: Any = [before for before, _ in a["padding"]]
    if any(before != after for before, after in a["padding"]):
        y, pads = _padded(y, a["padding"], 0.0), [0] * len(pads)
    run: Callable[..., Tensor] = (F.conv1d, F.conv2d, F.conv3d)[y.ndim - 3]
    return run(y, w["weight"], w["bias"], a["stride"], pads, a["dilation"], a["groups"])


def _conv_transpose(x: list[Tensor], layer: Layer, w: Arrays) -> Tensor:
    a = layer.attrs
    y = convolve_transposed(
        x[0], w["weight"], list(a["stride"]), [side for pair in a["padding"] for side in pair],
        list(a["output_padding"]), list(a["dilation"]), a["groups"],
    )  # fmt: skip
    return y + w["bias"].reshape(-1, *[1] * (y.ndim - 2))


def _upsample(x: list[Tensor], layer: Layer, w: Arrays) -> Tensor:  # noqa: ARG001
    return F.interpolate(x[0], scale_factor=tuple(float(f) for f in layer.attrs["factor"]), mode="nearest")


def _clip(x: list[Tensor], layer: Layer, w: Arrays) -> Tensor:  # noqa: ARG001 - one signature for all
    lo, hi = layer.attrs["lo"], layer.attrs["hi"]
    return F.relu(x[0]) if lo == 0 and hi is None else torch.clamp(x[0], lo, hi)


def _affine(x: list[Tensor], layer: Layer, w: Arrays) -> Tensor:
    spread = (-1,) + (1,) * max(0, x[0].ndim - layer.attrs["axis"] - 2)
    return x[0] * w["scale"].reshape(spread) + w["bias"].reshape(spread)


def _max_pool(x: list[Tensor], layer: Layer, w: Arrays) -> Tensor:  # noqa: ARG001
    a, y = layer.attrs, x[0]
    pads: Any = [before for before, _ in a["padding"]]
    if any(p[0] != p[1] or 2 * p[0] > k for p, k in zip(a["padding"], a["kernel"], strict=True)):
        y, pads = _padded(y, a["padding"], -torch.inf), [0] * len(pads)
    run = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[y.ndim - 3]
    return run(y, a["kernel"], a["stride"], pads, a["dilation"])


def _avg_pool(x: list[Tensor], layer: Layer, w: Arrays) -> Tensor:  # noqa: ARG001
    a, y = layer.attrs, _padded(x[0], layer.attrs["padding"], 0.0)
    run = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[y.ndim - 3]
    return run(y, a["kernel"], a["stride"])


def _slice(x: list[Tensor], layer: Layer, w: Arrays) -> Tensor:  # noqa: ARG001
    a = layer.attrs
    crop = [slice(*ends) for ends in zip(a["start"], a["stop"], a["step"], strict=True)]
    return x[0][(slice(None), *crop)]


def _table(x: list[Tensor], layer: Layer, w: Arrays) -> Tensor:
    a = layer.attrs
    index = torch.clamp(torch.floor(x[0] / a["unit"] + 0.5), a["lo"], a["hi"]) - a["lo"]
    return w["table"][index.long()]


_UNARY: dict[str, Callable[..., Tensor]] = {
    "sigmoid": torch.sigmoid, "tanh": torch.tanh, "gelu": F.gelu, "silu": F.silu, "hardswish": F.hardswish,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"), "hardsigmoid": F.hardsigmoid,
}  # fmt: skip


def _unary(x: list[Tensor], layer: Layer, w: Arrays) -> Tensor:  # noqa: ARG001
    fn = layer.attrs["fn"]
    if fn in ("leaky_relu", "elu"):
        return {"leaky_relu": F.leaky_relu, "elu": F.elu}[fn](x[0], layer.attrs["alpha"])
    return _UNARY[fn](x[0])


_OPS: dict[str, Callable[[list[Tensor], Layer, Arrays], Tensor]] = {
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "embedding": lambda x, layer, w: F.embedding(x[0].long(), w["weight"]),  # noqa: ARG005
    "upsample": _upsample,
    "linear": lambda x, layer, w: F.linear(x[0], w["weight"], w["bias"]),  # noqa: ARG005
    "add": lambda x, layer, w: x[0] + x[1],  # noqa: ARG005
    "clip": _clip,
    "affine": _affine,
    "max_pool": _max_pool,
    "avg_pool": _avg_pool,
    "concat": lambda x, layer, w: torch.cat(x, layer.attrs["axis"] + 1),  # noqa: ARG005
    "pad": lambda x, layer, w: _padded(x[0], layer.attrs["padding"], layer.attrs["value"]),  # noqa: ARG005
    "slice": _slice,
    "reshape": lambda x, layer, w: x[0].reshape(-1, *layer.attrs["shape"]),  # noqa: ARG005
    "transpose": lambda x, layer, w: x[0].permute(0, *(p + 1 for p in layer.attrs["perm"])),  # noqa: ARG005
    "unary": _unary,
    "table": _table,
    "argmax": lambda x, layer, w: x[0].argmax(-1).float(),  # noqa: ARG005
    "identity": lambda x, layer, w: x[0],  # noqa: ARG005
}

__all__ = ["TorchTwin"]

"""Float weights of a published .tflite file in a torch network with batch norms, which the file has folded away.

A float file may hold weights as int8 with a scale ("dynamic range"), which its runtime turns to float32: so does this.
Reads the file with the package ``tflite`` (extra ``bench``). Layers of the file and of the network are matched in
order: a network must register its layers in the order in which the file runs them.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

CONVOLUTION, DEPTHWISE, LINEAR = "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"
FLOAT32, INT8 = 0, 9
"""Of the schema's ``TensorType``."""


def read_layers(path: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weight and bias, float32, of every layer in execution order; weights as torch has them, (O, I/groups, ...).

    Raises:
        ValueError: a layer without a bias, or with other weights than these.
    """
    import tflite  # pyright: ignore[reportMissingImports]

    model = tflite.Model.GetRootAsModel(path.read_bytes(), 0)
    graph = model.Subgraphs(0)
    found = []
    for index in range(graph.OperatorsLength()):
        operator = graph.Operators(index)
        code = model.OperatorCodes(operator.OpcodeIndex())
        name = tflite.opcode2name(max(code.BuiltinCode(), code.DeprecatedBuiltinCode()))
        if name not in (CONVOLUTION, DEPTHWISE, LINEAR):
            continue
        if operator.InputsLength() != 3:
            raise ValueError(f"{path}: operator {index}, {name}, has {operator.InputsLength()} inputs; 3 are expected")
        weight, bias = (_constant(path, model, graph.Tensors(operator.Inputs(i))) for i in (1, 2))
        if name == CONVOLUTION:
            weight = weight.transpose(0, 3, 1, 2)  # from (O, height, width, I)
        elif name == DEPTHWISE:
            weight = weight.transpose(3, 0, 1, 2)  # from (1, height, width, O)
        found.append((np.ascontiguousarray(weight), bias))
    return found


def _constant(path: Path, model: Any, tensor: Any) -> np.ndarray:
    """The float32 values of a tensor that the file holds as float32, or as int8 and one scale."""
    name, shape = tensor.Name().decode(), tensor.ShapeAsNumpy()
    data = model.Buffers(tensor.Buffer()).DataAsNumpy()
    if isinstance(data, np.ndarray) and tensor.Type() == FLOAT32:
        return data.view(np.float32).reshape(shape).copy()
    scale = tensor.Quantization()
    if isinstance(data, np.ndarray) and tensor.Type() == INT8 and scale.ScaleLength() == 1:
        levels = data.view(np.int8).reshape(shape).astype(np.float32)
        return (levels - np.float32(scale.ZeroPoint(0))) * np.float32(scale.Scale(0))
    raise ValueError(
        f"{path}: tensor {name!r} holds neither float32 values nor int8 values with one scale; "
        "take the float file of the network"
    )


@torch.no_grad()
def load_folded(model: nn.Module, path: Path) -> None:
    """Put the layers of ``path`` into ``model``; its batch norms then change nothing.

    Raises:
        ValueError: another number of layers, or a layer of another shape; names both.
    """
    layers = {name: m for name, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    published = read_layers(path)
    if len(layers) != len(published):
        raise ValueError(f"{path} has {len(published)} layers, {type(model).__name__} has {len(layers)}")
    for (name, layer), (weight, bias) in zip(layers.items(), published, strict=True):
        if layer.weight.shape != weight.shape or layer.bias is None or layer.bias.shape != bias.shape:
            shape = None if layer.bias is None else tuple(layer.bias.shape)
            raise ValueError(
                f"{path}: weight {weight.shape} and bias {bias.shape} do not fit {name}, which has "
                f"{tuple(layer.weight.shape)} and {shape}"
            )
        layer.weight.copy_(torch.from_numpy(weight))
        layer.bias.copy_(torch.from_numpy(bias))
    for norm in _norms(model):
        _set(norm, torch.zeros(norm.num_features), torch.ones(norm.num_features))


@torch.no_grad()
def measure_norms(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Give each norm that changes nothing the statistics of what it sees, and the gain and offset that undo them.

    The network computes what it did, and has again what its training knew: how large each channel is. Conversion from
    pretrained weights and further training rest on that.
    """
    norms = _norms(model)
    sums = {norm: torch.zeros(3, norm.num_features, dtype=torch.float64) for norm in norms}

    def note(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].double()
        axes = [0, *range(2, x.dim())]
        total = sums[norm]  # type: ignore[index]
        total[0] += x.numel() / x.shape[1]
        total[1] += x.sum(axes)
        total[2] += x.square().sum(axes)

    hooks = [norm.register_forward_pre_hook(note) for norm in norms]
    model.eval()
    for images in batches:
        model(images)
    for hook in hooks:
        hook.remove()
    for norm, (count, total, squares) in sums.items():
        mean = total / count
        _set(norm, mean, (squares / count - mean.square()).clamp(min=1e-6))


def _norms(model: nn.Module) -> list[_BatchNorm]:
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


def _set(norm: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    """``norm`` with these statistics, as the identity."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
    norm.weight.copy_((variance + norm.eps).sqrt())
    norm.bias.copy_(mean)

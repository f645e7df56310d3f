"""Weights of another network: the message says which option would fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from bitshift.cli.errors import CliError
from bitshift.cli.network import NetworkSpec
from bitshift.nn import ShiftConfig, convert
from bitshift.train.models import build


def refusal(state: dict, model: str, *, classes: int = 10, shape: tuple[int, ...] = (1, 28, 28), folder: Path) -> str:
    """What is said when ``state`` is to fill ``model``."""
    path = folder / "w.safetensors"
    save_file({name: t.contiguous() for name, t in state.items()}, path)
    with pytest.raises(CliError) as caught:
        NetworkSpec(model=model, num_classes=classes, input_shape=shape).build_float(path)
    return str(caught.value)


def weights(model: str, classes: int = 10, channels: int = 1) -> dict:
    return build(model, num_classes=classes, in_channels=channels).state_dict()


def test_another_number_of_classes_names_the_options_and_the_head(tmp_path: Path) -> None:
    said = refusal(weights("lenet_bn", 12), "lenet_bn", folder=tmp_path)
    assert "belongs to another network than lenet_bn: fc2.weight is (12, 500), lenet_bn needs (10, 500)" in said
    assert "The weights are of 12 classes, the network has 10. Without --data: --classes 12." in said
    assert "--backbone FILE --model lenet_bn --new-head fc2" in said


def test_another_number_of_channels_is_a_matter_of_the_data(tmp_path: Path) -> None:
    said = refusal(weights("resnet8", channels=3), "resnet8", folder=tmp_path)
    assert "are for 3 channels (colour images) and the network's input has 1; give data of that kind" in said


def test_the_weights_of_another_model_name_it_whatever_its_classes(tmp_path: Path) -> None:
    said = refusal(weights("resnet20", 7, 3), "resnet32", shape=(3, 32, 32), folder=tmp_path)
    assert "resnet32 needs layer1.3.conv1.weight" in said
    assert " more, which the file lacks" in said
    assert "These are weights of resnet20: say so (train: --model resnet20; convert, search: resnet20 in place" in said
    assert "--new-head" not in said


def test_weights_of_nothing_known_ask_for_the_network_that_was_trained(tmp_path: Path) -> None:
    said = refusal(nn.Sequential(nn.Linear(3, 2)).state_dict(), "mlp", folder=tmp_path)
    assert "the file has 0.bias, 0.weight, which mlp has no place for" in said
    assert "write module:function that builds the network which was trained" in said


def test_latents_are_for_a_backbone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, _ = convert(build("mlp", num_classes=10, in_channels=1), ShiftConfig(method="nearest", bits=3))
    said = refusal(net.state_dict(), "mlp", folder=tmp_path)
    assert "These are the latents of a shift network: go on from them with `bitshift train --backbone`" in said


def test_one_layer_of_another_width_asks_for_the_model_that_was_trained(tmp_path: Path) -> None:
    state = weights("mlp") | {"fc2.weight": torch.zeros(512, 100)}
    said = refusal(state, "mlp", folder=tmp_path)
    assert "fc2.weight is (512, 100), mlp needs (512, 512)" in said

"""The dense transfer reads scenes, scores maps, and puts a shift backbone under a new head."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
import transfer_segmentation as dense
from PIL import Image
from safetensors.torch import save_file

from bitshift.nn.config import ShiftConfig
from bitshift.nn.convert import convert
from bitshift.train.models import build


def test_mean_iou_leaves_out_void_and_classes_that_do_not_occur() -> None:
    truth = np.array([[0, 0, 1, dense.VOID]], np.uint8)
    assert dense.mean_iou(np.array([[0, 0, 1, 5]]), truth) == 1.0
    # class 0: 1 of 2 (union 2); class 1: 1 of 2 (union 2)
    assert dense.mean_iou(np.array([[0, 1, 1, 5]]), truth) == pytest.approx(0.5)


def test_scenes_are_scaled_and_maps_keep_their_classes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for folder, shape in (("train", (180, 240, 3)), ("trainannot", (180, 240))):
        (tmp_path / folder).mkdir()
        picture = rng.integers(0, 12, shape).astype(np.uint8)
        Image.fromarray(picture).save(tmp_path / folder / "a.png")
    scenes = dense.read(tmp_path, "train")
    assert scenes.images.shape == (1, 3, *dense.SIZE)
    assert scenes.maps.max() <= dense.VOID
    x, y = scenes.batch(np.arange(1))
    assert (x.shape, y.shape) == ((1, 3, 96, 128), (1, 48, 64))
    assert dense.enlarge(np.array([[[1, 2]]])).tolist() == [[[1, 1, 2, 2], [1, 1, 2, 2]]]
    with pytest.raises(SystemExit, match="no pictures"):
        dense.read(tmp_path, "test")


def test_the_shift_backbone_comes_with_its_latents_and_the_head_starts_as_the_case_says(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = ShiftConfig(method="denseshift", bits=3, init="pretrained")
    trained, _ = convert(build("resnet20", num_classes=10, in_channels=3), config)
    save_file(trained.state_dict(), tmp_path / "model.safetensors")
    options = Namespace(backbone=tmp_path, state=None)
    low, high = (dense.make(case, options, 0) for case in dense.CASES[1:])
    for model in (low, high):
        path = "layer2.1.conv1.method.stack"
        assert torch.equal(model.get_parameter(path), trained.get_parameter(path))
    spread = [float(m.get_parameter("head.deep.method.stack").detach().std()) for m in (low, high)]
    assert spread == pytest.approx([1e-3, (2 / (9 * 32)) ** 0.5], rel=0.02)
    assert torch.equal(low.get_submodule("head.deep").weight > 0, high.get_submodule("head.deep").weight > 0)

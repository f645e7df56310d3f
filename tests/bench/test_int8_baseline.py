"""The int8 kernels that ours are compared with compute what they should, on the cores that run them."""

from __future__ import annotations

import numpy as np
import pytest
from emulated import counting
from emulated.baseline import LAYERS, Int8Layer
from emulated.graphs import LAYERS as SHIFT_LAYERS
from emulated.graphs import TINY
from emulated.machine import run

from firmware_programs import board

ODD = Int8Layer(size=5, inputs=4, outputs=8, kernel=3)
ODD_DEPTHWISE = Int8Layer(size=5, inputs=4, outputs=4, kernel=3, depthwise=True)
ONE_PIXEL = Int8Layer(size=1, inputs=8, outputs=4, kernel=1)


@pytest.mark.parametrize("layer", [ODD, ODD_DEPTHWISE, ONE_PIXEL], ids=["window", "depthwise", "linear"])
@pytest.mark.parametrize(
    ("name", "kernel"),
    [("microbit-large", "naive"), ("microbit-large", "blocked"), ("mps2-an386", "blocked"), ("virt-rv32i", "quarter")],
)
def test_a_kernel_of_the_baseline_is_exact(name, kernel, layer, tmp_path):
    image = layer.build(board(name), kernel, tmp_path)
    x = layer.inputs_of(4)
    done = run(image, x.transpose(0, 2, 3, 1).tobytes(), count=True)
    got = np.frombuffer(done.output, np.int8).reshape(4, layer.size, layer.size, layer.outputs).transpose(0, 3, 1, 2)
    assert np.array_equal(got, layer.expected(x))
    assert len(np.unique(got)) > 10
    multiplies = counting.region(image, done).multiplies
    assert multiplies == 0 if kernel == "quarter" else multiplies > 0
    assert layer.weights.size < layer.flash(image, kernel) < layer.weights.size + 2500


@pytest.mark.parametrize("name", ["microbit-large", "mps2-an386", "virt-rv32im"])
def test_the_control_multiplies_once_for_two_pixels_and_is_exact_at_the_edge_of_its_lanes(name, tmp_path):
    layer = Int8Layer(size=8, inputs=8, outputs=4, kernel=3, bits=4)
    layer.weights[0] = 7  # 36 of them fill a lane: a block is four words
    image = layer.build(board(name), "int4", tmp_path)
    x = layer.inputs_of(3)
    x[0] = -128
    done = run(image, x.transpose(0, 2, 3, 1).tobytes(), count=True)
    got = np.frombuffer(done.output, np.int8).reshape(3, 8, 8, 4).transpose(0, 3, 1, 2)
    assert np.array_equal(got, layer.expected(x))
    products = 3 * 64 * layer.weights.size
    assert products / 2 <= counting.region(image, done).multiplies < products / 2 + 3000


@pytest.mark.parametrize("kernel", ["naive", "quarter"])
@pytest.mark.parametrize("shape", list(TINY))
def test_the_baseline_fits_an_attiny85_and_is_exact_there(shape, kernel, tmp_path):
    layer = LAYERS[shape]
    image = layer.build(board("attiny85"), kernel, tmp_path)
    x = layer.inputs_of(3)
    done = run(image, x.transpose(0, 2, 3, 1).tobytes())
    got = np.frombuffer(done.output, np.int8).reshape(3, layer.size, layer.size, -1).transpose(0, 3, 1, 2)
    assert np.array_equal(got, layer.expected(x))


def test_the_layers_of_both_sides_have_the_same_products():
    shapes = SHIFT_LAYERS | TINY
    assert list(LAYERS) == list(shapes)
    for name, (make, products) in shapes.items():
        layer, graph = LAYERS[name], make()
        assert graph.const(graph.nodes[0], "codes").size == layer.weights.size
        assert layer.size**2 * layer.weights.size == products

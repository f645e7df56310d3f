"""The chain: training model in eval = frozen = literal graph = fused graph = file = every backend, bit for bit."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

import bitshift as bs
from bitshift.backends import BACKENDS, get_backend
from bitshift.core.formats import FORMATS
from bitshift.core.graph import Graph
from bitshift.core.modelfile import dumps, loads
from bitshift.core.reference import run_checked
from bitshift.lower import lower
from bitshift.lower.literal import literal_graph
from bitshift.lower.passes import optimise
from bitshift.nn.activations import calibrate
from chain_networks import NETWORKS, trained
from float_error import error_bounds
from lower_models import assert_equal, feed, samples

INTEGER_FORMATS = [f.name for f in FORMATS.values() if not f.float_only]


def calm(name: str) -> Tensor:
    """What calibration sees."""
    return torch.randn(8, *NETWORKS[name][1], generator=torch.Generator().manual_seed(3))


def networks_inputs(name: str) -> Tensor:
    """What the network is run on: zeros, ties, numbers far out of range."""
    return samples(NETWORKS[name][1], seed=11, rows=6, reach=1.5)


def check_chain(name: str, config: bs.ShiftConfig, *, seed: int = 0) -> Graph:
    """Assert every link for one network and configuration; returns the fused graph."""
    x = networks_inputs(name)
    model, _ = bs.convert(trained(name, seed=seed), config, sample=x)
    calibrate(model, [calm(name)])
    model.eval()
    frozen = bs.freeze(model, sample=x)
    with torch.no_grad():
        assert torch.equal(model(x).double(), frozen(x).double()), "training model in eval != frozen model"
    literal = literal_graph(frozen.model, (x,))
    assert_equal(literal, frozen, x)
    graph = optimise(literal)
    assert_equal(graph, frozen, x)
    read = loads(dumps(graph))
    expected = run_checked(graph, feed(graph, x))
    for backend in (get_backend(b) for b in BACKENDS):
        if backend.available() is None:
            assert backend.unsupported(read) == []
            got = backend.compile(read).run_int(feed(read, x))
            for output in graph.outputs:
                assert got[output].dtype == expected[output].dtype
                assert np.array_equal(got[output], expected[output]), f"{backend.NAME}\n{graph.pretty()}"
    return graph


def integer(format: str, bits: int, *, multiplier: bool) -> bs.ShiftConfig:
    return bs.ShiftConfig(method="nearest", format=format, activations=bits, multiplier=multiplier, init="pretrained")


# Every network, every format and every width of activations occurs; the product of all is in the slow test.
QUICK = [
    (name, INTEGER_FORMATS[(3 * i + 8 * multiplier) % len(INTEGER_FORMATS)], 2 + (i + 3 * multiplier) % 7, multiplier)
    for i, name in enumerate(NETWORKS)
    for multiplier in (False, True)
]


@pytest.mark.parametrize(("name", "format", "bits", "multiplier"), QUICK)
def test_every_link_gives_the_same_integers(name: str, format: str, bits: int, multiplier: bool) -> None:
    graph = check_chain(name, integer(format, bits, multiplier=multiplier))
    if not multiplier and not format.startswith("int"):
        mults = [graph.const(n, "mult") for n in graph.nodes if "mult" in n.consts]
        assert all(((m & (m - 1)) == 0).all() for m in mults), (
            "a multiplication is left in the multiplication-free mode"
        )


@pytest.mark.slow
@pytest.mark.parametrize("multiplier", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_format_and_width_gives_the_same_integers(name: str, multiplier: bool) -> None:
    cases = zip(INTEGER_FORMATS, itertools.cycle(range(2, 9)), strict=False)
    for seed, (format, bits) in enumerate(cases):
        check_chain(name, integer(format, bits, multiplier=multiplier), seed=seed)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet-slice", "mlp", "audio"])
def test_kept_layers_follow_the_chain(name: str) -> None:
    check_chain(name, bs.ShiftConfig(activations=8, keep_first="int8", keep_last="int8", init="pretrained"))
    check_float(name, bs.ShiftConfig(activations=8, keep_last="float", init="pretrained"))


def test_a_float_layer_before_integers_is_exact_where_float32_is() -> None:
    config = bs.ShiftConfig(activations=8, keep_first="float", init="pretrained")
    net = trained("mlp", seed=0)
    with torch.no_grad():
        for p in net[1].parameters():  # multiples of 1/64 under 1: all sums with inputs of the same kind are exact
            p.copy_(torch.floor(p * 64) / 64)
    x = torch.floor(calm("mlp") * 64) / 64
    model, _ = bs.convert(net, config, sample=x)
    calibrate(model, [x])
    frozen = bs.freeze(model.eval(), sample=x)
    graph = lower(frozen)
    assert {n.op for n in graph.nodes} == {"reshape", "linear", "clamp", "quantize"}
    assert_equal(graph, frozen, x)


def check_float(name: str, config: bs.ShiftConfig) -> None:
    """Frozen model and graph agree up to the rounding of float32, bounded by the graph's own numbers."""
    x = networks_inputs(name)
    x[x.abs() > 100] = 3.0  # sums of 1e9 and 1 in float32 show nothing
    model, _ = bs.convert(trained(name, seed=1), config, sample=x)
    calibrate(model, [calm(name)])
    frozen = bs.freeze(model.eval(), sample=x)
    graph = lower(frozen)
    with torch.no_grad():
        expected = frozen(x).double().numpy()
    values = run_checked(graph, feed(graph, x), keep=True)
    error = error_bounds(graph, values)[graph.outputs[0]]
    difference = np.abs(values[graph.outputs[0]].astype(np.float64) - expected)
    assert (difference <= 2 * error).all(), f"{difference.max()} over {error.max()}\n{graph.pretty()}"
    assert error.max() < 1e-2 * max(1.0, np.abs(expected).max())  # the bound says something
    for backend in (get_backend(b) for b in BACKENDS):
        if backend.available() is None:
            got = backend.compile(graph).run_int(feed(graph, x))[graph.outputs[0]]
            assert (np.abs(got.astype(np.float64) - expected) <= 2 * error).all(), backend.NAME


@pytest.mark.parametrize(
    ("name", "format"),
    [("lenet", "pot5d"), ("resnet-slice", "pot3"), ("resnet-conv", "pot6d"), ("mobile", "pot4x2"),
     ("inception", "pot2d"), ("audio", "pot5"), ("mlp", "int4"), ("tables", "pot6"), ("average", "pot1")],
)  # fmt: skip
def test_float_activations_agree_within_the_rounding_of_float32(name: str, format: str) -> None:
    check_float(name, bs.ShiftConfig(method="nearest", format=format, init="pretrained"))


def test_the_papers_fixed_point_agrees_with_the_frozen_model() -> None:
    check_float("mlp", bs.ShiftConfig(method="deepshift_q", bits=5, activations="16.16", init="pretrained"))

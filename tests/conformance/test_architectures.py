"""The chain on real architectures: training evaluation = frozen model = numpy reference, integer for integer."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bitshift.core.cost import count
from bitshift.core.fixed import FixedPoint
from bitshift.core.reference import execute
from bitshift.lower import lower
from bitshift.nn import ShiftConfig, convert, freeze
from nn_models import ARCHITECTURES, batch, build

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # torch, of the float model

CONFIGS = {
    "scratch": {"activations": 8},
    "folded": {"activations": 8, "init": "pretrained"},
    "multiplier": {"activations": 7, "init": "pretrained", "multiplier": True, "keep_last": "int8"},
    "narrow": {"activations": 3, "method": "nearest", "format": "pot4x2"},
}


@pytest.mark.parametrize(
    "config", ["scratch", "multiplier", *(pytest.param(c, marks=pytest.mark.slow) for c in ("folded", "narrow"))]
)
@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_the_graph_gives_the_integers_of_evaluation(name, config):
    settings = ShiftConfig(**CONFIGS[config])
    model, _ = convert(build(name), settings, sample=batch(name), generator=torch.Generator().manual_seed(1))
    model.train()(batch(name, 4, seed=3))
    frozen = freeze(model, batch(name))
    graph = lower(frozen)
    x = batch(name, 2, seed=7) * 2
    with torch.no_grad():
        want = model.eval()(x)
        assert torch.equal(frozen(x), want)
    (source,), (target,) = graph.inputs, graph.outputs
    kind, out = graph.values[source].type, graph.values[target].type
    assert isinstance(kind, FixedPoint)
    assert isinstance(out, FixedPoint)
    q = np.clip(np.floor(x.double().numpy() * 2.0**kind.frac + 0.5), kind.lo, kind.hi).astype(kind.dtype)
    got = execute(graph, {source: q})[target]
    np.testing.assert_array_equal(got * 2.0**-out.frac, want.numpy())
    if not settings.multiplier:
        assert count(graph).multiplication_free

"""A graph that computes anything else than the frozen model is refused before it can become a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import bitshift as bs
from bitshift.core.graph import Graph
from bitshift.lower import LoweringError, export, lower, lowering
from bitshift.lower.passes import optimise
from bitshift.nn.activations import calibrate
from bitshift.nn.freeze import FrozenModel


def frozen() -> FrozenModel:
    torch.manual_seed(5)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    x = torch.randn(4, 6)
    model, _ = bs.convert(net, bs.ShiftConfig(activations=8, init="pretrained"), sample=x)
    calibrate(model, [x])
    return bs.freeze(model.eval(), x)


def test_a_wrong_pass_is_named_by_output_index_and_both_values(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def wrong(graph: Graph) -> Graph:
        graph = optimise(graph)
        last = next(n for n in graph.nodes if n.output == graph.outputs[0])
        offset = graph.const(last, "offset")
        return replace(
            graph,
            constants={**graph.constants, last.consts["offset"]: offset + np.array([0, 1, 0], dtype=offset.dtype)},
        )

    model = frozen()
    output = lower(model).outputs[0]
    monkeypatch.setattr(lowering, "optimise", wrong)
    with pytest.raises(LoweringError, match=rf"output '{output}' at index \[0, 1\].*expected .*got .*2 of 6.*report"):
        export(model, tmp_path / "wrong.shift")
    assert not (tmp_path / "wrong.shift").exists()


def test_a_graph_that_reads_one_input_for_another_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Two(nn.Module):
        def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
            q = (8, 5, True, "half_up")
            return torch.ops.bitshift.quantize(left, *q) * 2 + torch.ops.bitshift.quantize(right, *q)

    def swapped(graph: Graph) -> Graph:
        graph = optimise(graph)
        other = {"left": "right", "right": "left"}
        nodes = [replace(n, inputs=tuple(other.get(i, i) for i in n.inputs)) for n in graph.nodes]
        return replace(graph, nodes=tuple(nodes))

    x = torch.rand(3, 4)
    monkeypatch.setattr(lowering, "optimise", swapped)
    with pytest.raises(LoweringError, match=r"at index \[0, 0\].*report"):
        lower(Two().eval(), sample=(x, x))

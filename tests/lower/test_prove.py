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


@pytest.mark.parametrize("rows", [1, 2, 3])
@pytest.mark.parametrize("other", [{"left": "right", "right": "left"}, {"left": "last", "last": "left"}], ids=str)
def test_a_graph_that_reads_one_input_for_another_is_refused(
    rows: int, other: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Three(nn.Module):
        def forward(self, left: torch.Tensor, right: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
            a, b, c = (torch.ops.bitshift.quantize(x, 8, 5, True, "half_up") for x in (left, right, last))
            return a * 2 + b + c * 4

    def swapped(graph: Graph) -> Graph:
        graph = optimise(graph)
        nodes = [replace(n, inputs=tuple(other.get(i, i) for i in n.inputs)) for n in graph.nodes]
        return replace(graph, nodes=tuple(nodes))

    x = torch.rand(rows, 4, generator=torch.Generator().manual_seed(0))
    lower(Three().eval(), sample=(x, x, x))
    monkeypatch.setattr(lowering, "optimise", swapped)
    with pytest.raises(LoweringError, match=r"at index \[\d, \d\].*report"):
        lower(Three().eval(), sample=(x, x, x))

"""Trained and frozen networks of every architectural idea as C: the integers of the exported graph."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import bitshift as bs
from bitshift.lower import lower
from bitshift.nn.activations import calibrate
from c99_host import assert_equal, needs_cc
from chain_networks import NETWORKS, trained
from lower_models import feed, samples

QUICK = ("resnet-slice", "mobile")
SLOW = sorted(set(NETWORKS) - set(QUICK))


def check(name: str, folder: Path) -> None:
    """``name`` with weights of two terms, 8-bit activations, and no multiplication from end to end."""
    x = samples(NETWORKS[name][1], seed=11, rows=6, reach=1.5)
    config = bs.ShiftConfig(method="nearest", format="pot4x2", activations=8, multiplier=False, init="pretrained")
    model, _ = bs.convert(trained(name, seed=0), config, sample=x)
    calibrate(model, [torch.randn(8, *NETWORKS[name][1], generator=torch.Generator().manual_seed(3))])
    graph = lower(bs.freeze(model.eval(), sample=x))
    unit = assert_equal(graph, feed(graph, x), folder)
    assert len(unit.program.steps) >= 2


@needs_cc
@pytest.mark.parametrize("name", QUICK)
def test_a_network_gives_its_graphs_integers(name: str, tmp_path: Path) -> None:
    check(name, tmp_path)


@needs_cc
@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_every_network_gives_its_graphs_integers(name: str, tmp_path: Path) -> None:
    check(name, tmp_path)

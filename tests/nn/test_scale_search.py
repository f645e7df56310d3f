"""Scale search: least squared error over powers of two, free scales, special channels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitshift.core.formats import FORMATS
from bitshift.nn.scale_search import (
    SCALE_EXP_MAX,
    SCALE_EXP_MIN,
    exponents_of,
    midpoint_distance,
    nearest_code,
    nearest_level,
    scale_of,
    search_free_scale,
    search_pot_scale,
)


def squared_error(weight: torch.Tensor, scale: float, name: str) -> float:
    values = weight.double().numpy() / scale
    return float(np.square((FORMATS[name].table[FORMATS[name].nearest(values)] - values) * scale).sum())


@pytest.mark.parametrize("name", FORMATS)
def test_the_power_of_two_is_the_best_of_all_exponents(name: str) -> None:
    weight = torch.randn(4, 64, generator=torch.Generator().manual_seed(1)) * torch.tensor(
        [[1e-3], [0.1], [1.0], [40.0]]
    )
    scale = search_pot_scale(weight, FORMATS[name])
    for row, found in zip(weight, scale.tolist(), strict=True):
        best = min(squared_error(row, 2.0**e, name) for e in range(-60, 10))
        assert squared_error(row, found, name) == pytest.approx(best, rel=1e-9)


@pytest.mark.parametrize("name", ["pot2d", "pot3d", "pot4x2", "int4"])
def test_the_free_scale_is_close_to_the_best_of_a_fine_grid(name: str) -> None:
    weight = torch.randn(1, 256, generator=torch.Generator().manual_seed(2))
    found = squared_error(weight[0], search_free_scale(weight, FORMATS[name]).item(), name)
    best = min(squared_error(weight[0], s, name) for s in np.geomspace(1e-3, 4, 2000))
    assert found <= 1.03 * best


def test_one_scale_for_a_tensor_is_the_same_everywhere() -> None:
    weight = torch.randn(4, 8, generator=torch.Generator().manual_seed(3)) * torch.tensor([[0.1], [1], [2], [8]])
    assert search_pot_scale(weight, FORMATS["pot3d"], granularity="tensor").unique().numel() == 1
    assert search_pot_scale(weight, FORMATS["pot3d"]).unique().numel() > 1


def test_a_channel_of_zeros_is_quiet_in_a_set_without_zero() -> None:
    weight = torch.stack([torch.linspace(-1, 1, 32), torch.zeros(32)])
    scale = search_pot_scale(weight, FORMATS["pot3d"])
    assert scale[1] == scale[0] * 2**-8
    assert search_pot_scale(torch.zeros(2, 3), FORMATS["pot3d"]).tolist() == [2.0**-12] * 2


@pytest.mark.parametrize("name", FORMATS)
@given(values=st.lists(st.floats(-(2.0**33), 2.0**33, width=32), min_size=1, max_size=8))
def test_thresholds_agree_with_the_format(name: str, values: list[float]) -> None:
    codes = nearest_code(torch.tensor(values), FORMATS[name])
    assert np.array_equal(codes.numpy(), FORMATS[name].nearest(np.array(values, dtype=np.float32)))
    assert nearest_level(torch.tensor(values), FORMATS[name]).tolist() == FORMATS[name].decode(codes.numpy()).tolist()


def test_midpoint_distance_at_ends_and_midpoints() -> None:
    values = torch.tensor([0.0, -6.0, 100.0, -100.0, 1.0])
    assert midpoint_distance(values, FORMATS["pot3d"]).tolist() == [0.0, 0.0, 94.0, 94.0, 0.5]


def test_exponents_and_scales_are_inverse_over_the_whole_range() -> None:
    exponents = torch.arange(SCALE_EXP_MIN, SCALE_EXP_MAX + 1, dtype=torch.int32)
    assert torch.equal(scale_of(exponents).double(), 2.0 ** exponents.double())
    assert torch.equal(exponents_of(scale_of(exponents), len(exponents), "x"), exponents)


@pytest.mark.parametrize("bad", [0.0, -1.0, 0.3, float("inf"), float("nan"), 2.0**100])
def test_a_scale_that_is_no_power_of_two_is_refused_by_channel(bad: float) -> None:
    with pytest.raises(ValueError, match="of channel 1 is no power of two"):
        exponents_of(torch.tensor([1.0, bad]), 2, "x")


def test_a_scale_of_the_wrong_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected one scale per output channel, \(3,\)"):
        exponents_of(torch.ones(2), 3, "x")

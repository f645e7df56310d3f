"""Operation counts by hand, memory, energy, limits."""

from __future__ import annotations

import numpy as np
import pytest

from bitshift.core.cost import ENERGY_PJ, CostTable, check_limits, count, energy_pj, float_twin, peak_activation_bytes
from bitshift.core.fixed import FixedPoint, Float32
from bitshift.core.graph import GraphError
from bitshift.core.ops import Cost
from strategies import Builder

S8, S32, F32 = FixedPoint(8, 7), FixedPoint(32, 7), Float32()
CONV = {"stride": [1], "padding": [[0, 0]], "dilation": [1], "groups": 1}


def conv_table(format: str, type: FixedPoint | Float32 = S8, **consts: np.ndarray) -> CostTable:
    """A 1-d convolution: 2 outputs channels at 4 positions, 3 inputs channels, 2 taps: 48 products."""
    b = Builder()
    x = b.input((3, 5), type)
    codes = np.zeros((2, 3, 2), np.uint8)
    out = S8 if isinstance(type, FixedPoint) else type
    y = b.node("conv", [x], (2, 4), out, {**CONV, "format": format}, {"codes": codes, **consts})
    return count(b.graph([y]))


def conv_cost(format: str, type: FixedPoint = S8, **consts: np.ndarray) -> Cost:
    """Cost of the node of :func:`conv_table`."""
    return conv_table(format, type, **consts).rows[0].cost


def test_one_power_of_two_a_weight_is_one_shift_and_one_addition() -> None:
    cost = conv_cost("pot3d")
    assert (cost.shifts, cost.adds, cost.multiplications, cost.comparisons) == (48, 48, 0, 16)
    assert cost.narrow_shifts == 48
    assert cost.weight_bits == 12 * 3
    assert cost.activation_bytes == 8


def test_two_terms_are_two_shifts_and_two_additions() -> None:
    cost = conv_cost("pot4x2")
    assert (cost.shifts, cost.adds, cost.multiplications) == (96, 96, 0)


def test_uniform_weights_multiply() -> None:
    cost = conv_cost("int4")
    assert (cost.shifts, cost.adds, cost.multiplications, cost.narrow_multiplications) == (0, 48, 48, 48)
    assert conv_cost("int4", FixedPoint(9, 0)).narrow_multiplications == 0


def test_shifts_of_wide_operands_are_not_narrow() -> None:
    assert conv_cost("pot5d", FixedPoint(8, 0)).narrow_shifts == 0


def test_rule_4_counts_what_is_not_trivial() -> None:
    """Channel 0: mult 1, shift 0; channel 1: mult 4 (a shift), offset, shift. Four positions each."""
    cost = conv_cost(
        "pot3d",
        mult=np.array([1, 4], np.int32),
        offset=np.array([0, 8]),
        shift=np.array([0, 4], np.uint8),
    )
    assert (cost.shifts - 48, cost.adds - 48, cost.multiplications) == (8, 4, 0)
    assert cost.constant_bytes == 2 * (1 + 4 + 1)
    assert conv_cost("pot3d", mult=np.array([3, 4], np.int32)).multiplications == 4


def test_products_and_values_that_are_requantised_are_counted_whatever_they_are_made_of() -> None:
    """8 outputs of 48 products; a mean of 4, then an addition of 4, which are requantised but hold no product."""
    for format in ("pot3d", "pot4x2", "int4"):
        cost = conv_cost(format)
        assert (cost.products, cost.requantisations) == (48, 8)
    b = Builder()
    x = b.input((2, 4), S8)
    attrs = {"kernel": [2], "stride": [2], "padding": [[0, 0]], "mult": 1, "offset": 1, "shift": 1}
    y = b.node("avg_pool", [x], (2, 2), S8, attrs)
    z = b.node("add", [y, y], (2, 2), S8)
    assert [(row.cost.products, row.cost.requantisations) for row in count(b.graph([z])).rows] == [(0, 4), (0, 4)]


def test_the_table_names_every_multiplication_left() -> None:
    b = Builder()
    x = b.input((2, 4), S8)
    attrs = {"kernel": [3], "stride": [1], "padding": [[0, 0]], "mult": 21845, "offset": 0, "shift": 16}
    y = b.node("avg_pool", [x], (2, 2), S8, attrs, source="pool")
    z = b.node("clamp", [y], (2, 2), S8, {"lo": 0, "hi": None}, source="relu")
    table = count(b.graph([z]))
    assert [row.place for row in table.multiplications()] == ["pool"]
    assert not table.multiplication_free
    assert table.total.multiplications == 4
    assert table.total.comparisons == 8 + 4


def test_shared_weights_are_counted_once() -> None:
    b = Builder()
    x = b.input((2,), S8)
    codes = np.zeros((2, 2), np.uint8)
    y = b.node("linear", [x], (2,), S8, {"format": "pot3d"}, {"codes": codes})
    z = b.node("linear", [y], (2,), S8, {"format": "pot3d"}, {"codes": codes})
    second = b.nodes[-1]
    object.__setattr__(second, "consts", b.nodes[0].consts)
    table = count(b.graph([z]))
    assert [row.cost.weight_bits for row in table.rows] == [12, 0]
    assert [row.cost.shifts for row in table.rows] == [4, 4]


def test_weights_that_are_shared_are_counted_once_whatever_else_is_not() -> None:
    """A tied layer has offsets of its own: 8 bytes each, beside one set of codes."""
    b = Builder()
    x = b.input((2,), S8)
    own = {"codes": np.zeros((2, 2), np.uint8), "offset": np.array([8, 9])}
    y = b.node("linear", [x], (2,), S8, {"format": "pot3d"}, own)
    z = b.node("linear", [y], (2,), S8, {"format": "pot3d"}, own)
    first, second = b.nodes
    object.__setattr__(second, "consts", {**second.consts, "codes": first.consts["codes"]})
    table = count(b.graph([z]))
    assert [row.cost.weight_bits for row in table.rows] == [12, 0]
    assert table.rows[0].cost.constant_bytes == table.rows[1].cost.constant_bytes > 0


def test_float_nodes_count_floats_only() -> None:
    b = Builder()
    x = b.input((2,), F32)
    codes = {"codes": np.zeros((3, 2), np.uint8), "bias": np.ones(3, np.float32), "scale": np.full(3, 2, np.float32)}
    y = b.node("linear", [x], (3,), F32, {"format": "pot3d"}, codes)
    z = b.node("linear", [y], (1,), F32, {}, {"weight": np.ones((1, 3), np.float32)})
    first, second = (row.cost for row in count(b.graph([z])).rows)
    assert (first.float_shifts, first.float_adds, first.float_multiplications) == (6, 9, 3)
    assert (second.float_shifts, second.float_adds, second.float_multiplications) == (0, 3, 3)
    assert second.weight_bits == 96


def test_energy_is_the_sum_of_the_constants() -> None:
    cost = Cost(shifts=3, narrow_shifts=1, adds=5, multiplications=4, narrow_multiplications=3, float_adds=2)
    e = ENERGY_PJ
    expected = 2 * e["shift_int32"] + e["shift_int16"] + 5 * e["add_int32"]
    expected += e["mult_int32"] + 3 * e["mult_int8"] + 2 * e["add_fp32"]
    assert energy_pj(cost) == pytest.approx(expected)


def test_the_float_twin_multiplies_where_we_shift() -> None:
    table = conv_table("pot3d")
    twin = float_twin(table)
    assert (twin.float_multiplications, twin.float_adds, twin.shifts) == (48, 48, 0)
    assert table.energy_pj < energy_pj(twin) / 10


@pytest.mark.parametrize("type", [S8, F32], ids=str)
def test_the_float_twin_is_the_same_whatever_the_weights_are_here(type: FixedPoint | Float32) -> None:
    """Two terms a weight are still one product; the shifts of requantising are none of a float network."""
    consts = {"bias": np.ones(2, np.float32), "scale": np.full(2, 3, np.float32)}
    if type == S8:
        consts = {"mult": np.array([1, 4], np.int32), "offset": np.array([8, 8]), "shift": np.array([4, 4], np.uint8)}
    twins = [float_twin(conv_table(format, type, **consts)) for format in ("pot3d", "pot4x2", "apot5", "int8")]
    assert all(twin == twins[0] for twin in twins)
    assert (twins[0].float_multiplications, twins[0].float_adds) == (48, 48 + 8)
    assert twins[0].comparisons == 0


def test_a_mean_and_float_weights_multiply_in_the_float_twin_as_they_do_themselves() -> None:
    b = Builder()
    x = b.input((2, 4), S8)
    attrs = {"kernel": [2], "stride": [2], "padding": [[0, 0]], "mult": 1, "offset": 1, "shift": 1}
    y = b.node("avg_pool", [x], (2, 2), S8, attrs)
    assert float_twin(count(b.graph([y]))).float_multiplications == 4
    b = Builder()
    x = b.input((3,), F32)
    y = b.node("linear", [x], (1,), F32, {}, {"weight": np.ones((1, 3), np.float32)})
    assert float_twin(count(b.graph([y]))).float_multiplications == 3


def test_peak_memory_is_of_values_alive_together() -> None:
    """X (8 bytes) feeds a and b; all three live while b is computed, then only b and its sum with a."""
    b = Builder()
    x = b.input((8,), S8)
    one = b.node("clamp", [x], (8,), S8, {"lo": 0, "hi": None})
    two = b.node("clamp", [x], (8,), S8, {"lo": None, "hi": 0})
    total = b.node("add", [one, two], (8,), FixedPoint(16, 7))
    assert peak_activation_bytes(b.graph([total])) == 8 + 8 + 16


def test_limits_refuse_memory_and_operations() -> None:
    b = Builder()
    x = b.input((1000,), S8)
    y = b.node("clamp", [x], (1000,), S8, {"lo": 0, "hi": None})
    check_limits(b.graph([y]), max_activation_bytes=2000)
    with pytest.raises(GraphError, match="2_000 bytes; allowed: 1_999"):
        check_limits(b.graph([y]), max_activation_bytes=1999)
    b = Builder()
    x = b.input((1, 2**30), S8)
    attrs = {"kernel": [2**29], "stride": [1], "padding": [[0, 0]], "dilation": [1]}
    y = b.node("max_pool", [x], (1, 2**29 + 1), S8, attrs)
    with pytest.raises(GraphError, match=r"operations; allowed: 2\*\*50"):
        check_limits(b.graph([y]), max_activation_bytes=2**40)


def test_a_transposed_convolution_multiplies_each_input_by_each_of_its_weights_once() -> None:
    """3 inputs channels at 5 positions, 2 outputs channels of 4 taps: 120 products, however long the output is."""
    b = Builder()
    x = b.input((3, 5), S8)
    attrs = {**CONV, "stride": [3], "output_padding": [2], "format": "pot3d"}
    y = b.node("conv_transpose", [x], (2, 18), S8, attrs, {"codes": np.zeros((2, 3, 4), np.uint8)})
    cost = count(b.graph([y])).rows[0].cost
    assert (cost.shifts, cost.adds, cost.multiplications, cost.comparisons) == (120, 120, 0, 72)
    assert cost.weight_bits == 24 * 3


def test_an_embedding_looks_up_and_shifts_only_where_rows_have_scales_of_their_own() -> None:
    b = Builder()
    ids = b.input((5,), FixedPoint(32, 0))
    b.ranges[ids] = (0, 6)
    codes = np.zeros((7, 3), np.uint8)
    plain = b.node("embedding", [ids], (5, 3), S8, {"format": "pot3d"}, {"codes": codes})
    mult = np.array([1, 1, 4, 1, 1, 1, 1], np.int32)
    scaled = b.node("embedding", [ids], (5, 3), S8, {"format": "pot3d"}, {"codes": codes, "mult": mult})
    first, second = (row.cost for row in count(b.graph([plain, scaled])).rows)
    assert (first.lookups, first.shifts, first.adds, first.multiplications) == (15, 0, 0, 0)
    assert (second.lookups, second.shifts, second.multiplications) == (15, 15, 0)
    assert first.weight_bits == 21 * 3

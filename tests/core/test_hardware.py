"""The hardware estimate by hand: products, requantisation, traffic, the columns beside, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from bitshift.core.constants import energies, operators
from bitshift.core.cost import ENERGY_PJ
from bitshift.core.fixed import FixedPoint, Float32
from bitshift.core.formats import FORMATS
from bitshift.core.graph import Graph, GraphError
from bitshift.core.hardware import (
    MULTIPLYING_REQUANTISER,
    SHIFT_REQUANTISER,
    USUAL_REQUANTISER,
    estimate,
    product_pj,
    unit,
)
from strategies import Builder

S8, U8, S16, F32 = FixedPoint(8, 7), FixedPoint(8, 7, signed=False), FixedPoint(16, 7), Float32()
CONV = {"stride": [1], "padding": [[0, 0]], "dilation": [1], "groups": 1}
OFFSET_AND_SHIFT = {"offset": np.array([1, 2]), "shift": np.array([3, 3], np.uint8)}
BIT = ENERGY_PJ["sram_bit"]


def conv(format: str = "pot3d", type: FixedPoint = S8, **more: np.ndarray) -> Graph:
    """12 weights, 2 channels of 4 outputs (8 bytes) from 3 channels of 5 inputs: 48 products."""
    b = Builder()
    x = b.input((3, 5), type)
    consts = {"codes": np.zeros((2, 3, 2), np.uint8), **OFFSET_AND_SHIFT, **more}
    y = b.node("conv", [x], (2, 4), S8, {**CONV, "format": format}, consts, source="first")
    return b.graph([y])


def test_a_convolution_by_hand() -> None:
    """Each of 8 outputs: an offset, a 32-bit shift, two comparisons. Constants: 2 offsets of 32 bits, 2 shifts of 8."""
    own, int8, int4 = estimate(conv()).columns
    ratio = operators()["multiply-accumulate int8 x pot3d"].power / operators()["multiply-accumulate int8 x int8"].power
    assert own.products == {"pot3d": 48}
    assert own.product_pj == pytest.approx(48 * (0.2 + 0.1) * ratio)
    assert own.other_pj == pytest.approx(8 * (0.1 + 0.13 + 2 * 0.1))
    assert own.weights_once_pj == pytest.approx((12 * 3 + 80) * 10 / 64)
    assert own.weights_anew_pj == pytest.approx((48 * 3 + 80) * 10 / 64)
    assert own.activations_once_pj == pytest.approx((15 * 8 + 8 * 8) * 10 / 64)
    assert own.activations_anew_pj == pytest.approx((48 * 8 + 8 * 8) * 10 / 64)
    assert own.once_pj == own.product_pj + own.other_pj + own.weights_once_pj + own.activations_once_pj
    assert own.anew_pj == own.product_pj + own.other_pj + own.weights_anew_pj + own.activations_anew_pj

    assert (int8.products, int8.weight_bits, int8.product_pj) == ({"int8": 48}, 96, pytest.approx(48 * 0.3))
    assert (int4.products, int4.weight_bits) == ({"int4": 48}, 48)
    assert int8.weights_anew_pj == pytest.approx((48 * 8 + 80) * BIT)
    for column in (int8, int4):
        assert (column.other_pj, column.activations_anew_pj) == (own.other_pj, own.activations_anew_pj)


def test_two_terms_and_multiplying_formats_leave_only_rule_4_to_other_operations() -> None:
    plain = estimate(conv()).columns[0].other_pj
    assert estimate(conv("pot4x2")).columns[0].other_pj == pytest.approx(plain)
    assert estimate(conv("int5")).columns[0].other_pj == pytest.approx(plain)


def test_a_wider_activation_takes_a_product_for_each_8_bits() -> None:
    own = estimate(conv(type=S16)).columns[0]
    assert own.products == {"pot3d": 96}
    assert own.weights_anew_pj == pytest.approx((96 * 3 + 80) * BIT)
    assert own.activations_anew_pj == pytest.approx((48 * 16 + 8 * 8) * BIT)
    assert estimate(conv(type=U8)).columns[0].products == {"pot3d": 48}


def test_layers_of_int8_stay_so_in_the_int4_column_and_each_format_needs_its_unit() -> None:
    b = Builder()
    x = b.input((4,), S8)
    y = b.node("linear", [x], (4,), S8, {"format": "int8"}, {"codes": np.zeros((4, 4), np.uint8)})
    z = b.node("linear", [y], (2,), S8, {"format": "pot3d"}, {"codes": np.zeros((2, 4), np.uint8)})
    own, int8, int4 = estimate(b.graph([z])).columns
    assert (own.products, own.gates) == ({"int8": 16, "pot3d": 8}, unit("int8").gates + unit("pot3d").gates)
    assert (int8.products, int8.gates) == ({"int8": 24}, unit("int8").gates)
    assert (int4.products, int4.weight_bits) == ({"int8": 16, "int4": 8}, 16 * 8 + 8 * 4)
    assert own.delay_ns == max(unit("int8").delay_ns, unit("pot3d").delay_ns)


def test_the_requantiser_multiplies_only_where_a_mult_is_no_power_of_two() -> None:
    assert estimate(conv(mult=np.array([4, 1], np.int32))).requantiser == SHIFT_REQUANTISER
    made = estimate(conv(mult=np.array([3, 1], np.int32)))
    assert made.requantiser == MULTIPLYING_REQUANTISER
    assert made.columns[0].other_pj == pytest.approx(estimate(conv()).columns[0].other_pj + 4 * 3.1)
    assert made.usual_requantiser_pj == pytest.approx(8 * 3.1)


def test_weights_that_two_layers_share_are_stored_once_and_read_anew_by_both() -> None:
    b = Builder()
    x = b.input((2,), S8)
    codes = np.zeros((2, 2), np.uint8)
    y = b.node("linear", [x], (2,), S8, {"format": "pot3d"}, {"codes": codes})
    z = b.node("linear", [y], (2,), S8, {"format": "pot3d"}, {"codes": codes})
    object.__setattr__(b.nodes[-1], "consts", b.nodes[0].consts)
    own = estimate(b.graph([z])).columns[0]
    assert (own.weight_bits, own.weights_anew_pj) == (12, pytest.approx(24 * BIT))


def test_an_embedding_reads_the_rows_of_its_ids_only() -> None:
    b = Builder()
    ids = b.input((3,), FixedPoint(2, 0, signed=False))
    y = b.node("embedding", [ids], (3, 5), S8, {"format": "pot3d"}, {"codes": np.zeros((4, 5), np.uint8)})
    own, int8, _ = estimate(b.graph([y])).columns
    assert (own.products, own.weight_bits, int8.weight_bits) == ({}, 15 * 3, 15 * 8)


def test_a_float_node_is_refused_by_name_and_a_float_border_is_not() -> None:
    b = Builder()
    x = b.input((2,), F32)
    q = b.node("quantize", [x], (2,), S8, {"rounding": "half_up"})
    y = b.node("linear", [q], (2,), S8, {"format": "pot3d"}, {"codes": np.zeros((2, 2), np.uint8)})
    z = b.node("dequantize", [y], (2,), F32)
    assert estimate(b.graph([z])).columns[0].products == {"pot3d": 4}
    b.node("unary", [z], (2,), F32, {"fn": "tanh"}, source="head.tanh")
    with pytest.raises(GraphError, match=r"'head.tanh' \[unary\] computes in float32.*--activations 8"):
        estimate(b.graph([b.nodes[-1].output]))


def test_every_format_of_an_integer_node_has_a_synthesised_unit() -> None:
    for form in FORMATS.values():
        if not form.float_only:
            assert unit(form.name).gates > 0
            assert 0 < product_pj(form.name) < 2.5 * product_pj("int8")
    assert unit("pot3d").gates < unit("int4").gates < unit("int8").gates
    assert product_pj("pot3d") < product_pj("int8")
    assert {SHIFT_REQUANTISER, MULTIPLYING_REQUANTISER, USUAL_REQUANTISER} <= set(operators())


def test_every_published_energy_names_its_source() -> None:
    assert all(energy.pj > 0 and energy.what and "45 nm" in energy.source for energy in energies().values())

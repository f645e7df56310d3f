"""What emit-c refuses, by the layer's name and with what would help."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bitshift import ShiftConfig, convert, export_c, freeze
from bitshift.backends.c99.unit import compile_graph
from bitshift.core.fixed import FixedPoint, Float32
from bitshift.core.graph import Graph, GraphError, Node, Value
from bitshift.lower import lower

S8, F32 = FixedPoint(8, 4), Float32()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written although it should be refused does not lie in the checkout."""
    monkeypatch.chdir(tmp_path)


def linear(*, mult: int = 1, outputs: int = 3, inputs: int = 4, levels: int = 0, **types: object) -> Graph:
    """One linear layer ``classifier.fc`` from ``inputs`` to ``outputs``."""
    values = {
        "x": Value("x", (inputs,), types.get("x", S8)),  # type: ignore[arg-type]
        "y": Value("y", (outputs,), types.get("y", FixedPoint(32, 0))),  # type: ignore[arg-type]
    }
    constants = {
        "w": np.full((outputs, inputs), levels, np.uint8),
        "m": np.full(outputs, mult, np.int32),
    }
    node = Node("linear", ("x",), "y", {"format": "pot4d"}, {"codes": "w", "mult": "m"}, "classifier.fc")
    return Graph(("x",), ("y",), values, (node,), constants)


def test_a_multiplier_names_layer_channel_and_the_training_option() -> None:
    with pytest.raises(GraphError, match=r"'classifier.fc' \(linear\): mult is 3 for channel 0.*multiplier=False"):
        compile_graph(linear(mult=3))


def test_an_accumulator_that_overflows_names_the_layer_and_what_fits() -> None:
    big = linear(x=FixedPoint(24, 0), inputs=400, levels=7, y=FixedPoint(31, 0))
    with pytest.raises(GraphError, match=r"'classifier.fc': accumulator bound .* exceeds int32; use"):
        compile_graph(big)


def test_a_layer_that_computes_with_floats_is_named() -> None:
    values = {name: Value(name, (4,), F32) for name in ("x", "y")}
    node = Node("unary", ("x",), "y", {"fn": "gelu"}, {}, "blocks.0.act")
    with pytest.raises(GraphError, match=r"'blocks.0.act' \(unary\): computes with floats.*activations=8"):
        compile_graph(Graph(("x",), ("y",), values, (node,), {}))


def test_a_float_layer_behind_integers_is_named() -> None:
    types = {"x": S8, "f": F32, "y": F32}
    values = {name: Value(name, (4,), type) for name, type in types.items()}
    nodes = (Node("dequantize", ("x",), "f"), Node("unary", ("f",), "y", {"fn": "tanh"}, {}, "head.tanh"))
    with pytest.raises(GraphError, match=r"'head.tanh' \(unary\): computes with floats"):
        compile_graph(Graph(("x",), ("y",), values, nodes, {}))


def test_floats_that_a_layer_quantises_name_the_op_and_the_layer() -> None:
    types = {"x": F32, "p": F32, "q": S8, "y": S8}
    values = {name: Value(name, (4,), type) for name, type in types.items()}
    nodes = (
        Node("clamp", ("x",), "p", {"lo": 0, "hi": None}, {}, "act"),
        Node("quantize", ("p",), "q", {"rounding": "half_up"}, {}, "p_quant"),
        Node("clamp", ("q",), "y", {"lo": 0, "hi": None}, {}, "head"),
    )
    with pytest.raises(GraphError, match=r"'act' \(clamp\): computes with .* quantised for layer 'head'") as refused:
        compile_graph(Graph(("x",), ("y",), values, nodes, {}))
    assert "activations=8" not in str(refused.value)
    assert "p_quant" not in str(refused.value)


def test_fixed_point_activations_are_told_to_be_integers() -> None:
    model, _ = convert(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), ShiftConfig(activations="16.16"))
    message = r"layer '.*' \(clamp\): computes with floats.*activations=8.*'16\.16'"
    with pytest.raises(GraphError, match=message) as refused:
        compile_graph(lower(freeze(model.eval(), torch.ones(2, 4))))
    assert "out of the model" not in str(refused.value)


def test_an_input_that_is_quantised_twice_differently_is_refused() -> None:
    types = {"x": F32, "a": S8, "b": FixedPoint(8, 3), "y": S8}
    values = {name: Value(name, (4,), type) for name, type in types.items()}
    nodes = (
        Node("quantize", ("x",), "a", {"rounding": "half_up"}),
        Node("quantize", ("x",), "b", {"rounding": "half_up"}, {}, "branch.quant"),
        Node("add", ("a", "b"), "y"),
    )
    with pytest.raises(GraphError, match=r"'branch.quant' \(quantize\): quantises the input 'x' to s8.3"):
        compile_graph(Graph(("x",), ("y",), values, nodes, {}))


def test_too_little_ram_names_the_fullest_step_and_the_smallest_that_fits() -> None:
    types = {"x": S8, "a": FixedPoint(16, 4), "b": FixedPoint(16, 4), "y": S8}
    values = {name: Value(name, (100,), type) for name, type in types.items()}
    nodes = (
        Node("requantize", ("x",), "a", {}, {}, "first"),
        Node("transpose", ("a",), "b", {"perm": (0,)}, {}, "middle"),
        Node("requantize", ("b",), "y", {}, {}, "last"),
    )
    net = Graph(("x",), ("y",), values, nodes, {})
    assert compile_graph(net, ram=400).plan.size == 400
    with pytest.raises(ValueError, match=r"'middle' \(transpose\): 400 bytes live.*ram is 399.*smallest.*is 400"):
        compile_graph(net, ram=399)


def test_too_little_flash_names_the_largest_layer_and_what_it_takes() -> None:
    with pytest.raises(ValueError, match=r"'classifier.fc' \(linear\): takes about .*flash is 300 bytes: train with"):
        compile_graph(linear(inputs=900, outputs=2), flash=300)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "cortex-m5"}, "unknown target 'cortex-m5'; did you mean 'cortex-m"),
        ({"mode": "fast"}, "unknown mode 'fast'; allowed: auto, packed"),
        ({"name": "my net"}, "name 'my net': allowed are C identifiers"),
        ({"name": "stdint"}, "name 'stdint': stdint.h would hide the C header"),
        ({"name": "s00"}, "name 's00': the functions of the layers are called s00_LAYER"),
        ({"name": "s12_up"}, "name 's12_up': the functions of the layers are called s00_LAYER"),
        ({"samples": 0}, "samples is 0: needed is a whole number of inputs of the self-test, 1 or more"),
        ({"flash": "64k"}, "flash is '64k': needed is a whole number of bytes, 1 or more"),
        ({"ram": -5}, "ram is -5: needed is a whole number of bytes, 1 or more"),
        ({"example": True, "arduino": True}, "the example goes with the plain folder"),
        ({"zephyr": True, "arduino": True}, "lay the same folder out in two ways"),
        ({"example": True}, "target 'generic' has no emulated board"),
    ],
)
def test_a_wrong_option_says_what_is_allowed_and_writes_nothing(
    options: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        export_c(linear(), tmp_path / "out", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_a_file_that_bitshift_did_not_write_stays_and_nothing_is_written(tmp_path: Path) -> None:
    mine = tmp_path / "README.md"
    mine.write_text("my firmware")
    with pytest.raises(ValueError, match=r"README.md is there, and bitshift did not write it: name another folder"):
        export_c(linear(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    assert mine.read_text() == "my firmware"


def test_a_users_file_that_speaks_of_bitshift_stays(tmp_path: Path) -> None:
    mine = tmp_path / "README.md"
    mine.write_text("# My firmware\nThe network in here is exported with bitshift.\n")
    with pytest.raises(ValueError, match=r"README.md is there, and bitshift did not write it"):
        export_c(linear(), tmp_path)
    assert mine.read_text().startswith("# My firmware")


def test_a_model_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"nope\.safetensors"):
        export_c(tmp_path / "nope.safetensors", tmp_path / "out")


@pytest.mark.parametrize("layout", [{}, {"arduino": True}, {"zephyr": True}, {"example": True, "target": "rv32i"}])
def test_what_an_earlier_call_wrote_is_replaced(layout: dict[str, object], tmp_path: Path) -> None:
    first = export_c(linear(), tmp_path, **layout)  # type: ignore[arg-type]
    before = (tmp_path / first.files[1]).read_text()
    export_c(linear(inputs=5), tmp_path, **layout)  # type: ignore[arg-type]
    assert (tmp_path / first.files[1]).read_text() != before


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.c").mkdir()
    with pytest.raises(ValueError, match=r"model.c cannot be written: Is a directory; name another folder"):
        export_c(linear(), tmp_path)


def test_an_avr_refuses_an_array_that_it_cannot_address() -> None:
    with pytest.raises(ValueError, match=r"'classifier.fc' \(linear\): .* bytes of constants; an array on an AVR"):
        export_c(linear(inputs=900, outputs=100), "unwritten", target="avr")


def test_an_avr_refuses_outputs_of_a_layer_that_it_cannot_address() -> None:
    with pytest.raises(ValueError, match=r"'classifier.fc' \(linear\): 36,000 bytes of outputs; an array on an AVR"):
        export_c(linear(inputs=1, outputs=9000), "unwritten", target="avr")


def pool(size: int, by: int) -> Graph:
    """A network without constants: ``size`` bytes in, ``size / by`` out."""
    values = {"x": Value("x", (1, size), S8), "y": Value("y", (1, size // by), S8)}
    attrs = {"kernel": (by,), "stride": (by,), "padding": ((0, 0),), "dilation": (1,)}
    return Graph(("x",), ("y",), values, (Node("max_pool", ("x",), "y", attrs),), {})


def test_an_avr_refuses_an_input_that_it_cannot_address() -> None:
    with pytest.raises(
        ValueError, match=r"input 'x': 40,000 bytes; an array on an AVR has at most 32,767: use a small"
    ):
        export_c(pool(40_000, 100), "unwritten", target="avr")


def test_an_avr_refuses_more_samples_than_an_array_holds(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"samples is 3: .* 12,120 bytes for each.* samples may be 2 at most"):
        export_c(pool(12_000, 100), "unwritten", target="avr")
    export_c(pool(12_000, 100), tmp_path, target="avr", samples=2)


def test_an_avr_refuses_samples_that_reach_beyond_its_near_flash(tmp_path: Path) -> None:
    graph = linear(inputs=450, outputs=130)
    constants = export_c(graph, tmp_path, target="avr", mode="plain", samples=1).constants
    fitting = (0x10000 - 1024 - constants) // (450 + 130 * 4)
    assert fitting < 32_767 // (130 * 4)
    with pytest.raises(ValueError, match=rf"samples is {fitting + 1}: .* samples may be {fitting} at most"):
        export_c(graph, "unwritten", target="avr", mode="plain", samples=fitting + 1)
    export_c(graph, tmp_path, target="avr", mode="plain", samples=fitting)


def test_the_board_of_the_example_holds_the_self_test(tmp_path: Path) -> None:
    export_c(pool(400, 1), tmp_path, target="avr", samples=3, example=True)
    assert "atmega328p" in (tmp_path / "example" / "Makefile").read_text()
    export_c(pool(400, 1), tmp_path, target="avr", samples=60, example=True)
    assert "atmega2560" in (tmp_path / "example" / "Makefile").read_text()


def test_a_network_called_input_says_of_its_output_what_it_is(tmp_path: Path) -> None:
    export_c(linear(), tmp_path, name="input")
    (line,) = [line for line in (tmp_path / "input.h").read_text().splitlines() if line.startswith("/* y:")]
    assert "stands for the value" in line


def test_the_board_header_of_the_example_has_a_guard_of_its_own(tmp_path: Path) -> None:
    export_c(linear(), tmp_path, name="board", target="cortex-m3", example=True)
    guards = [re.findall(r"#ifndef (\w+)", (tmp_path / at).read_text())[0] for at in ("board.h", "example/board.h")]
    assert len(set(guards)) == 2


def test_names_end_no_line_no_comment_and_no_cell(tmp_path: Path) -> None:
    graph = linear()
    values = {"x|y": Value("x|y", (4,), S8), "y": graph.values["y"]}
    node = replace(graph.nodes[0], inputs=("x|y",), source="a|b")
    meta = {"name": "net\nurl=https://example.invalid /* here */"}
    export_c(Graph(("x|y",), ("y",), values, (node,), graph.constants, meta), tmp_path, arduino=True)
    lines = (tmp_path / "library.properties").read_text().splitlines()
    assert [line.split("=")[0] for line in lines].count("url") == 1
    assert (tmp_path / "src" / "model.c").read_text().splitlines()[0].count("/*") == 1
    rows = [line for line in (tmp_path / "README.md").read_text().splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1


def test_a_long_op_counts_what_its_text_says() -> None:
    types = [FixedPoint(8, i % 5) for i in range(60)]
    values = {f"x{i}": Value(f"x{i}", (2, 3), type) for i, type in enumerate(types)}
    names = tuple(values)
    values["y"] = Value("y", (120, 3), FixedPoint(8, 2))
    graph = Graph(names, ("y",), values, (Node("concat", names, "y", {"axis": 0}),), {})
    for target, real in (("cortex-m0", 1764), ("rv32i", 2936), ("avr", 5570)):  # GCC 12, -Os and -O2
        with pytest.raises(ValueError, match=r"node 'y' \(concat\): takes about"):
            compile_graph(graph, target=target, flash=real)
        compile_graph(graph, target=target, flash=2 * real)

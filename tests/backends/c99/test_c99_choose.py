"""The chooser: least cycles within flash and room, and messages where none fits."""

import itertools
import re
from dataclasses import replace

import numpy as np
import pytest

from bitshift.backends.c99.choose import BudgetError, _knapsack, choose, needed, usable
from bitshift.backends.c99.kernels import KERNELS, MODES
from bitshift.backends.c99.targets import TARGETS, get_target
from bitshift.backends.c99.unit import compile_graph
from bitshift.core.fixed import FixedPoint
from bitshift.core.graph import Graph, Node, Value
from c99_layers import conv_graph, layer_of, linear_graph

M0 = get_target("cortex-m0")


def layers():
    rng = np.random.default_rng(0)
    graphs = [
        conv_graph(rng, shape=(3, 16, 16), outputs=8, kernel=(3, 3), padding=((1, 1), (1, 1))),
        conv_graph(rng, shape=(8, 16, 16), outputs=8, kernel=(3, 3), groups=8),
        conv_graph(rng, shape=(8, 14, 14), outputs=16, kernel=(1, 1)),
        linear_graph(rng, shape=(64,), outputs=10),
    ]
    return [replace(layer_of(graph), name=f"layer{i}", title=f"layer {i}") for i, graph in enumerate(graphs)]


def spent(choices):
    return sum(choice.estimate.flash for choice in choices.values())


def cycles(choices):
    return sum(choice.estimate.cycles for choice in choices.values())


def test_more_flash_is_never_slower_and_is_never_overspent():
    before, kernels = None, set()
    for flash in (6_000, 8_000, 12_000, 20_000, 40_000, 1 << 20):
        choices = choose(layers(), M0, flash=flash)
        assert spent(choices) <= flash
        assert before is None or cycles(choices) <= before
        before = cycles(choices)
        kernels.add(tuple(choice.kernel.name for choice in choices.values()))
    assert len(kernels) > 2, "the budget decides"


def test_the_knapsack_finds_what_trying_all_finds():
    rng = np.random.default_rng(1)
    for _ in range(30):
        options = [
            [(int(rng.integers(1, 1000)), 16 * int(rng.integers(1, 60))) for _ in range(int(rng.integers(1, 5)))]
            for _ in range(4)
        ]
        least = sum(min(flash for _, flash in of) for of in options)
        limit = least + 16 * int(rng.integers(0, 100))
        best = min(
            sum(cost for cost, _ in pick)
            for pick in itertools.product(*options)
            if sum(flash for _, flash in pick) <= limit
        )
        picked = [of[i] for of, i in zip(options, _knapsack(options, limit), strict=True)]
        assert sum(flash for _, flash in picked) <= limit
        assert sum(cost for cost, _ in picked) == best


def test_the_least_flash_is_the_least_of_which_enough_is_usable():
    for used in range(0, 5000, 7):
        assert usable(needed(used)) >= used > usable(needed(used) - 1)


def few_weights():
    """A linear layer of 16 weights in 8,000, where lists take less flash than packed codes."""
    graph = linear_graph(np.random.default_rng(0), shape=(1000,), outputs=8, format="pot3")
    codes = np.zeros_like(graph.constants["codes"])
    codes[:, :2] = 1
    return replace(graph, constants={**graph.constants, "codes": codes})


def one_pixel():
    """A convolution of one pixel, which straight-line code reads where it lies: plain unpacks a row of codes."""
    graph = conv_graph(np.random.default_rng(0), shape=(800, 1, 1), outputs=16, kernel=(1, 1))
    first = Node("add", ("in", "in"), "x")
    values = {**graph.values, "in": Value("in", (800, 1, 1), FixedPoint(8, 4))}
    return Graph(("in",), graph.outputs, values, (first, *graph.nodes), graph.constants)


@pytest.mark.parametrize(("what", "make"), [("flash", few_weights), ("ram", one_pixel)])
@pytest.mark.parametrize("target", ["generic", "cortex-m0", "avr"])
def test_the_smallest_that_a_message_names_is_what_it_takes(target, what, make):
    graph = make()
    with pytest.raises(ValueError, match="smallest") as failed:
        compile_graph(graph, target=target, **{what: 1})
    numbers = r"(?:smallest that this network can run in is|the network) ([\d,]+)"
    (least,) = (int(found.replace(",", "")) for found in re.findall(numbers, str(failed.value)))
    unit = compile_graph(graph, target=target, **{what: least})
    assert [kernel.name for kernel in unit.kernels.values()] != ["plain"]
    with pytest.raises(ValueError, match="smallest"):
        compile_graph(graph, target=target, **{what: least - 1})


@pytest.mark.parametrize("mode", ["unrolled", "lists"])
def test_a_mode_that_does_not_fit_is_refused_not_exchanged(mode):
    graph = linear_graph(np.random.default_rng(0), shape=(256,), outputs=64)
    with pytest.raises(
        ValueError, match=rf"mode '{mode}' needs ([\d,]+) bytes of flash, flash is 10,000.*'auto' needs"
    ) as no:
        compile_graph(graph, target="cortex-m0", mode=mode, flash=10_000)
    (least,) = re.findall(rf"mode '{mode}' needs ([\d,]+)", str(no.value))
    unit = compile_graph(graph, target="cortex-m0", mode=mode, flash=int(least.replace(",", "")))
    assert [kernel.name for kernel in unit.kernels.values()] == [mode]


@pytest.mark.parametrize("mode", ["packed", "unrolled"])
def test_a_mode_that_does_not_fit_the_memory_is_refused_not_exchanged(mode):
    graph = conv_graph(np.random.default_rng(0), shape=(8, 12, 12), outputs=8, kernel=(3, 3), padding=((1, 1), (1, 1)))
    assert [kernel.name for kernel in compile_graph(graph, target="cortex-m0", ram=72).kernels.values()] == ["plain"]
    with pytest.raises(ValueError, match="72"):
        compile_graph(graph, target="cortex-m0", mode=mode, ram=72)


def test_a_network_without_layers_in_too_little_flash_is_refused():
    values = {name: Value(name, (4,), FixedPoint(8, 4)) for name in "xy"}
    graph = Graph(("x",), ("y",), values, (Node("clamp", ("x",), "y", {"lo": 0, "hi": None}),), {})
    with pytest.raises(ValueError, match=r"node 'y' \(clamp\): takes about 120 bytes of flash"):
        compile_graph(graph, flash=50)


def test_a_layer_keeps_to_its_room():
    free = choose(layers(), M0, flash=1 << 20)
    tight = {name: choice.estimate.scratch // 2 for name, choice in free.items() if choice.estimate.scratch > 200}
    assert tight
    choices = choose(layers(), M0, flash=1 << 20, room=tight)
    for name, room in tight.items():
        assert choices[name].estimate.scratch <= room
        assert choices[name].estimate.cycles >= free[name].estimate.cycles


def test_a_flash_that_cannot_be_met_says_the_smallest_that_can():
    with pytest.raises(BudgetError, match="format of fewer bits") as failed:
        choose(layers(), M0, flash=100)
    least = failed.value.least
    assert f"{least:,}" in str(failed.value)
    assert spent(choose(layers(), M0, flash=least)) <= least
    with pytest.raises(BudgetError):
        choose(layers(), M0, flash=least - 1)


def test_a_room_that_cannot_be_met_names_the_layer():
    with pytest.raises(BudgetError, match=r"layer 0: needs .* bytes of working memory") as failed:
        choose(layers(), M0, room={"layer0": 3})
    assert choose(layers(), M0, room={"layer0": failed.value.least})


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_takes_its_own_kernels_and_plain_where_they_refuse(mode):
    for layer, choice in zip(layers(), choose(layers(), M0, mode=mode).values(), strict=True):
        own = [name for name in MODES[mode] if not KERNELS[name].refuses(layer, M0)]
        assert choice.kernel.name in (own if own and mode != "auto" else [*own, "plain"])
        assert choice.why


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_has_a_choice_with_positive_costs(target):
    for choice in choose(layers(), get_target(target)).values():
        assert choice.estimate.cycles > 0
        assert choice.estimate.flash > 0


def test_reasons_say_what_was_left_out():
    tight = choose(layers(), M0, flash=8_000)
    assert any("would be" in choice.why and "times as fast" in choice.why for choice in tight.values())
    rich = choose(layers(), M0, flash=1 << 20)
    assert all("fastest" in choice.why for choice in rich.values())

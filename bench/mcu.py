"""Instructions, cycles, flash and RAM of generated layers on emulated microcontrollers, beside our own int8 kernels.

Every kernel's outputs are compared with the exact result before its counts are taken. Counts are of executed
instructions, exact and the same in every run. Cycles are a model on a Cortex-M0 (Arm's instruction timing, no wait
states, one-cycle multiplier; `slow multiplier`: 32 cycles) and the data sheet's on AVR. The int8 baseline rounds by a
shift, which costs less than the 32-bit multiplication of other libraries. `int4 multiplied` is the control: our packed
kernels' lanes with four bits a weight and a multiplication. A model file adds a whole network, by layer. Rows of the
JSON that have no run here stay.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from common import Row, arguments, check_equal, main, with_kept
from emulated import counting, multiplications
from emulated.baseline import LAYERS as INT8
from emulated.baseline import Int8Layer
from emulated.build import Image, TooLargeError
from emulated.counting import Counts
from emulated.graphs import LAYERS, TINY
from emulated.host import missing
from emulated.machine import run
from emulated.network import Network, build_network

from bitshift.backends.c99 import golden
from bitshift.backends.c99.boards import BOARDS, Board
from bitshift.backends.c99.export import export_c
from bitshift.core import modelfile
from bitshift.core.graph import Graph

CORES = {
    "Cortex-M0": "microbit-large", "Cortex-M3": "mps2-an385", "Cortex-M4": "mps2-an386", "RV32I": "virt-rv32i",
    "RV32IM": "virt-rv32im", "AVR": "atmega2560-xmem", "AVR without MUL": "at90usb162-large",
    "ATtiny85": "attiny85",
}  # fmt: skip
MODES = ("auto", "packed", "unrolled", "lists", "plain")
SAMPLES = 2
TINY_RAM = 2048
"""Bytes of RAM up to which a core gets the layers of ``TINY``."""


def rows(options: argparse.Namespace) -> Iterator[Row]:
    """Rows of every core that this machine can emulate."""
    cores = options.core or list(CORES)
    with tempfile.TemporaryDirectory() as folder:
        for core in cores[:1] if options.quick else cores:
            board = BOARDS[CORES[core]]
            if reason := missing(board):
                print(f"{core}: not measured, {reason}")
                continue
            work = Path(folder) / board.name
            layers = LAYERS if board.ram > TINY_RAM else TINY
            for layer in list(layers)[:1] if options.quick else layers:
                yield from layer_rows(core, board, layer, work / layer.replace(" ", "-"), options)
            for i, model in enumerate(options.model or ()):
                yield from network_rows(core, board, model, work / f"network-{i}", options)


def all_rows(options: argparse.Namespace) -> list[Row]:
    """The rows measured now and those of the JSON that were not, core by core."""
    return with_kept(options, list(rows(options)), lambda case: [f" {core}, " in case for core in CORES].index(True))


def layer_rows(core: str, board: Board, layer: str, work: Path, options: argparse.Namespace) -> Iterator[Row]:
    """One layer: ours in every mode that takes it, the baseline's kernels that the core can run."""
    make, products = (LAYERS | TINY)[layer]
    graph = make()
    for mode in options.mode or MODES[:1]:
        try:
            network = generated(graph, board, work / mode, mode, options.flags.split(), strict=True)
        except (ValueError, TooLargeError) as error:
            reason = f"{board.name} has no room" if isinstance(error, TooLargeError) else error
            print(f"{core}, {layer}, {mode}: not measured, {reason}")
            continue
        counts = measured(network, f"{layer} {mode}", options)
        yield from count_rows(f"{layer}, {core}, shift {mode}", counts, products, SAMPLES)
        yield from size_rows(f"{layer}, {core}, shift {mode}", network.model.flash, network.image.elf.ram)
    for kernel in kernels(board, INT8[layer]):
        int8 = replace(INT8[layer], bits=4) if kernel == "int4" else INT8[layer]
        name = "int4 multiplied" if kernel == "int4" else f"int8 {kernel}"
        image = int8.build(board, kernel, work / f"int8-{kernel}")
        counts = baseline(image, int8, f"{layer} {name}")
        yield from count_rows(f"{layer}, {core}, {name}", counts, products, SAMPLES)
        yield from size_rows(f"{layer}, {core}, {name}", int8.flash(image, kernel), image.elf.ram)


def generated(
    graph: Graph,
    board: Board,
    folder: Path,
    mode: str,
    flags: Sequence[str],
    *,
    flash: int | None = None,
    strict: bool = False,
) -> Network:
    """``graph`` exported with the kernels of ``mode`` and built for ``board``; ValueError if it is to be ``strict`` and
    ``plain`` stands in for them.
    """
    target = board.targets[0]
    written = export_c(graph, folder, target=target, mode=mode, flash=flash)
    if strict and mode not in ("auto", "plain") and any(row.kernel == "plain" for row in written.rows):
        raise ValueError("its kernels do not compute this layer")
    return build_network(folder, graph, target, folder / "build", boards=[board], options=flags)


def kernels(board: Board, layer: Int8Layer) -> tuple[str, ...]:
    """Kernels of the baseline that make sense: a table of squares where nothing multiplies, lanes for pixels only."""
    if board.name in ("virt-rv32i", "at90usb162-large", "attiny85"):
        return ("naive", "quarter")
    if "avr" in board.targets:
        return ("naive",)
    return ("naive", "blocked", *(["int4"] if layer.size % 8 == 0 and not layer.depthwise else []))


def baseline(image: Image, layer: Int8Layer, case: str) -> Counts:
    """Counts of ``SAMPLES`` runs of a baseline kernel, once its outputs are the exact ones."""
    x = layer.inputs_of(SAMPLES)
    done = run(image, x.transpose(0, 2, 3, 1).tobytes(), count=True)
    shape = (SAMPLES, layer.size, layer.size, layer.outputs)
    got = np.frombuffer(done.output, np.int8).reshape(shape).transpose(0, 3, 1, 2)
    check_equal(case, layer.expected(x), got)
    return counting.region(image, done)


def measured(network: Network, case: str, options: argparse.Namespace, marks: Sequence[str] = ()) -> Counts:
    """Counts of ``SAMPLES`` runs of a generated network, once its outputs are the reference's."""
    return sum(measured_by_mark(network, case, options, marks).values(), Counts())


def measured_by_mark(
    network: Network, case: str, options: argparse.Namespace, marks: Sequence[str]
) -> dict[int, Counts]:
    """Counts by region, region 0 (the feed) left out."""
    inputs = golden.inputs(network.program, SAMPLES)
    outputs, done = network.evaluate(inputs, count=True, marks=marks, timeout=options.timeout)
    for name, expected in golden.outputs(network.program, inputs).items():
        check_equal(f"{case}, {name}", expected, outputs[name])
    if found := multiplications.executed(network.image, done, network.functions):
        raise SystemExit(f"{case}: {found} multiplications were executed; nothing was counted")
    counts = counting.by_region(network.image, done)
    return {number: item for number, item in counts.items() if number}


def network_rows(core: str, board: Board, file: Path, work: Path, options: argparse.Namespace) -> Iterator[Row]:
    """A whole network within each of the given bytes of flash, and each of its steps."""
    graph = modelfile.load(file)
    name = graph.meta.get("name", file.stem)
    flags = [*options.flags.split(), "-fno-inline-functions-called-once"]  # a step is told apart by its function
    for flash in options.flash or [None]:
        case = f"on {core}, {'any flash' if flash is None else f'{flash:,} bytes of flash'}"
        try:
            network = generated(graph, board, work / f"flash-{flash}", "auto", flags, flash=flash)
        except (ValueError, TooLargeError) as error:
            print(f"{name} {case}: not measured, {error}")
            continue
        steps = [step.name for step in network.program.steps if step.name in network.functions]
        by_mark = measured_by_mark(network, f"{name} {case}", options, ["region_begin", *steps])
        for i, step in enumerate(steps, start=2):
            yield from count_rows(f"step {step} of {name} {case}", by_mark.get(i, Counts()), 0, SAMPLES)
        yield from count_rows(f"network {name} {case}", sum(by_mark.values(), Counts()), 0, SAMPLES)
        yield from size_rows(f"network {name} {case}", network.model.flash, network.image.elf.ram)


def count_rows(case: str, counts: Counts, products: int, samples: int) -> Iterator[Row]:
    """Counts of one run, by product where ``products`` is not 0."""
    by, each = (samples * products, " a product") if products else (samples, "")
    yield Row(case=case, metric=f"instructions{each}", value=counts.instructions / by, unit="instructions")
    yield Row(case=case, metric="multiplications", value=counts.multiplies / samples, unit="instructions")
    if counts.cycles:
        slow = counts.with_slow_multiplier()
        yield Row(case=case, metric=f"cycles{each}", value=counts.cycles / by, unit="cycles")
        yield Row(case=case, metric=f"cycles{each}, slow multiplier", value=slow / by, unit="cycles")


def size_rows(case: str, flash: int, ram: int) -> Iterator[Row]:
    """Code and constants of the layer; static data of the image, inputs and outputs included."""
    yield Row(case=case, metric="flash", value=flash, unit="bytes")
    yield Row(case=case, metric="RAM", value=ram, unit="bytes")


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--core", action="append", choices=list(CORES), help="only this core (repeatable)")
    parser.add_argument("--mode", action="append", choices=list(MODES), help="only this kernel of ours (repeatable)")
    parser.add_argument("--model", action="append", type=Path, metavar="FILE", help="count a model file (repeatable)")
    parser.add_argument("--flash", action="append", type=int, metavar="BYTES", help="of each model (repeatable)")
    parser.add_argument("--flags", default="-Os", help="optimisation of the generated C (default: -Os)")
    parser.add_argument("--timeout", type=float, default=600, metavar="SECONDS", help="of one emulated run")
    main(__doc__, all_rows, parser=parser)

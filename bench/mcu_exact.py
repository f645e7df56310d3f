"""Trained networks on emulated microcontrollers: every output integer beside the engine's, over real evaluation sets.

    python bench/mcu_exact.py --nets FOLDER --published FOLDER --cifar CIFAR_DIR --mnist MNIST.npz --json FILE

The first folder holds the model files of bench/mcu_nets.py, NET/FORMAT/net.safetensors, the second MLPerf Tiny's. Each
network is exported for each target within --flash, so that all kernels take part, and compiled without libc and
libgcc. One start of the emulator runs all rows. The engine's integers are those of the numpy reference, which
recomputes some of them here. No multiplication may stand in the code or be executed: the first --counted rows run once
more with every instruction counted. Rows of the JSON that have no run here stay.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from common import Row, arguments, check_equal, main, with_kept
from emulated import multiplications
from emulated.host import missing
from emulated.machine import Run
from emulated.network import Network, build_network
from mcu_nets import FORMATS
from tiny.sources import keywords, pictures

from bitshift import runtime
from bitshift.backends.c99.boards import BOARDS
from bitshift.backends.c99.export import export_c
from bitshift.backends.c99.program import build
from bitshift.core import modelfile
from bitshift.core.ops.quantize import quantize
from bitshift.train.data import ArrayData, open_data

TARGETS = ("cortex-m0", "cortex-m3", "cortex-m4", "rv32i", "avr")
NETS = {"LeNet-5": 1000, "DS-CNN": 1000, "ResNet-8": 500}
"""Rows of the evaluation set by network."""
REFERENCE = 20
"""Rows that the numpy reference recomputes."""


def data(net: str, options: argparse.Namespace) -> ArrayData | None:
    """The evaluation set of ``net``; None where it is not given."""
    if net == "LeNet-5":
        found = open_data(options.mnist, "test") if options.mnist else None
    elif net == "DS-CNN":
        found = keywords(options.published) if options.published else None
    else:
        found = pictures(options.cifar, "test") if options.cifar else None
    assert found is None or isinstance(found, ArrayData)
    return found


def rows(options: argparse.Namespace) -> list[Row]:
    """Every network, format and target whose files and tools are here, behind what the JSON has of the rest."""
    found: list[Row] = []
    for net, format in ((net, format) for net in options.net for format in options.formats):
        file, test = (
            options.nets / net.lower().replace("-", "") / FORMATS[format] / "net.safetensors",
            data(net, options),
        )
        if test is None or not file.exists():
            print(f"{net}, {format}: left out, {'its data are not given' if test is None else f'{file} is missing'}")
            continue
        inputs = integers(file, test, options.rows or NETS[net])
        expected = engine(f"{net}, {format}", file, inputs)
        for target in options.target:
            if reason := next((r for b in BOARDS.values() if target in b.targets and (r := missing(b))), None):
                print(f"{net}, {format}, {target}: left out, {reason}")
                continue
            found += compared(f"{net}, {format}, {target}", file, target, inputs, expected, options)
    order = [f"{net}, {format}, {target}" for net in NETS for format in FORMATS for target in TARGETS]
    return with_kept(options, found, order.index)


def integers(file: Path, test: ArrayData, count: int) -> np.ndarray:
    """``count`` evenly spread rows of the evaluation set as the network's input integers."""
    rows = np.linspace(0, len(test) - 1, min(count, len(test))).astype(int)
    (border,) = build(modelfile.load(file)).inputs
    return quantize(test.normalise(test.batch(rows)[0]).numpy(), border.port.type, border.rounding)


def engine(case: str, file: Path, inputs: np.ndarray) -> np.ndarray:
    """The engine's output integers, once the reference has given the same for some rows."""
    expected = runtime.load(file, backend="engine").run_int(inputs)
    check_equal(case, runtime.load(file, backend="reference").run_int(inputs[:REFERENCE]), expected[:REFERENCE])
    return expected


def compared(
    case: str, file: Path, target: str, inputs: np.ndarray, expected: np.ndarray, options: argparse.Namespace
) -> Iterator[Row]:
    """The rows of one network on one target."""
    if (options.avr_rows or len(inputs)) < len(inputs) and target == "avr":
        spread = np.linspace(0, len(inputs) - 1, options.avr_rows).astype(int)
        inputs, expected = inputs[spread], expected[spread]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        written = export_c(file, work / "firmware", target=target, flash=options.flash)
        network = build_network(work / "firmware", modelfile.load(file), target, work / "build")
        if standing := multiplications.in_code(network.model):
            raise SystemExit(f"{case}: {len(standing)} multiplications in the code, the first: {standing[0]}")
        begin = time.monotonic()
        evaluate(case, network, inputs, expected, options.timeout)
        seconds = time.monotonic() - begin
        print(f"{case}: {len(inputs)} rows equal, {seconds:.0f} s on {network.image.board.name}", flush=True)
        few = slice(options.counted)
        done = evaluate(case, network, inputs[few], expected[few], options.timeout, count=True)
        executed, size = multiplications.executed(network.image, done, network.functions), network.model.flash
    for metric, value, unit in (
        ("samples", len(inputs), "inputs"), ("compared", expected.size, "integers"), ("differing", 0, "integers"),
        ("multiplications in the code", len(standing), "instructions"),
        ("multiplications executed", executed, "instructions"),
        ("code and constants", size, "bytes"), ("working memory", written.arena, "bytes"),
    ):  # fmt: skip
        yield Row(case=case, metric=metric, value=value, unit=unit)


def evaluate(
    case: str, network: Network, inputs: np.ndarray, expected: np.ndarray, timeout: float, *, count: bool = False
) -> Run:
    """Run the network over ``inputs`` in one start; stop the benchmark if an integer differs."""
    (name,) = (border.name for border in network.program.inputs)
    got, done = network.evaluate({name: inputs}, count=count, timeout=timeout)
    (output,) = got.values()
    check_equal(case, expected, output)
    return done


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = arguments(__doc__)
    made.add_argument("--nets", type=Path, default=Path("runs/mcu_nets"), help="model files (default: %(default)s)")
    made.add_argument("--published", type=Path, metavar="FOLDER", help="MLPerf Tiny's files: the rows of DS-CNN")
    made.add_argument("--cifar", type=Path, metavar="DIR", help="CIFAR-10 in any layout: the rows of ResNet-8")
    made.add_argument("--mnist", help="MNIST, as --data: the rows of LeNet-5")
    made.add_argument("--net", nargs="+", choices=list(NETS), default=list(NETS))
    made.add_argument("--formats", nargs="+", choices=list(FORMATS), default=list(FORMATS))
    made.add_argument("--target", nargs="+", choices=TARGETS, default=list(TARGETS))
    made.add_argument("--rows", type=int, help=f"rows of each set (default: {NETS})")
    made.add_argument("--avr-rows", type=int, help="at most so many on AVR, whose emulator is slow")
    made.add_argument("--counted", type=int, default=2, help="rows that are counted (default: %(default)s)")
    made.add_argument("--flash", type=int, default=65_536, help="bytes for code and constants (default: %(default)s)")
    made.add_argument("--timeout", type=float, default=7200, metavar="SECONDS", help="of one emulated run")
    return made


if __name__ == "__main__":
    main(__doc__, rows, parser=parser())

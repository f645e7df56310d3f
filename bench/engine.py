"""Whole networks in the engine beside float and int8 runtimes: milliseconds of a batch, and ratios round by round.

    python bench/engine.py --json docs/results/engine.json
    python bench/engine.py --nets resnet18 --bits 8 --isa avx2 --json docs/results/engine_avx2.json

The engine runs 3-bit nets (pot3d, random codes) with 8-, 7- and 6-bit activations; every peer runs the float net of
the same graph, or its int8 form (u8 activations, s8 weights per channel, static scales): 8 bits whatever the engine
has. `torch eager` is the network as people write it, norms as modules; `torch folded` has them in its weights. Every
input is float32 and quantised within what is timed. Each candidate is a process of its own, pinned; they run in turns,
and rounds in which other programs took more than a tenth of the processors are left out. Before anything is timed the
engine's integers are compared with the numpy reference (small nets) or its portable kernels.

With --isa avx2 the engine and oneDNN (torch, OpenVINO) are held to AVX2; ONNX Runtime has no such switch and is left
out.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import ExitStack

from common import Row, arguments, main
from nets import NETS

from bitshift.cli.bench.compare import Bench, Comparison, Plan, bench_graph, check_exact, draw_inputs
from bitshift.cli.bench.machine import processors
from bitshift.cli.bench.peers import DEFAULT_PEERS, OURS, PEERS, title_of
from bitshift.cli.bench.rounds import Spread
from bitshift.core.cost import count

AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
TITLES = {OURS: OURS, "torch": "torch folded", "torch-module": "torch eager"}


def title(name: str) -> str:
    """A candidate's name in the tables."""
    return TITLES.get(name) or title_of(name)


def case(net: str, bits: int, threads: int, batch: int) -> str:
    """What ran, for a row."""
    return f"{net}, {bits}-bit activations, batch {batch}, {threads} thread{'s' * (threads > 1)}"


def row(case: str, metric: str, found: Spread, runs: int, unit: str, scale: float = 1.0, against: str = "") -> Row:
    """A spread as a row of the contract."""
    return Row(
        case=case, metric=metric, value=scale * found.median, unit=unit, against=against, runs=runs,
        spread=scale * (found.high - found.low),
    )  # fmt: skip


def figures(net: str, variants: dict[str, int], found: Comparison) -> Iterator[Row]:
    """Rows of one configuration: times, speed against each peer, load and memory, how steady the machine was."""
    measured, runs = found.measured, len(found.measured.seconds[OURS])
    for variant, bits in variants.items():
        name = case(net, bits, found.threads, found.batch)
        yield row(name, f"time of {OURS}", measured.time(variant), runs, "ms", 1e3)
        for peer in found.about:
            if peer not in variants:
                yield row(name, "speed", measured.ratio(variant, peer), runs, "x", against=title(peer))
    name = case(net, min(8, max(variants.values())), found.threads, found.batch)
    for peer, about in found.about.items():
        if peer in variants and peer != OURS:
            continue
        if peer != OURS:
            yield row(name, f"time of {title(peer)}", measured.time(peer), runs, "ms", 1e3)
        if about.get("load_s"):
            yield Row(case=name, metric=f"load of {title(peer)}", value=1e3 * about["load_s"], unit="ms")
        if about.get("memory_bytes"):
            yield Row(case=name, metric=f"memory of {title(peer)}", value=about["memory_bytes"] / 1e6, unit="MB")
        if peer == OURS and found.batch == 1 and about["memory_bytes"]:
            over = about["memory_bytes"] / about["planned_bytes"]
            yield Row(case=name, metric="memory over packed weights and plan", value=over, unit="x")
        if peer in PEERS and PEERS[peer].int8 and about["float_layers"]:
            yield Row(case=name, metric=f"float layers of {title(peer)}", value=about["float_layers"], unit="layers")
    yield Row(case=name, metric="rounds left out", value=measured.dropped, unit="rounds")
    if measured.foreign:
        share = sorted(measured.foreign)[len(measured.foreign) // 2]
        yield Row(case=name, metric="processors used by others", value=100 * share, unit="%")


def benches(net: str, bits: list[int], options: argparse.Namespace, stack: ExitStack) -> dict[int, Bench]:
    """A net at each width of its activations, its integers checked before anything is timed."""
    made = {}
    for width in bits:
        graph = NETS[net](bits=width, format=options.format)
        small = count(graph).total.operations < 5e8
        for threads in options.threads:  # kernels are chosen anew: a busy moment may have left poor choices
            equal = check_exact(
                graph, draw_inputs(graph, 2 if small else 1, seed=1), threads=threads, isa=options.isa,
                with_reference=small, tune="force",
            )  # fmt: skip
            print(f"{net}, {width}-bit activations, {threads} thread(s): equal to {equal}", flush=True)
        made[width] = bench_graph(graph, stack)
    return made


def rows(options: argparse.Namespace) -> list[Row]:
    """All configurations that were asked for."""
    if options.quick:
        options.nets, options.bits, options.threads, options.batch, options.rounds = ["resnet8"], [8], [1], [1], 2
    cpus = tuple(options.cpus or processors())
    limited = options.isa == "avx2"
    peers = [p for p in options.peers if not (limited and p.startswith("ort"))]
    found: list[Row] = []
    for net in options.nets:
        with ExitStack() as stack:
            made = benches(net, options.bits, options, stack)
            first, *others = made
            for threads in options.threads:
                for batch in options.batch:
                    rounds, calls = (options.rounds, 3) if batch == 1 else (max(2, options.rounds // 2), 1)
                    plan = Plan(
                        rounds=rounds, seconds=options.seconds, calls=(calls, 400), cpus=cpus, isa=options.isa,
                        environment=AVX2 if limited else {},
                    )  # fmt: skip
                    bench = made[first]
                    extra = {
                        f"{OURS}-{b}": bench.ours(made[b].model, threads=threads, batch=batch, plan=plan)
                        for b in others
                    }
                    extra["torch-module"] = bench.peer(
                        "nets:torch_module", {"name": net}, threads=threads, batch=batch, plan=plan, imports=("torch",)
                    )
                    result = bench.run(peers, threads=threads, batch=batch, plan=plan, extra=extra, note=print)
                    for name, reason in result.missing.items():
                        print(f"{name} is missing: {reason}")
                    print(result.measured.noise, flush=True)
                    found += figures(net, {OURS: first, **{f"{OURS}-{b}": b for b in others}}, result)
    return found


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = arguments(__doc__)
    made.add_argument("--nets", nargs="+", choices=list(NETS), default=list(NETS))
    made.add_argument("--bits", nargs="+", type=int, default=[8, 7, 6], help="widths of the engine's activations")
    made.add_argument("--format", default="pot3d")
    made.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    made.add_argument("--batch", nargs="+", type=int, default=[1, 16])
    made.add_argument("--peers", nargs="*", choices=list(PEERS), default=list(DEFAULT_PEERS))
    made.add_argument("--isa", help="hold the engine to an instruction set; avx2: the peers too")
    made.add_argument("--rounds", type=int, default=15, help="half as many for batches")
    made.add_argument("--seconds", type=float, default=0.06, help="length of a turn")
    made.add_argument("--cpus", nargs="+", type=int, help="processors to pin to, in order")
    return made


if __name__ == "__main__":
    main(__doc__, rows, parser=parser())

"""One linear layer, float32 in and out: packed 2- to 5-bit weights beside 4-bit, int8 and float runtimes.

    python bench/linear.py --json docs/results/linear.json

M rows times an (N, K) matrix. Ours: the input is quantised to 8 bits on a fixed grid, summed exactly, scaled per output
channel by a 16-bit multiplier, and given back as float32; rows named f32 keep float activations instead. Peers: ONNX
Runtime MatMulNBits (4 bits, a float scale for each 32 or 128 inputs, accuracy level 4: int8 arithmetic), ONNX Runtime
and torch dynamic int8 (per-channel weights, per-tensor activations), torch int4 (groups of 128, bfloat16), float32.

Cold: every call takes the next of so many copies of the weights that they fill 160 MB, which no cache here holds:
what a language model does at batch 1. Hot: one copy. `read` is this machine's bandwidth in the same rounds, read with
plain vector loads from 256 MB by as many threads; a share is that of packed weight bytes a second in it.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import Row, arguments, main
from engine import row
from nets import Net

from bitshift.backends import engine
from bitshift.cli.bench.compare import check_exact, draw_inputs
from bitshift.cli.bench.machine import pin, processors
from bitshift.cli.bench.rounds import Measured, interleave, spread
from bitshift.cli.bench.worker import Candidate, Job, Worker, WorkerError
from bitshift.core.fixed import FixedPoint, Float32
from bitshift.core.formats import get_format
from bitshift.core.graph import Graph
from bitshift.core.packing import packed_size

FORMATS = {"2": "pot2d", "3": "pot3d", "4": "pot4", "4x2": "pot4x2", "5": "pot5"}
COLD_BYTES = 160e6
READ_BYTES = 256 << 20


@dataclass(frozen=True, kw_only=True)
class Shape:
    """M rows, N outputs, K inputs; ``cold``: bytes of copies of the weights to rotate through, 0 for one copy."""

    m: int
    n: int
    k: int
    cold: float

    def copies(self, size: float) -> int:
        """How many copies of weights of ``size`` bytes a candidate holds."""
        return math.ceil(self.cold / size) + 1 if self.cold else 1


def graph(n: int, k: int, format: str, *, real: bool = False) -> Graph:
    """quantize, linear, dequantize; or a linear layer on float32 alone."""
    net = Net((k,), format=format, multiplier=True, real=real)
    y = net.linear(net.start(), n, FixedPoint(32, 8))
    return net.graph(y if real else net.add("dequantize", [y[0]], y[1], Float32(), {}))


def rows_of(shape: Shape) -> np.ndarray:
    """The input."""
    return np.random.default_rng(1).standard_normal((shape.m, shape.k), dtype=np.float32)


def rotating(runs: Sequence[Callable[[], Any]], **about: Any) -> Candidate:
    """A candidate whose calls go through ``runs`` in turn."""
    turn = itertools.cycle(runs)
    return Candidate(run=lambda: next(turn)(), outputs=lambda: [np.asarray(runs[0]())], about=about)


# --- candidates, each made in a worker process of its own -----------------------------------------------------------


def ours(
    *, shape: dict[str, Any], format: str, real: bool, threads: int, cpus: Sequence[int], isa: str | None
) -> Candidate:
    """Copies of one model in the engine."""
    from bitshift.core.modelfile import save

    pin(cpus)
    s, form = Shape(**shape), get_format(format)
    x = rows_of(s)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.safetensors"
        save(graph(s.n, s.k, format, real=real), path)
        loaded = [
            engine.load(path, threads=threads, isa=isa) for _ in range(s.copies(packed_size((s.n, s.k), form.bits)))
        ]
    results = engine.empty(loaded[0].outputs, x)

    def call(model: engine.Executable) -> Any:
        model.run([x], results)
        return results[0]

    return rotating([lambda model=model: call(model) for model in loaded], kernels=[t.kernel for t in loaded[0].steps])


def _session(model: bytes, threads: int, cpus: Sequence[int]) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    if len(cpus) > 1:
        places = ";".join(str(cpu + 1) for cpu in cpus[1:])
        options.add_session_config_entry("session.intra_op_thread_affinities", places)
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def ort_layer(*, shape: dict[str, Any], kind: str, threads: int, cpus: Sequence[int]) -> Candidate:
    """``kind``: float32, int8 (dynamic), or the block length of MatMulNBits."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    s, rng = Shape(**shape), np.random.default_rng(2)
    keep: list[onnx.TensorProto] = []

    def constant(name: str, array: np.ndarray) -> str:
        keep.append(numpy_helper.from_array(array, name))
        return name

    if kind == "float32":
        weights = rng.standard_normal((s.k, s.n), dtype=np.float32) / 64
        nodes, size = [helper.make_node("MatMul", ["x", constant("w", weights)], ["y"])], 4.0 * s.n * s.k
    elif kind == "int8":
        constant("w", rng.integers(-127, 128, (s.k, s.n)).astype(np.int8))
        constant("zero", np.zeros(s.n, np.int8))
        constant("scale", np.full(s.n, 1 / 4096, np.float32))
        nodes, size = (
            [
                helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "unit", "offset"]),
                helper.make_node("MatMulInteger", ["q", "w", "offset", "zero"], ["sum"]),
                helper.make_node("Cast", ["sum"], ["real"], to=TensorProto.FLOAT),
                helper.make_node("Mul", ["unit", "scale"], ["factor"]),
                helper.make_node("Mul", ["real", "factor"], ["y"]),
            ],
            1.0 * s.n * s.k,
        )
    else:
        block = int(kind)
        constant("w", rng.integers(0, 256, (s.n, s.k // block, block // 2)).astype(np.uint8))
        constant("scale", np.full(s.n * s.k // block, 1 / 512, np.float32))
        nodes, size = [
            helper.make_node(
                "MatMulNBits", ["x", "w", "scale"], ["y"], domain="com.microsoft", K=s.k, N=s.n, bits=4,
                block_size=block, accuracy_level=4,
            )
        ], s.n * s.k * (0.5 + 4 / block)  # fmt: skip
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [s.m, d]) for name, d in (("x", s.k), ("y", s.n))]
    made = helper.make_model(
        helper.make_graph(nodes, "layer", ends[:1], ends[1:], keep),
        opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)], ir_version=9,
    )  # fmt: skip
    sessions = [_session(made.SerializeToString(), threads, cpus) for _ in range(s.copies(size))]
    pin(cpus[:1])
    given = {"x": rows_of(s)}
    return rotating([lambda session=session: session.run(None, given)[0] for session in sessions])


def torch_layer(*, shape: dict[str, Any], kind: str, threads: int, cpus: Sequence[int]) -> Candidate:  # noqa: ARG001
    """``kind``: float32, int8 (dynamic, per-channel weights) or int4 (groups of 128)."""
    import warnings

    import torch
    from torch import nn

    warnings.simplefilter("ignore")  # torch announces that its dynamic quantisation will move to another package
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    s = Shape(**shape)
    x = torch.from_numpy(rows_of(s))

    def layer() -> Callable[[], torch.Tensor]:
        if kind == "int4":
            weights = torch.randint(0, 16, (s.n, s.k), dtype=torch.int32)
            packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(weights, 2)
            scales = torch.full((s.k // 128, s.n, 2), 1 / 64, dtype=torch.bfloat16)
            half = x.to(torch.bfloat16)
            return lambda: torch.ops.aten._weight_int4pack_mm_for_cpu(half, packed, 128, scales)
        net: nn.Module = nn.Sequential(nn.Linear(s.k, s.n, bias=False))
        if kind == "int8":
            from torch.ao.quantization import quantize_dynamic
            from torch.ao.quantization.qconfig import per_channel_dynamic_qconfig

            net = quantize_dynamic(net, {nn.Linear: per_channel_dynamic_qconfig}, dtype=torch.qint8)
        return lambda: net(x)

    size = {"float32": 4.0, "int8": 1.0, "int4": 0.5}[kind] * s.n * s.k
    runs = [layer() for _ in range(s.copies(size))]

    def call(run: Callable[[], torch.Tensor]) -> np.ndarray:
        with torch.inference_mode():
            return run().float().numpy() if kind == "int4" else run().numpy()

    return rotating([lambda run=run: call(run) for run in runs])


def read(*, threads: int, cpus: Sequence[int]) -> Candidate:
    """Seconds to read one byte at the bandwidth of memory."""
    from bitshift import _engine  # pyright: ignore[reportAttributeAccessIssue]

    pin(cpus)

    def seconds() -> float:
        return 1 / _engine.probe_read(READ_BYTES, threads, 0.06)

    return Candidate(run=seconds, seconds=seconds, outputs=list)


# --- the table ------------------------------------------------------------------------------------------------------

PEERS = {
    "ORT int4 block 128": ("linear:ort_layer", {"kind": "128"}, ("onnx", "onnxruntime")),
    "ORT int4 block 32": ("linear:ort_layer", {"kind": "32"}, ("onnx", "onnxruntime")),
    "ORT dynamic int8": ("linear:ort_layer", {"kind": "int8"}, ("onnx", "onnxruntime")),
    "torch dynamic int8": ("linear:torch_layer", {"kind": "int8"}, ("torch",)),
    "torch int4": ("linear:torch_layer", {"kind": "int4"}, ("torch",)),
    "torch float32": ("linear:torch_layer", {"kind": "float32"}, ("torch",)),
}


def jobs(shape: Shape, threads: int, cpus: tuple[int, ...], options: argparse.Namespace) -> dict[str, Job]:
    """All candidates for one shape."""
    place: dict[str, Any] = {"threads": threads, "cpus": cpus[:threads]}
    size = {"shape": vars(shape)}
    found = {}
    for label in options.formats:
        for real in (False, True) if shape.m == 1 and label in ("2", "3", "4") else (False,):
            name = f"{label}-bit{' f32' if real else ''}"
            given = {"format": FORMATS[label], "real": real, "isa": options.isa}
            found[name] = Job(factory="linear:ours", arguments={**size, **given}, imports=("numpy",), **place)
    for name in options.peers:
        factory, given, imports = PEERS[name]
        found[name] = Job(factory=factory, arguments={**size, **given}, imports=imports, **place)
    if shape.cold:
        found["read"] = Job(factory="linear:read", arguments={}, **place)
    return found


def figures(
    shape: Shape, threads: int, names: Sequence[str], measured: Measured, peers: Sequence[str]
) -> Iterator[Row]:
    """Rows of one shape: microseconds, speed against each peer, share of the read bandwidth."""
    where = (
        f"{shape.n}x{shape.k}, M {shape.m}, {'cold' if shape.cold else 'hot'}, {threads} thread{'s' * (threads > 1)}"
    )
    runs = len(measured.seconds[names[0]])
    for name in names:
        case = f"{name}, {where}"
        if name == "read":
            rates = spread([1e-9 / s for s in measured.seconds[name]])
            yield row(case, "read bandwidth", rates, runs, "GB/s")
            continue
        yield row(case, "time", measured.time(name), runs, "us", 1e6)
        if name in peers:
            continue
        for peer in peers:
            if peer in names:
                yield row(case, "speed", measured.ratio(name, peer), runs, "x", against=peer)
        if shape.cold and "read" in names:
            size = packed_size((shape.n, shape.k), get_format(FORMATS[name.partition("-")[0]]).bits)
            pairs = zip(measured.seconds["read"], measured.seconds[name], strict=True)
            yield row(case, "share of read bandwidth", spread([100 * size * r / s for r, s in pairs]), runs, "%")
    yield Row(case=where, metric="rounds left out", value=measured.dropped, unit="rounds")
    if measured.foreign:
        yield Row(
            case=where, metric="processors used by others", value=100 * statistics.median(measured.foreign), unit="%"
        )


def check(options: argparse.Namespace) -> None:
    """Every format at the rows that the kernels tell apart, before anything is timed; kernels are chosen anew."""
    for label, n, threads in itertools.product(options.formats, options.n, options.threads):
        for real in (False, True) if label in ("2", "3", "4") else (False,):
            engine.compile(
                graph(n, options.k, FORMATS[label], real=real), threads=threads, isa=options.isa, tune="force"
            )
    for label in options.formats:
        for m in sorted({min(m, 19) for m in options.m}):
            for real in (False, True) if label in ("2", "3", "4") else (False,):
                made = graph(512 if options.quick else 4096, options.k, FORMATS[label], real=real)
                check_exact(
                    made,
                    draw_inputs(made, m, seed=m),
                    threads=max(options.threads),
                    isa=options.isa,
                    with_reference=True,
                )
    print(f"{', '.join(options.formats)} bits: equal to the numpy reference", flush=True)


def rows(options: argparse.Namespace) -> list[Row]:
    """All shapes that were asked for: the first M cold and hot at every N, the others hot at the first N."""
    if options.quick:
        options.n, options.k, options.m, options.threads, options.rounds = [512], 512, [1], [1], 2
        options.formats, options.peers = ["3"], ["ORT int4 block 128", "torch dynamic int8"]
    cold_bytes = 1e6 if options.quick else COLD_BYTES
    check(options)
    cpus = tuple(options.cpus or processors())
    shapes = [Shape(m=options.m[0], n=n, k=options.k, cold=cold) for n in options.n for cold in (cold_bytes, 0.0)]
    shapes += [Shape(m=m, n=options.n[0], k=options.k, cold=0.0) for m in options.m[1:]]
    found: list[Row] = []
    for shape, threads in itertools.product(shapes, options.threads):
        with ExitStack() as stack:
            workers = {}
            for name, job in jobs(shape, threads, cpus, options).items():
                worker = Worker(job)
                stack.callback(worker.close)
                try:
                    worker.ready()
                except WorkerError as error:
                    print(f"{name} is missing: {error}")
                else:
                    workers[name] = worker
            measured = interleave(workers, rounds=options.rounds, seconds=options.seconds)
            print(f"{shape}, {threads} threads: {measured.noise}", flush=True)
            found += figures(shape, threads, list(workers), measured, options.peers)
    return found


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = arguments(__doc__)
    made.add_argument("--n", nargs="+", type=int, default=[4096, 11008], help="outputs")
    made.add_argument("--k", type=int, default=4096, help="inputs")
    made.add_argument("--m", nargs="+", type=int, default=[1, 4, 16, 64, 256], help="rows")
    made.add_argument("--formats", nargs="+", choices=list(FORMATS), default=list(FORMATS))
    made.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    made.add_argument("--peers", nargs="*", choices=list(PEERS), default=list(PEERS))
    made.add_argument("--isa", help="hold the engine to an instruction set")
    made.add_argument("--rounds", type=int, default=11)
    made.add_argument("--seconds", type=float, default=0.05, help="length of a turn")
    made.add_argument("--cpus", nargs="+", type=int, help="processors to pin to, in order")
    return made


if __name__ == "__main__":
    main(__doc__, rows, parser=parser())

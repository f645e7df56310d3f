"""What loading and running a network costs a process: milliseconds, and resident memory over what it had before.

    python bench/memory.py --json docs/results/memory.json

Every load is one of a fresh process, pinned to one processor, whose pages of the file are in the system's cache. The
process has imported its runtime and has run another, tiny model before, so that memory counts what this model takes and
no libraries. The peak is that of loading and three runs of one sample; inputs and outputs are made before. "needed" is
what cannot be saved: packed weights and the planned activations. The first load of all measures kernels and writes down
which are fast, as it does once on a machine; those behind it find that.

ONNX Runtime runs the int8 form of the same graph (u8 activations, s8 weights per channel).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import Row, arguments, main
from nets import NETS, resnet8

from bitshift.backends import engine
from bitshift.cli.bench.compare import check_exact, draw_inputs
from bitshift.cli.bench.machine import pin
from bitshift.cli.bench.onnx_twin import to_onnx
from bitshift.cli.bench.peers import PEERS
from bitshift.cli.bench.twin import make_twin
from bitshift.cli.bench.worker import resident
from bitshift.core.modelfile import save

Session = tuple[Callable[[], object], dict[str, int]]
"""Runs one sample; what is known about the model."""


def ours(model: str, sample: np.ndarray) -> Session:
    """The model file in our engine, on one thread."""
    loaded = engine.load(model, threads=1)
    outputs = engine.empty(loaded.outputs, sample)
    needed = {"weights": sum(step.weight_bytes for step in loaded.steps), "activations": loaded.arena_bytes}
    return lambda: loaded.run([sample], outputs), needed


def theirs(model: str, sample: np.ndarray) -> Session:
    """An ONNX file in ONNX Runtime, on one thread."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: sample}), {}


RUNTIMES: dict[str, Callable[[str, np.ndarray], Session]] = {"bitshift": ours, "ort": theirs}


def child(runtime: str, folder: Path, cpu: int) -> dict[str, Any]:
    """One measurement, in this process."""
    pin((cpu,))
    suffix = "safetensors" if runtime == "bitshift" else "onnx"
    tiny_sample, sample = np.load(folder / "tiny.npy"), np.load(folder / "net.npy")
    warm, _ = RUNTIMES[runtime](str(folder / f"tiny.{suffix}"), tiny_sample)
    warm()
    del warm
    before, _ = resident()
    begin, spent = time.perf_counter(), time.process_time()
    run, needed = RUNTIMES[runtime](str(folder / f"net.{suffix}"), sample)
    load, spent = time.perf_counter() - begin, time.process_time() - spent
    for _ in range(3):
        run()
    _, peak = resident()
    return {"load": load, "processor": spent, "peak": peak - before, **needed}


def measure(runtime: str, folder: Path, cpu: int) -> dict[str, Any]:
    """One measurement, in a process of its own."""
    environment = os.environ | {"BITSHIFT_KERNEL_CACHE": str(folder / "kernels"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--child", runtime, str(folder), str(cpu)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"memory: {runtime}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def figures(case: str, name: str, found: list[dict[str, Any]]) -> list[Row]:
    """Medians of a runtime's measurements."""

    def row(metric: str, values: list[float], unit: str, against: str = "") -> Row:
        quarters = statistics.quantiles(values, n=4) if len(values) > 1 else [values[0]] * 3
        return Row(
            case=case, metric=metric, value=statistics.median(values), unit=unit, against=against, runs=len(values),
            spread=quarters[2] - quarters[0],
        )  # fmt: skip

    rows = [
        row(f"load of {name}", [1e3 * f["load"] for f in found], "ms"),
        row(f"processor time of loading {name}", [1e3 * f["processor"] for f in found], "ms"),
        row(f"peak of {name}", [f["peak"] / 1e6 for f in found], "MB"),
    ]
    if "weights" in found[0]:
        needed = found[0]["weights"] + found[0]["activations"]
        rows += [
            Row(case=case, metric="packed weights", value=found[0]["weights"] / 1e6, unit="MB"),
            Row(case=case, metric="planned activations", value=found[0]["activations"] / 1e6, unit="MB"),
            row("peak over needed", [f["peak"] / needed for f in found], "x", against="needed"),
        ]
    return rows


def rows(options: argparse.Namespace) -> list[Row]:
    """All nets."""
    if options.quick:
        options.nets, options.runs = ["resnet8"], 1
    cpu = max(os.sched_getaffinity(0))
    found: list[Row] = []
    for net in options.nets:
        graphs = {"net": NETS[net](format=options.format), "tiny": resnet8(format="int8")}
        check_exact(graphs["net"], draw_inputs(graphs["net"], 1, seed=1), threads=1, isa=None, with_reference=False)
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            runtimes = ["bitshift"] + ["ort"] * (PEERS["ort-int8"].missing() is None)
            for name, graph in graphs.items():
                save(graph, folder / f"{name}.safetensors")
                (sample,) = draw_inputs(graph, 1, seed=2).values()
                np.save(folder / f"{name}.npy", sample)
                if "ort" in runtimes:
                    (folder / f"{name}.onnx").write_bytes(to_onnx(make_twin(graph), 1, int8=True))
            case = f"{net}, {options.format}"
            first = measure("bitshift", folder, cpu)
            found.append(Row(case=case, metric="first load of bitshift", value=1e3 * first["load"], unit="ms"))
            results: dict[str, list[dict[str, Any]]] = {runtime: [] for runtime in runtimes}
            for turn in range(options.runs):
                for runtime in runtimes if turn % 2 else runtimes[::-1]:
                    results[runtime].append(measure(runtime, folder, cpu))
            for runtime, name in (("bitshift", "bitshift"), ("ort", "ONNX Runtime int8")):
                if runtime in results:
                    found += figures(case, name, results[runtime])
            for name in ("safetensors", "onnx"):
                path = folder / f"net.{name}"
                if path.exists():
                    found.append(Row(case=case, metric=f"{name} file", value=path.stat().st_size / 1e6, unit="MB"))
    return found


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = arguments(__doc__)
    made.add_argument("--nets", nargs="+", choices=NETS, default=["resnet18", "resnet50", "mobilenet_v2", "resnet20"])
    made.add_argument("--format", default="pot3d")
    made.add_argument("--runs", type=int, default=11, help="processes of each runtime")
    return made


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(child(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))))
    else:
        main(__doc__, rows, parser=parser())

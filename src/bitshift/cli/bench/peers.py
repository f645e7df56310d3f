"""The candidates of a benchmark: the engine, and the runtimes that people would use instead."""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bitshift.cli.bench.machine import pin
from bitshift.cli.bench.worker import Candidate, metered

OURS = "bitshift"


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A runtime: ``modules`` are what it imports, ``forms`` the files of the twin that it reads."""

    title: str
    function: str
    modules: tuple[str, ...]
    install: str
    forms: tuple[str, ...] = ()
    int8: bool = False

    def missing(self) -> str | None:
        """None if it is installed, else what to do."""
        absent = [name for name in self.modules if importlib.util.find_spec(name) is None]
        return f"{', '.join(absent)} not installed; {self.install}" if absent else None


_TORCH = "pip install 'bitshift[torch]'"
_ORT = _OPENVINO = "pip install 'bitshift[bench]'"
PEERS: dict[str, Peer] = {
    "torch": Peer(title="torch eager float32", function="torch_eager", modules=("torch",), install=_TORCH),
    "torch-compile": Peer(
        title="torch.compile float32", function="torch_compiled", modules=("torch",), install=_TORCH
    ),
    "ort": Peer(
        title="ONNX Runtime float32", function="onnxruntime", modules=("onnx", "onnxruntime"), install=_ORT,
        forms=("float",),
    ),
    "ort-int8": Peer(
        title="ONNX Runtime int8", function="onnxruntime", modules=("onnx", "onnxruntime"), install=_ORT,
        forms=("int8",), int8=True,
    ),
    "openvino": Peer(
        title="OpenVINO float32", function="openvino", modules=("onnx", "openvino"), install=_OPENVINO,
        forms=("float",),
    ),
    "openvino-int8": Peer(
        title="OpenVINO int8", function="openvino", modules=("onnx", "openvino"), install=_OPENVINO,
        forms=("int8", "int8-joined"), int8=True,
    ),
}  # fmt: skip
"""Peers by name. u8 activations, s8 weights per channel where it says int8."""

DEFAULT_PEERS = ("torch", "ort", "ort-int8", "openvino", "openvino-int8")


def read_inputs(path: str) -> dict[str, np.ndarray]:
    """Arrays by name of a .npz file."""
    with np.load(path) as arrays:
        return {name: arrays[name] for name in arrays.files}


def engine(
    *, model: str, inputs: str, threads: int, cpus: Sequence[int], isa: str | None = None, tune: str | None = None
) -> Candidate:
    """The model file in our engine; inputs in the dtype of its own values."""
    from bitshift.backends import engine as backend

    arrays = read_inputs(inputs)
    pin(cpus)
    loaded, about = metered(
        lambda: backend.load(model, threads=threads, isa=isa, tune=tune), lambda found: found.run_int(arrays)
    )
    given = [arrays[value.name] for value in loaded.inputs]
    results = backend.empty(loaded.outputs, given[0])
    planned = loaded.arena_bytes + sum(step.weight_bytes for step in loaded.steps)
    return Candidate(
        run=lambda: loaded.run(given, results), outputs=lambda: results, about={**about, "planned_bytes": planned}
    )


def onnxruntime(*, models: Sequence[str], inputs: str, threads: int, cpus: Sequence[int]) -> Candidate:
    """One ONNX file in ONNX Runtime's own CPU kernels, a session pinned thread by thread."""
    import onnx
    import onnxruntime as ort

    def settings() -> Any:
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        if cpus and threads > 1:  # the calling thread is the first; processors are counted from 1 here
            options.add_session_config_entry(
                "session.intra_op_thread_affinities", ";".join(str(cpu + 1) for cpu in cpus[1:threads])
            )
        return options

    def session(options: Any) -> Any:
        return ort.InferenceSession(models[0], options, providers=["CPUExecutionProvider"])

    given = read_inputs(inputs)
    loaded, about = metered(lambda: session(settings()), lambda found: found.run(None, given))
    pin(cpus[:1])
    optimised, writing = Path(models[0]).with_suffix(f".optimised-{threads}"), settings()
    writing.optimized_model_filepath = str(optimised)
    session(writing)  # a session of its own: writing the file counts neither as loading nor as memory
    kinds = Counter(node.op_type for node in onnx.load(str(optimised), load_external_data=False).graph.node)
    return Candidate(
        run=lambda: loaded.run(None, given),
        outputs=lambda: [np.asarray(x) for x in loaded.run(None, given)],
        about={
            **about,
            "version": ort.__version__,
            "int8_layers": sum(kinds[k] for k in ("QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat")),
            "float_layers": sum(kinds[k] for k in ("Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul")),
        },
    )


def openvino(*, models: Sequence[str], inputs: str, threads: int, cpus: Sequence[int]) -> Candidate:
    """The fastest of ``models`` (forms of one network) in OpenVINO's CPU plugin, float32 where it is not int8."""
    import openvino as ov  # pyright: ignore[reportMissingImports] - optional

    core = ov.Core()
    settings = {
        "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32", "ENABLE_CPU_PINNING": bool(cpus),
    }  # fmt: skip
    given = read_inputs(inputs)
    found = []
    for model in models:
        (compiled, request), about = metered(
            lambda model=model: _compiled(core.compile_model(model, "CPU", settings)),
            lambda made: made[1].infer(given, share_inputs=True),
        )
        found.append((_quick(lambda r=request: r.infer(given, share_inputs=True)), about, model, compiled, request))
    _, about, model, compiled, request = min(found, key=lambda entry: entry[0])
    if len(models) > 1:
        about["memory_bytes"] = None  # several forms were in memory at once
    about |= {"version": ov.__version__.partition("-")[0], "form": Path(model).stem}
    return Candidate(
        run=lambda: request.infer(given, share_inputs=True),
        outputs=lambda: [request.get_output_tensor(i).data.copy() for i in range(len(compiled.outputs))],
        about={**about, **_precisions(compiled)},
    )


def _compiled(model: Any) -> tuple[Any, Any]:
    return model, model.create_infer_request()


def _quick(run: Any) -> float:
    """Median seconds of a few calls."""
    seconds = []
    for _ in range(12):
        begin = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds[2:])


def _precisions(compiled: Any) -> dict[str, int]:
    """How many layers with weights OpenVINO computes in int8 and in float."""
    found = Counter()
    for node in compiled.get_runtime_model().get_ordered_ops():
        info = node.get_rt_info()
        kind, precision = (str(getattr(info[key], "value", info[key])) for key in ("layerType", "runtimePrecision"))
        if kind in ("Convolution", "FullyConnected", "MatMul"):
            found["int8_layers" if precision in ("u8", "i8") else "float_layers"] += 1
    return {"int8_layers": found["int8_layers"], "float_layers": found["float_layers"]}


def torch_eager(
    *,
    model: str,
    inputs: str,
    threads: int,
    cpus: Sequence[int],  # noqa: ARG001 - OpenMP has bound its threads to them at start
    compiled: bool = False,
) -> Candidate:
    """The float twin in torch, op by op; its norms are folded into the weights already."""
    import torch

    from bitshift.cli.bench.torch_twin import TorchTwin
    from bitshift.cli.bench.twin import make_twin
    from bitshift.core.modelfile import load

    torch.set_num_threads(threads)
    graph = load(model)
    arrays = read_inputs(inputs)
    return torch_candidate(TorchTwin(make_twin(graph)), [arrays[n] for n in graph.inputs], compiled=compiled)


def torch_compiled(**arguments: Any) -> Candidate:
    """The float twin through ``torch.compile`` with its default settings."""
    return torch_eager(**arguments, compiled=True)


def torch_candidate(net: Any, arrays: Sequence[np.ndarray], *, compiled: bool = False) -> Candidate:
    """A torch module in inference mode on ``arrays``."""
    import torch

    net = net.eval()
    run = torch.compile(net) if compiled else net
    given = [torch.from_numpy(array) for array in arrays]

    def call() -> Any:
        with torch.inference_mode():
            return run(*given)

    return Candidate(run=call, outputs=lambda: [call().numpy()], about={"version": torch.__version__})


def title_of(name: str) -> str:
    """A candidate's name for people."""
    return PEERS[name].title if name in PEERS else name

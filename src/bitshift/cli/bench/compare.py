"""A model file beside its peers: twins written, processes started, results compared, then everything timed in turns."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bitshift.backends import engine
from bitshift.cli.bench.layers import LayerTime, layer_times
from bitshift.cli.bench.machine import Limits, measure_limits, pinned
from bitshift.cli.bench.peers import OURS, PEERS, Peer
from bitshift.cli.bench.rounds import Measured, interleave
from bitshift.cli.bench.twin import make_twin
from bitshift.cli.bench.worker import Job, Worker, WorkerError
from bitshift.core.bounds import input_ranges
from bitshift.core.fixed import FixedPoint
from bitshift.core.graph import Graph
from bitshift.core.modelfile import load, save
from bitshift.core.ops.dequantize import dequantize

FORMS: dict[str, dict[str, bool]] = {
    "float": {}, "int8": {"int8": True}, "int8-joined": {"int8": True, "split_sums": False},
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How to measure: ``rounds`` turns of about ``seconds`` with between ``calls`` calls each.

    ``cpus`` are pinned to in order; empty: nothing is pinned. ``environment`` is for peers only.
    """

    rounds: int = 15
    seconds: float = 0.06
    calls: tuple[int, int] = (3, 400)
    cpus: tuple[int, ...] = ()
    isa: str | None = None
    tune: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One number of threads and one batch size. ``about`` is what each candidate says of itself.

    ``agreement`` is the cosine between a candidate's outputs and the engine's: 1 up to rounding if it computes the same
    network. ``missing`` names the peers that were asked for and did not run, and why.
    """

    threads: int
    batch: int
    measured: Measured
    about: Mapping[str, Mapping[str, Any]]
    agreement: Mapping[str, float]
    missing: Mapping[str, str]


def draw_inputs(graph: Graph, batch: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Random inputs in the dtypes of the graph: N(0, 1) for floats, all integers of its range alike for fixed point."""
    rng, found, ranges = np.random.default_rng(seed), {}, input_ranges(graph)
    for name in graph.inputs:
        value = graph.values[name]
        shape = (batch, *value.shape)
        if isinstance(value.type, FixedPoint):
            lo, hi = ranges[name] or (0, 0)
            found[name] = rng.integers(lo, hi + 1, shape).astype(value.type.dtype)
        else:
            found[name] = rng.standard_normal(shape, dtype=np.float32)
    return found


def as_real(graph: Graph, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same inputs as the float32 values that peers read."""
    types = {name: graph.values[name].type for name in arrays}
    return {n: dequantize(a, t) if isinstance(t := types[n], FixedPoint) else a for n, a in arrays.items()}


def check_exact(
    graph: Graph, inputs: Mapping[str, np.ndarray], *, threads: int, isa: str | None, with_reference: bool,
    tune: str | None = None,
) -> str:  # fmt: skip
    """Compare the engine, as it will be timed, with its portable kernels or with the numpy reference.

    Returns what it was compared with. Float outputs may differ by the rounding of their sums.

    Raises:
        ValueError: names the output and the first place where they differ.
    """
    from bitshift.core.reference import execute

    got = engine.compile(graph, threads=threads, isa=isa, tune=tune).run_int(inputs)
    if with_reference:
        name, expected = "the numpy reference", execute(graph, inputs)
    else:
        name, expected = "the portable kernels", engine.compile(graph, threads=1, isa="portable").run_int(inputs)
    for output, right in expected.items():
        ours = got[output]
        if right.dtype == np.float32:
            close = np.isclose(ours, right, rtol=0, atol=1e-4 * max(float(np.abs(right).max()), 1e-30))
        else:
            close = ours == right
        if not close.all():
            at = tuple(int(i) for i in np.argwhere(~close)[0])
            raise ValueError(
                f"output {output!r} at {at}: the engine gives {ours[at]}, {name} {right[at]}; nothing was timed: "
                "please report this with the model file"
            )
    return name


class Bench:
    """Measures one model file. State: a folder with the inputs and twins that its configurations have needed."""

    def __init__(self, model: Path, folder: Path) -> None:
        self.model, self.folder = model, folder
        self.graph = load(model)
        self.twin = make_twin(self.graph)

    def run(
        self,
        peers: Sequence[str],
        *,
        threads: int,
        batch: int,
        plan: Plan,
        extra: Mapping[str, Job] | None = None,
        note: Callable[[str], None] = lambda _: None,
    ) -> Comparison:
        """The engine beside ``peers`` (names of ``PEERS``) and ``extra`` candidates, in one interleaved run."""
        jobs = {OURS: self.ours(self.model, threads=threads, batch=batch, plan=plan)}
        missing: dict[str, str] = {}
        for name in peers:
            peer = PEERS[name]
            reason = peer.missing() or (None if self.twin.integer or not peer.int8 else "activations are not 8-bit")
            if reason is not None:
                missing[name] = reason
                continue
            jobs[name] = self.peer(
                f"bitshift.cli.bench.peers:{peer.function}", self._files(peer, batch), threads=threads, batch=batch,
                plan=plan, imports=peer.modules,
            )  # fmt: skip
        with ExitStack() as stack:
            workers = {}
            for name, job in {**jobs, **(extra or {})}.items():
                worker = Worker(job)
                stack.callback(worker.close)
                try:
                    worker.ready()
                except WorkerError as error:
                    if name == OURS:
                        raise
                    missing[name] = f"it does not run this model here: {error}"
                else:
                    workers[name] = worker
            agreement = self._agreement(workers)
            note(f"{threads} thread(s), batch {batch}: {plan.rounds} rounds of {', '.join(workers)}")
            measured = interleave(workers, rounds=plan.rounds, seconds=plan.seconds, calls=plan.calls)
            about = {name: worker.about for name, worker in workers.items()}
        return Comparison(
            threads=threads, batch=batch, measured=measured, about=about, agreement=agreement, missing=missing
        )

    def ours(self, model: Path, *, threads: int, batch: int, plan: Plan) -> Job:
        """The engine on ``model``, which takes the same inputs as this bench's own."""
        inputs = self._inputs(f"own-{batch}", draw_inputs(self.graph, batch))
        arguments = {"model": str(model), "inputs": inputs, "isa": plan.isa, "tune": plan.tune}
        factory = "bitshift.cli.bench.peers:engine"
        return Job(
            factory=factory, arguments=arguments, threads=threads, cpus=plan.cpus[:threads],
            imports=("bitshift.backends.engine",),
        )  # fmt: skip

    def peer(
        self, factory: str, arguments: Mapping[str, Any], *, threads: int, batch: int, plan: Plan,
        imports: tuple[str, ...] = (),
    ) -> Job:  # fmt: skip
        """A candidate that reads float32 inputs."""
        inputs = self._inputs(f"real-{batch}", as_real(self.graph, draw_inputs(self.graph, batch)))
        return Job(
            factory=factory, arguments={"inputs": inputs, **arguments}, threads=threads, cpus=plan.cpus[:threads],
            imports=imports, environment=plan.environment,
        )  # fmt: skip

    def layers(self, *, threads: int, batch: int, plan: Plan) -> tuple[Limits, tuple[LayerTime, ...]]:
        """Times of the engine's steps, and what this machine could do; measured in this process."""
        loaded = engine.load(self.model, threads=threads, isa=plan.isa, tune=plan.tune)
        one = sum(step.weight_bytes for step in loaded.steps) + loaded.arena_bytes
        with pinned(plan.cpus[:threads]):
            before = measure_limits(loaded.isa, threads, one)
            profile = loaded.profile(draw_inputs(self.graph, batch), repeats=max(plan.rounds, 10))
            limits = before.best(measure_limits(loaded.isa, threads, one))
        return limits, layer_times(profile, limits)

    def _inputs(self, name: str, arrays: Mapping[str, np.ndarray]) -> str:
        path = self.folder / f"{name}.npz"
        if not path.exists():
            with path.open("wb") as file:
                np.savez(file, allow_pickle=False, **arrays)
        return str(path)

    def _files(self, peer: Peer, batch: int) -> dict[str, Any]:
        """The argument that names what a peer reads; writes the forms of the twin that are not there yet."""
        if not peer.forms:
            return {"model": str(self.model)}
        from bitshift.cli.bench.onnx_twin import to_onnx

        paths = []
        for form in peer.forms:
            path = self.folder / f"{form}-{batch}.onnx"
            if not path.exists():
                path.write_bytes(to_onnx(self.twin, batch, **FORMS[form]))
            paths.append(str(path))
        return {"models": paths}

    def _agreement(self, workers: Mapping[str, Worker]) -> dict[str, float]:
        ours = workers[OURS].outputs()[0].astype(np.float64).reshape(-1)
        found = {}
        for name, worker in workers.items():
            other = worker.outputs()[0].astype(np.float64).reshape(-1)
            size = float(np.linalg.norm(ours) * np.linalg.norm(other))
            found[name] = float(ours @ other) / size if other.shape == ours.shape and size else 0.0
        return found


def bench_graph(graph: Graph, stack: ExitStack) -> Bench:
    """A bench of a graph that is in no file yet; its folder goes when ``stack`` closes."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bitshift-bench-")))
    save(graph, folder / "net.safetensors")
    return Bench(folder / "net.safetensors", folder)

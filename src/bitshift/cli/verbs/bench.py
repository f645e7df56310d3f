"""``bitshift bench``: a model file timed on this machine, beside the runtimes that people would use instead."""

from __future__ import annotations

import math
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import tyro

from bitshift.cli.errors import CliError, near_miss
from bitshift.cli.output import Output, size_text
from bitshift.cli.verbs import Verb

if TYPE_CHECKING:
    from bitshift.cli.bench.compare import Bench as Session
    from bitshift.cli.bench.compare import Comparison, Plan
    from bitshift.cli.bench.layers import LayerTime
    from bitshift.cli.bench.machine import Limits

_REFERENCE_OPERATIONS = 2e8


@dataclass(frozen=True, kw_only=True)
class Bench(Verb):
    """Flags of ``bitshift bench``."""

    help_text: ClassVar[str] = """Time a model file on this machine: latency, throughput, and where the time goes.

The same network runs beside it, as float and as int8 (u8 activations, s8 weights per channel, scales from the
file's own types), in the runtimes that are installed: torch, ONNX Runtime, OpenVINO. Before anything is timed the
engine's integers are compared with the reference. Every candidate has a process of its own; they run in turns, pinned
to the same processors. Figures are medians of rounds; a ratio is taken within each round. Rounds in which other
programs were busy are left out, and counted. Where a peer is faster the table says so.

examples:
  bitshift bench net.safetensors
  bitshift bench net.safetensors --threads 1 2 --batch 1 16 --plot bench.png
  bitshift bench net.safetensors --peers ort-int8 openvino-int8 --rounds 30
  bitshift bench net.safetensors --no-peers --isa avx2
  bitshift bench net.safetensors --json > bench.json
"""
    model: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="MODEL")]]
    """The model file (written by `bitshift export`)."""
    threads: Annotated[tuple[int, ...], tyro.conf.arg(metavar="N ...", help_behavior_hint="(default: 1)")] = (1,)
    """Numbers of threads."""
    batch: Annotated[tuple[int, ...], tyro.conf.arg(metavar="N ...", help_behavior_hint="(default: 1)")] = (1,)
    """Batch sizes."""
    peers: Annotated[
        tuple[str, ...] | None,
        tyro.conf.arg(metavar="NAME ...", help_behavior_hint="(default: all but torch-compile)"),
    ] = None
    """Whom to compare with: torch, torch-compile, ort, ort-int8, openvino, openvino-int8."""
    no_peers: bool = False
    """Only the engine."""
    rounds: int = 15
    """Turns of each candidate."""
    seconds: float = 0.06
    """How long a turn should be; a turn has 3 to 400 calls."""
    isa: str | None = None
    """Instruction set of the engine: auto, avx512, avx512vl, avxvnni, avx2, neon, portable."""
    cpus: Annotated[tuple[int, ...], tyro.conf.arg(metavar="N ...", help_behavior_hint="")] = ()
    """Processors to pin to, in this order; by default the first that this process may use."""
    no_layers: bool = False
    """Leave out the table of layers."""
    plot: Path | None = None
    """Also draw the comparison to this file (.png, .svg, .pdf; needs matplotlib)."""

    def run(self, out: Output) -> None:  # noqa: D102 - Verb.run
        from bitshift.cli.bench.compare import Bench as Session
        from bitshift.cli.bench.compare import check_exact, draw_inputs
        from bitshift.cli.bench.machine import describe
        from bitshift.cli.models import model_path
        from bitshift.core.cost import count

        path, peers, plan = model_path(self.model), self._peers(), self._plan()
        with tempfile.TemporaryDirectory(prefix="bitshift-bench-") as folder:
            session = Session(path, Path(folder))
            small = count(session.graph).total.operations < _REFERENCE_OPERATIONS
            equal = check_exact(
                session.graph, draw_inputs(session.graph, 2, seed=1), threads=max(self.threads), isa=self.isa,
                with_reference=small,
            )  # fmt: skip
            out.line(f"{self.model}: the engine's outputs equal {equal}\n")
            comparisons = []
            for threads in self.threads:
                for batch in self.batch:
                    found = session.run(peers, threads=threads, batch=batch, plan=plan, note=out.note)
                    comparisons.append(found)
                    _print(out, found)
            for name, reason in comparisons[0].missing.items():
                out.note(f"{name} is not in the comparison: {reason}")
            limits, layers = (None, ()) if self.no_layers else self._layers(out, session, plan)
        if self.plot is not None:
            self._draw(out, comparisons)
        out.result(
            {
                "model": str(self.model), "machine": describe(), "equal_to": equal, "isa": self.isa or "auto",
                "rounds": self.rounds, "configurations": [record(found) for found in comparisons],
                "limits": None if limits is None else asdict(limits), "layers": [asdict(x) for x in layers],
            }
        )  # fmt: skip

    def _peers(self) -> tuple[str, ...]:
        from bitshift.cli.bench.peers import DEFAULT_PEERS, PEERS

        if self.no_peers:
            return ()
        chosen = DEFAULT_PEERS if self.peers is None else self.peers
        for name in chosen:
            if name not in PEERS:
                raise CliError(near_miss(name, PEERS, "peer"))
        return tuple(dict.fromkeys(chosen))

    def _plan(self) -> Plan:
        from bitshift.backends import engine
        from bitshift.cli.bench.compare import Plan
        from bitshift.cli.bench.machine import processors
        from bitshift.cli.targets import check_target

        reason = engine.available()
        if reason is not None:
            raise CliError(f"there is no engine to time: {reason}")
        for name, values in (("--threads", self.threads), ("--batch", self.batch), ("--rounds", (self.rounds,))):
            if not values or min(values) < 1:
                raise CliError(f"{name} {' '.join(map(str, values))}: at least 1 is needed")
        if not 0 < self.seconds < math.inf:
            raise CliError(f"--seconds {self.seconds}: must be more than 0, and finite")
        if self.plot is not None:
            check_target("--plot", self.plot)
        allowed = processors()
        wrong = sorted(set(self.cpus) - set(allowed))
        if wrong:
            raise CliError(f"--cpus {wrong[0]}: this process may use {', '.join(map(str, allowed)) or 'no such list'}")
        cpus = tuple(dict.fromkeys(self.cpus)) or allowed
        if cpus and max(self.threads) > len(cpus):
            raise CliError(f"--threads {max(self.threads)}: there are {len(cpus)} processors to pin to")
        return Plan(rounds=self.rounds, seconds=self.seconds, cpus=cpus, isa=self.isa)

    def _layers(self, out: Output, session: Session, plan: Plan) -> tuple[Limits, tuple[LayerTime, ...]]:
        threads, batch = self.threads[0], self.batch[0]
        limits, layers = session.layers(threads=threads, batch=batch, plan=plan)
        rows = [
            (x.name, x.op, x.source, x.kernel, f"{1e6 * x.seconds:.1f}", f"{100 * x.share:.1f}", f"{x.gops:.1f}",
             f"{100 * x.roofline:.0f}")
            for x in layers
        ]  # fmt: skip
        columns = ("value", "op", "module", "kernel", "us", "share %", "GOP/s", "roofline %")
        out.table(f"layers, {threads} thread(s), batch {batch}", columns, rows, right=(4, 5, 6, 7))
        out.line(
            f"roofline: {limits.operations / 1e9:.0f} GOP/s of {limits.isa} dot products and "
            f"{limits.read / 1e9:.1f} GB/s from where the model's data stay ({limits.read_memory / 1e9:.1f} GB/s from "
            "memory), measured just now. Direct operations are counted: an exact Winograd kernel can exceed 100 %."
        )
        return limits, layers

    def _draw(self, out: Output, comparisons: list[Comparison]) -> None:
        assert self.plot is not None
        from bitshift.cli.bench.plot import draw

        try:
            draw(comparisons, str(self.model), self.plot)
        except ValueError as error:
            raise CliError(f"--plot {self.plot}: {error}") from None
        out.note(f"wrote {self.plot}")


def _print(out: Output, found: Comparison) -> None:
    """One configuration as a table, and how steady the machine was."""
    from bitshift.cli.bench.peers import OURS, title_of

    rows = []
    for name, about in found.about.items():
        time, ratio = found.measured.time(name), found.measured.ratio(OURS, name)
        verdict = "" if name == OURS else f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"
        if name != OURS and ratio.median < 1:
            verdict += " slower"
        memory, load = about.get("memory_bytes"), about.get("load_s")
        rows.append(
            (title_of(name), f"{1e3 * time.median:.3f}", f"{1e3 * time.low:.3f} to {1e3 * time.high:.3f}",
             f"{found.batch / time.median:.1f}", verdict, f"{1e3 * load:.0f}" if load else "",
             size_text(memory) if memory else "", f"{found.agreement[name]:.4f}")
        )  # fmt: skip
    columns = ("", "ms", "quartiles", "samples/s", "bitshift is x faster", "load ms", "memory", "agreement")
    out.table(f"{found.threads} thread(s), batch {found.batch}", columns, rows, right=(1, 3, 5, 6, 7))
    if found.measured.noise:
        out.line(f"{found.measured.noise}\n")


def record(found: Comparison) -> dict[str, Any]:
    """One configuration as JSON: seconds of a batch, and how many times faster the engine is, with quartiles."""
    from bitshift.cli.bench.peers import OURS, title_of

    return {
        "threads": found.threads, "batch": found.batch, "rounds": len(found.measured.seconds[OURS]),
        "dropped_rounds": found.measured.dropped, "foreign_share": found.measured.foreign,
        "load_average": found.measured.load_average, "missing": found.missing,
        "candidates": [
            {
                "name": name, "title": title_of(name), "seconds": asdict(found.measured.time(name)),
                "samples_per_second": found.batch / found.measured.time(name).median,
                "bitshift_times_faster": asdict(found.measured.ratio(OURS, name)),
                "agreement": found.agreement[name], **about,
            }
            for name, about in found.about.items()
        ],
    }  # fmt: skip


VERB = Bench

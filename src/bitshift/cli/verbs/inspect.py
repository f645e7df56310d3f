"""``bitshift inspect``: what is in a model file, and what the registries hold."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import tyro

from bitshift.cli.errors import CliError
from bitshift.cli.output import Output, size_text
from bitshift.cli.verbs import Verb

if TYPE_CHECKING:
    from bitshift.cli.summary import NodeOperations
    from bitshift.core.graph import Graph
    from bitshift.core.ops import Cost


@dataclass(frozen=True, kw_only=True)
class Inspect(Verb):
    """Flags of ``bitshift inspect``."""

    help_text: ClassVar[str] = """Show what is in a model file, or what the registries hold.

For a file: every node with the module it came from, the types of the values, the format and packed bytes of each
layer, the operations of one sample, and the place of every multiplication that is left. Needs no PyTorch.
The words formats, ops, backends, methods, models and recipes list what exists (the last three need PyTorch).

examples:
  bitshift inspect runs/demo/net.safetensors
  bitshift inspect net.safetensors --graph
  bitshift inspect net.safetensors --hardware
  bitshift inspect net.safetensors --json | jq .multiplications
  bitshift inspect formats
  bitshift inspect methods
"""
    what: tyro.conf.Positional[
        Annotated[str, tyro.conf.arg(metavar="MODEL|formats|ops|methods|models|recipes|backends")]
    ]
    """A model file, or the name of a registry."""
    graph: bool = False
    """Also print the graph, a line a node, with attributes."""
    hardware: bool = False
    """Also print the operator counts of an integer network and what it costs in gates and energy, beside the same
    network with int8 and int4 weights."""

    def run(self, out: Output) -> None:  # noqa: D102 - Verb.run
        from bitshift.cli import registries

        if self.what in registries.REGISTRIES:
            if self.hardware:
                raise CliError(f"--hardware is of a model file; {self.what!r} is a registry")
            registries.show(self.what, out)
            return
        self._file(out, Path(self.what))

    def _file(self, out: Output, path: Path) -> None:
        from bitshift.cli import hardware, summary
        from bitshift.cli.models import open_graph
        from bitshift.cli.registries import REGISTRIES

        if not path.exists() and path.suffix == "" and path.parent == Path():
            raise CliError(f"no such file: {path}; the registries are {', '.join(REGISTRIES)}")
        graph = open_graph(path)
        estimate = hardware.estimate_of(path, graph) if self.hardware else None
        size = path.stat().st_size
        layers, (operations, total) = summary.weight_layers(graph), summary.sample_operations(graph)
        parts = summary.constant_bytes(graph)
        rest = size - sum(parts.values())
        self._print_head(out, path, graph, size, parts | {"header and graph": rest})
        rows = [
            (x.name, x.op, x.format, "x".join(map(str, x.shape)), f"{x.weights:,}", size_text(x.packed_bytes))
            for x in layers
        ]
        out.table("layers with weights", ("layer", "op", "format", "shape", "weights", "packed"), rows, right=(4, 5))
        self._print_operations(out, operations, total)
        if self.graph:
            out.line(graph.pretty())
        if estimate:
            out.line()
            hardware.show(out, estimate)
        out.result(
            {
                "file": str(path), "bytes": size, "constants": parts, "header_bytes": rest, "meta": dict(graph.meta),
                "inputs": {n: _value(graph, n) for n in graph.inputs},
                "outputs": {n: _value(graph, n) for n in graph.outputs},
                "values": summary.value_kinds(graph),
                "layers": [asdict(x) | {"weights": x.weights} for x in layers],
                "nodes": [{"name": o.name, "op": o.op, "where": o.where, **asdict(o.cost)} for o in operations],
                "shifts": total.shifts, "adds": total.adds, "multiplications": summary.multiplications(total),
                "operations": asdict(total) if operations else {},
                "graph": graph.pretty().splitlines() if self.graph else None,
                "hardware": hardware.as_json(estimate) if estimate else None,
            }
        )  # fmt: skip

    def _print_head(self, out: Output, path: Path, graph: Graph, size: int, parts: dict[str, int]) -> None:
        from bitshift.cli.summary import value_kinds

        name = graph.meta.get("name")
        out.line(f"{path}: {size_text(size)}{f', {name}' if name else ''}")
        for title, names in (("input", graph.inputs), ("output", graph.outputs)):
            for n in names:
                value = graph.values[n]
                out.line(f"  {title:<7} {n}: {list(value.shape)} {value.type}")
        if labels := graph.meta.get("labels"):
            shown = ", ".join(labels[:10]) + (", ..." if len(labels) > 10 else "")
            out.line(f"  labels  {len(labels)}: {shown}")
        if pre := graph.meta.get("preprocess"):
            height, width = pre["size"]
            colours = "grey" if pre["channels"] == 1 else "RGB"
            out.line(f"  picture {width}x{height} {colours}, (pixel - {pre['mean']}) * {pre['scale']}")
        out.line("  values  " + ", ".join(f"{n} {kind}" for kind, n in sorted(value_kinds(graph).items())))
        out.line("  bytes   " + ", ".join(f"{role} {size_text(n)}" for role, n in parts.items()))
        out.line()

    def _print_operations(self, out: Output, operations: list[NodeOperations], total: Cost) -> None:
        from bitshift.cli.summary import multiplications

        rows = [(o.name, o.op, o.output, *_counts(o.cost)) for o in operations]
        if operations:
            rows.append(("one sample", "", "", *_counts(total)))
        columns = ("node", "op", "output", "shifts", "adds", "multiplications")
        out.table("operations of one sample", columns, rows, right=(3, 4, 5))
        places = [f"  {o.name} [{o.op}]: {multiplications(o.cost):,}: {o.where}" for o in operations if o.where]
        if places:
            out.line("multiplications are left here:")
            out.line("\n".join(places))
        else:
            out.line("multiplication-free: every product is a shift")


def _counts(cost: Cost) -> tuple[str, str, str]:
    """Shifts, additions, multiplications; float ones are counted with the integer ones, as no value is both."""
    from bitshift.cli.summary import multiplications

    return (
        f"{cost.shifts + cost.float_shifts:,}",
        f"{cost.adds + cost.float_adds:,}",
        f"{multiplications(cost):,}",
    )


def _value(graph: Graph, name: str) -> dict[str, Any]:
    value = graph.values[name]
    return {"shape": list(value.shape), "type": str(value.type), "dtype": str(value.type.dtype)}


VERB = Inspect

"""Gather a report's values from a model file or a run directory. No torch here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bitshift.cli import summary
from bitshift.cli.errors import CliError
from bitshift.cli.models import open_graph
from bitshift.cli.output import percent, size_text
from bitshift.cli.report import comparison
from bitshift.cli.report.data import Energy, Evaluation, History, Operations, ReportData, Tile
from bitshift.cli.report.history import read_history, read_lines
from bitshift.cli.report.plot import short_number
from bitshift.cli.report.sections import energy_text
from bitshift.cli.rundir import describe_network, read_config
from bitshift.core.cost import ENERGY_SOURCE, count, float_twin
from bitshift.core.graph import Graph
from bitshift.train.files import CONFIG, METRICS, NET

EVALUATION = "evaluation.json"
RESULT = "result.json"
_ROLES = {
    "codes": "packed weight codes",
    "weight": "float weights of layers kept float",
    "offset": "offsets: bias, norm and the half step of the rounding",
    "mult": "output multipliers",
    "shift": "requantising shifts",
    "res_shift": "residual shifts",
    "scale": "scales of float nodes",
    "bias": "biases of float nodes",
    "table": "tables of non-linear functions",
}


def from_model(path: Path, *, evaluation: Evaluation | None = None) -> ReportData:
    """The report of an exported file alone: everything that does not need the training run."""
    graph = open_graph(path)
    parts = _file_parts(path, graph)
    need = "this is a model file alone; bitshift report RUN_DIRECTORY shows it"
    return ReportData(
        title=graph.meta.get("name") or path.name,
        subtitle=f"{path}, {summary.multiplication_words(graph)}",
        made=_now(),
        tiles=_tiles(graph, path, None, []),
        evaluation=evaluation,
        missing={
            "comparison": need,
            "curves": need,
            "flips": need,
            "confusion": f"bitshift report {path} --data DATA evaluates the file on a data set",
        },
        **parts,
    )


def from_run(run_dir: Path) -> ReportData:
    """The report of a run directory; parts that the run has not produced yet say which command produces them."""
    config = read_config(run_dir)
    network = (config.get("about") or {}).get("network")
    describe = describe_network(network) if network else "a run of bitshift.train"
    net = run_dir / NET
    graph = open_graph(net) if net.exists() else None
    parts = _file_parts(net, graph) if graph is not None else {}
    rows = comparison.read(run_dir)
    missing: dict[str, str] = {}
    if graph is None:
        for key in ("levels", "sizes", "operations", "graph"):
            missing[key] = f"bitshift export {run_dir} writes the model file"
    missing["flips"] = "float networks have no levels to flip, and one epoch nothing to compare with"
    missing["curves"] = f"{run_dir} holds no {METRICS}: the network was not trained there"
    missing["confusion"] = f"bitshift eval {run_dir} evaluates the run"
    result = _read_object(run_dir / RESULT)
    if rows:
        parts["energy"] = Energy(
            parts={row.name: _nonzero(summary.energy_by_kind(row.cost)) for row in rows},
            source=f"Constants: {ENERGY_SOURCE}.",
        )
    names = {"float": "float32", "int8": "int8, post-training", "uniform": "uniform, same bits", "ours": "ours"}
    return ReportData(
        title=f"{run_dir.resolve().name}: {describe}",
        subtitle=str(run_dir) if graph is None else f"{run_dir}, {summary.multiplication_words(graph)}",
        made=_now(),
        tiles=_tiles(graph, net, result, rows),
        comparison=comparison.table(rows, f"bitshift report {run_dir} --measure", names),
        comparison_note="Accuracy on the same test set; uniform and ours trained with the same budget.",
        histories=_histories(run_dir),
        evaluation=_evaluation(run_dir),
        configuration=config,
        missing=missing,
        **parts,
    )


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _nonzero(parts: Mapping[str, float]) -> dict[str, float]:
    return {k: v for k, v in parts.items() if v}


def _file_parts(path: Path, graph: Graph) -> dict[str, Any]:
    """What the model file alone tells: layers, sizes, operations, energy, listing."""
    layers = summary.weight_layers(graph)
    operations = [
        Operations(
            name=o.name, op=o.op, shifts=o.cost.shifts + o.cost.float_shifts, adds=o.cost.adds + o.cost.float_adds,
            multiplications=summary.multiplications(o.cost), where=o.where,
        )
        for o in summary.sample_operations(graph)[0]
    ]  # fmt: skip
    table = count(graph)
    total = table.total
    constants = summary.constant_bytes(graph)
    size = path.stat().st_size
    sizes = [(_ROLES.get(role, role), n, "") for role, n in constants.items()]
    sizes.append(("header: graph, names, padding", size - sum(constants.values()), ""))
    weights = sum(layer.weights for layer in layers if not layer.shared)
    sizes.append(("file", size, f"float32 weights alone would be {size_text(4 * weights)}"))
    energy = Energy(
        parts={
            "float32, same sums": _nonzero(summary.energy_by_kind(float_twin(table))),
            "this file": _nonzero(summary.energy_by_kind(total)),
        },
        source=f"Constants: {ENERGY_SOURCE}.",
    )
    return {
        "layers": layers,
        "sizes": sizes,
        "operations": operations,
        "energy": energy,
        "graph_text": graph.pretty(),
    }


def _tiles(
    graph: Graph | None, path: Path, result: Mapping[str, Any] | None, rows: Sequence[comparison.Measured]
) -> list[Tile]:
    tiles = []
    ours = next((r for r in rows if r.kind == "ours"), None)
    twin = next((r for r in rows if r.kind == "float"), None)
    if ours is not None:
        below = f"float twin {percent(twin.accuracy)}" if twin else f"{ours.samples:,} test samples"
        tiles.append(Tile(value=percent(ours.accuracy), name="accuracy of the integer network", below=below))
    if graph is not None:
        weights = 4 * sum(x.weights for x in summary.own_layers(graph))
        size = path.stat().st_size
        ratio = f"{weights / size:.1f} x smaller than its float32 weights"
        tiles.append(Tile(value=size_text(size), name="model file", below=ratio))
        table = count(graph)
        total = table.total
        shifts = short_number(total.shifts + total.float_shifts)
        many = summary.multiplications(summary.sample_operations(graph)[1])
        tiles.append(
            Tile(
                value=f"{many:,}" if many < 1e6 else short_number(many),
                name="multiplications a sample",
                below=f"{shifts} shifts",
            )
        )
        pj, twin_pj = (
            sum(summary.energy_by_kind(total).values()),
            sum(summary.energy_by_kind(float_twin(table)).values()),
        )
        tiles.append(
            Tile(
                value=energy_text(pj),
                name="energy of the arithmetic, estimated",
                below=f"float32 {energy_text(twin_pj)}",
            )
        )
    if result and "differing_outputs" in result:
        compared = result.get("compared_outputs")
        below = f"of {compared:,} integers, simulation against file" if compared else "simulation against file"
        tiles.append(Tile(value=str(result["differing_outputs"]), name="differing outputs", below=below))
    return tiles


def _read_object(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CliError(f"{path}: damaged ({error})") from None
    return value if isinstance(value, dict) else None


def _histories(run_dir: Path) -> list[History]:
    """The run's own curves first, then those of the runs inside it: the float twin, the baselines."""
    found = [("ours", run_dir / METRICS)]
    found += [(path.parent.name, path) for path in sorted(run_dir.glob(f"*/{METRICS}"))]
    return [read_history(name, path) for name, path in found if path.exists()]


def _evaluation(run_dir: Path) -> Evaluation | None:
    """evaluation.json (of `bitshift eval`), else the confusion that training ended with."""
    stored = _read_object(run_dir / EVALUATION)
    if stored is not None:
        return evaluation_from(stored)
    config = _read_object(run_dir / CONFIG) or {}
    results = [line for line in read_lines(run_dir / METRICS) if line.get("kind") == "result"]
    if not results or "confusion" not in results[-1]:
        return None
    labels = config.get("data", {}).get("class_names") or list(map(str, range(len(results[-1]["confusion"]))))
    return evaluation_from(
        {
            "title": "Test data, training simulation in eval mode",
            "labels": labels,
            "confusion": results[-1]["confusion"],
        }
    )


def evaluation_from(stored: Mapping[str, Any]) -> Evaluation:
    """The evaluation in what `bitshift eval` stored."""
    return Evaluation(
        title=stored["title"],
        labels=tuple(stored["labels"]),
        confusion=tuple(tuple(row) for row in stored["confusion"]),
    )

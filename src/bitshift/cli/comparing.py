"""Measure the rows that stand beside a run in its report: float, int8 post-training, uniform at the same bits, ours.

Imports torch. Every row is a network that is evaluated on the whole test set; the integer ones are exported, and their
bytes and operations are those of the file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from bitshift.cli import summary
from bitshift.cli.errors import CliError
from bitshift.cli.exporting import export_network
from bitshift.cli.images import ImageOptions
from bitshift.cli.models import open_graph
from bitshift.cli.report import comparison
from bitshift.cli.report.comparison import Kind, Measured
from bitshift.cli.runs import Run, sample_images
from bitshift.cli.training import PIXELS, make_augment, on_pixels
from bitshift.core.cost import count, float_twin
from bitshift.core.formats import FORMATS, get_format
from bitshift.nn.activations import calibrate
from bitshift.nn.config import Rule, ShiftConfig
from bitshift.nn.convert import convert
from bitshift.train.config import TrainConfig
from bitshift.train.data import Normalise, TrainData, random_crop
from bitshift.train.evaluate import evaluate
from bitshift.train.files import FLOAT, NET, WEIGHTS
from bitshift.train.loop import fit

INT8_FILE = "int8.safetensors"


def weight_bits(shift: ShiftConfig) -> int:
    """Width of the weights that ``shift`` gives."""
    if shift.format is not None:
        return get_format(shift.format).bits
    return shift.bits or 3


def measure_ours(run: Run, test: TrainData, accuracy: float) -> None:
    """The row of the run itself, from its exported file."""
    _add_file(
        run.path,
        "ours",
        f"ours: {run.spec.shift.method if run.spec.shift else 'float'}",
        run.path / NET,
        accuracy,
        test,
    )


def measure_float(run_dir: Path, test: TrainData, accuracy: float, reference: Path, note: str) -> None:
    """The float twin's row: bytes of its weights, operations of the same sums of products in float32."""
    graph = open_graph(reference)
    weights = sum(x.weights for x in summary.own_layers(graph))
    row = Measured(
        kind="float", name="float32", accuracy=accuracy, samples=len(test), weight_bits="float32",
        weight_bytes=4 * weights, cost=float_twin(count(graph)), note=note,
    )  # fmt: skip
    comparison.add(run_dir, row)


def measure_int8(run: Run, twin: nn.Module, data: tuple[TrainData, TrainData], *, rows: int = 512) -> float:
    """Round the float twin to int8 (nearest, searched scale a channel), calibrate, export, evaluate."""
    shift = ShiftConfig(
        method="nearest", format="int8", activations=_activations(run), init="pretrained", options={"scale": "free"},
        multiplier=_integer(run),
    )  # fmt: skip
    model, _ = convert(twin, shift, sample=run.spec.sample())
    if shift.integer:
        calibrate(model.eval(), sample_images(data[0], rows).split(128))
    accuracy = evaluate(model, data[1]).accuracy
    path = run.path / INT8_FILE
    export_network(model, data[0], path, name="int8, post-training")
    note = "post-training, one multiplier a channel" if shift.integer else "post-training, weights only"
    _add_file(run.path, "int8", "int8", path, accuracy, data[1], note=note)
    return accuracy


def measure_uniform(
    run: Run, twin: nn.Module | None, data: tuple[TrainData, TrainData], config: TrainConfig, augment: str | None
) -> float:
    """Train learned-step uniform weights of the same width with the budget of the run, export, evaluate."""
    assert run.spec.shift is not None
    bits = max(weight_bits(run.spec.shift), 2)
    shift = replace(
        run.spec.shift,
        method="uniform",
        format=None,
        bits=bits,
        options={},
        multiplier=_integer(run),
        init="pretrained",
        rules=tuple(map(_uniform_rule, run.spec.shift.rules)),
    )
    folder = run.path / f"uniform{bits}"
    spec = replace(run.spec, shift=shift)
    torch.manual_seed(config.seed)
    start = twin if twin is not None else spec.build_float()
    model, _ = convert(start, shift, sample=spec.sample())
    spec = spec.rebuilding(start, model)
    result = fit(
        model.train(), config, *data, run_dir=folder, augment=make_augment(augment),
        teacher=twin if twin is not None and config.distill_weight > 0 else None,
        about={"network": spec.as_dict(), "data": run.data, "augment": augment},
    )  # fmt: skip
    mixed = any(rule.bits not in (None, bits) for rule in shift.rules)
    export_network(model, data[0], folder / NET, name="uniform, mixed widths" if mixed else f"uniform int{bits}")
    width = f"{_mean_bits(folder / NET):.2f} bits a weight" if mixed else f"{bits}-bit"
    note = "learned step, same budget" + (", one multiplier a channel" if shift.integer else "")
    _add_file(run.path, "uniform", f"uniform {width}", folder / NET, result.accuracy, data[1], note=note)
    return result.accuracy


def _uniform_rule(rule: Rule) -> Rule:
    """``rule`` with its width as bits of uniform weights: method, format and options are those of another method.

    A rule that then says nothing stays: the first that matches a layer wins, and a later one must not take its place.
    """
    bits = get_format(rule.format).bits if rule.format is not None else rule.bits
    return replace(rule, method=None, format=None, options=None, bits=None if bits is None else max(bits, 2))


def _mean_bits(path: Path) -> float:
    """Mean width over the weights that a model file stores; those kept float have 32 bits."""
    layers = summary.own_layers(open_graph(path))
    width = {"float32": 32} | {name: form.bits for name, form in FORMATS.items()}
    return sum(x.weights * width[x.format] for x in layers) / sum(x.weights for x in layers)


def images_of(run: Run) -> ImageOptions:
    """How to open photos so that a training sees what ``run`` saw: windows of whole photos, if it cropped at random."""
    crops = random_crop(make_augment(run.config["about"].get("augment"))) is not None
    return replace(run.images, stream=True) if crops and run.images.size is not None else run.images


def measure_all(run: Run, *, note: Callable[[str], None]) -> None:
    """Measure every row that comparison.json lacks: export, float twin, int8, uniform.

    The float twin is the run's own (RUN/float), the weights it started from, or is trained now with the run's budget.
    Trainings are resumed when they were stopped. ``note`` is told what is going on.
    """
    if run.spec.shift is None:
        raise CliError(f"{run.path} is a float network; the comparison is for shift networks")
    augment, images = run.config["about"].get("augment"), images_of(run)
    data = run.open_data("train", images=images), run.open_data("test", images=images)
    have = {row.kind for row in comparison.read(run.path)}
    config = TrainConfig(**run.config["train"]) if "train" in run.config else None
    if "ours" not in have:
        model = run.network()
        if not (run.path / NET).exists():
            note(f"exporting {run.path / NET}")
            export_network(model, data[0], run.path / NET, name=run.spec.describe())
        measure_ours(run, data[1], evaluate(model, data[1]).accuracy)
    if have >= {"float", "int8", "uniform"}:
        return
    twin, exact, where = _find_twin(run, data, config, augment, note)
    if "float" not in have:
        measure_float(run.path, data[1], evaluate(exact, data[1]).accuracy, run.path / NET, where)
    if "int8" not in have:
        note("rounding the float twin to int8")
        measure_int8(run, twin, data)
    if "uniform" not in have:
        if config is None:
            note("uniform at the same bits: not measured, this run was converted, not trained")
            return
        note("training uniform weights of the same bits with the same budget")
        measure_uniform(run, twin, data, config, augment)


def _find_twin(
    run: Run,
    data: tuple[TrainData, TrainData],
    config: TrainConfig | None,
    augment: str | None,
    note: Callable[[str], None],
) -> tuple[nn.Module, nn.Module, str]:
    """The float network that belongs to a run, for the run's pixels and exactly as it was, and where it comes from."""
    spec, about = replace(run.spec, shift=None, input_bias=False), run.config["about"]
    if (run.path / FLOAT / WEIGHTS).exists():
        twin = spec.build_float(run.path / FLOAT)
        return twin, twin, "float twin of the run"
    if start := about.get("pretrained"):
        old = Normalise.from_dict(about[PIXELS]) if PIXELS in about else None
        return *on_pixels(spec.build_float(Path(start)), old, data[0], Path(start)), f"weights of {Path(start).name}"
    if config is None:
        raise CliError(f"{run.path} has no float twin to compare with, and no budget to train one")
    note(f"training the float twin, {config.epochs} epochs")
    torch.manual_seed(config.seed)
    model = spec.build_float()
    fit(
        model, config, *data, run_dir=run.path / FLOAT, augment=make_augment(augment),
        about={"network": spec.as_dict(), "data": run.data, "augment": augment},
    )  # fmt: skip
    return model, model, "trained with the same budget"


def _integer(run: Run) -> bool:
    return run.spec.shift is not None and run.spec.shift.integer


def _activations(run: Run) -> int | str | None:
    """int8 means 8-bit activations where the run's are integers, else the run's own."""
    return 8 if _integer(run) else run.spec.shift.activations if run.spec.shift else None


def _add_file(
    run_dir: Path, kind: Kind, name: str, path: Path, accuracy: float, test: TrainData, *, note: str = ""
) -> None:
    graph = open_graph(path)
    layers = summary.weight_layers(graph)
    row = Measured(
        kind=kind, name=name, accuracy=accuracy, samples=len(test),
        weight_bits=", ".join(dict.fromkeys(x.format for x in layers)),
        weight_bytes=sum(x.packed_bytes for x in layers if not x.shared), file_bytes=path.stat().st_size,
        cost=count(graph).total, note=note,
    )  # fmt: skip
    comparison.add(run_dir, row)

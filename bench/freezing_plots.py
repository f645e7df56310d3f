"""The figures of docs/freezing.md, drawn from the records that bench/freezing.py keeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

COLOURS = {
    "float": "#57606a",
    "deepshift_q": "#bc4c00",
    "deepshift_ps": "#bf8700",
    "s3": "#8250df",
    "denseshift": "#1f6feb",
    "uniform": "#2da44e",
}
"""One colour a method, as far as its name begins so; a second run of a method is dashed, a third dotted."""
DASHES = ("-", "--", ":", "-.")
Records = Sequence[Mapping[str, Any]]
Panel = tuple[str, Callable[[Mapping[str, Any]], float | None]]


def _value(key: str) -> Callable[[Mapping[str, Any]], float | None]:
    return lambda record: record.get(key)


def _steps(record: Mapping[str, Any]) -> float | None:
    return record["steps"][1] if record.get("steps") else None


RATES: tuple[Panel, ...] = (
    ("weights that changed their code, since the record before", _value("value_rate")),
    ("weights that changed their sign (zero is one of its own)", _value("sign_rate")),
    ("weights whose sign never changed", _value("never_flipped")),
    ("distance to a threshold, mean, in deviations of the latents", _value("distance")),
)
FINE: tuple[Panel, ...] = (
    ("weights that changed their code, since the record before", _value("value_rate")),
    ("weights that changed their sign (zero is one of its own)", _value("sign_rate")),
    ("weights whose sign never changed", _value("never_flipped")),
    ("steps to the nearest threshold, median", _steps),
)


def draw_all(runs: Sequence[Mapping[str, Any]], folder: Path) -> list[Path]:
    """Write every figure whose records are there; returns the files."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "bitshift"  # the same records give the same file
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    fine = [run for run in runs if run["step_records"]]
    if fine:
        x = "training step"
        made.append(_panels(fine, "step_records", FINE, x, folder / "freezing_steps.svg", log=(0, 1, 3)))
        made.append(_layers(fine, folder / "freezing_layers.svg"))
    long = [run for run in runs if len(run["epoch_records"]) > 2]
    if long:
        made.append(_panels(long, "epoch_records", RATES, "epoch", folder / "freezing_epochs.svg"))
    return made


def _look(runs: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Colour and dash of each run."""
    seen: dict[str, int] = {}
    looks = []
    for run in runs:
        own = run["name"].lower().replace("-", "_")  # DeepShift-Q-5 is deepshift_q
        colour = next((c for name, c in COLOURS.items() if own.startswith(name)), "#0a3069")
        looks.append((colour, DASHES[seen.get(colour, 0) % len(DASHES)]))
        seen[colour] = seen.get(colour, 0) + 1
    return looks


def _panels(
    runs: Sequence[Mapping[str, Any]], records: str, panels: Sequence[Panel], x_label: str, path: Path,
    log: Sequence[int] = (),
) -> Path:  # fmt: skip
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(9, 6.4), squeeze=False)
    x_key = "step" if records == "step_records" else "epoch"
    for number, ((title, pick), axis) in enumerate(zip(panels, axes.flat, strict=True)):
        for run, (colour, dash) in zip(runs, _look(runs), strict=True):
            points = [(r[x_key], v) for r in run[records] if (v := pick(r)) is not None]
            if points:
                axis.plot(*zip(*points, strict=True), dash, color=colour, lw=1.5, label=run["title"])
        axis.set_title(title, fontsize=9, loc="left")
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
        if number in log:
            axis.set_yscale("log")
        elif "never" not in title:
            axis.set_ylim(bottom=0)
        if title.startswith("weights"):
            axis.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g} %")
        axis.tick_params(labelsize=8)
    for axis in axes[-1]:
        axis.set_xlabel(x_label, fontsize=9)
    return _save(figure, axes, runs, path)


def _layers(runs: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Never-flipped share and median steps of each layer at the end."""
    from matplotlib import pyplot as plt
    from matplotlib.ticker import PercentFormatter

    figure, axes = plt.subplots(1, 2, figsize=(9, 4.2), squeeze=False)
    names = [layer["name"] for layer in runs[0]["last_layers"]]
    for run, (colour, dash) in zip(runs, _look(runs), strict=True):
        layers = {layer["name"]: layer for layer in run["last_layers"]}
        kept = [layers[name]["never_flipped"] if name in layers else float("nan") for name in names]
        steps = [(layers.get(name) or {}).get("steps") or (None, float("nan"), None) for name in names]
        axes[0][0].plot(range(len(names)), kept, dash, color=colour, marker=".", lw=1.2, label=run["title"])
        axes[0][1].plot(range(len(names)), [s[1] for s in steps], dash, color=colour, marker=".", lw=1.2)
    axes[0][0].set_title("weights whose sign never changed, by layer", fontsize=9, loc="left")
    axes[0][0].yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    axes[0][1].set_title("steps to the nearest threshold, median, by layer", fontsize=9, loc="left")
    axes[0][1].set_yscale("log")
    for axis in axes.flat:
        axis.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=7)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
        axis.tick_params(axis="y", labelsize=8)
    return _save(figure, axes, runs, path)


def _save(figure: Any, axes: Any, runs: Sequence[Mapping[str, Any]], path: Path) -> Path:
    from matplotlib import pyplot as plt

    models = ", ".join(dict.fromkeys(str(run["model"]) for run in runs))
    figure.suptitle(f"CIFAR-10, {models}, from scratch; inner layers, weighted by their weights", fontsize=9)
    handles, labels = axes[0][0].get_legend_handles_labels()
    if len(axes.flat) > 1:  # the float net has no codes: its line is in other panels only
        for axis in axes.flat[1:]:
            more = zip(*axis.get_legend_handles_labels(), strict=True)
            fresh = [(h, text) for h, text in more if text not in labels]
            handles += [h for h, _ in fresh]
            labels += [text for _, text in fresh]
    figure.legend(handles, labels, loc="lower center", ncols=3, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.02 + 0.03 * (-(-len(labels) // 3)), 1, 1))
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return path


__all__ = ["draw_all"]

"""The sections of a report: each turns the data into well-formed HTML, or "" when there is nothing to show."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from bitshift.cli.output import percent, size_text, to_json
from bitshift.cli.report import plot
from bitshift.cli.report.data import Comparison, ReportData
from bitshift.cli.summary import WeightLayer

_MOST_HISTOGRAMS = 72
"""A page stays light: deeper networks show the largest layers, and the table of sizes shows all."""


def table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Sequence[int], classes: Sequence[str] = ()
) -> str:
    """An HTML table of escaped cells; ``numbers`` are right-aligned columns, ``classes`` one CSS class a row."""
    head = "".join(f"<th{_n(i, numbers)}>{escape(c)}</th>" for i, c in enumerate(columns))
    body = []
    for r, row in enumerate(rows):
        css = f' class="{classes[r]}"' if classes and classes[r] else ""
        body.append(f"<tr{css}>{''.join(f'<td{_n(i, numbers)}>{escape(c)}</td>' for i, c in enumerate(row))}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def _n(column: int, numbers: Sequence[int]) -> str:
    return ' class="n"' if column in numbers else ""


def comparison(data: ReportData) -> str:
    """Float, int8, uniform at the same bits, ours: a row each, unmeasured ones with the command that measures them."""
    if not data.comparison:
        return ""
    columns = (
        "network",
        "accuracy",
        "weights",
        "weight bytes",
        "file",
        "multiplications",
        "shifts",
        "adds",
        "energy*",
        "",
    )
    head = "".join(f"<th{_n(i, range(3, 9))}>{escape(c)}</th>" for i, c in enumerate(columns))
    body = "".join(_comparison_row(row) for row in data.comparison)
    source = (
        f"*Estimate per sample from operation counts, not a measurement. {data.energy.source}" if data.energy else ""
    )
    return (
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        f'<p class="note" style="margin-top:10px">{escape(data.comparison_note)} {escape(source)}</p>'
    )


def _comparison_row(row: Comparison) -> str:
    css = ' class="ours"' if row.ours else ""
    name = escape(row.name) + (f'<br/><span class="note">{escape(row.note)}</span>' if row.note else "")
    if row.accuracy is None and row.command:
        how = f"not measured; <code>{escape(row.command)}</code> measures it"
        return f'<tr{css}><td>{name}</td><td class="none" colspan="9">{how}</td></tr>'

    def count(value: float | None) -> str:
        return "-" if value is None else plot.short_number(value) if value else "0"

    cells = (
        percent(row.accuracy),
        row.weight_bits,
        "-" if row.weight_bytes is None else size_text(row.weight_bytes),
        "-" if row.file_bytes is None else size_text(row.file_bytes),
        count(row.multiplications),
        count(row.shifts),
        count(row.adds),
        "-" if row.energy_pj is None else energy_text(row.energy_pj),
        "",
    )
    body = "".join(f"<td{_n(i, (0, *range(2, 8)))}>{escape(c)}</td>" for i, c in enumerate(cells))
    return f"<tr{css}><td>{name}</td>{body}</tr>"


def energy_text(picojoule: float) -> str:
    """Picojoule for a person: ``12.3 nJ``."""
    for limit, unit in ((1e9, "mJ"), (1e6, "µJ"), (1e3, "nJ")):
        if picojoule >= limit:
            return f"{picojoule / limit:.3g} {unit}"
    return f"{picojoule:.3g} pJ"


def curves(data: ReportData) -> str:
    """Loss by step, loss and accuracy by epoch, every trained network in one colour."""
    step = [_line(h.name, h.step_loss, i) for i, h in enumerate(data.histories) if h.step_loss]
    valid_loss = [_line(h.name, h.valid_loss, i) for i, h in enumerate(data.histories) if h.valid_loss]
    accuracy = [_line(h.name, h.valid_accuracy, i) for i, h in enumerate(data.histories) if h.valid_accuracy]
    accuracy += [
        _line(f"{h.name} (training data)", h.train_accuracy, i, dashed=True)
        for i, h in enumerate(data.histories)
        if h.train_accuracy
    ]
    charts = []
    if accuracy:
        charts.append(
            plot.line_chart(accuracy, label="accuracy by epoch", x_label="epoch", y_label="accuracy", percent=True)
        )
    if valid_loss:
        charts.append(
            plot.line_chart(
                valid_loss,
                label="loss on held-out data by epoch",
                x_label="epoch",
                y_label="loss, held-out data",
                from_zero=True,
            )
        )
    if step:
        charts.append(
            plot.line_chart(
                step, label="training loss by step", x_label="step", y_label="training loss", from_zero=True
            )
        )
    if not charts:
        return ""
    note = (
        '<p class="note">The training loss of a network that learns from its float twin is the distillation loss; '
        "it does not compare with the cross-entropy of the twin.</p>"
    )
    return f'<div class="plots">{"".join(charts)}</div>{note if len(data.histories) > 1 else ""}'


def _line(name: str, points: Sequence[tuple[float, float]], colour: int, *, dashed: bool = False) -> plot.Series:
    return plot.Series(
        name=name,
        x=[p[0] for p in points],
        y=[p[1] for p in points],
        dashed=dashed,
        colour=colour % plot.SERIES_COLOURS,
    )


def levels(data: ReportData) -> str:
    """How often each level of its format is used, one small histogram a layer."""
    counted = [layer for layer in data.layers if layer.counts]
    if not counted:
        return ""
    shown = counted
    if len(counted) > _MOST_HISTOGRAMS:
        largest = set(map(id, sorted(counted, key=lambda layer: -layer.weights)[:_MOST_HISTOGRAMS]))
        shown = [layer for layer in counted if id(layer) in largest]
    plots = [
        plot.level_histogram(layer.levels, layer.counts, title=layer.name, note=_histogram_note(layer))
        for layer in shown
    ]
    rest = f" The {len(shown)} largest of {len(counted)} layers are drawn." if len(shown) < len(counted) else ""
    return (
        '<p class="note">Share of the weights at each integer level of the layer\'s format; a weight is level x scale '
        f"of its output channel. A level that no weight uses is a bit spent for nothing.{rest}</p>"
        f'<div class="plots">{"".join(plots)}</div>'
    )


def _histogram_note(layer: WeightLayer) -> str:
    used = sum(c > 0 for c in layer.counts)
    return f"{layer.format}, {layer.weights:,} weights, {used}/{len(layer.counts)} levels used"


def flips(data: ReportData) -> str:
    """Share of weights whose level (and sign) changed, layer by epoch."""
    out = []
    for history in data.histories:
        for title, rates in (("level", history.value_flips), ("sign", history.sign_flips)):
            rates = {layer: points for layer, points in rates.items() if points}
            if not rates:
                continue
            epochs = sorted({x for points in rates.values() for x, _ in points})
            by_layer = {layer: dict(points) for layer, points in rates.items()}
            values = [[by_layer[layer].get(e, 0.0) for e in epochs] for layer in by_layer]
            out.append(
                f"<div><h3>{escape(history.name)}: {title} flips</h3>"
                + plot.heat_map(
                    values,
                    label=f"{title} flip rates of {history.name} by layer and epoch",
                    rows=list(by_layer),
                    columns=[f"{e:g}" for e in epochs],
                    row_title="layer",
                    column_title=f"weights whose {title} changed since the epoch before",
                    show=[[_rate(v) if len(epochs) <= 20 else "" for v in row] for row in values],
                    hover=[
                        [
                            f"{layer}, epoch {e:g}: {100 * v:.3f} % of the {title}s"
                            for e, v in zip(epochs, row, strict=True)
                        ]
                        for layer, row in zip(by_layer, values, strict=True)
                    ],
                    top_value=max(max(row) for row in values),
                    cell=(min(46.0, max(6.0, 880 / len(epochs))), 22.0),
                )
                + "</div>"
            )
    return f'<div class="plots">{"".join(out)}</div>' if out else ""


def _rate(value: float) -> str:
    return f"{100 * value:.1f}%" if value >= 0.0005 or value == 0 else "<.1%"


def sizes(data: ReportData) -> str:
    """Bytes of the file's parts, and of each layer's packed codes against float32."""
    out = []
    if data.sizes:
        rows = [(name, size_text(size), remark) for name, size, remark in data.sizes]
        out.append(table(("part", "bytes", ""), rows, numbers=(1,)))
    if data.layers:
        rows = [
            (
                layer.name, layer.op, layer.format, " x ".join(map(str, layer.shape)), f"{layer.weights:,}",
                f"{layer.packed_bytes:,}", f"{4 * layer.weights:,}", _ratio(layer.weights, layer.packed_bytes),
            )
            for layer in data.layers
        ]  # fmt: skip
        own = [layer for layer in data.layers if not layer.shared]  # as the file stores them
        total, packed = sum(layer.weights for layer in own), sum(layer.packed_bytes for layer in own)
        rows.append(
            (
                "all layers",
                "",
                "",
                "",
                f"{total:,}",
                f"{packed:,}",
                f"{4 * total:,}",
                _ratio(total, packed),
            )
        )
        columns = ("layer", "op", "format", "shape", "weights", "packed bytes", "float32 bytes", "smaller")
        out.append("<h3>Weights by layer</h3>")
        out.append(table(columns, rows, numbers=(4, 5, 6, 7), classes=[""] * (len(rows) - 1) + ["sum"]))
    return "".join(out)


def _ratio(weights: int, packed: int) -> str:
    return f"{4 * weights / max(packed, 1):.1f} x"


def operations(data: ReportData) -> str:
    """Shifts, adds and multiplications of one sample, where the multiplications are, and the energy estimate."""
    if not data.operations:
        return ""
    total = [sum(getattr(o, k) for o in data.operations) for k in ("shifts", "adds", "multiplications")]
    left = [o for o in data.operations if o.multiplications]
    verdict = (
        '<p><b class="good">No multiplication</b> is executed for a sample: every product is a shift.</p>'
        if not left
        else f'<p><b class="warn">{total[2]:,} multiplications</b> a sample are left, in {len(left)} node(s); '
        "the last column names them.</p>"
    )
    rows = [(o.name, o.op, f"{o.shifts:,}", f"{o.adds:,}", f"{o.multiplications:,}", o.where) for o in data.operations]
    rows.append(("one sample", "", f"{total[0]:,}", f"{total[1]:,}", f"{total[2]:,}", ""))
    out = [verdict]
    if data.energy:
        bars = [
            plot.Bar(label=network, parts=list(parts.items()), note=energy_text(sum(parts.values())))
            for network, parts in data.energy.parts.items()
        ]
        out.append("<h3>Energy estimate</h3>" + plot.bar_chart(bars, label="estimated energy per sample", unit="pJ"))
        out.append(
            '<p class="note">Operation counts times published energies per operation; memory traffic, control and '
            "leakage are not in it, so read it as a ratio, not as joules on your device. "
            f"{escape(data.energy.source)}</p>"
        )
    columns = ("node", "op", "shifts", "adds", "multiplications", "where")
    out.append("<h3>By node</h3>")
    out.append(table(columns, rows, numbers=(2, 3, 4), classes=[""] * (len(rows) - 1) + ["sum"]))
    return "".join(out)


def confusion(data: ReportData) -> str:
    """Counts of (true, predicted), shaded by row, and the most frequent mistakes in words."""
    ev = data.evaluation
    if ev is None:
        return ""
    totals = [max(sum(row), 1) for row in ev.confusion]
    small = len(ev.labels) <= 25
    side = max(5.0, 900 / max(len(ev.labels), 1))
    mistakes = sorted(
        ((n, i, j) for i, row in enumerate(ev.confusion) for j, n in enumerate(row) if i != j and n), reverse=True
    )[:5]
    words = "; ".join(f"{ev.labels[i]} taken for {ev.labels[j]} ({n})" for n, i, j in mistakes)
    chart = plot.heat_map(
        [[n / totals[i] for n in row] for i, row in enumerate(ev.confusion)],
        label="confusion matrix",
        rows=ev.labels,
        columns=ev.labels,
        row_title="true class",
        column_title="predicted class",
        show=[[str(n) if n and small else "" for n in row] for row in ev.confusion],
        hover=[
            [f"true {ev.labels[i]}, predicted {ev.labels[j]}: {n} of {totals[i]}" for j, n in enumerate(row)]
            for i, row in enumerate(ev.confusion)
        ],
        top_value=1.0,
        cell=(44.0, 26.0) if small else (side, side),
    )
    return (
        f"<p>{escape(ev.title)}: {percent(ev.accuracy)} of {ev.samples:,} right."
        + (f' <span class="soft">Most frequent mistakes: {escape(words)}.</span>' if words else "")
        + f"</p>{chart}"
    )


def graph(data: ReportData) -> str:
    """The graph listing, folded away."""
    if not data.graph_text:
        return ""
    count = data.graph_text.count("\n") + 1
    summary = f"<summary>{count} lines: every value with its type</summary>"
    return f"<details>{summary}<pre>{escape(data.graph_text)}</pre></details>"


def configuration(data: ReportData) -> str:
    """What the run was configured with, as JSON, folded away."""
    if not data.configuration:
        return ""
    return (
        f"<details><summary>as recorded in the run</summary><pre>{escape(to_json(data.configuration))}</pre></details>"
    )

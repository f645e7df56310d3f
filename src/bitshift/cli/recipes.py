"""Recipes as the verbs see them. Imports torch (the recipes live in the training floor)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from bitshift.cli.output import Output
from bitshift.cli.training import Plan
from bitshift.nn.config import ShiftConfig
from bitshift.train.config import TrainConfig
from bitshift.train.recipes import RECIPES, USER_DATA, Figure, Published, Reached, Recipe, get_recipe


def recipe_plan(name: str) -> Plan:
    """The plan of the recipe called ``name``; ValueError lists the near misses and what exists."""
    recipe = get_recipe(name)
    return Plan(
        name=recipe.name,
        model=recipe.model,
        data=recipe.data,
        shift=recipe.shift,
        train=recipe.train,
        float_train=recipe.float_train,
        augment=recipe.augment,
        normalise=recipe.normalise,
        pretrained_normalise=recipe.pretrained_normalise,
        image_size=recipe.image_size,
    )


@dataclass(frozen=True, kw_only=True)
class Line:
    """A row of a paper's table, of ours, or of both, and the command that trains it."""

    recipe: Recipe
    published: Published | None
    reached: Reached | None

    @property
    def row(self) -> Published | Reached:
        """The paper's row, or ours where the paper has none."""
        row = self.published or self.reached
        assert row is not None
        return row

    @property
    def figure(self) -> Figure | None:
        """What was measured here."""
        return self.reached.figure if self.reached is not None else None

    @property
    def command(self) -> str:
        """One command; DIR and FILE stand for the user's data and pretrained weights."""
        return self.recipe.command(self.row)

    def cells(self) -> tuple[str, ...]:
        """Model, bits, epochs, float, published, reached, command: text for people."""
        row, paper = self.row, self.published
        twin = paper.float_value if paper is not None else None
        return (
            row.model,
            "float" if row.bits is None else str(row.bits),
            str(_epochs(row, self.recipe)),
            _number(twin) if twin is not None else "",
            published_text(paper) if paper is not None else "",
            reached_text(self.figure),
            self.command,
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        row, paper, ours = self.row, self.published, self.figure
        return {
            "model": row.model, "bits": row.bits, "epochs": _epochs(row, self.recipe), "flags": row.flags,
            "published": None if paper is None else {
                "metric": paper.metric, "value": paper.value, "top5": paper.top5, "float": paper.float_value,
                "source": paper.source,
            },
            "reached": None if self.reached is None or ours is None else {
                "metric": "top-1", "value": ours.value, "float": ours.float_value, "epochs": ours.epochs,
                "runs": ours.runs, "spread": ours.spread, "source": self.reached.source, "case": self.reached.case,
                "command": self.recipe.command(replace(self.reached, epochs=ours.epochs)),
            },
            "command": self.command,
        }  # fmt: skip


COLUMNS = ("model", "bits", "epochs", "float", "published", "reached here", "command")


def _number(value: float) -> str:
    return f"{value:.2f}"


def published_text(row: Published) -> str:
    """``69.83 / 89.23``, or ``unknown``."""
    if row.value is None:
        return "unknown"
    return _number(row.value) + (f" / {row.top5:.2f}" if row.top5 is not None else "")


def reached_text(figure: Figure | None) -> str:
    """``91.20 ± 0.10 (float 91.73, 3 epochs)``, or nothing where none is measured yet."""
    if figure is None:
        return ""
    spread = f" ± {_number(figure.spread)}" if figure.runs > 1 else ""
    twin = f"float {_number(figure.float_value)}, " if figure.float_value is not None else ""
    return f"{_number(figure.value)}{spread} ({twin}{figure.epochs} epochs)"


def recipe_lines(recipe: Recipe) -> list[Line]:
    """The recipe's rows: the papers' with ours beside them, then those that only we have.

    Ours stands beside the paper's row of the same model, width and flags: that of its own budget if there is one.
    """
    beside: dict[int, Reached] = {}
    alone: list[Reached] = []
    for ours in recipe.reached:
        same = [
            p
            for p in recipe.published
            if (p.model, p.bits, p.flags) == (ours.model, ours.bits, ours.flags) and id(p) not in beside
        ]
        exact = [p for p in same if _epochs(p, recipe) == _epochs(ours, recipe)]
        if same:
            beside[id((exact or same)[0])] = ours
        else:
            alone.append(ours)
    lines = [Line(recipe=recipe, published=p, reached=beside.get(id(p))) for p in recipe.published]
    return lines + [Line(recipe=recipe, published=None, reached=ours) for ours in alone]


def _epochs(row: Published | Reached, recipe: Recipe) -> int:
    return row.epochs or recipe.train.epochs


def recipe_rows() -> list[tuple[str, ...]]:
    """(name, data, model, published, reached, what it is) of every recipe; figures are its first row's."""
    rows = []
    for recipe in RECIPES.values():
        lines = recipe_lines(recipe)
        paper = next((p for p in recipe.published if p.value is not None), None)
        ours = next((line for line in lines if line.figure is not None), None)
        rows.append(
            (
                recipe.name,
                recipe.data,
                recipe.model,
                f"{_short(paper, recipe)} {published_text(paper)}".strip() if paper else "-",
                f"{_short(ours.row, recipe)} {reached_text(ours.figure)}".strip() if ours else "-",
                recipe.about,
            )
        )
    return rows


def _short(row: Published | Reached, recipe: Recipe) -> str:
    """``resnet18 3 bits:`` with only what the recipe does not say."""
    words = [row.model] if row.model != recipe.model else []
    words += [] if row.bits == recipe.bits else ["float" if row.bits is None else f"{row.bits} bits"]
    return " ".join(words) + ":" if words else ""


def show_recipe(name: str, out: Output) -> None:
    """Print one recipe: what it fixes, its rows with their commands, and its notes."""
    recipe = get_recipe(name)
    lines = recipe_lines(recipe)
    out.line(f"{recipe.name}: {recipe.about}")
    if recipe.source:
        out.line(f"after {recipe.source}")
    out.line()
    out.table("", ("fixed", ""), fixed_text(recipe))
    out.table("", COLUMNS, [line.cells() for line in lines], right=(1, 2, 3))
    sources = list(dict.fromkeys(p.source for p in recipe.published))
    for text in (*recipe.notes.strip().splitlines(), *(f"- Published: {s}." for s in sources)):
        out.line(text)
    out.result(
        {
            "recipe": recipe.name, "about": recipe.about, "source": recipe.source, "start": recipe.start,
            "fixed": dict(fixed_text(recipe)), "notes": recipe.notes.strip(), "command": recipe.command(),
            "rows": [line.as_dict() for line in lines],
        }
    )  # fmt: skip


def budget_text(config: TrainConfig) -> str:
    """What a training configuration fixes, as one line: optimiser, rate, schedule, epochs, batch, decay, teacher."""
    words = {"sgd": "SGD", "adamw": "AdamW", "radam": "RAdam"}[config.optimizer]
    if config.optimizer == "sgd":
        words += f" (momentum {config.momentum:g}{', Nesterov' if config.nesterov else ''})"
    drops = (
        f"every {config.step_size}"
        if config.milestones is None
        else f"after {', '.join(map('{:g}'.format, config.milestones))}"
    )
    schedule = {
        "cosine": "cosine to 0", "step": f"times {config.gamma:g} {drops} epochs", "onecycle": "one cycle",
        "constant": "constant",
    }[config.schedule]  # fmt: skip
    parts = [words, f"rate {config.lr:g}", schedule]
    parts += [f"started anew {config.cycles} times"] if config.cycles > 1 else []
    parts += [f"warm-up {config.warmup_epochs:g} epochs"] if config.warmup_epochs else []
    parts += [f"{config.epochs} epochs", f"batch {config.batch_size}"]
    everything = " of everything" if config.decay_all and config.weight_decay else ""
    parts += [f"decay {config.weight_decay:g}{everything}" if config.weight_decay else "no decay"]
    parts += [f"decay of latents {config.latent_decay:g}"] if config.latent_decay is not None else []
    parts += [f"gradient norm at most {config.clip_norm:g}"] if config.clip_norm is not None else []
    parts += [f"label smoothing {config.label_smoothing:g}"] if config.label_smoothing else []
    return ", ".join(parts)


def fixed_text(recipe: Recipe) -> list[tuple[str, str]]:
    """(what, value) of everything that a recipe fixes, for people."""
    shift = recipe.shift
    rows = [("model", recipe.model), ("data", USER_DATA.get(recipe.data, recipe.data))]
    if shift is not None:
        options = ", ".join(f"{k}={v}" for k, v in shift.options.items())
        kept = [f"{end} layer {keep}" for end, keep in (("first", shift.keep_first), ("last", shift.keep_last)) if keep]
        start = {"random": "the method's own start", "pretrained": "the float weights, converted"}[shift.init]
        if shift.init == "pretrained" and recipe.start == "scratch" and recipe.float_train is None:
            start = "the random float weights, converted"
        if recipe.start == "backbone":
            start = "the latents of the run RUN; the last layer, which is new, by the method's own start"
        rows += [
            (
                "method",
                f"`{shift.method}`, {shift.format or f'{shift.bits} bits'}" + (f" ({options})" if options else ""),
            ),
            ("layers", ", ".join(kept) or "every layer in the format"),
            ("activations", _activations(shift)),
            ("start", start),
        ]
    rows.append(("training", budget_text(recipe.train)))
    if shift is not None and recipe.train.distill_weight and (recipe.float_train or recipe.start == "pretrained"):
        weight, temperature = recipe.train.distill_weight, recipe.train.distill_temperature
        rows.append(("teacher", f"the float net, {weight:g} of the loss at temperature {temperature:g}"))
    if recipe.float_train is not None:
        rows.append(("float net", budget_text(recipe.float_train)))
    rows.append(("augmentation", recipe.augment or "none"))
    rows.append(("pixels", _PIXELS.get(recipe.normalise or "", "as the data set comes")))
    return rows


_PIXELS = {
    "imagenet": "ImageNet's mean and deviation",
    "cifar10": "CIFAR-10's mean, and the mean of the pictures' deviations",
    "cifar10_apot": "CIFAR-10's mean and deviation",
    "mnist": "MNIST's mean and deviation",
    "half": "(p / 255 - 0.5) / 0.5",
    "pixel": "(p - 128) / 64",
}


def _activations(shift: ShiftConfig) -> str:
    if shift.activations is None:
        return "float"
    if isinstance(shift.activations, str):
        return f"{shift.activations} fixed point"
    return f"{shift.activations}-bit integers, " + (
        "one multiplier a channel" if shift.multiplier else "no multiplication"
    )

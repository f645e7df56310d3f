"""Named training runs: a model, data, a shift configuration and a training configuration that belong together.

One file a recipe: it holds ``RECIPE``. Where rows of a table differ in single values they are rows of one recipe: each
:class:`Published` says which flags of ``bitshift train`` select it, and ``bitshift train --list RECIPE`` prints its
command.
"""

from __future__ import annotations

import difflib
import importlib
import json
import pkgutil
from dataclasses import dataclass
from importlib import resources
from typing import Literal

from bitshift.nn.config import ShiftConfig
from bitshift.train.config import TrainConfig
from bitshift.train.data.base import IMAGENET_NORMALISE, Normalise

Pixels = Literal["imagenet", "cifar10", "cifar10_apot", "mnist", "half", "pixel"]
"""Names of normalisations (:data:`NORMALISE`)."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """A row of a paper's table, and what of the recipe it changes.

    Args:
        model, bits: bits None is the float network.
        value: in per cent of ``metric``; None where the paper has the row and we could not find its figure.
        top5: the second figure of ImageNet's tables.
        float_value: the float network's figure in the same table.
        epochs: where they are not the recipe's.
        flags: further flags of ``bitshift train`` that this row needs.
        source: where the figure stands.
    """

    model: str
    bits: int | None
    value: float | None
    source: str
    metric: str = "top-1"
    top5: float | None = None
    float_value: float | None = None
    epochs: int | None = None
    flags: str = ""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """What was measured here: mean or median over ``runs`` seeds in per cent, as the JSON has it.

    ``float_value`` is the float network's under the same budget of ``epochs``, which may be shorter than the paper's.
    """

    value: float
    runs: int
    spread: float
    epochs: int
    float_value: float | None


FIGURES: dict[tuple[str, str], Figure] = {
    (row.pop("source"), row.pop("case")): Figure(**row)
    for row in json.loads(resources.files(__name__).joinpath("reached.json").read_text())
}
"""By JSON file of docs/results and case; ``make generate`` collects them (tools/recipes.py)."""


@dataclass(frozen=True, kw_only=True)
class Reached:
    """A row of this project, beside the published one where there is one.

    Args:
        model, bits, flags, epochs: as in :class:`Published`, so that both stand in one line of a table.
        source: JSON file of docs/results that holds the figure, or will.
        case: its case there; ``float_case``: that of the float network under the same budget.
    """

    model: str
    bits: int | None
    source: str
    case: str
    float_case: str | None = "float"
    epochs: int | None = None
    flags: str = ""

    @property
    def figure(self) -> Figure | None:
        """What was measured; None while nothing is."""
        return FIGURES.get((self.source, self.case))


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What to train.

    ``float_train`` trains the float twin first: the teacher of the shift network (``train.distill_weight``) and, with
    ``shift.init="pretrained"``, its start. ``augment`` is a name in ``train.data.AUGMENTS``. ``shift`` None trains the
    float network alone.

    Args:
        data: a data set's name in ``train.data.NAMED``, or what the user has to give with ``--data``: a key of
            :data:`USER_DATA`.
        start: ``pretrained`` where the shift network starts from a trained float net (``--pretrained FILE``, or the
            twin that ``float_train`` trains). From scratch, ``shift.init="pretrained"`` converts the float net's
            random weights. ``backbone`` needs ``--backbone RUN``: everything but the last layer comes from there.
        normalise: ``imagenet`` (mean .485 .456 .406, deviation .229 .224 .225: what the published checkpoints
            expect), ``pixel`` (``(p - 128) / 64``: exact in fixed point), or None: as the data set comes.
        pretrained_normalise: what ``--pretrained FILE`` was trained on, where that is not ``normalise``: the first
            layer then takes the difference. A run directory says it itself.
        image_size: the square that photos of any size are cropped to.
        source: where the hyper-parameters come from.
        notes: what the source leaves open and what we chose, and where we differ: a list in markdown.
        published, reached: rows of the papers' tables and ours.
    """

    name: str
    about: str
    data: str
    model: str
    shift: ShiftConfig | None
    train: TrainConfig
    float_train: TrainConfig | None = None
    augment: str | None = None
    start: Literal["scratch", "pretrained", "backbone"] = "scratch"
    normalise: Pixels | None = None
    pretrained_normalise: Pixels | None = None
    image_size: int | None = None
    source: str = ""
    notes: str = ""
    published: tuple[Published, ...] = ()
    reached: tuple[Reached, ...] = ()

    @property
    def bits(self) -> int | None:
        """Width of the weights that the recipe trains without flags."""
        if self.shift is None:
            return None
        if self.shift.format is not None:
            from bitshift.core.formats import get_format

            return get_format(self.shift.format).bits
        return self.shift.bits

    def command(self, row: Published | Reached | None = None) -> str:
        """The one command that trains ``row`` (or the recipe as it is); DIR and FILE are the user's."""
        words = ["bitshift train", self.name]
        if self.data in USER_DATA:
            words.append("--data DIR")
        flags = row.flags if row is not None else ""
        if self.start == "pretrained" and "--float-epochs" not in flags:
            words.append("--pretrained FILE")
        if self.start == "backbone":
            words.append("--backbone RUN")
        if row is not None:
            words += [f"--model {row.model}"] if row.model != self.model else []
            narrower = row.bits not in (None, self.bits) and "--format" not in flags
            words += [f"--bits {row.bits}"] if narrower else []
            words += [f"--epochs {row.epochs}"] if row.epochs not in (None, self.train.epochs) else []
        return " ".join([*words, flags]).strip()


NORMALISE: dict[str, Normalise] = {
    "imagenet": IMAGENET_NORMALISE,
    "cifar10": Normalise.from_mean_std((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar10_apot": Normalise.from_mean_std((0.491, 0.482, 0.447), (0.247, 0.243, 0.262)),
    "mnist": Normalise.from_mean_std((0.1307,), (0.3081,)),
    "half": Normalise.from_mean_std((0.5,), (0.5,)),
    "pixel": Normalise(),
}
"""What ``Recipe.normalise`` and ``--normalise`` name.

``cifar10`` is DeepShift's (and kuangliu/pytorch-cifar's), with the mean of the pictures' deviations; ``cifar10_apot``
has the pixels' deviation; ``half`` is that of torchvision's GoogLeNet.
"""

USER_DATA = {
    "mnist": "MNIST: a folder with its IDX files, or a .npz file with x_train, y_train, x_test, y_test",
    "cifar10": "CIFAR-10: its binary or python files, or {train,test}/CLASS/*.png",
    "cifar100": "CIFAR-100: its binary or python files, or {train,test}/CLASS/*.png",
    "imagenet": "ImageNet: {train,val}/CLASS/*.JPEG, or shards (docs/data.md)",
}
"""Data sets that recipes name and that only the user can give, with ``--data``."""


def _collect() -> dict[str, Recipe]:
    found = {}
    for module in sorted(m.name for m in pkgutil.iter_modules(__path__)):
        recipe = importlib.import_module(f"{__name__}.{module}").RECIPE
        if recipe.name != module:
            raise ValueError(f"recipe {recipe.name!r} stands in a file of another name, {module}.py")
        found[recipe.name] = recipe
    return found


RECIPES: dict[str, Recipe] = _collect()


def get_recipe(name: str) -> Recipe:
    """The recipe called ``name``; ValueError lists the near misses and what exists."""
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=3) or [known for known in RECIPES if name and name in known]
        hint = f"; did you mean {' or '.join(map(repr, near[:3]))}?" if near else "."
        raise ValueError(f"unknown recipe {name!r}{hint} Known recipes: {', '.join(RECIPES)}")
    return RECIPES[name]


__all__ = ["FIGURES", "NORMALISE", "RECIPES", "USER_DATA", "Figure", "Published", "Reached", "Recipe", "get_recipe"]

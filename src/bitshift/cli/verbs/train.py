"""``bitshift train``: a recipe, or a model, method and data set of the user's choice."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_args, get_origin, get_type_hints

import tyro

from bitshift.cli.errors import CliError, near_miss
from bitshift.cli.images import ImageOptions, TrainImageFlags
from bitshift.cli.output import Output, percent, size_text
from bitshift.cli.rules import ShiftFlags, parse_option
from bitshift.cli.verbs import Verb
from bitshift.train.files import NET

_log = logging.getLogger("bitshift")

if TYPE_CHECKING:
    from bitshift.cli.backbone import Backbone
    from bitshift.cli.training import Plan, Trained
    from bitshift.nn.config import ShiftConfig
    from bitshift.train.config import TrainConfig
    from bitshift.train.data import TrainData


@dataclass(frozen=True, kw_only=True)
class TrainFlags:
    """The budget; None leaves the recipe's or the default value. ``set`` reaches every other field of TrainConfig."""

    epochs: int | None = None
    """Passes over the training rows."""
    batch_size: int | None = None
    """Rows a step, of all processes together."""
    lr: float | None = None
    """Peak learning rate."""
    optimizer: Literal["sgd", "adamw", "radam"] | None = None
    """Optimiser."""
    schedule: Literal["cosine", "step", "onecycle", "constant"] | None = None
    """Learning rate over the run."""
    weight_decay: float | None = None
    """Of weights; norms, biases and scales are exempt."""
    warmup_epochs: float | None = None
    """Linear rise in front of the schedule."""
    clip_norm: float | None = None
    """Largest joint gradient norm."""
    distill_weight: float | None = None
    """Share of the float teacher in the loss; 0 turns distillation off."""
    seed: int | None = None
    """Of everything random."""
    device: Literal["auto", "cpu", "cuda"] | None = None
    """Where to train."""
    set: tuple[str, ...] = ()
    """Any other field of TrainConfig as NAME=VALUE, e.g. --set amp=auto keep=best log_every=10."""

    def changes(self) -> dict[str, Any]:
        """The fields of TrainConfig that the flags change."""
        named = {f.name: getattr(self, f.name) for f in fields(TrainFlags) if f.name != "set"}
        return {k: v for k, v in named.items() if v is not None} | dict(parse_option(s, "--set") for s in self.set)

    def train_config(self, base: TrainConfig | None) -> TrainConfig:
        """``base`` with the flags' changes; without a base, 10 epochs of batch 128 at a rate of 0.05.

        With other epochs the base's drops and warm-up keep their share of the run.
        """
        from dataclasses import replace

        from bitshift.train.config import TrainConfig
        from bitshift.train.schedule import scaled

        changes = self.changes()
        known = [f.name for f in fields(TrainConfig)]
        for name in changes:
            if name not in known:
                raise CliError(f"--set: {near_miss(name, known, 'field')}")
        if "step_size" in changes:
            changes.setdefault("milestones", None)  # a recipe's drops would go before it
        try:
            if base is not None:
                return replace(scaled(base, changes.get("epochs", base.epochs)), **changes)
            return TrainConfig(**{"epochs": 10, "batch_size": 128, "lr": 0.05, **changes})
        except TypeError as error:  # a word where a number is compared
            raise CliError(_as_option(_other_kind(changes) or f"--set: {error}")) from None
        except ValueError as error:
            raise CliError(_as_option(str(error))) from None


def _shorter(twin: TrainConfig, epochs: int, of: int) -> TrainConfig:
    """The float twin of a recipe of which only ``epochs`` of ``of`` are trained: the same share, one epoch at least."""
    from bitshift.train.schedule import scaled

    mine = max(1, round(twin.epochs * epochs / of))
    if mine < twin.epochs:
        _log.info(
            "float twin: %d of its %d epochs, as --epochs %d is of the recipe's %d; --float-epochs %d trains it whole",
            mine, twin.epochs, epochs, of, twin.epochs,
        )  # fmt: skip
    return scaled(twin, mine)


def _other_kind(changes: Mapping[str, Any]) -> str:
    """The first of ``changes`` that is of another kind than its field of TrainConfig takes; "" if none is."""
    from bitshift.train.config import TrainConfig

    kinds = {
        float: ((int, float), "a number"), int: ((int,), "a whole number"), tuple: ((list, tuple), "a list of numbers"),
    }  # fmt: skip
    hints = get_type_hints(TrainConfig)
    for name, value in changes.items():
        taken = get_args(hints[name]) if isinstance(hints[name], UnionType) else (hints[name],)
        known = [kinds[kind] for t in taken if (kind := get_origin(t) or t) in kinds]
        parts = value if isinstance(value, (list, tuple)) else (value,)
        if (value is None and NoneType in taken) or not known:
            continue
        (types, allowed), *_ = known
        if not isinstance(value, types) or not all(isinstance(part, (int, float)) for part in parts):
            none = "None or " if NoneType in taken else ""
            return f"TrainConfig.{name} = {value!r}: allowed is {none}{allowed}"
    return ""


def _as_option(message: str) -> str:
    """A refusal of TrainConfig in the words of the command line: its field as the flag that sets it."""
    found = re.fullmatch(r"TrainConfig\.(\w+) = (.*): allowed is (.*)", message, flags=re.DOTALL)
    if found is None:
        return message
    name, value, allowed = found.groups()
    flags = {f.name for f in fields(TrainFlags)}
    option = f"--{name.replace('_', '-')} {value}" if name in flags else f"--set {name}={value}"
    return f"{option}: allowed is {allowed}"


@dataclass(frozen=True, kw_only=True)
class Train(TrainFlags, ShiftFlags, TrainImageFlags, Verb):
    """Flags of ``bitshift train``."""

    help_text: ClassVar[
        str
    ] = """Train a recipe, or a model, method and data set of your choice; then export and report.

The same command started again continues where it was stopped, to the same bits. Flags change single values of a
recipe. Without a recipe --data and --model are needed; the model is a name or your own module:function that returns
an nn.Module (keywords num_classes and in_channels are given if it takes them).
With --backbone the network starts from another training, but for its new head (docs/transfer.md).
With --float-epochs, a recipe that says so, or --pretrained there is a float twin: teacher of the shift network and,
with --init pretrained, its start.

Data sets: mnist_5k (ships in a package), a .npz file (x_train, y_train, x_test, y_test), or a folder with IDX files,
CIFAR files, {train,test}.npz, {train,test|val}/CLASS/*.png, or tar shards {train,test|val}-*.tar (docs/data.md).
Photos of different sizes need --image-size; with --augment imagenet they are decoded and cropped by worker processes.

Fewer --epochs than the recipe's keep the shape of its schedule: drops and warm-up come at the same share of the run,
and a float twin that the recipe trains first is shortened alike (--float-epochs says otherwise).

examples:
  bitshift train --list
  bitshift train --list deepshift_ps_imagenet
  bitshift train demo_mnist --run-dir runs/mine --epochs 20
  bitshift train --data ~/data/cifar10 --model resnet20 --method denseshift --bits 3 --epochs 30 --augment pad_crop_flip
  bitshift train --data mnist_5k --model lenet_bn --activations 8 --init pretrained --float-epochs 5 --epochs 10
  bitshift train --data my.npz --model my_nets:small --method float
  bitshift train --data my.npz --backbone runs/cifar10 --epochs 5 --lr 0.02
  torchrun --nproc-per-node 2 -m bitshift.cli train demo_mnist
"""
    recipe: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="[RECIPE]", help_behavior_hint="")]] = ""
    """A recipe's name; none: say everything by flags."""
    list: bool = False
    """List the recipes and stop; with RECIPE: its rows, each with the published figure and its command."""
    data: str | None = None
    """Data set, by name or path."""
    model: str | None = None
    """Model (`bitshift inspect models`) or module:function."""
    run_dir: Path | None = None
    """Run directory; default runs/RECIPE, or runs/MODEL-METHOD."""
    pretrained: Path | None = None
    """Weights of the float twin: a state dict (.safetensors, .pt, .pth) or a run directory."""
    backbone: Path | None = None
    """Everything but the head comes from this run directory (latents too) or file of weights; --model and how to
    convert default to the run's."""
    new_head: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PATTERN ...", help_behavior_hint="")] = ()
    """With --backbone: patterns of the modules that are new; default: the last layer."""
    float_epochs: int | None = None
    """Train the float twin first, so many epochs with the same other settings; 0: none. Default: the recipe's, in the
    share that --epochs leaves of the recipe."""
    augment: str | None = None
    """Augmentation, or none (a wrong name lists them)."""
    normalise: str | None = None
    """Pixels: the mean and deviation of imagenet (what published checkpoints expect), cifar10 (DeepShift's),
    cifar10_apot or mnist; half ((p / 255 - 0.5) / 0.5: torchvision's GoogLeNet); pixel ((p - 128) / 64); or data (as
    the data set comes)."""
    pretrained_normalise: str | None = None
    """What --pretrained was trained on (a name as for --normalise), if that differs: the first layer takes the
    difference."""
    resume: bool = True
    """Refuse a run directory that is in use, instead of continuing its run."""
    export: bool = True
    """Do not write net.safetensors at the end."""
    compare: bool = False
    """Also measure int8 and uniform at the same bits (`bitshift report --measure`)."""

    def run(self, out: Output) -> None:  # noqa: D102 - Verb.run
        if self.list:
            from bitshift.cli import recipes, registries

            if self.recipe:
                recipes.show_recipe(self.recipe, out)
            else:
                registries.show("recipes", out)
            return
        from bitshift.cli import training

        plan = self.plan()
        data = training.open_splits(plan.data, plan.images)
        data = training.normalised(data, plan.normalise, asked=self.normalise is not None)
        if plan.backbone is not None and self.normalise is None:
            data = training.like_run(plan.backbone.path, data)
        name = plan.name or f"{plan.model.replace(':', '-')}-{plan.shift.method if plan.shift else 'float'}"
        run_dir = self.run_dir or Path("runs") / name
        if run_dir.exists() and not run_dir.is_dir():
            raise CliError(f"--run-dir {run_dir} is a file")
        trained = training.train(plan, data, run_dir, resume=self.resume)
        if int(os.environ.get("RANK", "0")) == 0:
            self._finish(out, plan, data, run_dir, trained)

    def plan(self) -> Plan:
        """The recipe with the flags' changes, or the flags alone."""
        from dataclasses import replace

        from bitshift.cli.training import Plan, make_augment
        from bitshift.train.config import SHOWN_ONLY
        from bitshift.train.data import random_crop
        from bitshift.train.recipes import USER_DATA, get_recipe
        from bitshift.train.schedule import scaled

        base = None
        if self.recipe:
            from bitshift.cli.recipes import recipe_plan

            base = recipe_plan(self.recipe)
        backbone = self._backbone()
        if base is not None and backbone is None and get_recipe(base.name).start == "backbone":
            raise CliError(f"recipe {base.name!r} needs --backbone with a trained run; docs/transfer.md makes one")
        trained = backbone.spec if backbone is not None else None
        model = self.model or (trained.model if trained else None)
        if base is None and (self.data is None or model is None):
            missing = " and ".join(f"--{n}" for n, v in (("data", self.data), ("model", model)) if v is None)
            raise CliError(f"without a recipe {missing} must be given; `bitshift train --list` shows the recipes")
        if base is not None and self.data is None and base.data in USER_DATA:
            raise CliError(f"recipe {base.name!r} needs --data with {USER_DATA[base.data]}")
        config = self.train_config(base.train if base else None)
        float_train = base.float_train if base else None
        if backbone is not None or self.pretrained is not None:
            float_train = None  # no twin is trained
        if float_train is not None:  # which has a budget of its own, but runs where and as the other does
            shared = {k: v for k, v in self.changes().items() if k in SHOWN_ONLY | {"seed"}}
            float_train = replace(float_train, **shared)
            if base is not None and config.epochs < base.train.epochs and self.float_epochs is None:
                float_train = _shorter(float_train, config.epochs, base.train.epochs)
        if self.float_epochs is not None:
            if self.float_epochs < 0:
                raise CliError(f"--float-epochs {self.float_epochs}: must be at least 0")
            float_train = scaled(float_train or config, self.float_epochs) if self.float_epochs else None
        if self.pretrained is not None and not self.pretrained.exists():
            raise CliError(f"no such file: {self.pretrained}")
        shift = self.shift_config(base.shift if base else trained.shift if trained else None)
        if trained is not None and base is None and trained.shift is None and not self.given():
            shift = None  # a float backbone stays float unless a flag says otherwise
        if self.compare and (shift is None or not self.export):
            raise CliError(
                "--compare is for shift networks that are exported; leave out --method float and --no-export"
            )
        self._refuse_idle(
            shift, teacher=self.pretrained is not None or float_train is not None, recipe=base is not None
        )
        augment = self.augment if self.augment is not None else (base.augment if base else None)
        return Plan(
            name=self.recipe,
            model=model or (base.model if base else ""),
            data=self.data or (base.data if base else ""),
            shift=shift,
            train=config,
            float_train=float_train,
            pretrained=self.pretrained,
            backbone=backbone,
            augment=augment,
            normalise=self.normalise if self.normalise is not None else (base.normalise if base else None),
            pretrained_normalise=self._pretrained_normalise(base),
            image_size=base.image_size if base else None,
            images=self.image_options(
                ImageOptions(size=base.image_size) if base else None,
                random_crop=random_crop(make_augment(augment)) is not None,
            ),
        )

    def _refuse_idle(self, shift: ShiftConfig | None, *, teacher: bool, recipe: bool) -> None:
        """Flags that would do nothing beside the others."""
        if self.float_epochs and shift is None:
            raise CliError("--float-epochs trains the float twin of a shift network; with --method float use --epochs")
        if self.float_epochs and self.pretrained is not None:
            raise CliError("--float-epochs trains a float twin, and --pretrained brings one; leave one of them out")
        if self.pretrained_normalise is not None and self.pretrained is None:
            raise CliError(f"--pretrained-normalise {self.pretrained_normalise} says what --pretrained was trained on")
        taught = teacher and (shift is not None or (recipe and self.pretrained is not None))
        if self.distill_weight and not taught:
            raise CliError(
                f"--distill-weight {self.distill_weight}: nobody teaches this network; --float-epochs or --pretrained "
                "give a shift network a teacher"
            )

    def _pretrained_normalise(self, base: Plan | None) -> str | None:
        """The flag's or the recipe's normalisation of --pretrained."""
        from bitshift.train.recipes import NORMALISE

        name = self.pretrained_normalise or (base.pretrained_normalise if base else None)
        if name is not None and name not in NORMALISE:
            raise CliError(f"--pretrained-normalise: {near_miss(name, list(NORMALISE), 'normalisation')}")
        return name

    def _backbone(self) -> Backbone | None:
        """The backbone that the flags name."""
        from bitshift.cli.backbone import Backbone

        if self.backbone is None:
            if self.new_head:
                raise CliError("--new-head needs --backbone: what should the other layers start from?")
            return None
        if not self.backbone.exists():
            raise CliError(f"no such file or directory: {self.backbone}")
        if self.pretrained is not None or self.float_epochs:
            raise CliError("--backbone replaces --pretrained and --float-epochs; leave them out")
        return Backbone(path=self.backbone, new=self.new_head)

    def _finish(
        self, out: Output, plan: Plan, data: tuple[TrainData, TrainData], run_dir: Path, trained: Trained
    ) -> None:
        """Export, compare, report, and print what came out."""
        from bitshift.cli.evaluating import store
        from bitshift.cli.exporting import export_network
        from bitshift.cli.runs import open_run
        from bitshift.cli.verbs.report import write_report

        valid = trained.result.valid
        store(run_dir, f"{plan.data}, test rows", data[1].class_names, valid.confusion)
        run = open_run(run_dir)
        exported = None
        if self.export:
            try:
                exported = export_network(run.network(), data[0], run_dir / NET, name=run.spec.describe())
            except ValueError as error:  # the training is worth keeping when the graph has no form for the network
                out.note(f"warning: trained, but not exported: {error}")
        if self.compare and exported is not None:
            from bitshift.cli.comparing import measure_all

            measure_all(run, note=out.note)
        page = run_dir / "report.html"
        write_report(run_dir, page)
        rows = [("network", run.spec.describe()), ("test accuracy", percent(valid.accuracy))]
        if trained.twin is not None:
            rows.append(("float twin", percent(trained.twin.accuracy)))
        rows.append(
            ("best epoch", f"{percent(trained.result.best_accuracy)} after epoch {trained.result.best_epoch + 1}")
        )
        if exported is not None:
            rows.append(("model file", f"{exported.path}, {size_text(exported.bytes)}"))
        rows += [("report", str(page)), ("training time", f"{trained.result.seconds:.1f} s")]
        out.table("", (str(run_dir), ""), rows)
        out.result(
            {
                "run_dir": run_dir, "network": run.spec.as_dict(), "accuracy": valid.accuracy, "loss": valid.loss,
                "float_accuracy": trained.twin.accuracy if trained.twin else None,
                "best_accuracy": trained.result.best_accuracy, "best_epoch": trained.result.best_epoch,
                "seconds": trained.result.seconds, "steps": trained.result.steps,
                "file": exported.path if exported else None, "file_bytes": exported.bytes if exported else None,
                "report": page,
            }
        )  # fmt: skip


VERB = Train

"""``bitshift search``: a weight format for each layer, under a budget of size or time."""

from __future__ import annotations

import json
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
import tyro

from bitshift.cli.errors import CliError
from bitshift.cli.images import TrainImageFlags
from bitshift.cli.output import Output, size_text
from bitshift.cli.verbs import Verb

if TYPE_CHECKING:
    from torch import nn

    from bitshift.nn.config import Rule, ShiftConfig
    from bitshift.train.search import Choice, Layer, Scan

BUDGETS = ("bits", "kb", "ms", "like")
RAISE = "raise the budget or add a narrower format to --formats"


@dataclass(frozen=True, kw_only=True)
class Search(TrainImageFlags, Verb):
    """Flags of ``bitshift search``."""

    help_text: ClassVar[str] = """Choose a weight format for each layer under a budget, from a trained float network.

Each layer alone is rounded to each format, and the divergence of the logits from the float network's is measured on
training rows (no labels). Then the formats with the least sum of divergences within the budget are chosen, exactly.
The result is a rules file for `bitshift convert --rules` and `bitshift train --rules`. Give one budget: --bits (the
mean over the weights), --kb (packed weights), --like FORMAT (as small as that format everywhere) or --ms (one image in
the engine on this machine, with integer activations).

examples:
  bitshift search resnet20 --weights resnet20.th --data ~/data/cifar10 --like pot3d --output rules.json
  bitshift train --data ~/data/cifar10 --model resnet20 --pretrained resnet20.th --init pretrained --method nearest \\
      --rules rules.json --epochs 3
  bitshift search my_nets:small --weights small.pt --data my.npz --ms 0.5 --threads 2 --output fast.json
"""
    model: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="MODEL")]]
    """A model's name, or module:function."""
    weights: Path
    """State dict of the trained float network, or a run directory."""
    data: str
    """Data set by name or path; training rows are used."""
    output: Path
    """Rules file to write, .json."""
    bits: float | None = None
    """Budget: mean bits a weight."""
    kb: float | None = None
    """Budget: kB (1000 bytes) of packed weights."""
    like: str | None = None
    """Budget: the size of this format in every layer."""
    ms: float | None = None
    """Budget: milliseconds of one image in the engine."""
    formats: Annotated[tuple[str, ...], tyro.conf.arg(metavar="FORMAT ...")] = ("pot2d", "pot3d", "pot4x2")
    """Formats to choose among (`bitshift inspect formats`)."""
    rules: Path | None = None
    """Layers that these rules match keep what the rules say; the rules come first in the result."""
    rows: int = 512
    """Training rows to measure on."""
    augment: str | None = None
    """Augmentation that the network was trained with; norm statistics belong to it."""
    normalise: str | None = None
    """Pixels: imagenet (what published networks expect), another name as for `bitshift train --normalise`, or data (as
    the data set comes); default: what --weights were trained with, if that is a run directory, else data."""
    activations: int = 8
    """Bits of the activations, for --ms."""
    multiplier: bool = False
    """One multiplication per output channel, for --ms; scales are then free, else powers of two."""
    threads: int = 1
    """Threads of the engine, for --ms."""
    seed: int = 0
    """Draws the rows."""

    def run(self, out: Output) -> None:  # noqa: D102 - Verb.run
        from bitshift.cli.network import check_sample, meant_for
        from bitshift.cli.rules import read_rules
        from bitshift.cli.targets import check_target
        from bitshift.cli.training import like_run, make_augment, normalised, open_splits, spec_for
        from bitshift.core.formats import get_format
        from bitshift.nn.plan import CONVERTIBLE, check_rules, paths_of
        from bitshift.train.data import crops_at_decoding, random_crop
        from bitshift.train.search import choose, scan

        for name in ("bits", "kb", "ms"):
            value = getattr(self, name)
            if value is not None and not 0 < value < inf:
                raise CliError(f"--{name} {value:g}: a budget must be a finite number above 0")
        given = [name for name in BUDGETS if getattr(self, name) is not None]
        if len(given) != 1:
            raise CliError(f"give one budget of --{', --'.join(BUDGETS)}; found {', '.join(given) or 'none'}")
        if self.output.suffix != ".json":
            raise CliError(f"--output {self.output}: rules are written as .json")
        if self.rows < 1 or self.threads < 1:
            raise CliError(f"--rows {self.rows} --threads {self.threads}: whole numbers from 1")
        for name in (*self.formats, *filter(None, [self.like])):
            get_format(name)
        check_target("--output", self.output)
        narrowest = min(get_format(name).bits for name in self.formats)
        asked = self.bits if self.bits is not None else get_format(self.like).bits if self.like else narrowest
        if asked < narrowest:
            raise CliError(f"a budget of {asked:g} bits a weight: the narrowest of --formats has {narrowest}")
        if not self.weights.exists():
            raise CliError(f"no such file: {self.weights}")
        kept = read_rules(self.rules) if self.rules is not None else ()
        self._config(kept)  # refuses --activations before anything is measured
        augment = make_augment(self.augment)
        images = self.image_options(random_crop=random_crop(augment) is not None)
        data = open_splits(self.data, images, held_out=False)
        data = like_run(self.weights, data) if self.normalise is None else normalised(data, self.normalise)
        train_data = data[0]
        model = spec_for(self.model, train_data, None).build_float(self.weights).eval()
        sample = train_data.normalise(train_data.batch(np.arange(min(2, len(train_data))))[0])
        check_sample(model, sample, f"{self.data}: {meant_for(self.model, train_data.sample_shape)}")
        check_rules(kept, [path for m, paths in paths_of(model).items() if type(m) in CONVERTIBLE for path in paths])
        cropped, rest = crops_at_decoding(train_data, augment)
        found = scan(
            model, cropped, self.formats, rows=self.rows, seed=self.seed, augment=rest,
            exclude=lambda path: any(fnmatchcase(path, rule.pattern) for rule in kept),
            scale="free" if self.multiplier else "pot", accept=lambda layers: self._check_kb(layers, model, kept),
        )  # fmt: skip
        cost, budget, unit, fixed = self._budget(found, model, train_data, kept)
        try:
            choice = choose(found.damage, cost, budget - fixed)
        except ValueError as error:
            raise CliError(f"no choice: {error}; {RAISE}") from None
        self._write(found, choice, kept)
        self._answer(out, found, choice, cost, unit, fixed)

    def _check_kb(self, layers: tuple[Layer, ...], model: nn.Module, kept: tuple[Rule, ...]) -> None:
        """CliError where ``--kb`` is below the narrowest format everywhere: known before the scan takes its minutes."""
        from bitshift.core.formats import get_format

        if self.kb is None:
            return
        narrowest = min(get_format(name).bits for name in self.formats)
        least, fixed = narrowest * sum(layer.weights for layer in layers), self._kept_bits(model, kept)
        budget = 8e3 * self.kb - fixed
        if budget < least - 1e-9 * max(1.0, abs(budget)):  # the tolerance of choose
            raise CliError(
                f"--kb {self.kb:g} is below {(least + fixed) / 8e3:.6g}, the cheapest formats with what --rules keep; "
                f"{RAISE}"
            )

    def _budget(
        self, found: Scan, model: Any, data: Any, kept: tuple[Rule, ...]
    ) -> tuple[np.ndarray, float, str, float]:
        """Costs by layer and format, the budget in their unit, the unit, and what is spent whatever is chosen."""
        from bitshift.core.formats import get_format

        if self.ms is None:
            weights = sum(layer.weights for layer in found.layers)
            width = self.bits if self.bits is not None else get_format(self.like).bits if self.like else None
            if width is not None:  # a mean over the layers to choose for
                return found.bits(), width * weights, "bits", 0.0
            return found.bits(), 8e3 * float(self.kb or 0), "bits", self._kept_bits(model, kept)
        from bitshift.cli.runs import sample_images
        from bitshift.train.search import layer_latencies

        config = self._config(kept)
        paths = [path for layer in found.layers for path in layer.paths]
        images = sample_images(data, 64)
        times, others = layer_latencies(model, config, found.formats, paths, images, threads=self.threads)
        starts = np.cumsum([0, *(len(layer.paths) for layer in found.layers)])[:-1]
        return np.add.reduceat(times, starts), self.ms, "ms", others  # layers of one weight run one after the other

    def _config(self, kept: tuple[Rule, ...]) -> ShiftConfig:
        from bitshift.nn.config import ShiftConfig

        return ShiftConfig(
            method="nearest", init="pretrained", activations=self.activations, multiplier=self.multiplier, rules=kept,
            options={"scale": "free" if self.multiplier else "pot"},
        )  # fmt: skip

    def _kept_bits(self, model: nn.Module, kept: tuple[Rule, ...]) -> float:
        """Bits of the packed weights of the layers that ``kept`` decides; float ones have 32 each."""
        from bitshift.core.formats import get_format
        from bitshift.nn.plan import paths_of, plan
        from bitshift.nn.weights import method_weight

        paths = paths_of(model)
        by_weight: dict[int, int] = {}  # layers that share a weight store it once
        for module, choice in plan(model, self._config(kept), None).items():
            if any(fnmatchcase(path, rule.pattern) for path in paths[module] for rule in kept):
                held = module._parameters.get("weight", module)  # a computed weight is another tensor at every look
                width = get_format(choice.format).bits if choice.method else 32
                by_weight[id(held)] = method_weight(module).numel() * width
        return sum(by_weight.values())

    def _write(self, found: Scan, choice: Choice, kept: tuple[Rule, ...]) -> None:
        from dataclasses import asdict

        rules: list[dict[str, Any]] = [
            {k: v for k, v in asdict(rule).items() if v not in (None, False)} for rule in kept
        ]
        for layer, option in zip(found.layers, choice.picked, strict=True):
            rules += [{"pattern": path, "format": found.formats[option]} for path in layer.paths]
        self.output.write_text(json.dumps(rules, indent=1) + "\n", encoding="utf-8")

    def _answer(self, out: Output, found: Scan, choice: Choice, cost: np.ndarray, unit: str, fixed: float) -> None:
        weights = sum(layer.weights for layer in found.layers)
        bits = float(sum(found.bits()[i, f] for i, f in enumerate(choice.picked)))
        rows = [
            (" = ".join(layer.paths), f"{layer.weights:,}", found.formats[f], *(f"{d:.4f}" for d in found.damage[i]))
            for i, (layer, f) in enumerate(zip(found.layers, choice.picked, strict=True))
        ]
        out.table("", ("layer", "weights", "format", *(f"KL {name}" for name in found.formats)), rows)
        for i, name in enumerate(found.formats):
            total = (
                f"{cost[:, i].sum() + fixed:.4g} ms" if unit == "ms" else size_text(int(found.bits()[:, i].sum() / 8))
            )
            out.line(f"{name} everywhere: {total}, sum of KL {found.damage[:, i].sum():.4f}")
        spent = f"{choice.cost + fixed:.4g} ms, " if unit == "ms" else ""
        beside = f" beside {size_text(int(fixed / 8))} that --rules keep" if unit == "bits" and fixed else ""
        size = f"{size_text(int(bits / 8))}{beside}, {bits / weights:.3f} bits a weight"
        out.line(f"chosen: {spent}{size}, sum of KL {choice.damage:.4f}")
        out.line(f"{self.output}: next, bitshift train --init pretrained --method nearest --rules {self.output} ...")
        out.result(
            {
                "rules": self.output, "bits_a_weight": bits / weights, "bytes": bits / 8, "sum_of_kl": choice.damage,
                "cost": choice.cost + fixed, "unit": unit, "formats": list(found.formats), "rows": found.rows,
                "layers": [
                    {
                        "path": layer.path, "tied": layer.tied, "weights": layer.weights, "format": found.formats[f],
                        "kl": dict(zip(found.formats, map(float, found.damage[i]), strict=True)),
                    }
                    for i, (layer, f) in enumerate(zip(found.layers, choice.picked, strict=True))
                ],
            }
        )  # fmt: skip


VERB = Search

"""Recipes: complete, nameable, the papers' values, and each one trains, from scratch and from published weights."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

from bitshift.nn.activations import ActQuant, FixedPointQuant
from bitshift.nn.layers import ShiftLayer
from bitshift.nn.method import METHODS, get_method
from bitshift.train.data import AUGMENTS, NAMED, ArrayData
from bitshift.train.models import MODELS, build
from bitshift.train.optim import build_optimizer
from bitshift.train.recipes import NORMALISE, RECIPES, USER_DATA, Recipe, get_recipe

get_method("denseshift")  # fills the registry
IMAGENET = [name for name, recipe in RECIPES.items() if recipe.data == "imagenet"]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_names_what_exists_and_says_where_it_is_from(name):
    recipe = RECIPES[name]
    assert {row.model for row in (*recipe.published, *recipe.reached)} | {recipe.model} <= MODELS.keys()
    assert recipe.augment is None or recipe.augment in AUGMENTS
    assert recipe.data in NAMED or recipe.data in USER_DATA
    assert recipe.normalise is None or recipe.normalise in NORMALISE
    assert recipe.shift is None or recipe.shift.method in METHODS
    assert recipe.about
    if name != "demo_mnist":
        assert recipe.source
        assert all(line.startswith(("- ", "  ")) for line in recipe.notes.strip().splitlines())
        assert recipe.published or recipe.reached
    assert (recipe.float_train is not None) or recipe.start != "pretrained"


@pytest.mark.parametrize("name", RECIPES)
def test_rows_are_told_apart_and_plausible(name):
    recipe = RECIPES[name]
    for rows in (recipe.published, recipe.reached):
        keys = [(recipe.command(r), getattr(r, "source", "")) for r in rows]
        assert len(keys) == len(set(keys))
    for row in recipe.published:
        assert row.source
        assert row.value is None or 30 < row.value < 100
        assert row.float_value is None or row.value is None or abs(row.value - row.float_value) < 10


@dataclass(frozen=True)
class Paper:
    """What the source of a recipe fixes, written down a second time."""

    method: str
    optimizer: type[torch.optim.Optimizer]
    lr: float
    epochs: int
    batch: int
    decay: float
    momentum: float | None
    latent_decay: float
    ends: str
    inputs: str


SGD, RADAM = torch.optim.SGD, torch.optim.RAdam
PAPERS = {
    "deepshift_q_mnist": Paper("deepshift_q", SGD, 0.01, 10, 64, 0.0, 0.0, 0.0, "shift", "16.16"),
    "deepshift_q_mnist_pretrained": Paper("deepshift_q", SGD, 0.01, 10, 64, 0.0, 0.0, 0.0, "shift", "16.16"),
    "deepshift_ps_mnist": Paper("deepshift_ps", RADAM, 0.01, 10, 64, 0.0, None, 0.0, "shift", "16.16"),
    "deepshift_ps_mnist_pretrained": Paper("deepshift_ps", RADAM, 0.01, 10, 64, 0.0, None, 0.0, "shift", "16.16"),
    "deepshift_q_cifar10": Paper("deepshift_q", SGD, 0.01, 200, 128, 1e-4, 0.9, 1e-4, "shift", "16.16"),
    "deepshift_ps_cifar10": Paper("deepshift_ps", RADAM, 0.1, 200, 128, 1e-4, None, 0.0, "shift", "16.16"),
    "deepshift_q_cifar10_pretrained": Paper("deepshift_q", SGD, 1e-3, 15, 128, 1e-4, 0.9, 1e-4, "shift", "16.16"),
    "deepshift_ps_cifar10_pretrained": Paper("deepshift_ps", RADAM, 1e-3, 15, 128, 1e-4, None, 0.0, "shift", "16.16"),
    "deepshift_q_imagenet": Paper("deepshift_q", SGD, 0.01, 90, 256, 1e-4, 0.9, 1e-4, "shift", "16.16"),
    "deepshift_ps_imagenet": Paper("deepshift_ps", RADAM, 0.01, 90, 256, 1e-4, None, 0.0, "shift", "16.16"),
    "deepshift_q_imagenet_pretrained": Paper("deepshift_q", SGD, 1e-3, 15, 256, 1e-4, 0.9, 1e-4, "shift", "16.16"),
    "deepshift_ps_imagenet_pretrained": Paper("deepshift_ps", RADAM, 1e-3, 15, 256, 1e-4, None, 0.0, "shift", "16.16"),
    "s3_imagenet": Paper("s3", SGD, 0.1, 200, 256, 1e-4, 0.9, 1e-4, "float", "float"),
    "denseshift_imagenet": Paper("denseshift", SGD, 0.1, 200, 256, 1e-4, 0.9, 1e-4, "float", "float"),
    "inq_imagenet": Paper("inq", SGD, 0.003, 38, 256, 5e-4, 0.9, 5e-4, "shift", "float"),
    "apot_imagenet": Paper("apot", SGD, 0.01, 100, 1024, 1e-4, 0.9, 1e-4, "int8", "integer"),
    "apot_cifar10": Paper("apot", SGD, 0.04, 300, 128, 1e-4, 0.9, 1e-4, "int8", "integer"),
    "cifar10_scratch": Paper("denseshift", RADAM, 0.03, 15, 128, 1e-4, None, 0.1, "float", "float"),
    "cifar10_pretrained": Paper("nearest", SGD, 0.01, 3, 128, 1e-4, 0.9, 1e-4, "float", "float"),
    "ours_cifar10": Paper("nearest", SGD, 0.01, 3, 128, 1e-4, 0.9, 1e-4, "shift", "integer"),
    "ours_imagenet": Paper("nearest", SGD, 0.01, 10, 256, 1e-4, 0.9, 1e-4, "shift", "integer"),
    "transfer_cifar100": Paper("denseshift", SGD, 0.02, 3, 64, 1e-4, 0.9, 1e-4, "shift", "float"),
    "demo_mnist": Paper("denseshift", SGD, 0.1, 16, 64, 1e-4, 0.9, 1e-4, "shift", "integer"),
}


def kind(layer: nn.Module, method: str) -> str:
    """How a Conv or Linear ended: float, shift, or int8."""
    if not isinstance(layer, ShiftLayer):
        return "float"
    return "shift" if layer.method.name == method else "int8"


@pytest.mark.parametrize("name", RECIPES)
def test_layers_decay_and_optimiser_are_those_of_the_source(name):
    from bitshift.nn.convert import convert

    recipe, paper = RECIPES[name], PAPERS[name]
    channels, size = (1, 28) if "mnist" in name else (3, 32)
    torch.manual_seed(0)
    small = recipe.data == "imagenet" and paper.method in ("nearest", "apot", "inq")  # a search over 11 M weights
    net = build("resnet20" if small else recipe.model, num_classes=10, in_channels=channels)
    assert recipe.shift is not None
    model, _ = convert(net, recipe.shift, sample=torch.randn(2, channels, size, size))
    layers = [m for m in model.modules() if isinstance(m, (ShiftLayer, nn.Conv2d, nn.Linear))]
    kinds = [kind(layer, paper.method) for layer in layers]
    assert (kinds[0], kinds[-1]) == (paper.ends, paper.ends)
    assert set(kinds[1:-1]) <= {"shift"}
    inputs = {type(m).__name__ for m in model.modules() if isinstance(m, (ActQuant, FixedPointQuant))}
    assert inputs == {"float": set(), "16.16": {"FixedPointQuant"}, "integer": {"ActQuant"}}[paper.inputs]
    optimizer = build_optimizer(model, recipe.train)
    assert isinstance(optimizer, paper.optimizer)
    assert (recipe.train.lr, recipe.train.epochs, recipe.train.batch_size) == (paper.lr, paper.epochs, paper.batch)
    assert recipe.train.weight_decay == paper.decay
    if paper.momentum is not None:
        assert {g["momentum"] for g in optimizer.param_groups} == {paper.momentum}
    methods = [m.method for m in layers if isinstance(m, ShiftLayer) and m.method.name == paper.method]
    latents = {id(p) for m in methods for p in m.parameters() if p.numel() >= m.levels().numel()}  # not the scales
    assert {g["weight_decay"] for g in optimizer.param_groups for p in g["params"] if id(p) in latents} == {
        paper.latent_decay
    }
    if recipe.train.decay_all:  # norms and biases too; what a method trains beside its latents is the method's business
        apart = {id(p) for m in layers if isinstance(m, ShiftLayer) for p in m.method.parameters()}
        apart |= {id(p) for n, p in model.named_parameters() if "log2_" in n}  # logarithms of scales never decay
        others = {g["weight_decay"] for g in optimizer.param_groups for p in g["params"] if id(p) not in apart}
        assert others <= {paper.decay}


def test_details_of_single_papers():
    def shift(name: str):
        found = RECIPES[name].shift
        assert found is not None
        return found

    for name in ("deepshift_q_cifar10", "deepshift_ps_cifar10"):
        assert RECIPES[name].train.milestones == (80, 120, 160, 180)
        assert shift(name).init == "pretrained"  # the random float net, converted
    for name in ("deepshift_q_imagenet_pretrained", "deepshift_ps_cifar10_pretrained"):
        assert (RECIPES[name].train.schedule, RECIPES[name].train.step_size) == ("step", 5)
    assert shift("deepshift_ps_imagenet").init == "random"
    assert shift("deepshift_ps_mnist").options["weight_decay"] == 0.0
    assert shift("s3_imagenet").options["init"] == "symmetric"
    assert any("init=dense" in row.flags for row in RECIPES["s3_imagenet"].published)
    assert {(row.bits, row.epochs) for row in RECIPES["denseshift_imagenet"].published} >= {
        (3, None),
        (2, 90),
        (4, None),
    }
    assert RECIPES["inq_imagenet"].train.cycles == 3
    augments = {"imagenet": "imagenet", "cifar10": "pad_crop_flip", "mnist": None}
    assert all(r.augment == augments[r.data] for r in RECIPES.values() if r.data in augments)
    assert {RECIPES[name].normalise for name in IMAGENET} == {"imagenet", "pixel"}
    for name in ("ours_cifar10", "ours_imagenet"):
        assert shift(name).integer
        assert not shift(name).multiplier
        assert RECIPES[name].train.distill_weight == 0.9
        assert (RECIPES[name].normalise, RECIPES[name].pretrained_normalise) == ("pixel", "imagenet")


def tiny_data(recipe: Recipe, count: int = 12) -> ArrayData:
    """Random pictures of the recipe's shape; ImageNet's are of 32 pixels here."""
    channels = 1 if "mnist" in recipe.data else 3
    size = (32, 32) if recipe.data == "imagenet" else MODELS[recipe.model].input_size
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, channels, *size)).astype(np.uint8)
    return ArrayData(images=images, labels=rng.integers(0, 10, count), class_names=tuple("0123456789"))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=pytest.mark.slow) if "18" in r.model and n not in IMAGENET else n
        for n, r in RECIPES.items()
    ],
)
def test_a_recipe_trains_a_few_steps_from_where_it_starts(name, tmp_path):
    from bitshift.cli.recipes import recipe_plan
    from bitshift.cli.training import normalised, train
    from bitshift.train.schedule import scaled

    recipe = RECIPES[name]
    data = normalised((tiny_data(recipe), tiny_data(recipe)), recipe.normalise)
    plan = recipe_plan(name)
    if name in IMAGENET:  # tests/cli runs some of them with their own nets, which take longer
        plan = replace(plan, model="resnet20")
    if recipe.start == "pretrained":  # a published checkpoint: state_dict inside, names behind DataParallel's prefix
        torch.manual_seed(1)
        net = build(plan.model, num_classes=10, in_channels=data[0].images.shape[1])
        file = tmp_path / "published.th"
        torch.save({"state_dict": {f"module.{k}": v for k, v in net.state_dict().items()}}, file)
        plan = replace(plan, pretrained=file)
    short = {"batch_size": 4, "progress": "off", "calibration_rows": 8, "eval_batch_size": 4}
    plan = replace(
        plan, train=replace(scaled(plan.train, 1), **short),
        float_train=replace(scaled(plan.float_train, 1), **short) if plan.float_train else None,
    )  # fmt: skip
    trained = train(plan, data, tmp_path / "run")
    assert trained.result.steps == 3
    assert np.isfinite(trained.result.valid.loss)
    assert (trained.twin is not None) == (name == "demo_mnist")


def test_an_unknown_recipe_gets_a_hint():
    with pytest.raises(ValueError, match="did you mean 'demo_mnist'"):
        get_recipe("demo_minst")

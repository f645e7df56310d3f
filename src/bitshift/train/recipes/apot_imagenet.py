"""APoT on ImageNet: weights as sums of powers of two, activations of as many bits, from a trained float net."""

from __future__ import annotations

from bitshift.nn.config import ShiftConfig
from bitshift.train.config import TrainConfig
from bitshift.train.recipes import Published, Recipe

TABLE = "APoT's README"

RECIPE = Recipe(
    name="apot_imagenet",
    about="ImageNet, APoT from a trained float net, 4-bit weights and activations, ends int8, a multiplier a channel",
    data="imagenet",
    model="resnet18",
    augment="imagenet",
    image_size=224,
    normalise="imagenet",
    start="pretrained",
    shift=ShiftConfig(
        method="apot", bits=4, activations=4, multiplier=True, keep_first="int8", keep_last="int8", init="pretrained"
    ),
    float_train=TrainConfig(
        epochs=90, batch_size=256, lr=0.1, optimizer="sgd", momentum=0.9, weight_decay=1e-4, decay_all=True,
        schedule="step", step_size=30, gamma=0.1,
    ),
    train=TrainConfig(
        epochs=100, batch_size=1024, lr=0.01, optimizer="sgd", momentum=0.9, weight_decay=1e-4, decay_all=True,
        schedule="step", milestones=(30, 60, 90), gamma=0.1, distill_weight=0.0,
    ),
    source="APoT (ICLR 2020) and yhhhli/APoT_Quantization, ImageNet",
    notes="""
- The activations' levels are APoT's too in the paper, with a learned clip; ours are uniform on learned power-of-two
  grids.
- The authors start 4 bits from their 5-bit net, 3 from 4, 2 from 3; here every width starts from the float net. 2
  bits have gradients of their own there (calibrated gradients).
- The first and the last layer have 8-bit weights there, with one scale a layer; ours have one a channel, and 8-bit
  inputs.
- The authors crop 224 x 224 at random from pictures whose shorter side is 256; ours crops and scales at random.
""",
    published=(
        Published(model="resnet18", bits=5, value=70.75, flags="--activations 5", source=TABLE),
        Published(model="resnet18", bits=4, value=70.74, source=TABLE),
        Published(model="resnet18", bits=3, value=69.79, flags="--activations 3", source=TABLE),
        Published(
            model="resnet18", bits=2, value=66.46, flags="--activations 2 --lr 0.04 --weight-decay 2e-5", source=TABLE
        ),
        Published(model="resnet34", bits=5, value=74.26, flags="--activations 5 --lr 0.1", source=TABLE),
        Published(model="resnet34", bits=4, value=74.12, flags="--lr 0.1", source=TABLE),
        Published(model="resnet34", bits=3, value=73.55, flags="--activations 3 --lr 0.1", source=TABLE),
        Published(
            model="resnet34", bits=2, value=71.30, flags="--activations 2 --lr 0.1 --weight-decay 2e-5", source=TABLE
        ),
        Published(model="resnet50", bits=4, value=76.80, flags="--batch-size 512 --lr 0.05", source=TABLE),
        Published(
            model="resnet50", bits=3, value=75.92, flags="--activations 3 --batch-size 512 --lr 0.05", source=TABLE
        ),
    ),
)  # fmt: skip

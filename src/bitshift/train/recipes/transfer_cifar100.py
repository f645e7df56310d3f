"""CIFAR-100 from a shift network that was trained on CIFAR-10, with a new head of low variance: docs/transfer.md."""

from __future__ import annotations

from bitshift.nn.config import ShiftConfig
from bitshift.train.config import TrainConfig
from bitshift.train.recipes import Reached, Recipe

TABLE, NET = "transfer_cifar100.json", "resnet20"

RECIPE = Recipe(
    name="transfer_cifar100",
    about="CIFAR-100 on the backbone of a CIFAR-10 run, DenseShift-3 with a new low-variance head, float activations",
    data="cifar100",
    model=NET,
    augment="pad_crop_flip",
    normalise="imagenet",
    start="backbone",
    shift=ShiftConfig(method="denseshift", bits=3, init="pretrained"),
    train=TrainConfig(
        epochs=3, batch_size=64, lr=0.02, optimizer="sgd", momentum=0.9, weight_decay=1e-4, schedule="cosine",
        warmup_epochs=0.1, amp="auto", eval_every=3, eval_batch_size=500, checkpoint_every_steps=100,
    ),
    source="our own budget, that of bench/transfer.py; DenseShift moves ImageNet backbones to COCO, rates unknown",
    notes="""
- RUN is a run of `bitshift train` whose shift network is to be taken over; model, method and bits must be its own.
- On all 50,000 images this has not been measured yet; docs/transfer.md has figures with few images a class.
- `--option std=he` gives the head the high variance of He's start, for comparison.
""",
    reached=(
        Reached(model=NET, bits=3, source=TABLE, case="low-variance head, DenseShift-3"),
        Reached(model=NET, bits=3, flags="--option std=he", source=TABLE, case="He head, DenseShift-3"),
    ),
)  # fmt: skip

"""Our recipe on CIFAR-10: the best integer-only, multiplication-free ResNet-20 that we know how to train."""

from __future__ import annotations

from bitshift.nn.config import ShiftConfig
from bitshift.train.config import TrainConfig
from bitshift.train.recipes import Reached, Recipe

NET = "resnet20"

RECIPE = Recipe(
    name="ours_cifar10",
    about="CIFAR-10, two-term 4 bits in every layer, 8-bit activations, integers only, no multiplication, from float",
    data="cifar10",
    model=NET,
    augment="pad_crop_flip",
    normalise="imagenet",
    start="pretrained",
    shift=ShiftConfig(method="nearest", format="pot4x2", activations=8, init="pretrained"),
    float_train=TrainConfig(
        epochs=200, batch_size=128, lr=0.1, optimizer="sgd", momentum=0.9, weight_decay=1e-4, schedule="step",
        milestones=(100, 150), gamma=0.1, amp="auto",
    ),
    train=TrainConfig(
        epochs=3, batch_size=128, lr=0.005, optimizer="sgd", momentum=0.9, nesterov=True, weight_decay=1e-4,
        schedule="cosine", warmup_epochs=0.3, clip_norm=5.0, distill_weight=0.9, distill_temperature=4.0,
        eval_batch_size=500, checkpoint_every_steps=100,
    ),
    source="our own measurements: docs/accuracy.md",
    notes="""
- The norms are folded first, then weights are rounded; training keeps a norm that only removes the mean. Scales are
  powers of two per channel, found by search.
- The float net teaches: with it half a point more than from the labels alone. A rate of 0.03 loses a point, without
  the clip of the gradient training may diverge.
- 3 bits: one multiplier per channel is worth 0.3 to 0.4 points. 7-bit activations cost nothing that we could
  measure, 6 bits 0.1 to 0.4 points.
""",
    reached=(
        Reached(model=NET, bits=4),
        Reached(model=NET, bits=4, flags="--activations 7"),
        Reached(model=NET, bits=4, flags="--activations 6"),
        Reached(model=NET, bits=3, flags="--format pot3d"),
        Reached(model=NET, bits=3, flags="--format pot3d --activations 7"),
        Reached(model=NET, bits=3, flags="--format pot3d --activations 6"),
        Reached(model=NET, bits=3, flags="--format pot3d --multiplier True --option scale=free"),
    ),
)  # fmt: skip

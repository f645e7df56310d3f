"""ResNet-20 on CIFAR-10, DenseShift-3 from scratch in ten epochs: a row of the accuracy table, 18 minutes of a core.

Float activations, first convolution and last layer float, as the paper's code has them. Published figures are for
200 epochs on ImageNet; none is known for this budget. Reached: docs/accuracy.md.
"""

from __future__ import annotations

from bitshift.nn.config import ShiftConfig
from bitshift.train.config import TrainConfig
from bitshift.train.recipes import Recipe

RECIPE = Recipe(
    name="cifar_short",
    about="resnet20 on CIFAR-10 (give its folder with --data), DenseShift-3 from scratch, 10 epochs, float activations",
    data="cifar10",
    model="resnet20",
    augment="pad_crop_flip",
    shift=ShiftConfig(method="denseshift", bits=3, keep_first="float", keep_last="float"),
    train=TrainConfig(
        epochs=10, batch_size=128, lr=0.1, amp="auto", eval_every=5, eval_batch_size=500, checkpoint_every_steps=100
    ),
)

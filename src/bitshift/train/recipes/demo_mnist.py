"""The demo: 5,000 MNIST digits, DenseShift with 3 bits, every value an integer, no multiplication.

Reached: the figures in the README, which come from a run's result.json. DenseShift's paper has none for MNIST.
"""

from __future__ import annotations

from bitshift.nn.config import ShiftConfig
from bitshift.train.config import TrainConfig
from bitshift.train.recipes import Recipe

RECIPE = Recipe(
    name="demo_mnist",
    about="lenet_bn on 5,000 digits: float twin, then DenseShift-3, 8-bit activations, multiplication-free",
    data="mnist_5k",
    model="lenet_bn",
    augment="shift",
    shift=ShiftConfig(method="denseshift", bits=3, activations=8),
    float_train=TrainConfig(epochs=12, batch_size=64, lr=0.05, weight_decay=1e-4, warmup_epochs=1, log_every=20),
    train=TrainConfig(
        epochs=16,
        batch_size=64,
        lr=0.1,
        weight_decay=1e-4,
        warmup_epochs=1,
        distill_weight=0.9,
        distill_temperature=4.0,
        log_every=20,
    ),
)

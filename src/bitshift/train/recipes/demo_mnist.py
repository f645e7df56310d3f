"""The demo: 5,000 MNIST digits, DenseShift with 3 bits, every value an integer, no multiplication."""

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
    shift=ShiftConfig(method="denseshift", bits=3, activations=8, init="pretrained"),
    float_train=TrainConfig(epochs=8, batch_size=50, lr=0.02, warmup_epochs=0.5, log_every=20),
    train=TrainConfig(epochs=10, batch_size=50, lr=0.01, warmup_epochs=0.5, clip_norm=5.0, log_every=20),
)

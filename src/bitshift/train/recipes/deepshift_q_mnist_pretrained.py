"""DeepShift-Q on MNIST from a trained float net, which is trained first unless --pretrained gives it."""

from __future__ import annotations

from bitshift.nn.config import ShiftConfig
from bitshift.train.config import TrainConfig
from bitshift.train.recipes import Published, Reached, Recipe

TABLE = "DeepShift's README, MNIST table"
OURS = "mnist_deepshift.json"

RECIPE = Recipe(
    name="deepshift_q_mnist_pretrained",
    about="MNIST, DeepShift-Q from the trained float net, 5 bits, every layer, 16.16 fixed-point activations",
    data="mnist",
    model="mlp",
    normalise="mnist",
    start="pretrained",
    shift=ShiftConfig(method="deepshift_q", bits=5, activations="16.16", init="pretrained"),
    float_train=TrainConfig(
        epochs=10, batch_size=64, lr=0.01, optimizer="sgd", momentum=0.0, weight_decay=0.0, schedule="constant"
    ),
    train=TrainConfig(
        epochs=10, batch_size=64, lr=0.01, optimizer="sgd", momentum=0.0, weight_decay=0.0, schedule="constant",
        distill_weight=0.0,
    ),
    source="DeepShift (arXiv 1905.13298), README and MNIST script",
    notes="""
- Momentum and decay are 0.
- The paper trains on 60,000 digits, our figures on 10,000 (bench/mnist_table.py: FC three times, Conv twice its
  epochs). On a smaller set raise --epochs and --float-epochs for as many steps.
- The fully connected row was 94.91 in the README of 2020.
""",
    published=(
        Published(model="mlp", bits=5, value=97.85, float_value=96.92, source=TABLE),
        Published(model="lenet", bits=5, value=99.15, float_value=98.75, source=TABLE),
    ),
    reached=(
        Reached(model="mlp", bits=5, source=OURS, case="FC, DeepShift-Q, pretrained", float_case="FC, float"),
        Reached(model="lenet", bits=5, source=OURS, case="Conv, DeepShift-Q, pretrained", float_case="Conv, float"),
    ),
)  # fmt: skip

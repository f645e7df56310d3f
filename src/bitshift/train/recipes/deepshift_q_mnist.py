"""DeepShift-Q on MNIST from scratch: the fully connected net, or with --model lenet the convolutional one."""

from __future__ import annotations

from bitshift.nn.config import ShiftConfig
from bitshift.train.config import TrainConfig
from bitshift.train.recipes import Published, Reached, Recipe

TABLE = "DeepShift's README, MNIST table"
OURS = "mnist_deepshift.json"

RECIPE = Recipe(
    name="deepshift_q_mnist",
    about="MNIST, DeepShift-Q from scratch, 5 bits, every layer, 16.16 fixed-point activations",
    data="mnist",
    model="mlp",
    normalise="mnist",
    shift=ShiftConfig(method="deepshift_q", bits=5, activations="16.16", init="pretrained"),
    train=TrainConfig(
        epochs=10, batch_size=64, lr=0.01, optimizer="sgd", momentum=0.0, weight_decay=0.0, schedule="constant",
        distill_weight=0.0,
    ),
    source="DeepShift (arXiv 1905.13298), README and MNIST script",
    notes="""
- From scratch means that the random float weights are converted, as the authors' script does.
- Momentum and decay are 0.
- The paper trains on 60,000 digits, our figures on 10,000 (bench/mnist_table.py: FC three times, Conv twice its
  epochs). On a smaller set raise --epochs for the same number of steps.
""",
    published=(
        Published(model="mlp", bits=5, value=97.03, float_value=96.92, source=TABLE),
        Published(model="lenet", bits=5, value=98.81, float_value=98.75, source=TABLE),
        Published(model="mlp", bits=None, value=96.92, flags="--method float", source=TABLE),
        Published(model="lenet", bits=None, value=98.75, flags="--method float", source=TABLE),
    ),
    reached=(
        Reached(model="mlp", bits=5, source=OURS, case="FC, DeepShift-Q, scratch", float_case="FC, float"),
        Reached(model="lenet", bits=5, source=OURS, case="Conv, DeepShift-Q, scratch", float_case="Conv, float"),
        Reached(
            model="mlp", bits=None, flags="--method float", source=OURS, case="FC, float", float_case=None
        ),
        Reached(
            model="lenet", bits=None, flags="--method float", source=OURS, case="Conv, float", float_case=None
        ),
    ),
)  # fmt: skip

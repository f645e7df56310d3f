"""DeepShift-PS on CIFAR-10 from scratch, 200 epochs; --model and --bits take the table's other rows."""

from __future__ import annotations

from bitshift.nn.config import ShiftConfig
from bitshift.train.config import TrainConfig
from bitshift.train.recipes import Published, Recipe

TABLE = "DeepShift's README, CIFAR-10 table"

RECIPE = Recipe(
    name="deepshift_ps_cifar10",
    about="CIFAR-10, DeepShift-PS from scratch, 5 bits, every layer, 16.16 fixed-point activations",
    data="cifar10",
    model="resnet20",
    augment="pad_crop_flip",
    normalise="cifar10",
    shift=ShiftConfig(method="deepshift_ps", bits=5, activations="16.16", init="pretrained"),
    train=TrainConfig(
        epochs=200, batch_size=128, lr=0.1, optimizer="radam", weight_decay=1e-4, decay_all=True,
        schedule="step", milestones=(80, 120, 160, 180), gamma=0.1, distill_weight=0.0,
    ),
    source="DeepShift (arXiv 1905.13298), README and CIFAR-10 script",
    notes="""
- The script's default rate is 0.1, its notes say 0.01 for shift networks; ours is 0.1, which won a probe of 100
  steps with RAdam.
- The script's ResNet-20 to -56 start as torch's layers do, ours by He et al., with weights 0.4 times as large.
- From scratch means that the random float weights are converted (P = round(log2 |W|), S = sign W), as the script
  does. P and S do not decay; the penalty of the method decays the effective weight.
""",
    published=(
        Published(model="resnet18_cifar", bits=5, value=93.20, float_value=94.45, source=TABLE),
        Published(model="resnet18_cifar", bits=4, value=94.12, float_value=94.45, source=TABLE),
        Published(model="resnet18_cifar", bits=3, value=92.85, float_value=94.45, source=TABLE),
        Published(model="resnet18_cifar", bits=2, value=92.80, float_value=94.45, source=TABLE),
        Published(model="mobilenet_v2_cifar", bits=5, value=92.64, float_value=93.57, source=TABLE),
        Published(model="resnet20", bits=5, value=88.84, float_value=91.79, source=TABLE),
        Published(model="resnet32", bits=5, value=89.97, float_value=92.39, source=TABLE),
        Published(model="resnet44", bits=5, value=90.92, float_value=92.84, source=TABLE),
        Published(model="resnet56", bits=5, value=91.11, float_value=93.46, source=TABLE),
    ),
)  # fmt: skip

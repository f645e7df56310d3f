"""DeepShift-PS on CIFAR-10 from a trained float net, 15 epochs."""

from __future__ import annotations

from bitshift.nn.config import ShiftConfig
from bitshift.train.config import TrainConfig
from bitshift.train.recipes import Published, Recipe

TABLE = "DeepShift's README, CIFAR-10 table"

RECIPE = Recipe(
    name="deepshift_ps_cifar10_pretrained",
    about="CIFAR-10, DeepShift-PS from a trained float net, 5 bits, every layer, 16.16 fixed-point activations",
    data="cifar10",
    model="resnet18_cifar",
    augment="pad_crop_flip",
    normalise="imagenet",
    start="pretrained",
    shift=ShiftConfig(method="deepshift_ps", bits=5, activations="16.16", init="pretrained"),
    float_train=TrainConfig(
        epochs=200, batch_size=128, lr=0.1, optimizer="sgd", momentum=0.9, weight_decay=1e-4, decay_all=True,
        schedule="step", milestones=(80, 120, 160, 180), gamma=0.1,
    ),
    train=TrainConfig(
        epochs=15, batch_size=128, lr=1e-3, optimizer="radam", weight_decay=1e-4, decay_all=True,
        schedule="step", step_size=5, gamma=0.1, distill_weight=0.0,
    ),
    source="DeepShift (arXiv 1905.13298), README and CIFAR-10 script",
    notes="""
- Without --pretrained the float net is trained first, for 200 epochs.
- Pixels are normalised by CIFAR-10's own statistics there (--normalise cifar10); ours by those of the published float
  nets.
- P and S do not decay; the penalty of the method decays the effective weight.
""",
    published=(
        Published(model="resnet18_cifar", bits=5, value=94.12, float_value=94.45, source=TABLE),
        Published(model="resnet18_cifar", bits=4, value=94.13, float_value=94.45, source=TABLE),
        Published(model="resnet18_cifar", bits=3, value=91.16, float_value=94.45, source=TABLE),
        Published(model="resnet18_cifar", bits=2, value=90.68, float_value=94.45, source=TABLE),
        Published(model="mobilenet_v2_cifar", bits=5, value=92.78, float_value=93.57, source=TABLE),
    ),
)  # fmt: skip

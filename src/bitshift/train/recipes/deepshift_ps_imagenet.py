"""DeepShift-PS on ImageNet from scratch, 90 epochs; --model and --bits take the table's other rows."""

from __future__ import annotations

from bitshift.nn.config import ShiftConfig
from bitshift.train.config import TrainConfig
from bitshift.train.recipes import Published, Recipe

TABLE = "DeepShift's README, ImageNet tables"

RECIPE = Recipe(
    name="deepshift_ps_imagenet",
    about="ImageNet, DeepShift-PS from scratch, 5 bits, every layer, 16.16 fixed-point activations",
    data="imagenet",
    model="resnet18",
    augment="imagenet",
    image_size=224,
    normalise="imagenet",
    shift=ShiftConfig(method="deepshift_ps", bits=5, activations="16.16", init="random"),
    train=TrainConfig(
        epochs=90, batch_size=256, lr=0.01, optimizer="radam", weight_decay=1e-4, decay_all=True,
        schedule="step", step_size=30, gamma=0.1, distill_weight=0.0,
    ),
    source="DeepShift (arXiv 1905.13298), README and ImageNet script",
    notes="""
- Start: P ~ U(-10, -1) in convolutions and U(pmin, 0) in linear layers, S ~ U(-1, 1): half of the weights are zero.
- P and S do not decay; the penalty of the method decays the effective weight. The authors' linear PS layer leaves
  its input unquantised; ours does not.
- --option lr_sign=0 freezes the signs, as an option of the script does; its alternate updates of S and P are not built.
- An author's log: ResNet-18, 5 bits: 15.40 % after the first epoch, 44.15 % after the fifth, 65.28 % at the end.
""",
    published=(
        Published(model="resnet18", bits=5, value=65.34, top5=86.05, float_value=69.76, source=TABLE),
        Published(model="resnet18", bits=4, value=67.07, top5=87.36, float_value=69.76, source=TABLE),
        Published(model="resnet18", bits=3, value=63.11, top5=84.45, float_value=69.76, source=TABLE),
        Published(model="resnet18", bits=2, value=60.80, top5=83.01, float_value=69.76, source=TABLE),
        Published(model="resnet50", bits=5, value=71.90, top5=90.20, float_value=76.13, source=TABLE),
        Published(model="vgg16", bits=5, value=None, float_value=71.59, source=f"{TABLE}: to be done"),
    ),
)  # fmt: skip

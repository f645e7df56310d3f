"""DeepShift-Q on ImageNet from scratch, 90 epochs; --model takes the table's other nets."""

from __future__ import annotations

from bitshift.nn.config import ShiftConfig
from bitshift.train.config import TrainConfig
from bitshift.train.recipes import Published, Recipe

TABLE = "DeepShift's README, ImageNet table"
FIXED = "DeepShift's README, options of the script; no figure"

RECIPE = Recipe(
    name="deepshift_q_imagenet",
    about="ImageNet, DeepShift-Q from scratch, 5 bits, every layer, 16.16 fixed-point activations",
    data="imagenet",
    model="resnet18",
    augment="imagenet",
    image_size=224,
    normalise="imagenet",
    shift=ShiftConfig(method="deepshift_q", bits=5, activations="16.16", init="pretrained"),
    train=TrainConfig(
        epochs=90, batch_size=256, lr=0.01, optimizer="sgd", momentum=0.9, weight_decay=1e-4, decay_all=True,
        schedule="step", step_size=30, gamma=0.1, distill_weight=0.0,
    ),
    source="DeepShift (arXiv 1905.13298), README and ImageNet script",
    notes="""
- The weights start as the float layer's own (torchvision's); Q keeps them and rounds in the log domain.
- S3's table quotes DeepShift at 6 bits, an earlier version, without saying whether it is Q or PS.
- Accuracy with narrower fixed point is not published.
""",
    published=(
        Published(model="resnet18", bits=5, value=65.32, top5=86.29, float_value=69.76, source=TABLE),
        Published(model="resnet50", bits=5, value=70.70, top5=90.20, float_value=76.13, source=TABLE),
        Published(model="vgg16", bits=5, value=70.87, top5=90.09, float_value=71.59, source=TABLE),
        Published(
            model="resnet18", bits=6, value=65.63, top5=86.33, float_value=69.6, source="quoted by S3, Tables 1 and 2"
        ),
        Published(model="resnet18", bits=5, value=None, float_value=69.76, flags="--activations 3.5", source=FIXED),
        Published(model="resnet18", bits=5, value=None, float_value=69.76, flags="--activations 3.13", source=FIXED),
    ),
)  # fmt: skip

"""DeepShift-PS on ImageNet from a trained float net, 15 epochs; --model and --bits take the table's other rows."""

from __future__ import annotations

from bitshift.nn.config import ShiftConfig
from bitshift.train.config import TrainConfig
from bitshift.train.recipes import Published, Recipe

TABLE = "DeepShift's README, ImageNet tables"

RECIPE = Recipe(
    name="deepshift_ps_imagenet_pretrained",
    about="ImageNet, DeepShift-PS from a trained float net, 5 bits, every layer, 16.16 fixed-point activations",
    data="imagenet",
    model="resnet18",
    augment="imagenet",
    image_size=224,
    normalise="imagenet",
    start="pretrained",
    shift=ShiftConfig(method="deepshift_ps", bits=5, activations="16.16", init="pretrained"),
    float_train=TrainConfig(
        epochs=90, batch_size=256, lr=0.1, optimizer="sgd", momentum=0.9, weight_decay=1e-4, decay_all=True,
        schedule="step", step_size=30, gamma=0.1,
    ),
    train=TrainConfig(
        epochs=15, batch_size=256, lr=1e-3, optimizer="radam", weight_decay=1e-4, decay_all=True,
        schedule="step", step_size=5, gamma=0.1, distill_weight=0.0,
    ),
    source="DeepShift (arXiv 1905.13298), README and ImageNet script",
    notes="""
- Give torchvision's weights with --pretrained; without them the float net is trained first, for 90 epochs.
- torchvision's GoogLeNet was trained on pixels of mean and deviation 0.5 (its transform_input): --normalise half.
- P and S do not decay; the penalty of the method decays the effective weight. The authors' linear PS layer leaves
  its input unquantised; ours does not.
""",
    published=(
        Published(model="resnet18", bits=5, value=69.27, top5=89.00, float_value=69.76, source=TABLE),
        Published(model="resnet18", bits=4, value=69.02, top5=88.73, float_value=69.76, source=TABLE),
        Published(model="resnet50", bits=5, value=75.93, top5=92.90, float_value=76.13, source=TABLE),
        Published(
            model="googlenet", bits=5, value=69.87, top5=89.62, float_value=69.78, source=TABLE,
            flags="--normalise half",
        ),
        Published(model="vgg16", bits=5, value=71.39, top5=90.33, float_value=71.59, source=TABLE),
        Published(model="alexnet", bits=5, value=55.90, top5=78.73, float_value=56.52, source=TABLE),
        Published(model="densenet121", bits=5, value=None, float_value=74.43, source=f"{TABLE}: to be done"),
    ),
)  # fmt: skip

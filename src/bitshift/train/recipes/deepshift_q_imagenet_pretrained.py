"""DeepShift-Q on ImageNet from a trained float net, 15 epochs; --model and --bits take the table's other rows."""

from __future__ import annotations

from bitshift.nn.config import ShiftConfig
from bitshift.train.config import TrainConfig
from bitshift.train.recipes import Published, Recipe

TABLE = "DeepShift's README, ImageNet tables"
QUOTED = "quoted by S3, Tables 1 and 2"

RECIPE = Recipe(
    name="deepshift_q_imagenet_pretrained",
    about="ImageNet, DeepShift-Q from a trained float net, 5 bits, every layer, 16.16 fixed-point activations",
    data="imagenet",
    model="resnet18",
    augment="imagenet",
    image_size=224,
    normalise="imagenet",
    start="pretrained",
    shift=ShiftConfig(method="deepshift_q", bits=5, activations="16.16", init="pretrained"),
    float_train=TrainConfig(
        epochs=90, batch_size=256, lr=0.1, optimizer="sgd", momentum=0.9, weight_decay=1e-4, decay_all=True,
        schedule="step", step_size=30, gamma=0.1,
    ),
    train=TrainConfig(
        epochs=15, batch_size=256, lr=1e-3, optimizer="sgd", momentum=0.9, weight_decay=1e-4, decay_all=True,
        schedule="step", step_size=5, gamma=0.1, distill_weight=0.0,
    ),
    source="DeepShift (arXiv 1905.13298), README and ImageNet script",
    notes="""
- Give torchvision's weights with --pretrained; without them the float net is trained first, for 90 epochs.
- torchvision's GoogLeNet was trained on pixels of mean and deviation 0.5 (its transform_input): --normalise half.
- The abstract says 15 to 30 epochs.
- S3's table quotes DeepShift at 6 bits, an earlier version, without saying whether it is Q or PS.
""",
    published=(
        Published(model="resnet18", bits=5, value=69.56, top5=89.17, float_value=69.76, source=TABLE),
        Published(model="resnet18", bits=4, value=69.56, top5=89.14, float_value=69.76, source=TABLE),
        Published(model="resnet50", bits=5, value=76.33, top5=93.05, float_value=76.13, source=TABLE),
        Published(
            model="googlenet", bits=5, value=70.73, top5=90.17, float_value=69.78, source=TABLE,
            flags="--normalise half",
        ),
        Published(model="vgg16", bits=5, value=71.56, top5=90.48, float_value=71.59, source=TABLE),
        Published(model="alexnet", bits=5, value=55.81, top5=78.79, float_value=56.52, source=TABLE),
        Published(model="densenet121", bits=5, value=74.52, top5=92.06, float_value=74.43, source=TABLE),
        Published(model="resnet18", bits=6, value=68.32, top5=88.41, float_value=69.6, source=QUOTED),
        Published(model="resnet50", bits=6, value=75.29, top5=92.55, float_value=76.0, source=QUOTED),
    ),
)  # fmt: skip

"""INQ on ImageNet: a trained float net fixed at powers of two part by part, the rest retrained."""

from __future__ import annotations

from bitshift.nn.config import ShiftConfig
from bitshift.train.config import TrainConfig
from bitshift.train.recipes import Published, Recipe

QUOTED = "quoted by S3, Tables 1 and 2"
MEMORY = "INQ (arXiv 1702.03044), from memory, not verified"

RECIPE = Recipe(
    name="inq_imagenet",
    about="ImageNet, INQ from a trained float net, 5 bits, every layer, float activations",
    data="imagenet",
    model="resnet18",
    augment="imagenet",
    image_size=224,
    normalise="imagenet",
    start="pretrained",
    shift=ShiftConfig(method="inq", bits=5, init="pretrained", options={"at": [0, 1 / 3, 2 / 3, 0.999]}),
    float_train=TrainConfig(
        epochs=90, batch_size=256, lr=0.1, optimizer="sgd", momentum=0.9, weight_decay=1e-4, decay_all=True,
        schedule="step", step_size=30, gamma=0.1,
    ),
    train=TrainConfig(
        epochs=38, batch_size=256, lr=0.003, optimizer="sgd", momentum=0.9, weight_decay=5e-4, decay_all=True,
        schedule="step", step_size=3, gamma=0.2, cycles=3, distill_weight=0.0,
    ),
    source="INQ (arXiv 1702.03044); solver files of AojunZhou/Incremental-Network-Quantization",
    notes="""
- The solver file (AlexNet): 63,000 steps at 0.003, times 0.2 every 15,000, decay 5e-4, once for each of the parts
  50, 75 and 87.5 %, then one step with all weights fixed. A batch of 256 makes that 38 epochs in three cycles.
- The rates for the other nets are not known to us; they are taken from AlexNet's file.
- Which layers stay float is not known to us; all are converted.
- torchvision's GoogLeNet was trained on pixels of mean and deviation 0.5 (its transform_input): --normalise half.
- --option 'at=[0,0.333,0.667,0.95]' (the method's default) leaves the norms some steps to settle at the end.
""",
    published=(
        Published(model="resnet18", bits=5, value=68.98, top5=89.10, float_value=69.6, source=QUOTED),
        Published(model="resnet18", bits=4, value=68.89, top5=89.01, float_value=69.6, source=QUOTED),
        Published(model="resnet18", bits=3, value=68.08, top5=88.36, float_value=69.6, source=QUOTED),
        Published(model="resnet18", bits=2, value=66.02, top5=87.13, source=MEMORY),
        Published(model="resnet50", bits=5, value=74.81, top5=92.45, float_value=76.0, source=QUOTED),
        Published(model="vgg16", bits=5, value=70.82, top5=90.30, source=MEMORY),
        Published(model="googlenet", bits=5, value=69.02, top5=89.28, flags="--normalise half", source=MEMORY),
        Published(model="alexnet", bits=5, value=57.39, top5=80.46, source=MEMORY),
    ),
)  # fmt: skip

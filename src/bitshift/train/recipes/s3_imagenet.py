"""S3 on ImageNet from scratch, 3 bits, 200 epochs; --option init=dense for the start in the paper's words."""

from __future__ import annotations

from bitshift.nn.config import ShiftConfig
from bitshift.train.config import TrainConfig
from bitshift.train.recipes import Published, Recipe

TABLE = "S3, Tables 1 and 2"
CHECKPOINT = "the released checkpoint, evaluated by its authors"
DENSE = "--option init=dense"

RECIPE = Recipe(
    name="s3_imagenet",
    about="ImageNet, S3 from scratch, 3 bits, first convolution and last layer float, float activations",
    data="imagenet",
    model="resnet18",
    augment="imagenet",
    image_size=224,
    normalise="imagenet",
    shift=ShiftConfig(
        method="s3", bits=3, keep_first="float", keep_last="float", init="random",
        options={"init": "symmetric", "alpha": 1e-5},
    ),
    train=TrainConfig(
        epochs=200, batch_size=256, lr=0.1, optimizer="sgd", momentum=0.9, weight_decay=1e-4, decay_all=True,
        schedule="cosine", distill_weight=0.0,
    ),
    source="S3 (arXiv 2107.03453) and huawei-noah/noah-research, S3-Training",
    notes="""
- Two starts are known: the released code draws every latent from N(0, 2 / fan_out) (init=symmetric, ours); the
  paper's words and the first public commit start all weights at +-1 (init=dense).
- The released code steps its cosine once an epoch, at the epoch's start, so that its last epoch runs at rate 0;
  ours falls with every step and ends just above 0.
- 2 and 4 bits, CIFAR-10 and the ablations are in the paper; their figures are not known to us.
- The convolutions of the shortcuts are in the format too.
""",
    published=(
        Published(model="resnet18", bits=3, value=69.83, top5=89.23, float_value=69.6, flags=DENSE, source=TABLE),
        Published(model="resnet18", bits=3, value=69.508, top5=88.968, float_value=69.6, source=CHECKPOINT),
        Published(model="resnet50", bits=3, value=75.75, top5=92.80, float_value=76.0, flags=DENSE, source=TABLE),
        Published(model="resnet50", bits=3, value=75.748, top5=92.800, float_value=76.0, source=CHECKPOINT),
        Published(model="resnet18", bits=2, value=None, float_value=69.6, source="S3; no figure known to us"),
        Published(model="resnet18", bits=4, value=None, float_value=69.6, source="S3; no figure known to us"),
        Published(model="resnet18", bits=None, value=69.6, top5=89.2, flags="--method float", source=TABLE),
        Published(model="resnet50", bits=None, value=76.0, top5=93.0, flags="--method float", source=TABLE),
    ),
)  # fmt: skip

"""Our recipe on ImageNet: an integer-only, multiplication-free network from a published float net."""

from __future__ import annotations

from bitshift.nn.config import ShiftConfig
from bitshift.train.config import TrainConfig
from bitshift.train.recipes import Reached, Recipe

TABLE = "imagenet.json"

RECIPE = Recipe(
    name="ours_imagenet",
    about="ImageNet, two-term 4 bits in every layer, 8-bit activations, integers only, no multiplication, from float",
    data="imagenet",
    model="resnet18",
    augment="imagenet",
    image_size=224,
    normalise="pixel",
    pretrained_normalise="imagenet",
    start="pretrained",
    shift=ShiftConfig(method="nearest", format="pot4x2", activations=8, init="pretrained"),
    float_train=TrainConfig(
        epochs=90, batch_size=256, lr=0.1, optimizer="sgd", momentum=0.9, weight_decay=1e-4, schedule="step",
        step_size=30, gamma=0.1,
    ),
    train=TrainConfig(
        epochs=10, batch_size=256, lr=0.01, optimizer="sgd", momentum=0.9, nesterov=True, weight_decay=1e-4,
        schedule="cosine", warmup_epochs=0.5, distill_weight=0.9, distill_temperature=4.0, amp="bf16",
        checkpoint_every_steps=1000,
    ),
    source="ours_cifar10, carried over; not yet run on ImageNet",
    notes="""
- Give torchvision's weights with --pretrained; the first layer takes the difference of the pixels to (p - 128) / 64.
  For its GoogLeNet say --pretrained-normalise half: it was trained on pixels of mean and deviation 0.5.
- Rate and distillation are those of ours_cifar10; the epochs are a guess between its budget and DeepShift's 15.
  Nobody has run this on ImageNet yet.
""",
    reached=(
        Reached(model="resnet18", bits=4, source=TABLE, case="resnet18, two-term 4"),
        Reached(model="resnet50", bits=4, source=TABLE, case="resnet50, two-term 4"),
        Reached(model="resnet18", bits=3, flags="--format pot3d", source=TABLE, case="resnet18, 3 bits"),
        Reached(
            model="resnet18", bits=3, source=TABLE,
            flags="--format pot3d --multiplier True --option scale=free --lr 0.01",
            case="resnet18, 3 bits, a multiplier a channel",
        ),
    ),
)  # fmt: skip

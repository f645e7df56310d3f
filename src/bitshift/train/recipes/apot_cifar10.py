"""APoT on CIFAR-10: weights as sums of powers of two, activations of as many bits, from a trained float net."""

from __future__ import annotations

from bitshift.nn.config import ShiftConfig
from bitshift.train.config import TrainConfig
from bitshift.train.recipes import Published, Recipe

TABLE = "APoT's README"

RECIPE = Recipe(
    name="apot_cifar10",
    about="CIFAR-10, APoT from a trained float net, 4-bit weights and activations, ends int8, one multiplier a channel",
    data="cifar10",
    model="resnet20_b",
    augment="pad_crop_flip",
    normalise="cifar10_apot",
    start="pretrained",
    shift=ShiftConfig(
        method="apot", bits=4, activations=4, multiplier=True, keep_first="int8", keep_last="int8", init="pretrained",
        options={"lr_alpha": 0.02},
    ),
    float_train=TrainConfig(
        epochs=300, batch_size=128, lr=0.1, optimizer="sgd", momentum=0.9, weight_decay=5e-4, decay_all=True,
        schedule="step", milestones=(150, 225), gamma=0.1,
    ),
    train=TrainConfig(
        epochs=300, batch_size=128, lr=0.04, optimizer="sgd", momentum=0.9, weight_decay=1e-4, decay_all=True,
        schedule="step", milestones=(150, 225), gamma=0.1, distill_weight=0.0,
    ),
    source="APoT (ICLR 2020) and yhhhli/APoT_Quantization, CIFAR10",
    notes="""
- The activations' levels are APoT's too in the paper, with a learned clip; ours are uniform on learned power-of-two
  grids. The clip of the weights has a rate of its own there and here, 0.02.
- The authors' ResNets have 1x1 convolutions as shortcuts where the shape changes (option B), quantised like the rest.
- The authors start 3 bits from their 4-bit net and 2 from 3; here every width starts from the float net.
- The authors' float nets (CIFAR10/result/res20_32bit and res56_32bit of their repository) load as they are:
  --pretrained model_best.pth.tar. The first reaches its 92.96 % here.
""",
    published=(
        Published(model="resnet20_b", bits=4, value=92.45, float_value=92.96, source=TABLE),
        Published(model="resnet20_b", bits=3, value=92.49, float_value=92.96, flags="--activations 3", source=TABLE),
        Published(
            model="resnet20_b", bits=2, value=90.96, float_value=92.96, flags="--activations 2 --weight-decay 3e-5",
            source=TABLE,
        ),
        Published(model="resnet56_b", bits=4, value=93.93, float_value=94.46, source=TABLE),
        Published(model="resnet56_b", bits=3, value=93.77, float_value=94.46, flags="--activations 3", source=TABLE),
        Published(
            model="resnet56_b", bits=2, value=93.05, float_value=94.46, flags="--activations 2 --weight-decay 3e-5",
            source=TABLE,
        ),
    ),
)  # fmt: skip

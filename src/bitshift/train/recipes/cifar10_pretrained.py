"""ResNet-20 on CIFAR-10 from the published float net, every method under one budget: our table in docs/accuracy.md."""

from __future__ import annotations

from bitshift.nn.config import ShiftConfig
from bitshift.train.config import TrainConfig
from bitshift.train.recipes import Reached, Recipe

RADAM = "--optimizer radam --lr 0.001"
NET = "resnet20"

RECIPE = Recipe(
    name="cifar10_pretrained",
    about="CIFAR-10, two-term 4 bits from the published float net, weights only, ends float; --method for the others",
    data="cifar10",
    model=NET,
    augment="pad_crop_flip",
    normalise="imagenet",
    start="pretrained",
    shift=ShiftConfig(method="nearest", format="pot4x2", keep_first="float", keep_last="float", init="pretrained"),
    float_train=TrainConfig(
        epochs=200, batch_size=128, lr=0.1, optimizer="sgd", momentum=0.9, weight_decay=1e-4, schedule="step",
        milestones=(100, 150), gamma=0.1, amp="auto",
    ),
    train=TrainConfig(
        epochs=3, batch_size=128, lr=0.01, optimizer="sgd", momentum=0.9, nesterov=True, weight_decay=1e-4,
        schedule="cosine", warmup_epochs=0.3, distill_weight=0.9, distill_temperature=4.0, amp="auto",
        eval_batch_size=500, checkpoint_every_steps=100,
    ),
    source="our own budget: the papers have no such table",
    notes="""
- FILE is the published ResNet-20 (akamaster/pytorch_resnet_cifar10, 91.73 %); it is also the teacher of every row.
- Rows with integer activations are integer networks with one 16-bit multiplier per output channel; without any
  multiplication: ours_cifar10.
""",
    reached=(
        Reached(model=NET, bits=None, flags="--method float"),
        *(Reached(model=NET, bits=bits, flags="--method deepshift_q") for bits in (5, 4, 3, 2)),
        *(Reached(model=NET, bits=bits, flags=f"--method deepshift_ps {RADAM}") for bits in (5, 4, 3, 2)),
        *(Reached(model=NET, bits=bits, flags="--method s3") for bits in (3, 2)),
        *(Reached(model=NET, bits=bits, flags="--method denseshift") for bits in (4, 3, 2)),
        Reached(model=NET, bits=4),
        *(Reached(model=NET, bits=bits, flags="--method uniform") for bits in (4, 3, 2)),
        Reached(model=NET, bits=4, flags="--method apot"),
        Reached(model=NET, bits=5, flags="--method inq"),
        *(
            Reached(model=NET, bits=bits, flags=f"{method}--activations {activations} --multiplier True".strip())
            for method, bits in (("", 4), ("--method denseshift ", 3), ("--method uniform ", 3))
            for activations in (8, 6)
        ),
    ),
)  # fmt: skip

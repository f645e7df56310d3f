"""ResNet-20 on CIFAR-10 from the published float net, every method under one budget: our table in docs/accuracy.md."""

from __future__ import annotations

from bitshift.nn.config import ShiftConfig
from bitshift.train.config import TrainConfig
from bitshift.train.recipes import Reached, Recipe

TABLE, NET = "cifar_pretrained.json", "resnet20"
EVERY_LAYER = "--keep-first shift --keep-last shift"
Q, PS = f"--method deepshift_q {EVERY_LAYER}", f"--method deepshift_ps --optimizer radam --lr 0.001 {EVERY_LAYER}"
INTEGER = "--multiplier True --keep-first int8 --keep-last int8 --set amp=bf16"

RECIPE = Recipe(
    name="cifar10_pretrained",
    about="CIFAR-10, two-term 4 bits from the published float net, weights only, ends float; --method for the others",
    data="cifar10",
    model=NET,
    augment="pad_crop_flip",
    normalise="imagenet",
    start="pretrained",
    shift=ShiftConfig(
        method="nearest", format="pot4x2", keep_first="float", keep_last="float", init="pretrained",
        options={"scale": "free"},
    ),
    float_train=TrainConfig(
        epochs=200, batch_size=128, lr=0.1, optimizer="sgd", momentum=0.9, weight_decay=1e-4, schedule="step",
        milestones=(100, 150), gamma=0.1, amp="auto",
    ),
    train=TrainConfig(
        epochs=3, batch_size=128, lr=0.01, optimizer="sgd", momentum=0.9, nesterov=True, weight_decay=1e-4,
        schedule="cosine", warmup_epochs=0.1, distill_weight=0.9, distill_temperature=4.0, amp="auto",
        eval_every=3, eval_batch_size=500, checkpoint_every_steps=100,
    ),
    source="our own budget, that of bench/cifar_table.py: the papers have no such table",
    notes="""
- FILE is the published ResNet-20 (akamaster/pytorch_resnet_cifar10, 91.73 %); it teaches every row, the float one too.
- Rows with integer activations are integer networks with one 16-bit multiplier per output channel and int8 ends;
  without any multiplication: ours_cifar10.
- DeepShift and INQ convert every layer, the others keep the first convolution and the last layer.
""",
    reached=(
        Reached(model=NET, bits=None, flags="--method float", source=TABLE, case="float", float_case=None),
        *(Reached(model=NET, bits=b, flags=Q, source=TABLE, case=f"DeepShift-Q-{b}") for b in (5, 4, 3, 2)),
        *(
            Reached(model=NET, bits=b, flags=f"{PS}", source=TABLE, case=f"DeepShift-PS-{b}")
            for b in (5, 4, 3, 2)
        ),
        *(Reached(model=NET, bits=b, flags="--method s3", source=TABLE, case=f"S3-{b}") for b in (3, 2)),
        *(
            Reached(model=NET, bits=b, flags="--method denseshift", source=TABLE, case=f"DenseShift-{b}")
            for b in (4, 3, 2)
        ),
        Reached(model=NET, bits=4, source=TABLE, case="two-term 4"),
        *(Reached(model=NET, bits=b, flags="--method uniform", source=TABLE, case=f"uniform-{b}") for b in (4, 3, 2)),
        Reached(model=NET, bits=4, flags="--method apot", source=TABLE, case="APoT-4"),
        Reached(model=NET, bits=5, flags=f"--method inq {EVERY_LAYER}", source=TABLE, case="INQ-5"),
        *(
            Reached(
                model=NET, bits=b, flags=f"{method}--activations {activations} {INTEGER}", source=TABLE,
                case=f"{name}, {activations}-bit activations",
            )
            for name, method, b in (
                ("two-term 4", "", 4), ("DenseShift-3", "--method denseshift ", 3),
                ("uniform-3", "--method uniform ", 3),
            )
            for activations in (8, 6)
        ),
    ),
)  # fmt: skip

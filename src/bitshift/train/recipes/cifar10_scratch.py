"""ResNet-20 on CIFAR-10 from scratch, every method under one budget: our table in docs/accuracy.md."""

from __future__ import annotations

from bitshift.nn.config import ShiftConfig
from bitshift.train.config import TrainConfig
from bitshift.train.recipes import Reached, Recipe

TABLE, NET = "cifar_scratch.json", "resnet20"
DECAY = "--set latent_decay=None"
SGD = f"--optimizer sgd --lr 0.1 {DECAY}"
EVERY_LAYER = "--init pretrained --keep-first shift --keep-last shift"

RECIPE = Recipe(
    name="cifar10_scratch",
    about="CIFAR-10, DenseShift-3 from scratch, first and last layer float, float activations; --method for the others",
    data="cifar10",
    model=NET,
    augment="pad_crop_flip",
    normalise="imagenet",
    shift=ShiftConfig(method="denseshift", bits=3, keep_first="float", keep_last="float", options={"std": 0.03}),
    train=TrainConfig(
        epochs=15, batch_size=128, lr=0.03, optimizer="radam", momentum=0.9, weight_decay=1e-4, latent_decay=0.1,
        schedule="cosine", distill_weight=0.0, amp="auto", eval_every=15, eval_batch_size=500,
        checkpoint_every_steps=100,
    ),
    source="our own budget, that of bench/cifar_table.py: the papers have no such table",
    notes="""
- DeepShift converts every layer and starts from the converted random float net, as its CIFAR-10 script does; S3,
  DenseShift and uniform keep the first convolution and the last layer float, as S3's and DenseShift's code does.
- DenseShift's paper trains by SGD, rate 0.1, latents of deviation 0.001: the row "DenseShift-3, SGD". RAdam with wider
  latents that decay won the probes of docs/accuracy.md, and RAdam for the float network, S3 and uniform too.
- latent_decay: without it latents wander so far from zero that the falling rate finds few that still can flip.
- The rates of DeepShift-PS and of DeepShift-Q under SGD won probes of 100 steps.
- Norms, biases and scales do not decay here.
""",
    reached=(
        Reached(model=NET, bits=None, flags="--method float", source=TABLE, case="float", float_case=None),
        Reached(
            model=NET, bits=None, flags=f"--method float --weight-decay 0.1 {DECAY}", source=TABLE,
            case="float, weight decay 0.1", float_case=None,
        ),
        Reached(model=NET, bits=None, flags=f"--method float {SGD}", source=TABLE, case="float, SGD", float_case=None),
        Reached(
            model=NET, bits=5, flags=f"--method deepshift_q {EVERY_LAYER}", source=TABLE, case="DeepShift-Q-5",
        ),
        Reached(
            model=NET, bits=5, flags=f"--method deepshift_q --optimizer sgd --lr 0.01 {EVERY_LAYER} {DECAY}",
            source=TABLE, case="DeepShift-Q-5, SGD",
        ),
        Reached(
            model=NET, bits=5, flags=f"--method deepshift_ps --lr 0.1 {EVERY_LAYER} {DECAY}", source=TABLE,
            case="DeepShift-PS-5",
        ),
        Reached(model=NET, bits=3, flags="--method s3", source=TABLE, case="S3-3"),
        Reached(model=NET, bits=2, source=TABLE, case="DenseShift-2"),
        Reached(model=NET, bits=3, source=TABLE, case="DenseShift-3"),
        Reached(model=NET, bits=3, flags=f"--option std=0.001 {SGD}", source=TABLE, case="DenseShift-3, SGD"),
        Reached(model=NET, bits=4, source=TABLE, case="DenseShift-4"),
        Reached(
            model=NET, bits=3, flags=f"--method uniform --init pretrained --option lr_step=0.0009 {DECAY}",
            source=TABLE, case="uniform-3",
        ),
    ),
)  # fmt: skip

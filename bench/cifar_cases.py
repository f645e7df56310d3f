"""The rows of bench/cifar_table.py: which networks, from which start, with which rate. Data, no code that runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row. ``shift`` None is the float network.

    Args:
        seeds: how many seeds the table wants of this row, from 0.
        pixel: the network takes ``(pixel - 128) / 64``, exact in fixed point; a pretrained first layer takes the
            difference. Else what the published network takes.
        train: fields of TrainConfig that this row changes.
    """

    name: str
    shift: dict[str, Any] | None
    lr: float
    optimizer: str = "sgd"
    seeds: int = 1
    pixel: bool = False
    train: dict[str, Any] = field(default_factory=dict)

    @property
    def integer(self) -> bool:
        """Whether the row is an integer network, which is exported and counted."""
        return self.shift is not None and isinstance(self.shift.get("activations"), int)


# S3's and DenseShift's code leaves the first convolution and the last layer in float; the rows to be compared with them
# do the same. DeepShift converts every layer. "ours" converts every layer and every value.
ENDS = {"keep_first": "float", "keep_last": "float"}


# The rows of 3 bits were trained in bfloat16 autocast; what amp="auto" has for integer networks is float32.
def _ours(name: str, format: str, *, bits: int = 8, amp: str = "bf16", **shift: Any) -> Case:
    options = {"scale": "free"} if shift.get("multiplier") else {}
    return Case(
        name=f"ours: {name}, {bits}-bit activations", lr=0.01, seeds=3, pixel=True,
        shift={"method": "nearest", "format": format, "activations": bits, "options": options, **shift},
        train={"amp": amp},
    )  # fmt: skip


def _activations(name: str, lr: float, seeds: int, **shift: Any) -> tuple[Case, ...]:
    """A weight set with float, 8- and 6-bit activations; one multiplier a channel where they are integers."""
    rows = [Case(name=name, lr=lr, seeds=seeds, shift={**shift, **ENDS})]
    for bits in (8, 6):
        more = {"activations": bits, "multiplier": True, "keep_first": "int8", "keep_last": "int8"}
        rows.append(Case(name=f"{name}, {bits}-bit activations", lr=lr, shift=shift | more, train={"amp": "bf16"}))
    return tuple(rows)


PRETRAINED = (
    Case(name="float", shift=None, lr=0.01, seeds=3),
    *(Case(name=f"DeepShift-Q-{b}", shift={"method": "deepshift_q", "bits": b}, lr=0.01) for b in (2, 3, 4, 5)),
    *(
        Case(name=f"DeepShift-PS-{b}", shift={"method": "deepshift_ps", "bits": b}, lr=0.001, optimizer="radam")
        for b in (2, 3, 4, 5)
    ),
    *(Case(name=f"S3-{b}", shift={"method": "s3", "bits": b, **ENDS}, lr=0.01) for b in (2, 3)),
    Case(name="DenseShift-2", shift={"method": "denseshift", "bits": 2, **ENDS}, lr=0.01),
    *_activations("DenseShift-3", 0.01, 3, method="denseshift", bits=3),
    Case(name="DenseShift-4", shift={"method": "denseshift", "bits": 4, **ENDS}, lr=0.01),
    *_activations("two-term 4", 0.01, 3, method="nearest", format="pot4x2", options={"scale": "free"}),
    Case(name="uniform-2", shift={"method": "uniform", "bits": 2, **ENDS}, lr=0.01),
    *_activations("uniform-3", 0.01, 3, method="uniform", bits=3),
    Case(name="uniform-4", shift={"method": "uniform", "bits": 4, **ENDS}, lr=0.01),
    Case(name="APoT-4", shift={"method": "apot", "bits": 4, **ENDS}, lr=0.01),
    Case(name="INQ-5", shift={"method": "inq", "bits": 5}, lr=0.01),
    _ours("two-term 4", "pot4x2", amp="off"),
    _ours("3 bits", "pot3d"),
    _ours("3 bits, a multiplier a channel", "pot3d", multiplier=True),
    *(_ours("two-term 4", "pot4x2", bits=b, amp="off") for b in (7, 6)),
    *(_ours("3 bits, a multiplier a channel", "pot3d", bits=b, multiplier=True) for b in (7, 6)),
)
"""From the published float network, distilled from it."""

# Optimisers and rates of float, DenseShift, S3, uniform: see PROBES and docs/accuracy.md. DeepShift-Q takes theirs;
# DeepShift-PS's and the row "DeepShift-Q-5, SGD" have what won shorter probes.
DENSE: dict[str, Any] = {"method": "denseshift", "options": {"std": 0.03}, **ENDS}
S3 = {"method": "s3", "bits": 3, **ENDS}
UNIFORM = {"method": "uniform", "bits": 3, "init": "pretrained", **ENDS}
STEPS = {"options": {"lr_step": 0.0009}}
DEEPSHIFT_Q = {"method": "deepshift_q", "bits": 5, "init": "pretrained"}
FORGET: dict[str, Any] = {"latent_decay": 0.1}


def _radam(name: str, shift: dict[str, Any] | None, *, seeds: int = 1, **train: Any) -> Case:
    return Case(name=name, shift=shift, lr=0.03, optimizer="radam", seeds=seeds, train=train)


SCRATCH = (
    _radam("float", None, seeds=3, **FORGET),
    _radam("float, weight decay 0.1", None, weight_decay=0.1),
    Case(name="float, SGD", shift=None, lr=0.1),
    _radam("DeepShift-Q-5", DEEPSHIFT_Q, **FORGET),
    Case(name="DeepShift-Q-5, SGD", shift=DEEPSHIFT_Q, lr=0.01),
    Case(
        name="DeepShift-PS-5",
        lr=0.1,
        optimizer="radam",
        shift={"method": "deepshift_ps", "bits": 5, "init": "pretrained"},
    ),
    _radam("S3-3", S3, **FORGET),
    _radam("DenseShift-2", DENSE | {"bits": 2}, **FORGET),
    _radam("DenseShift-3", DENSE | {"bits": 3}, seeds=3, **FORGET),
    Case(name="DenseShift-3, SGD", shift={"method": "denseshift", "bits": 3, **ENDS}, lr=0.1),
    _radam("DenseShift-4", DENSE | {"bits": 4}, **FORGET),
    _radam("uniform-3", UNIFORM | STEPS, seeds=3),
)
"""From random weights; no teacher. DeepShift and uniform convert the random float net, as DeepShift's script does."""


def _probe(name: str, shift: dict[str, Any] | None, optimizer: str, lr: float) -> Case:
    return Case(name=f"{name}, {optimizer} {lr:g}", shift=shift, lr=lr, optimizer=optimizer.lower())


def _dense(deviation: float, optimizer: str, lr: float) -> Case:
    shift = DENSE | {"bits": 3, "options": {"std": deviation}}
    return _probe(f"DenseShift-3 of deviation {deviation:g}", shift, optimizer, lr)


PROBES = (
    _probe("float", None, "SGD", 0.1),
    *(_probe("float", None, "RAdam", lr) for lr in (0.003, 0.01, 0.03, 0.1)),
    *(_dense(deviation, "SGD", 0.1) for deviation in (0.0003, 0.001, 0.003)),
    _dense(0.03, "RAdam", 0.003),
    *(_dense(deviation, "RAdam", 0.01) for deviation in (0.01, 0.03, 0.1)),
    *(_dense(deviation, "RAdam", 0.03) for deviation in (0.01, 0.03)),
    _dense(0.03, "RAdam", 0.1),
    *(_probe("uniform-3", UNIFORM, "RAdam", lr) for lr in (0.003, 0.03)),
    _probe("S3-3", S3, "RAdam", 0.03),
)
"""Optimisers and rates from scratch, judged on training rows that are held out."""

DECAYS = (
    _radam("float", None),
    _radam("float, weights decay by 0.1", None, weight_decay=0.1),
    _radam("DenseShift-3", DENSE | {"bits": 3}),
    *(_radam(f"DenseShift-3, latents decay by {x:g}", DENSE | {"bits": 3}, latent_decay=x) for x in (0.1, 0.3)),
    _radam("DenseShift-3, latents and float layers decay by 0.1", DENSE | {"bits": 3}, weight_decay=0.1),
    _radam("uniform-3, steps at 0.03 of the rate", UNIFORM | STEPS),
)
"""What the decay of weights and of latents is worth under RAdam, and LSQ at its best, on the same held-out rows."""

TABLES = {"pretrained": PRETRAINED, "scratch": SCRATCH, "probes": PROBES, "decays": DECAYS}
HELD_OUT = ("probes", "decays")
"""Tables that see no test image: they are judged on every tenth training image."""

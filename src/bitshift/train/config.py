"""The configuration of a training run."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides the numbers of a run, apart from model and data.

    Args:
        epochs: passes over the training rows.
        batch_size: joint batch of all processes.
        accumulate: micro-batches that a process cuts its share of the joint batch into, to save memory. Only norms
            and quantisers notice: they see one micro-batch at a time.
        lr: peak learning rate; the schedule multiplies it.
        optimizer: ``sgd`` (momentum), ``adamw`` or ``radam`` (decoupled decay, as DeepShift-PS needs).
        momentum, nesterov: of SGD.
        weight_decay: of weights; norms, biases and scales are exempt, latents follow their method.
        latent_decay: of the latents instead; None: ``weight_decay``. With ``adamw`` and ``radam`` a latent forgets in
            about ``1 / (lr * latent_decay)`` steps what it has gathered: it stays near enough to zero to flip.
        decay_all: norms and biases decay too, as the code of the early papers has it; scales never do.
        schedule: ``cosine`` to 0, ``step`` (times ``gamma`` every ``step_size`` epochs, or at each of ``milestones``),
            ``onecycle`` (up over 30 % of the run, then to 0) or ``constant``.
        milestones: epochs, rising, fractions are fine, at which ``step`` drops (empty: never); None: every
            ``step_size``.
        cycles: the schedule starts anew so often, in equal parts of the run; ``step_size`` and ``milestones`` count
            from the start of a part.
        warmup_epochs: linear rise from 0 in front of the schedule; fractions are fine.
        clip_norm: largest joint gradient norm; None leaves gradients alone.
        amp: ``bf16`` runs convolutions and matrix products of training in bfloat16, ``auto`` does so where the device
            has bfloat16 arithmetic and the activations are float (an integer simulation needs exact sums).
            Evaluation is always float32. ``fp16`` is for GPUs without bfloat16; its loss is scaled.
        compile: let torch.compile fuse the network's forward and backward pass; equal up to float rounding.
        distill_weight, distill_temperature: loss ``(1 - w) CE + w T^2 KL(teacher || student)`` when a teacher is given.
        teacher_cache: folder that keeps the teacher's logits for other runs with the same teacher, data, augmentation,
            seed and batch size; read logits equal computed ones to the bit. None computes them every time.
        label_smoothing: of the cross-entropy.
        mixup, cutmix: parameters of the Beta distributions that mix pairs of images and their labels; 0 is off, and of
            two that are on each image draws one. Logged accuracies of the training are then those of the larger share.
        ema_decay: decay a step of an exponential average of the weights, which is what is evaluated and kept; 0 is off.
        reestimate_rows: training rows from which the norms' statistics are set anew before each evaluation; training
            goes on with its own. 0 is off.
        seed: of the row order and augmentation, and of torch, numpy and python at the first step.
        keep: which state ``model.safetensors`` holds and ``fit`` leaves in the model: the ``last`` one, or the ``best``
            one on the validation rows (an optimistic choice when these are the test set).
        eval_every, eval_batch_size: epochs between evaluations (the last is always evaluated), rows at a time, also of
            the calibration and of ``reestimate_rows``, which average over such batches.
        calibration_rows: training rows that set the activation quantisers before the first step.
        flips_every: steps between records of how many weights flipped (lines ``flip_steps`` of metrics.jsonl, see
            nn/metrics.py); 0 records at the end of each epoch only.
        log_every: steps between lines of metrics.jsonl.
        checkpoint_every_steps: 0 writes a checkpoint at the end of each epoch only.
        device: ``auto``, ``cpu`` or ``cuda``.
        sync_norm: batch norms of several processes see the joint batch; otherwise each process its own share.
        peer_timeout: seconds after which a process that waits for another one gives up.
        channels_last: memory layout of image batches; only speed.
        tensorboard: also write TensorBoard events (needs the extra ``tensorboard``).
        progress: bar on a terminal, plain log lines elsewhere; ``off`` for neither.
    """

    epochs: int
    batch_size: int
    lr: float
    accumulate: int = 1
    optimizer: Literal["sgd", "adamw", "radam"] = "sgd"
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    latent_decay: float | None = None
    decay_all: bool = False
    schedule: Literal["cosine", "step", "onecycle", "constant"] = "cosine"
    warmup_epochs: float = 0.0
    step_size: int = 30
    gamma: float = 0.1
    milestones: tuple[float, ...] | None = None
    cycles: int = 1
    clip_norm: float | None = None
    amp: Literal["off", "auto", "bf16", "fp16"] = "off"
    compile: bool = False
    distill_weight: float = 0.9
    distill_temperature: float = 4.0
    teacher_cache: str | None = None
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    ema_decay: float = 0.0
    reestimate_rows: int = 0
    seed: int = 0
    keep: Literal["last", "best"] = "last"
    eval_every: int = 1
    eval_batch_size: int = 250
    calibration_rows: int = 512
    flips_every: int = 0
    log_every: int = 50
    checkpoint_every_steps: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    channels_last: bool = True
    sync_norm: bool = True
    peer_timeout: float = 600.0
    tensorboard: bool = False
    progress: Literal["auto", "off"] = "auto"

    def __post_init__(self) -> None:
        def need(name: str, good: bool, allowed: str) -> None:
            if not good:
                raise ValueError(f"TrainConfig.{name} = {getattr(self, name)!r}: allowed is {allowed}")

        if isinstance(self.milestones, list):  # from JSON or the command line
            object.__setattr__(self, "milestones", tuple(self.milestones))
        for name in (
            "epochs",
            "batch_size",
            "step_size",
            "cycles",
            "eval_every",
            "eval_batch_size",
            "log_every",
            "calibration_rows",
        ):
            need(name, isinstance(getattr(self, name), int) and getattr(self, name) >= 1, "a whole number from 1")
        for name in ("nesterov", "decay_all", "compile", "channels_last", "sync_norm", "tensorboard"):
            need(name, isinstance(getattr(self, name), bool), "true or false")
        parts = self.accumulate
        divides = isinstance(parts, int) and parts >= 1 and self.batch_size % parts == 0
        need("accumulate", divides, f"a whole number from 1 that divides batch_size = {self.batch_size}")
        need(
            "reestimate_rows",
            isinstance(self.reestimate_rows, int) and self.reestimate_rows >= 0,
            "a whole number from 0",
        )
        need("ema_decay", 0 <= self.ema_decay < 1, "0 up to, not including, 1")
        need("mixup", 0 <= self.mixup < float("inf"), "a number from 0")
        need("cutmix", 0 <= self.cutmix < float("inf"), "a number from 0")
        need("peer_timeout", self.peer_timeout > 0, "a positive number")
        need("flips_every", self.flips_every >= 0, "a whole number from 0")
        need("checkpoint_every_steps", self.checkpoint_every_steps >= 0, "a whole number from 0")
        need("lr", 0 < self.lr < float("inf"), "a positive number")
        need("optimizer", self.optimizer in ("sgd", "adamw", "radam"), "sgd, adamw, radam")
        need(
            "schedule", self.schedule in ("cosine", "step", "onecycle", "constant"), "cosine, step, onecycle, constant"
        )
        need("amp", self.amp in ("off", "auto", "bf16", "fp16"), "off, auto, bf16, fp16")
        need("device", self.device in ("auto", "cpu", "cuda"), "auto, cpu, cuda")
        need("keep", self.keep in ("last", "best"), "last, best")
        need("progress", self.progress in ("auto", "off"), "auto, off")
        need("momentum", 0 <= self.momentum < 1, "0 up to, not including, 1")
        need("nesterov", not self.nesterov or self.momentum > 0, "False, or a momentum above 0")
        need("weight_decay", self.weight_decay >= 0, "a number from 0")
        need("latent_decay", self.latent_decay is None or self.latent_decay >= 0, "None or a number from 0")
        need("warmup_epochs", 0 <= self.warmup_epochs < self.epochs, f"0 up to, not including, epochs = {self.epochs}")
        rising = self.milestones is None or all(a < b for a, b in pairwise((0, *self.milestones, float("inf"))))
        need("milestones", rising, "None, or rising epochs above 0")
        need("gamma", 0 < self.gamma <= 1, "above 0, at most 1")
        need("clip_norm", self.clip_norm is None or self.clip_norm > 0, "None or a positive number")
        need("distill_weight", 0 <= self.distill_weight <= 1, "0..1")
        need("distill_temperature", self.distill_temperature > 0, "a positive number")
        need("label_smoothing", 0 <= self.label_smoothing < 1, "0 up to, not including, 1")
        need(
            "teacher_cache",
            self.teacher_cache is None or (isinstance(self.teacher_cache, str) and self.teacher_cache != ""),
            "None or a folder, as text",
        )
        need("seed", isinstance(self.seed, int) and self.seed >= 0, "a whole number from 0")

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self) | {"milestones": None if self.milestones is None else list(self.milestones)}

    def numeric_differences(self, other: dict[str, Any]) -> list[str]:
        """Fields, but for those that only change what is shown or written, in which ``other`` is different."""
        # a field that is newer than the other run did nothing there, which is what every default means
        then = {f.name: f.default for f in fields(self)} | other
        # statistics are averaged over batches of the evaluation's size
        shown = SHOWN_ONLY - ({"eval_batch_size"} if self.reestimate_rows else set())
        return [
            f"{name}: {then[name]!r} then, {value!r} now"
            for name, value in self.as_dict().items()
            if name not in shown and then[name] != value
        ]


SHOWN_ONLY = frozenset(
    {
        *("log_every", "checkpoint_every_steps", "progress", "tensorboard", "eval_batch_size", "device"),
        *("teacher_cache", "peer_timeout"),
    }
)
"""Fields of a run that may differ when it is resumed: from there on none decides a number on one kind of device.

``eval_batch_size`` does where ``reestimate_rows`` are set.
"""

__all__ = ["SHOWN_ONLY", "TrainConfig"]

"""The configuration of a training run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides the numbers of a run, apart from model and data.

    Args:
        epochs: passes over the training rows.
        batch_size: joint batch of all processes.
        lr: peak learning rate; the schedule multiplies it.
        optimizer: ``sgd`` (momentum), ``adamw`` or ``radam`` (decoupled decay, as DeepShift-PS needs).
        momentum, nesterov: of SGD.
        weight_decay: of weights; norms, biases and scales are exempt, latents follow their method.
        decay_all: norms, biases and scales decay too, as the code of the early papers has it.
        schedule: ``cosine`` to 0, ``step`` (times ``gamma`` every ``step_size`` epochs, or at each of ``milestones``),
            ``onecycle`` (up over 30 % of the run, then to 0) or ``constant``.
        milestones: epochs, rising, fractions are fine, at which ``step`` drops; None: every ``step_size``.
        cycles: the schedule starts anew so often, in equal parts of the run; ``step_size`` and ``milestones`` count
            from the start of a part.
        warmup_epochs: linear rise from 0 in front of the schedule; fractions are fine.
        clip_norm: largest joint gradient norm; None leaves gradients alone.
        amp: ``bf16`` runs convolutions and matrix products of training in bfloat16, ``auto`` does so where the device
            has bfloat16 arithmetic and the activations are float (an integer simulation needs exact sums).
            Evaluation is always float32.
        distill_weight, distill_temperature: loss ``(1 - w) CE + w T^2 KL(teacher || student)`` when a teacher is given.
        teacher_cache: folder that keeps the teacher's logits for other runs with the same teacher, data, augmentation,
            seed and batch size; read logits equal computed ones to the bit. None computes them every time.
        label_smoothing: of the cross-entropy.
        seed: of the row order and augmentation, and of torch, numpy and python at the first step.
        keep: which state ``model.safetensors`` holds and ``fit`` leaves in the model: the ``last`` one, or the ``best``
            one on the validation rows (an optimistic choice when these are the test set).
        eval_every, eval_batch_size: epochs between evaluations (the last is always evaluated), rows at a time.
        calibration_rows: training rows that set the activation quantisers before the first step.
        log_every: steps between lines of metrics.jsonl.
        checkpoint_every_steps: 0 writes a checkpoint at the end of each epoch only.
        device: ``auto``, ``cpu`` or ``cuda``.
        channels_last: memory layout of image batches; only speed.
        tensorboard: also write TensorBoard events (needs the extra ``tensorboard``).
        progress: bar on a terminal, plain log lines elsewhere; ``off`` for neither.
    """

    epochs: int
    batch_size: int
    lr: float
    optimizer: Literal["sgd", "adamw", "radam"] = "sgd"
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    decay_all: bool = False
    schedule: Literal["cosine", "step", "onecycle", "constant"] = "cosine"
    warmup_epochs: float = 0.0
    step_size: int = 30
    gamma: float = 0.1
    milestones: tuple[float, ...] | None = None
    cycles: int = 1
    clip_norm: float | None = None
    amp: Literal["off", "auto", "bf16"] = "off"
    distill_weight: float = 0.9
    distill_temperature: float = 4.0
    teacher_cache: str | None = None
    label_smoothing: float = 0.0
    seed: int = 0
    keep: Literal["last", "best"] = "last"
    eval_every: int = 1
    eval_batch_size: int = 250
    calibration_rows: int = 512
    log_every: int = 50
    checkpoint_every_steps: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    channels_last: bool = True
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
        need("checkpoint_every_steps", self.checkpoint_every_steps >= 0, "a whole number from 0")
        need("lr", 0 < self.lr < float("inf"), "a positive number")
        need("optimizer", self.optimizer in ("sgd", "adamw", "radam"), "sgd, adamw, radam")
        need(
            "schedule", self.schedule in ("cosine", "step", "onecycle", "constant"), "cosine, step, onecycle, constant"
        )
        need("amp", self.amp in ("off", "auto", "bf16"), "off, auto, bf16")
        need("device", self.device in ("auto", "cpu", "cuda"), "auto, cpu, cuda")
        need("keep", self.keep in ("last", "best"), "last, best")
        need("progress", self.progress in ("auto", "off"), "auto, off")
        need("momentum", 0 <= self.momentum < 1, "0 up to, not including, 1")
        need("nesterov", not self.nesterov or self.momentum > 0, "False, or a momentum above 0")
        need("weight_decay", self.weight_decay >= 0, "a number from 0")
        need("warmup_epochs", 0 <= self.warmup_epochs < self.epochs, f"0 up to, not including, epochs = {self.epochs}")
        drops = self.milestones
        rising = drops is None or all(0 < a < b for a, b in zip(drops, (*drops[1:], float("inf")), strict=True))
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
        mine = self.as_dict()
        return [
            f"{name}: {other.get(name)!r} then, {value!r} now"
            for name, value in mine.items()
            if name not in SHOWN_ONLY and other.get(name, value) != value
        ]


SHOWN_ONLY = frozenset(
    {"log_every", "checkpoint_every_steps", "progress", "tensorboard", "eval_batch_size", "device", "teacher_cache"}
)
"""Fields of a run that may differ when it is resumed: none of them decides a trained number on one kind of device."""

__all__ = ["SHOWN_ONLY", "TrainConfig"]

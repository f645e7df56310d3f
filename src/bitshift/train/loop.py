"""The training loop: one process or torchrun, resumable at any step to the bit."""

from __future__ import annotations

import json
import math
import random
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bitshift.nn.activations import ActQuant, calibrate
from bitshift.nn.method import Method
from bitshift.nn.metrics import FlipTracker
from bitshift.train import checkpoint as ckpt
from bitshift.train.config import TrainConfig
from bitshift.train.data.arrays import ArrayData
from bitshift.train.data.augment import Augment
from bitshift.train.data.sampler import EpochSampler, step_generator
from bitshift.train.distill import task_loss
from bitshift.train.distributed import World, join_world
from bitshift.train.evaluate import EvalResult, evaluate
from bitshift.train.optim import build_optimizer, set_lr
from bitshift.train.progress import Reporter, logger
from bitshift.train.schedule import lr_factor
from bitshift.train.teacher import Teacher, TeacherCache, model_fingerprint


class TrainingDiverged(RuntimeError):  # noqa: N818 - it names a state, not a mistake
    """The loss is no longer a finite number."""


class TrainingStopped(SystemExit):
    """SIGTERM came; the checkpoint is written and the process ends with status 143 unless somebody catches this."""


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """What a run reached: ``valid`` belongs to the state in ``model.safetensors`` (``TrainConfig.keep``)."""

    valid: EvalResult
    best_accuracy: float
    best_epoch: int
    steps: int
    seconds: float
    run_dir: Path

    @property
    def accuracy(self) -> float:
        """Validation accuracy as a fraction in 0..1."""
        return self.valid.accuracy


def fit(
    model: nn.Module,
    config: TrainConfig,
    train_data: ArrayData,
    valid_data: ArrayData,
    *,
    run_dir: str | Path,
    teacher: nn.Module | None = None,
    resume: bool = True,
    augment: Augment | None = None,
    about: Mapping[str, Any] | None = None,
) -> FitResult:
    """Train ``model`` in place and leave a run directory.

    ``run_dir`` receives config.json, metrics.jsonl, checkpoint.safetensors + checkpoint.json and model.safetensors.
    With ``resume`` a checkpoint found there is continued: model, optimiser, random states and data position are those
    of the step after which it was written, so the end is bit-identical to an undisturbed run on the same
    machine and thread count. A finished run is evaluated and returned. ``resume=False`` refuses a used directory.

    Seeds torch's, numpy's and python's global generators from ``config.seed``. ``about`` (JSON-ready) is kept in
    config.json; it has to be the same on resuming.

    Raises:
        ValueError: a configuration, data or directory that does not fit; names the field and both values.
        CheckpointError: a checkpoint that is damaged or belongs to another model.
        TrainingDiverged: the loss is not finite.
        TrainingStopped: SIGTERM; a checkpoint was written.
    """
    if train_data.normalise != valid_data.normalise or train_data.class_names != valid_data.class_names:
        raise ValueError(
            "training and validation data differ in normalise or class_names "
            f"({train_data.normalise} and {valid_data.normalise}); use with_normalise() to make them agree"
        )
    with join_world(config.device) as world, _sigterm() as stop:
        run = _Run(model, config, train_data, valid_data, Path(run_dir), teacher, augment, dict(about or {}), world)
        return run.go(resume, stop)


@contextmanager
def _sigterm() -> Iterator[threading.Event]:
    """An event that SIGTERM sets instead of ending the process; only the main thread can have it."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = signal.signal(signal.SIGTERM, lambda *_: event.set())
    try:
        yield event
    finally:
        signal.signal(signal.SIGTERM, before)


def use_bf16(amp: str, device: torch.device, model: nn.Module) -> bool:
    """Whether training runs in bfloat16: asked for, or ``auto`` on capable hardware with float activations."""
    if amp != "auto":
        return amp == "bf16"
    if any(isinstance(module, ActQuant) for module in model.modules()):
        return False
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


class _Run:
    """One run. State: the model, the optimiser, the position (epoch, step), sums of the epoch, flip metrics."""

    def __init__(
        self, model: nn.Module, config: TrainConfig, train_data: ArrayData, valid_data: ArrayData, folder: Path,
        teacher: nn.Module | None, augment: Augment | None, about: dict[str, Any], world: World,
    ) -> None:  # fmt: skip
        self.config, self.train_data, self.valid_data = config, train_data, valid_data
        self.folder, self.augment, self.world = folder, augment, world
        self.model = model.to(world.device)
        self.sampler = EpochSampler(
            count=len(train_data), batch_size=config.batch_size, seed=config.seed, rank=world.rank, world=world.size
        )
        self.total = config.epochs * self.sampler.steps
        self.methods = [m for m in self.model.modules() if isinstance(m, Method)]
        self.bf16 = use_bf16(config.amp, world.device, model)
        self.teacher = self._teacher(teacher) if teacher is not None else None
        self.step = 0
        self.sums = torch.zeros(3, dtype=torch.float64, device=world.device)  # loss, correct rows, steps
        self.best_accuracy, self.best_epoch = -1.0, -1
        self.seconds = 0.0
        self.last_valid: EvalResult | None = None
        self.identity = {
            "train": config.as_dict(),
            "data": {
                "train": train_data.fingerprint(), "valid": valid_data.fingerprint(),
                "class_names": list(train_data.class_names),
                "normalise": {"mean": list(train_data.normalise.mean), "scale": list(train_data.normalise.scale)},
                "augment": repr(augment), "teacher": type(teacher).__name__ if teacher is not None else None,
            },
            "world": world.size, "about": json.loads(json.dumps(about)),
        }  # fmt: skip

    def go(self, resume: bool, stop: threading.Event) -> FitResult:
        config, world = self.config, self.world
        found = ckpt.load_checkpoint(self.folder) if self.folder.exists() else None
        if found is not None and not resume:
            raise ValueError(f"{self.folder} holds a run already; choose another run directory, or resume it")
        # also a barrier: nobody writes before everybody has looked
        seen = {bool(flag) for flag in world.gather(torch.tensor([found is not None]))}
        if len(seen) > 1:
            raise ValueError(
                f"only some processes find a checkpoint in {self.folder}; all of them must see the run directory"
            )
        if world.is_main:
            self.folder.mkdir(parents=True, exist_ok=True)
        self._seed()
        if found is None:
            self._calibrate()
        world.share_from_main(self.model)
        if self.teacher is not None:
            world.share_from_main(self.teacher.model)
            self._use_cache(self.teacher)
        self.flips = FlipTracker(self.model, floats=True)
        self.optimizer = build_optimizer(self.model, config)
        metrics_size = 0
        if found is not None:
            metrics_size = self._restore(found)
        else:
            self.flips.record(0)
            if world.is_main:
                ckpt.write_atomic(self.folder / "config.json", json.dumps(self.identity, indent=1).encode())
        self.net: nn.Module = self.model
        if world.size > 1:
            ids = [world.device] if world.device.type == "cuda" else None
            self.net = DistributedDataParallel(self.model, device_ids=ids)
        with Reporter(
            self.folder if world.is_main else None, size=metrics_size, total_steps=self.total, start_step=self.step,
            tensorboard=config.tensorboard, progress=config.progress,
        ) as self.report:  # fmt: skip
            self._train(stop)
            return self._finish()

    def _teacher(self, model: nn.Module) -> Teacher:
        return Teacher(model.to(self.world.device))

    def _use_cache(self, teacher: Teacher) -> None:
        """Give ``teacher``, as all processes now have it, the cache of exactly this data, order and arithmetic."""
        if self.config.teacher_cache is None:
            return
        data = self.identity["data"]
        identity = {
            "teacher": model_fingerprint(teacher.model), "data": data["train"], "normalise": data["normalise"],
            "augment": data["augment"], "seed": self.config.seed, "batch_size": self.config.batch_size,
            "bf16": self.bf16, "device": self.world.device.type, "torch": torch.__version__,
        }  # fmt: skip
        rows = self.sampler.steps * self.config.batch_size
        teacher.cache = TeacherCache(
            self.config.teacher_cache, identity, rows=rows, classes=len(self.train_data.class_names)
        )

    def _place(self) -> tuple[int, int]:
        """Epoch of the present step, and the place of this process's first row in the epoch's order."""
        epoch, batch = divmod(self.step, self.sampler.steps)
        return epoch, batch * self.config.batch_size + self.sampler.part.start

    def _seed(self) -> None:
        seed = step_generator(self.config.seed, 2, self.world.rank).initial_seed()
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002 - the user's code may use it
        random.seed(seed)

    def _calibrate(self) -> None:
        if any(isinstance(module, ActQuant) for module in self.model.modules()):
            rows = self.sampler.permutation(0)[: self.config.calibration_rows]
            # even parts: calibrate averages over batches, so a short last one would weigh as much as a full one
            parts = np.array_split(rows, -(-len(rows) // self.config.eval_batch_size))
            calibrate(self.model, [self._images(part)[0] for part in parts])

    def _images(self, rows: np.ndarray, place: tuple[int, int] | None = None) -> tuple[Tensor, Tensor]:
        """Normalised images and labels of ``rows``; augmented when a ``place`` (epoch, step) is given."""
        images, labels = self.train_data.batch(rows, self.world.device)
        if self.augment is not None and place is not None:
            generator = step_generator(self.config.seed, 1, *place)
            parameters = self.augment.draw(self.config.batch_size, generator)[self.sampler.part]
            images = self.augment.apply(images, parameters.to(images.device))
        images = self.train_data.normalise(images)
        if self.config.channels_last and images.dim() == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        return images, labels

    def _train(self, stop: threading.Event) -> None:
        config, per_epoch = self.config, self.sampler.steps
        begin, self._before = time.perf_counter(), self.seconds
        for epoch in range(self.step // per_epoch, config.epochs):
            order = self.sampler.permutation(epoch)
            self.model.train()
            for batch in range(self.step - epoch * per_epoch, per_epoch):
                rate = set_lr(self.optimizer, lr_factor(config, self.step, per_epoch))
                for method in self.methods:
                    method.set_progress(self.step / self.total)
                images, labels = self._images(self.sampler.rows(order, batch), (epoch, batch))
                self._step(images, labels)
                self.step += 1
                self.report.step(self.step)
                self.seconds = self._before + time.perf_counter() - begin
                if self.step % config.log_every == 0:
                    self._log_step(epoch, rate)
                if batch + 1 == per_epoch:
                    self._end_epoch(epoch)
                    self._save()
                elif config.checkpoint_every_steps and self.step % config.checkpoint_every_steps == 0:
                    self._save()
                if self._should_stop(stop):
                    self._save()
                    logger.warning(
                        "SIGTERM: stopped after step %d of %d, checkpoint in %s", self.step, self.total, self.folder
                    )
                    raise TrainingStopped(143)

    def _step(self, images: Tensor, labels: Tensor) -> None:
        config, device = self.config, self.world.device
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            logits = self.net(images)
            taught = None
            if self.teacher is not None:
                with torch.no_grad():
                    taught = self.teacher(images, *self._place())
        loss = task_loss(
            logits, labels, teacher_logits=taught, weight=config.distill_weight,
            temperature=config.distill_temperature, label_smoothing=config.label_smoothing,
        )  # fmt: skip
        total = loss
        for method in self.methods:
            total = total + method.penalty()
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        if config.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_norm)
        self.optimizer.step()
        for method in self.methods:
            method.after_step()
        correct = (logits.detach().argmax(1) == labels).double().mean()
        self.sums += torch.stack([loss.detach().double(), correct, torch.ones_like(correct)])

    def _should_stop(self, stop: threading.Event) -> bool:
        """Whether any process got SIGTERM; several processes ask each other every ten steps."""
        if self.world.size == 1:
            return stop.is_set()
        if self.step % 10:
            return False
        return bool(self.world.sum(torch.tensor([float(stop.is_set())])).item())

    def _means(self) -> tuple[float, float]:
        """Loss and accuracy of the epoch so far, over all processes."""
        sums = self.world.sum(self.sums.clone()).tolist()
        loss, accuracy = sums[0] / max(sums[2], 1), sums[1] / max(sums[2], 1)
        if not math.isfinite(loss):
            raise TrainingDiverged(
                f"the training loss became {loss} before step {self.step}; lower lr (now {self.config.lr}), "
                "set clip_norm, or add warmup_epochs. "
                f"The last good state is in {self.folder / ckpt.TENSORS}, if one was written"
            )
        return loss, accuracy

    def _log_step(self, epoch: int, rate: float) -> None:
        loss, accuracy = self._means()
        speed = round(self.step * self.config.batch_size / max(self.seconds, 1e-9), 1)
        self.report.write(
            "step", self.step, epoch=epoch, loss=loss, accuracy=accuracy, lr=rate, images_per_s=speed,
            seconds=round(self.seconds, 3),
        )  # fmt: skip

    def _end_epoch(self, epoch: int) -> None:
        loss, accuracy = self._means()
        values: dict[str, Any] = {"epoch": epoch, "train_loss": loss, "train_accuracy": accuracy}
        if (epoch + 1) % self.config.eval_every == 0 or epoch + 1 == self.config.epochs:
            self.world.share_from_main(self.model)
            valid = self.last_valid = self._evaluate()
            values |= {"valid_loss": valid.loss, "valid_accuracy": valid.accuracy}
            if valid.accuracy > self.best_accuracy:
                self.best_accuracy, self.best_epoch = valid.accuracy, epoch
                if self.config.keep == "best" and self.world.is_main:
                    ckpt.save_model(self.folder / "model.safetensors", self.model)
        self.report.write("epoch", self.step, **values, seconds=round(self.seconds, 3))
        self.report.write("flips", self.step, epoch=epoch, **self.flips.record(epoch + 1).as_dict())
        self.sums.zero_()

    def _evaluate(self) -> EvalResult:
        return evaluate(
            self.model, self.valid_data, batch_size=self.config.eval_batch_size, world=self.world,
            channels_last=self.config.channels_last,
        )  # fmt: skip

    def _finish(self) -> FitResult:
        path = self.folder / "model.safetensors"
        if self.config.keep == "best" and path.exists():
            ckpt.load_model(path, self.model)
        # the state of the last epoch's end has just been evaluated, unless another is loaded or nothing was trained
        reused = self.last_valid if self.config.keep == "last" else None
        self.world.share_from_main(self.model)
        valid = reused if reused is not None else self._evaluate()
        if self.world.is_main:
            if self.config.keep == "last":
                ckpt.save_model(path, self.model)
            self.report.write(
                "result", self.step, valid_accuracy=valid.accuracy, valid_loss=valid.loss,
                best_accuracy=self.best_accuracy, best_epoch=self.best_epoch, confusion=valid.confusion.tolist(),
                seconds=round(self.seconds, 3),
            )  # fmt: skip
        self.world.barrier()
        return FitResult(
            valid=valid, best_accuracy=self.best_accuracy, best_epoch=self.best_epoch, steps=self.step,
            seconds=self.seconds, run_dir=self.folder,
        )  # fmt: skip

    def _save(self) -> None:
        self._means()  # refuses to replace a good checkpoint by a diverged one
        states = self._gathered_random_states()
        if not self.world.is_main:
            return
        tensors: dict[str, Tensor] = {"sums": self.sums}
        tensors |= {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"optim.{k}": v for k, v in ckpt.optimizer_tensors(self.optimizer).items()}
        tensors |= {f"flips.{k}": v for k, v in self.flips.state_dict().items()}
        for rank, state in enumerate(states):
            tensors |= {f"random.{rank}.{k}": v for k, v in state.items()}
        state = {
            **self.identity, "step": self.step, "epoch": self.step // self.sampler.steps, "total_steps": self.total,
            "best_accuracy": self.best_accuracy, "best_epoch": self.best_epoch, "seconds": self.seconds,
            "metrics_bytes": self.report.size,
        }  # fmt: skip
        ckpt.save_checkpoint(self.folder, ckpt.Checkpoint(tensors=tensors, state=state))

    def _gathered_random_states(self) -> list[dict[str, Tensor]]:
        own = ckpt.random_state(self.world.device)
        gathered = {name: self.world.gather(tensor) for name, tensor in own.items()}
        return [{name: parts[rank] for name, parts in gathered.items()} for rank in range(self.world.size)]

    def _restore(self, found: ckpt.Checkpoint) -> int:
        """Take the state of ``found``; returns the size that metrics.jsonl had."""
        self._compare(found.state)
        where = str(self.folder / ckpt.TENSORS)
        ckpt.load_state(self.model, ckpt.under("model", found.tensors), where)
        ckpt.load_optimizer(self.optimizer, ckpt.under("optim", found.tensors))
        ckpt.restore_random_state(ckpt.under(f"random.{self.world.rank}", found.tensors), self.world.device)
        self.flips.load_state_dict(ckpt.under("flips", found.tensors))
        self.sums.copy_(found.tensors["sums"])
        self.step, self.seconds = int(found.state["step"]), float(found.state["seconds"])
        self.best_accuracy, self.best_epoch = float(found.state["best_accuracy"]), int(found.state["best_epoch"])
        return int(found.state["metrics_bytes"])

    def _compare(self, state: Mapping[str, Any]) -> None:
        differences = self.config.numeric_differences(state["train"])
        for part in ("data", "world", "about"):
            if state[part] != self.identity[part]:
                differences.append(f"{part}: {state[part]!r} then, {self.identity[part]!r} now")
        if differences:
            raise ValueError(
                f"{self.folder} was started with another configuration ({'; '.join(differences)}); "
                "use the old values to resume, or choose another run directory"
            )


__all__ = ["EvalResult", "FitResult", "TrainingDiverged", "TrainingStopped", "evaluate", "fit", "use_bf16"]

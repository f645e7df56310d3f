"""The training loop: one process or torchrun, resumable at any step to the bit."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bitshift.nn.activations import ActQuant, calibrate
from bitshift.nn.method import Method
from bitshift.train import checkpoint as ckpt
from bitshift.train.compiled import compiled_forward
from bitshift.train.config import TrainConfig
from bitshift.train.data.arrays import ArrayData
from bitshift.train.data.augment import Augment
from bitshift.train.data.base import TrainData
from bitshift.train.data.named import crops_at_decoding
from bitshift.train.data.sampler import EpochSampler, step_generator
from bitshift.train.distributed import World, join_world
from bitshift.train.evaluate import EvalResult, evaluate
from bitshift.train.feed import Feed
from bitshift.train.files import CHECKPOINT, CONFIG, WEIGHTS
from bitshift.train.flips import FlipLog
from bitshift.train.lock import RunInUseError, run_lock
from bitshift.train.norms import reestimate_norms
from bitshift.train.progress import Reporter, logger
from bitshift.train.state import Position, RunState, identity, refuse_differences, seed_everything
from bitshift.train.step import Stepper, half_type, use_bf16
from bitshift.train.syncnorm import joint_norms, own_norms
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
    train_data: TrainData,
    valid_data: TrainData,
    *,
    run_dir: str | Path,
    teacher: nn.Module | None = None,
    resume: bool = True,
    augment: Augment | None = None,
    about: Mapping[str, Any] | None = None,
) -> FitResult:
    """Train ``model`` in place and leave a run directory.

    ``run_dir`` receives config.json, metrics.jsonl, checkpoint.safetensors + checkpoint.json and model.safetensors.
    While it trains, ``.lock`` there keeps other runs out; it ends with its process, however that ends.
    With ``resume`` a checkpoint found there is continued: model, optimiser, random states and data position are those
    of the step after which it was written, so the end is bit-identical to an undisturbed run on the same
    machine, thread count and number of processes. A finished run is evaluated and returned. ``resume=False`` refuses a
    used directory.

    Seeds torch's, numpy's and python's global generators from ``config.seed``. ``about`` (JSON-ready) is kept in
    config.json; it has to be the same on resuming.

    Raises:
        ValueError: a configuration, data or directory that does not fit; names the field and both values.
        RunInUseError: another process trains into ``run_dir``.
        CheckpointError: a checkpoint that is damaged or belongs to another model.
        TrainingDiverged: the loss is not finite.
        TrainingStopped: SIGTERM; a checkpoint was written.
    """
    if train_data.is_pixels != valid_data.is_pixels:
        mine, other = ("uint8 pixels" if d.is_pixels else "float32 features" for d in (train_data, valid_data))
        raise ValueError(f"training data are {mine} and validation data {other}; store both alike")
    if train_data.normalise != valid_data.normalise or train_data.class_names != valid_data.class_names:
        raise ValueError(
            "training and validation data differ in normalise or class_names "
            f"({train_data.normalise} and {valid_data.normalise}); use with_normalise() to make them agree"
        )
    if train_data.sample_shape[0] != valid_data.sample_shape[0]:
        raise ValueError(
            f"training data are {train_data.sample_shape} a sample and validation data {valid_data.sample_shape}: both "
            "need the same number of channels"
        )
    with join_world(config.device, timeout=config.peer_timeout) as world, _sigterm() as stop:
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


class _Run:
    """One run: the network, what feeds it, what changes along the way, and the folder that keeps it."""

    def __init__(
        self, model: nn.Module, config: TrainConfig, train_data: TrainData, valid_data: TrainData, folder: Path,
        teacher: nn.Module | None, augment: Augment | None, about: dict[str, Any], world: World,
    ) -> None:  # fmt: skip
        self.config, self.valid_data, self.folder, self.world = config, valid_data, folder, world
        self.model = model.to(world.device)
        sampler = EpochSampler(
            count=len(train_data), batch_size=config.batch_size, seed=config.seed, rank=world.rank, world=world.size
        )
        share = config.batch_size // world.size
        if share % config.accumulate:
            raise ValueError(
                f"batch_size {config.batch_size} gives each of {world.size} processes {share} rows, which "
                f"cannot be cut into accumulate = {config.accumulate} equal parts"
            )
        if (config.mixup or config.cutmix) and share // config.accumulate % 2:
            raise ValueError(
                f"mixup and cutmix mix pairs of rows, but batch_size {config.batch_size} over {world.size} processes "
                f"and accumulate = {config.accumulate} leaves {share // config.accumulate} rows; choose an even number"
            )
        fed, rest = crops_at_decoding(train_data, augment)
        self.feed = Feed(data=fed, sampler=sampler, config=config, augment=rest, device=world.device)
        self.per_epoch = sampler.steps
        self.total = config.epochs * sampler.steps
        self.narrow_from = max((m.last_set_from for m in model.modules() if isinstance(m, Method)), default=0.0)
        if self.narrow_from > (self.total - 1) / self.total:
            raise ValueError(
                f"a method's last set of levels begins at {self.narrow_from:g} of the run, and the last of its "
                f"{self.total} steps at {(self.total - 1) / self.total:g}: nothing would train in it; begin earlier"
            )
        self.half = half_type(config.amp, world.device, model)
        classes = len(train_data.class_names)
        self.teacher = Teacher(teacher.to(world.device), classes=classes) if teacher is not None else None
        self.position = Position(sums=torch.zeros(3, dtype=torch.float64, device=world.device))
        self.last_valid: EvalResult | None = None
        self._compiled = False
        self.identity = identity(
            config, train_data, valid_data, augment=augment, teacher=teacher, world=world, about=about
        )

    @property
    def step(self) -> int:
        """Steps done."""
        return self.position.step

    def go(self, resume: bool, stop: threading.Event) -> FitResult:
        config, world = self.config, self.world
        with ExitStack() as stack:
            self._claim(stack)
            found = self._look(resume)
            if world.size > 1 and config.sync_norm:
                stack.enter_context(joint_norms(self.model))
            seed_everything(step_generator(config.seed, 2, world.rank))
            if found is None:
                self._calibrate()
            world.share_from_main(self.model)
            if self.teacher is not None:
                world.share_from_main(self.teacher.model)
                self.identity["teacher"] = model_fingerprint(self.teacher.model)
                self._use_cache(self.teacher)
                stack.enter_context(closing(self.teacher))
            self.flips = FlipLog(self.model, every=config.flips_every, per_epoch=self.per_epoch)
            self.stepper = Stepper(
                self.model, config, world, teacher=self.teacher, total=self.total, per_epoch=self.per_epoch,
                half=self.half,
            )  # fmt: skip
            stack.enter_context(closing(self.stepper))
            self.state = RunState(position=self.position, stepper=self.stepper, flips=self.flips, world=world)
            metrics_size = 0
            if found is not None:
                refuse_differences(self.folder, self.identity, config, found.state)
                metrics_size = self.state.restore(found, str(self.folder / CHECKPOINT))
            else:
                self.flips.start()
                if world.is_main:
                    ckpt.write_json(self.folder / CONFIG, self.identity)
            self.report = stack.enter_context(
                Reporter(
                    self.folder if world.is_main else None, size=metrics_size, total_steps=self.total,
                    start_step=self.step, tensorboard=config.tensorboard, progress=config.progress,
                    epochs=config.epochs,
                )
            )  # fmt: skip
            self._train(stop)
            return self._finish()

    def _claim(self, stack: ExitStack) -> None:
        """Keep other runs out of the folder until ``stack`` is closed; no process goes on when another run has it."""
        refused = None
        if self.world.is_main:
            try:
                stack.enter_context(run_lock(self.folder))
            except RunInUseError as error:
                refused = error
        (said, *_) = self.world.gather(torch.tensor([int(refused is not None)]))
        if refused is not None:
            raise refused
        if said:
            raise RunInUseError(f"{self.folder}: another run trains into it; process 0 says which")

    def _look(self, resume: bool) -> ckpt.Checkpoint | None:
        """The checkpoint to go on from; every process sees the same."""
        found = ckpt.load_checkpoint(self.folder) if self.folder.exists() else None
        if found is not None and not resume:
            raise ValueError(f"{self.folder} holds a run already; choose another run directory, or resume it")
        # also a barrier: nobody writes before everybody has looked
        steps = {int(s) for s in self.world.gather(torch.tensor([found.state["step"] if found is not None else -1]))}
        if len(steps) > 1:
            raise ValueError(
                f"only some processes find a checkpoint in {self.folder}, or they find different ones (steps "
                f"{sorted(steps)}); all of them must see the run directory"
            )
        return found

    def _use_cache(self, teacher: Teacher) -> None:
        """Give ``teacher``, as all processes now have it, the cache of exactly this data, order and arithmetic."""
        config, data = self.config, self.identity["data"]
        if config.teacher_cache is None:
            return
        key = {
            "teacher": self.identity["teacher"], "data": data["train"], "normalise": data["normalise"],
            "augment": data["augment"], "seed": config.seed, "batch_size": config.batch_size,
            "bf16": self.half == torch.bfloat16, "device": self.world.device.type, "torch": torch.__version__,
        }  # fmt: skip
        if self.half == torch.float16 or config.mixup or config.cutmix:
            key |= {"half": str(self.half), "mixup": config.mixup, "cutmix": config.cutmix}
        if isinstance(self.feed.data, ArrayData):  # the fingerprint has seen a sample of the images only
            key["images"] = self.feed.data.checksum()
        rows = self.per_epoch * config.batch_size
        teacher.cache = TeacherCache(config.teacher_cache, key, rows=rows, classes=len(self.feed.data.class_names))

    def _calibrate(self) -> None:
        if any(isinstance(module, ActQuant) for module in self.model.modules()):
            # even parts: calibrate averages over batches, so a short last one would weigh as much as a full one
            batches = self.feed.calibration(self.config.calibration_rows, self.config.eval_batch_size)
            with own_norms(self.model):
                calibrate(self.model, batches)

    def _train(self, stop: threading.Event) -> None:
        config, position = self.config, self.position
        begin, before = time.perf_counter(), position.seconds
        self.model.train()
        with closing(self.feed.batches(self.step, self.total)) as batches:
            for images, labels in batches:
                if config.compile and not self._compiled:
                    self._compile(images)
                epoch = self.step // self.per_epoch
                rate = self.stepper.prepare(self.step, images)
                self.flips.before_step(self.step)
                self._step(images, labels)
                position.step += 1
                if self.flips.due(self.step):
                    self._check_weights()
                if (flips := self.flips.after_step(self.step)) is not None:
                    self.report.write("flip_steps", self.step, epoch=epoch, **flips)
                self.report.step(self.step)
                position.seconds = before + time.perf_counter() - begin
                if self.step % config.log_every == 0:
                    self._log_step(epoch, rate)
                if self.step % self.per_epoch == 0:
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

    def _compile(self, images: Tensor) -> None:
        self._compiled = True
        part = images[: len(images) // self.config.accumulate]
        self.stepper.forward = compiled_forward(self.model, part, half=self.half, world=self.world)

    def _step(self, images: Tensor, labels: Tensor) -> None:
        self.position.sums += self.stepper(images, labels, self.step)

    def _should_stop(self, stop: threading.Event) -> bool:
        """Whether any process got SIGTERM."""
        return bool(self.world.sum(torch.tensor([float(stop.is_set())])).item())

    def _means(self) -> tuple[float, float]:
        """Loss and accuracy of the epoch so far, over all processes."""
        sums = self.world.sum(self.position.sums.clone()).tolist()
        loss, accuracy = sums[0] / max(sums[2], 1), sums[1] / max(sums[2], 1)
        if not math.isfinite(loss):
            raise self._diverged(f"the training loss became {loss} before step {self.step}")
        return loss, accuracy

    def _diverged(self, what: str) -> TrainingDiverged:
        return TrainingDiverged(
            f"{what}; lower lr (now {self.config.lr}), set clip_norm, or add warmup_epochs. "
            f"The last good state is in {self.folder / CHECKPOINT}, if one was written"
        )

    def _check_weights(self) -> None:
        if not torch.stack([p.detach().isfinite().all() for p in self.model.parameters()]).all():
            raise self._diverged(f"step {self.step} left weights that are not finite")

    def _log_step(self, epoch: int, rate: float) -> None:
        loss, accuracy = self._means()
        seconds = self.position.seconds
        speed = round(self.step * self.config.batch_size / max(seconds, 1e-9), 1)
        self.report.write(
            "step", self.step, epoch=epoch, loss=loss, accuracy=accuracy, lr=rate, images_per_s=speed,
            seconds=round(seconds, 3),
        )  # fmt: skip

    def _end_epoch(self, epoch: int) -> None:
        loss, accuracy = self._means()
        self._check_weights()
        position = self.position
        values: dict[str, Any] = {"epoch": epoch, "train_loss": loss, "train_accuracy": accuracy}
        if (epoch + 1) % self.config.eval_every == 0 or epoch + 1 == self.config.epochs:
            with self._judged():
                valid = self.last_valid = self._evaluate()
                values |= {"valid_loss": valid.loss, "valid_accuracy": valid.accuracy}
                narrow = (self.step - 1) / self.total >= self.narrow_from  # a wider set is not what was asked for
                if narrow and valid.accuracy > position.best_accuracy:
                    position.best_accuracy, position.best_epoch = valid.accuracy, epoch
                    if self.config.keep == "best" and self.world.is_main:
                        ckpt.save_model(self.folder / WEIGHTS, self.model)
        self.report.write("epoch", self.step, **values, seconds=round(position.seconds, 3))
        self.report.write("flips", self.step, epoch=epoch, **self.flips.epoch(epoch + 1))
        position.sums.zero_()

    @contextmanager
    def _judged(self, *, stay: bool = False) -> Iterator[None]:
        """The network as it is evaluated and kept: averaged and with new norm statistics, where that is asked for."""
        config, before = self.config, None
        self.world.share_from_main(self.model)
        if self.stepper.average is not None or config.reestimate_rows:
            before = {name: t.clone() for name, t in self.model.state_dict().items()}
            if self.stepper.average is not None:
                self.stepper.average.put()
            if config.reestimate_rows:
                with own_norms(self.model):
                    reestimate_norms(
                        self.model, self.feed.data, rows=config.reestimate_rows, batch_size=config.eval_batch_size,
                        seed=config.seed, augment=self.feed.augment,
                    )  # fmt: skip
            self.world.share_from_main(self.model)
        yield
        if before is not None and not stay:
            with torch.no_grad():
                for name, tensor in self.model.state_dict().items():
                    tensor.copy_(before[name])

    def _evaluate(self) -> EvalResult:
        return evaluate(
            self.model, self.valid_data, batch_size=self.config.eval_batch_size, world=self.world,
            channels_last=self.config.channels_last,
        )  # fmt: skip

    def _finish(self) -> FitResult:
        path, position = self.folder / WEIGHTS, self.position
        chosen = self.config.keep == "best" and path.exists()
        if chosen:
            ckpt.load_model(path, self.model)
        with nullcontext() if chosen else self._judged(stay=True):
            # the state of the last epoch's end has just been evaluated, unless another is loaded or nothing was trained
            reused = None if chosen else self.last_valid
            self.world.share_from_main(self.model)
            valid = reused if reused is not None else self._evaluate()
        if self.world.is_main:
            if not chosen:
                ckpt.save_model(path, self.model)
            self.report.write(
                "result", self.step, valid_accuracy=valid.accuracy, valid_loss=valid.loss,
                best_accuracy=position.best_accuracy, best_epoch=position.best_epoch,
                confusion=valid.confusion.tolist(), seconds=round(position.seconds, 3),
            )  # fmt: skip
        self.world.barrier()
        return FitResult(
            valid=valid, best_accuracy=position.best_accuracy, best_epoch=position.best_epoch, steps=self.step,
            seconds=position.seconds, run_dir=self.folder,
        )  # fmt: skip

    def _save(self) -> None:
        # a good checkpoint is not replaced by a diverged one; the last step's loss is that of the weights before it
        self._means()
        self._check_weights()
        self.state.save(self.folder, self.identity, metrics_bytes=self.report.size)


__all__ = ["EvalResult", "FitResult", "TrainingDiverged", "TrainingStopped", "evaluate", "fit", "use_bf16"]

"""What a run's checkpoint holds, and which runs may continue from it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bitshift.train import checkpoint as ckpt
from bitshift.train.config import TrainConfig
from bitshift.train.data.augment import Augment
from bitshift.train.data.base import TrainData
from bitshift.train.data.sampler import step_generator
from bitshift.train.distributed import World
from bitshift.train.flips import FlipLog
from bitshift.train.progress import logger
from bitshift.train.step import Stepper


@dataclass(kw_only=True)
class Position:
    """How far a run is: ``step`` steps are done; ``sums`` of this epoch and process are loss, correct rows, steps."""

    step: int = 0
    sums: Tensor = field(default_factory=lambda: torch.zeros(3, dtype=torch.float64))
    best_accuracy: float = -1.0
    best_epoch: int = -1
    seconds: float = 0.0


def identity(
    config: TrainConfig, train_data: TrainData, valid_data: TrainData, *, augment: Augment | None,
    teacher: nn.Module | None, world: World, about: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """What config.json says, and what a resumed run is compared with."""
    return {
        "train": config.as_dict(),
        "data": {
            "train": train_data.fingerprint(), "valid": valid_data.fingerprint(),
            "class_names": list(train_data.class_names),
            "normalise": train_data.normalise.as_dict(),
            "augment": repr(augment), "teacher": type(teacher).__name__ if teacher is not None else None,
        },
        "world": world.size, "about": json.loads(json.dumps(dict(about))),
    }  # fmt: skip


def other_configuration(folder: Path, differences: Sequence[str]) -> str:
    """What is said when the run in ``folder`` was started with other values than the ones given now."""
    return (
        f"{folder} was started with another configuration ({'; '.join(differences)}); use the old values to resume, or "
        "choose another run directory"
    )


def _differing(name: str, then: Any, now: Any) -> list[str]:
    """What differs between two values of JSON, each place by its path; a key with None is not one that is missing."""
    if then == now:
        return []
    if not (isinstance(then, Mapping) and isinstance(now, Mapping)):
        return [f"{name}: {then!r} then, {now!r} now"]
    found = [line for key in then if key in now for line in _differing(f"{name}.{key}", then[key], now[key])]
    found += [f"{name}.{key}: {then[key]!r} then, missing now" for key in then if key not in now]
    return found + [f"{name}.{key}: missing then, {now[key]!r} now" for key in now if key not in then]


def refuse_differences(folder: Path, mine: Mapping[str, Any], config: TrainConfig, state: Mapping[str, Any]) -> None:
    """ValueError that names every difference between this run and the one that wrote ``state``.

    Another number of processes is none: row order and augmentation do not depend on it. It is logged, because sums are
    then added in another order. Logged is also a teacher of the same class with other weights.
    """
    differences = config.numeric_differences(state["train"])
    for part in ("data", "about"):
        differences += _differing(part, state[part], mine[part])
    if differences:
        raise ValueError(other_configuration(folder, differences))
    if state.get("teacher", mine.get("teacher")) != mine.get("teacher"):
        logger.warning("%s goes on with another teacher than it had: its weights or its structure differ", folder)
    if state["world"] != mine["world"]:
        logger.warning(
            "%s goes on with %d processes instead of %d: the same rows in the same order, equal to an undisturbed run "
            "up to the order of float sums and the random numbers of layers such as dropout, no longer to the bit",
            folder, mine["world"], state["world"],
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RunState:
    """The parts of a run that change, and their way to and from a checkpoint."""

    position: Position
    stepper: Stepper
    flips: FlipLog
    world: World

    def save(self, folder: Path, mine: Mapping[str, Any], *, metrics_bytes: int) -> None:
        """Write the checkpoint of ``folder``; all processes call this, the main one writes."""
        position, stepper, world = self.position, self.stepper, self.world
        random = {name: world.gather(t) for name, t in ckpt.random_state(world.device).items()}
        sums = torch.stack(world.gather(position.sums))
        if not world.is_main:
            return
        tensors: dict[str, Tensor] = {"sums": sums}
        tensors |= {f"model.{k}": v for k, v in stepper.model.state_dict().items()}
        tensors |= {f"optim.{k}": v for k, v in ckpt.optimizer_tensors(stepper.optimizer).items()}
        tensors |= self.flips.state_dict()
        if stepper.average is not None:
            tensors |= {f"ema.{k}": v for k, v in stepper.average.state_dict().items()}
        for name, parts in random.items():
            tensors |= {f"random.{rank}.{name}": part for rank, part in enumerate(parts)}
        state = {
            **mine, "step": position.step, "epoch": position.step // stepper.per_epoch, "total_steps": stepper.total,
            "best_accuracy": position.best_accuracy, "best_epoch": position.best_epoch, "seconds": position.seconds,
            "metrics_bytes": metrics_bytes, "scaler": stepper.scaler_state(),
        }  # fmt: skip
        ckpt.save_checkpoint(folder, ckpt.Checkpoint(tensors=tensors, state=state))

    def restore(self, found: ckpt.Checkpoint, where: str) -> int:
        """Take the state of ``found``; returns the size that metrics.jsonl had."""
        position, stepper, tensors = self.position, self.stepper, found.tensors
        ckpt.load_state(stepper.model, ckpt.under("model", tensors), where)
        ckpt.load_optimizer(stepper.optimizer, ckpt.under("optim", tensors))
        self.flips.load_state_dict(tensors)
        if stepper.average is not None:
            stepper.average.load_state_dict(ckpt.under("ema", tensors))
        stepper.load_scaler(found.state.get("scaler", {}))
        position.step, position.seconds = int(found.state["step"]), float(found.state["seconds"])
        position.best_accuracy = float(found.state["best_accuracy"])
        position.best_epoch = int(found.state["best_epoch"])
        self._restore_per_process(tensors, int(found.state["world"]))
        stepper.resume(position.step)
        return int(found.state["metrics_bytes"])

    def _restore_per_process(self, tensors: Mapping[str, Tensor], world_then: int) -> None:
        """Random states and sums of this process; with another number of processes, new ones and the joint sums."""
        world, position = self.world, self.position
        sums = tensors["sums"].reshape(-1, 3)  # version 0.1 wrote those of the main process only
        if world_then == world.size:
            ckpt.restore_random_state(ckpt.under(f"random.{world.rank}", tensors), world.device)
            own = sums[world.rank if len(sums) > 1 else 0]
        else:
            seed_everything(step_generator(self.stepper.config.seed, 2, world.rank, position.step))
            # each process counted its mean once a step; so will each of now
            own = sums.sum(0) * (world.size / world_then) if world.is_main else torch.zeros_like(sums[0])
        position.sums.copy_(own)


def seed_everything(generator: torch.Generator) -> None:
    """Seed torch's, numpy's and python's global generators by the seed of ``generator``."""
    import random

    import numpy as np

    seed = generator.initial_seed()
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - the user's code may use it
    random.seed(seed)


__all__ = ["Position", "RunState", "identity", "refuse_differences", "seed_everything"]

"""How many discrete weights flip while a run trains: per epoch, and in finer steps where that is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from bitshift.nn.metrics import FlipTracker
from bitshift.train.checkpoint import under


class FlipLog:
    """A tracker that compares the ends of epochs, and one that compares every ``every`` steps (0: none).

    Each record also tells how far the last step moved the latents, for which :meth:`before_step` looks at them.
    """

    def __init__(self, model: nn.Module, *, every: int, per_epoch: int) -> None:
        self.every, self.per_epoch = every, per_epoch
        self._epochs = FlipTracker(model, floats=True)
        self._steps = FlipTracker(model, floats=True) if every else None

    def start(self) -> None:
        """Record the network before its first step."""
        self._epochs.record(0)
        if self._steps is not None:
            self._steps.record(0)

    def before_step(self, done: int) -> None:
        """Look at the latents when ``done`` steps are done and the next one ends in a record."""
        if (done + 1) % self.per_epoch == 0:
            self._epochs.before_step()
        if self._steps is not None and (done + 1) % self.every == 0:
            self._steps.before_step()

    def due(self, done: int) -> bool:
        """Whether :meth:`after_step` makes a record behind step ``done``."""
        return self._steps is not None and done % self.every == 0

    def after_step(self, done: int) -> dict[str, Any] | None:
        """The finer record behind step ``done``, where one is due."""
        if self._steps is None or not self.due(done):
            return None
        return self._steps.record(done).as_dict()

    def epoch(self, done: int) -> dict[str, Any]:
        """The record of an epoch's end, when ``done`` epochs are done."""
        return self._epochs.record(done).as_dict()

    def state_dict(self) -> dict[str, Tensor]:
        """All of it as flat tensors."""
        state = {f"flips.{name}": tensor for name, tensor in self._epochs.state_dict().items()}
        if self._steps is not None:
            state |= {f"flip_steps.{name}": tensor for name, tensor in self._steps.state_dict().items()}
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back :meth:`state_dict`'s result; other tensors in ``state`` are left alone."""
        self._epochs.load_state_dict(under("flips", state))
        if self._steps is not None:
            self._steps.load_state_dict(under("flip_steps", state))


__all__ = ["FlipLog"]

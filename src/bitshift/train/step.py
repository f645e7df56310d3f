"""One optimiser step: forward, loss, backward, mean over processes, clipping, update, projections."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bitshift.nn.activations import ActQuant
from bitshift.nn.gains import match_again
from bitshift.nn.method import Method
from bitshift.train.config import TrainConfig
from bitshift.train.distill import task_loss
from bitshift.train.distributed import World
from bitshift.train.ema import StateAverage
from bitshift.train.exchange import GradientMean
from bitshift.train.optim import build_optimizer, set_lr
from bitshift.train.schedule import lr_factor
from bitshift.train.teacher import Teacher

Forward = Callable[[Tensor], Tensor]


def use_bf16(amp: str, device: torch.device, model: nn.Module) -> bool:
    """Whether training runs in bfloat16: asked for, or ``auto`` on capable hardware with float activations."""
    if amp != "auto":
        return amp == "bf16"
    if any(isinstance(module, ActQuant) for module in model.modules()):
        return False
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def half_type(amp: str, device: torch.device, model: nn.Module) -> torch.dtype | None:
    """What the products of training are computed in, None for float32."""
    if amp == "fp16":
        return torch.float16
    return torch.bfloat16 if use_bf16(amp, device, model) else None


class Stepper:
    """The network, its optimiser and whatever follows every step of it.

    ``forward`` is what computes logits from images: the model, or a compiled form of it.
    """

    def __init__(
        self, model: nn.Module, config: TrainConfig, world: World, *, teacher: Teacher | None, total: int,
        per_epoch: int, half: torch.dtype | None,
    ) -> None:  # fmt: skip
        self.model, self.config, self.world, self.teacher = model, config, world, teacher
        self.total, self.per_epoch, self.half = total, per_epoch, half
        self.forward: Forward = model
        self.methods = [m for m in model.modules() if isinstance(m, Method)]
        self.grid_steps = [m.log2_step for m in model.modules() if isinstance(m, ActQuant)]
        self.optimizer = build_optimizer(model, config)
        self.average = StateAverage(model, config.ema_decay) if config.ema_decay else None
        # float16 gradients would vanish below 2**-24; bfloat16 has float32's range
        self.scaler = torch.amp.GradScaler(world.device.type) if half == torch.float16 else None
        self.exchange = GradientMean(model.parameters(), world.size) if world.size > 1 else None

    def close(self) -> None:
        """Leave the model as it was given, without hooks."""
        if self.exchange is not None:
            self.exchange.close()

    def prepare(self, step: int, images: Tensor) -> float:
        """Set learning rates and stages for ``step``, which trains on ``images``; returns the first group's rate."""
        rate = set_lr(self.optimizer, lr_factor(self.config, step, self.per_epoch))
        changed = [method for method in self.methods if method.set_progress(step / self.total)]
        if changed:
            # the joint batch, so that the number of processes does not matter
            factors = match_again(self.model, changed, torch.cat(self.world.gather(images)).to(images.device))
            self.world.share_from_main(self.model)
            if self.average is not None:
                self.average.follow(changed, factors)
        return rate

    def resume(self, step: int) -> None:
        """Bring the methods to where they were behind the step before ``step``; an evaluation may follow."""
        for method in self.methods if step else ():
            method.set_progress((step - 1) / self.total)

    def __call__(self, images: Tensor, labels: Tensor, step: int) -> Tensor:
        """Train on this process's share of the joint batch ``step``.

        Returns float64 (3,): mean loss and share of correct rows of this share, and 1.
        """
        sums = self.backward(images, labels, step)
        if self.exchange is not None:
            self.exchange.finish()
        self._update()
        for method in self.methods:
            method.after_step()
        if self.average is not None:
            self.average.update(step)
        return sums

    def backward(self, images: Tensor, labels: Tensor, step: int) -> Tensor:
        """The gradients of a step, from nothing; with several processes they travel meanwhile."""
        count = self.config.accumulate
        if self.world.size > 1 and not self.config.sync_norm:
            self.world.share_buffers(self.model)
        self.optimizer.zero_grad(set_to_none=True)
        epoch, batch = divmod(step, self.per_epoch)
        place = batch * self.config.batch_size + self.world.rank * len(images)
        sums = torch.zeros(3, dtype=torch.float64, device=images.device)
        for part, (x, y) in enumerate(zip(images.chunk(count), labels.chunk(count), strict=True)):
            last = part + 1 == count
            if last and self.exchange is not None:
                self.exchange.arm()
            sums += self._part(x, y, epoch, place + part * len(x), last=last)
        return sums / count

    def _part(self, images: Tensor, labels: Tensor, epoch: int, place: int, *, last: bool) -> Tensor:
        """Add the gradients of one micro-batch; the ``last`` one brings the methods' penalties."""
        config, device = self.config, self.world.device
        with torch.autocast(device.type, self.half, enabled=self.half is not None):
            logits = self.forward(images)
            taught = self.teacher(images, epoch, place) if self.teacher is not None else None
        loss = task_loss(
            logits, labels, teacher_logits=taught, weight=config.distill_weight,
            temperature=config.distill_temperature, label_smoothing=config.label_smoothing,
        )  # fmt: skip
        total = loss if config.accumulate == 1 else loss / config.accumulate
        for method in self.methods if last else ():
            total = total + method.penalty()
        (total if self.scaler is None else self.scaler.scale(total)).backward()
        classes = labels if labels.dim() == 1 else labels.argmax(1)
        correct = (logits.detach().argmax(1) == classes).double().mean()
        return torch.stack([loss.detach().double(), correct, torch.ones_like(correct)])

    @torch.no_grad()
    def _update(self) -> None:
        parts = self.world.size * self.config.accumulate
        for step in self.grid_steps if parts > 1 else ():
            if (
                step.grad is not None
            ):  # a quantiser divides by the root of the number of values in its part of the batch
                step.grad.mul_(parts**-0.5)
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        if self.config.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()

    def scaler_state(self) -> dict[str, Any]:
        """The loss scale of float16, JSON-ready; empty for the other types."""
        return self.scaler.state_dict() if self.scaler is not None else {}

    def load_scaler(self, state: dict[str, Any]) -> None:
        """Take back :meth:`scaler_state`'s result."""
        if self.scaler is not None and state:
            self.scaler.load_state_dict(state)


__all__ = ["Forward", "Stepper", "half_type", "use_bf16"]

"""Nearest level with a searched scale: post-training rounding for every format, or plain straight-through training."""

from __future__ import annotations

import copy
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from math import sqrt
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bitshift.core.formats import FORMATS, get_format
from bitshift.nn.init import default_weight, numbers_of
from bitshift.nn.learned_scale import LearnedScale, ScaledNearest, is_power_of_two
from bitshift.nn.method import Method, register
from bitshift.nn.scale_search import (
    check_weight,
    midpoint_distance,
    nearest_code,
    per_channel,
    search_free_scale,
    search_pot_scale,
)
from bitshift.nn.ste import ClippedNearest

_SEARCH = {"pot": search_pot_scale, "free": search_free_scale}


def _path(
    format: str, wide: str | Sequence[str], narrow_at: float | Sequence[float]
) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Formats from the first to the last, and the fractions of the run at which the next one begins."""
    formats = (*((wide,) if isinstance(wide, str) else wide), format)
    for name in formats:
        get_format(name)
    (at,) = numbers_of("nearest", narrow_at=narrow_at)
    at = at if len(formats) > 1 or isinstance(narrow_at, Sequence) else ()
    if len(at) != len(formats) - 1 or list(at) != sorted(set(at)) or not all(0 < f < 1 for f in at):
        raise ValueError(
            f"nearest: narrow_at={narrow_at!r} with wide={wide!r}; expected one rising fraction of the run, between 0"
            " and 1, for each of the wide formats"
        )
    return formats, at


@register
class Nearest(Method):
    """Rounding to the nearest level (ours; the common baseline). Any format; one latent a weight.

    Forward: ``W = level * scale``, the level nearest to ``latent / scale`` (a tie goes to the upper level). Gradient:
    ``d latent = dL/dW`` where ``|latent| <= max_level * scale``, else 0 (clipped straight-through).

    The scale minimises the squared error of the starting weight: ``scale`` "pot" searches powers of two, "free" any
    number, a tensor (O,) gives it; ``granularity`` "channel" or "tensor". From scratch: PyTorch's default weight.

    ``learn="scale"`` trains it as LSQ does (Esser et al., ICLR 2020), without weight decay: with g = dL/dW and
    v = latent / scale, ``d scale = sum(g * (level - v)) / sqrt(N * max_level)``, ``level`` alone in the bracket outside
    the table, N weights a scale. A power of two (``scale="pot"``, or a tensor of such) stays one: its logarithm trains
    and the exponent follows with hysteresis, see :class:`~bitshift.nn.learned_scale.LearnedScale`.

    ``wide`` and ``narrow_at`` make the bits progressive: ``wide="pot4x2", narrow_at=0.3`` trains ``pot4x2`` for 30 % of
    the run and ``format`` afterwards (tuples: several steps). The latent is kept, the scale is searched anew at the
    change, for the latent as it is then. ``format`` of the method is the current one.

    Known weakness: signs freeze in sets with a zero, and a latent outside the table gets no gradient.
    """

    name = "nearest"
    weight_units = True
    bits = (1, 2, 3, 4, 5, 6)
    options: ClassVar[dict[str, Any]] = {
        "scale": "pot", "granularity": "channel", "learn": "none", "wide": (), "narrow_at": (),
    }  # fmt: skip

    fixed_scale: Tensor
    stage: Tensor

    def __init__(
        self, latent: Tensor, format: str, *, scale: str | Tensor, granularity: str = "channel", learn: str = "none",
        wide: str | Sequence[str] = (), narrow_at: float | Sequence[float] = (),
    ) -> None:  # fmt: skip
        super().__init__()
        self.path, self.narrow_at = _path(format, wide, narrow_at)
        self.format = self.check_format(self.path[0])
        self.shape = tuple(latent.shape)
        if learn not in ("none", "scale"):
            raise ValueError(f"nearest: learn={learn!r}; allowed: 'none', 'scale'")
        if granularity not in ("channel", "tensor"):
            raise ValueError(f"nearest: granularity {granularity!r}; allowed: 'channel', 'tensor'")
        self.granularity = granularity
        self.latent = nn.Parameter(latent.detach().clone())
        if isinstance(scale, str):
            if scale not in _SEARCH:
                raise ValueError(
                    f"nearest: scale={scale!r}; allowed: 'pot', 'free', or a tensor with one scale per channel"
                )
            self.kind = scale
            start = self._searched()
        else:
            start = torch.as_tensor(scale, dtype=torch.float32).detach().to(latent.device)
            if start.shape != self.shape[:1] or not bool(((start > 0) & torch.isfinite(start)).all()):
                raise ValueError(
                    f"nearest: scale {tuple(start.shape)} {start.flatten()[:3].tolist()}; expected {self.shape[0]}"
                    " positive finite numbers, one per output channel"
                )
            if granularity == "tensor" and bool((start != start[0]).any()):
                raise ValueError("nearest: granularity='tensor' with scales that differ between channels")
            self.kind = "pot" if is_power_of_two(start) else "free"
        self.learned: LearnedScale | None = None
        if learn == "scale":
            start = start[:1] if granularity == "tensor" else start
            factor = 1 / sqrt(latent.numel() / start.numel() * self.format.max_level)
            self.learned = LearnedScale(start, power_of_two=self.kind == "pot", factor=factor)
        else:
            self.register_buffer("fixed_scale", start.clone())
        self._stage = 0
        if self.narrow_at:
            self.register_buffer("stage", torch.zeros((), dtype=torch.int64, device=latent.device))

    @property
    def last_set_from(self) -> float:
        """Where the last of the wide formats ends."""
        return self.narrow_at[-1] if self.narrow_at else 0.0

    @staticmethod
    def format_for(bits: int) -> str:
        names = {1: "pot1", 2: "pot2d", 3: "pot3d", 4: "pot4x2", 5: "pot5d", 6: "pot6d"}
        if bits not in names:
            raise ValueError(f"method 'nearest' has no default {bits}-bit set; allowed bits: 1 to 6, or name a format")
        return names[bits]

    @classmethod
    def formats(cls) -> tuple[str, ...]:
        return tuple(FORMATS)

    @classmethod
    def random(
        cls, shape: Iterable[int], format: str, *, generator: torch.Generator | None = None, **options: Any
    ) -> Nearest:
        """PyTorch's default weight, its scale searched."""
        return cls.from_float(default_weight(shape, generator), format, **options)

    @classmethod
    def from_float(
        cls, weight: Tensor, format: str, *, generator: torch.Generator | None = None, scale: str | Tensor = "pot",
        granularity: str = "channel", learn: str = "none", wide: str | Sequence[str] = (),
        narrow_at: float | Sequence[float] = (),
    ) -> Nearest:  # fmt: skip
        """The weight itself as the latent."""
        cls.check_format(format)
        latent = check_weight(weight, "nearest.from_float")
        return cls(latent, format, scale=scale, granularity=granularity, learn=learn, wide=wide, narrow_at=narrow_at)

    def _searched(self) -> Tensor:
        return _SEARCH[self.kind](self.latent, self.format, granularity=self.granularity)

    def weight(self) -> Tensor:
        if self.learned is not None:
            return ScaledNearest.apply(self.latent, self.learned(), self.format)
        return ClippedNearest.apply(self.latent, self.fixed_scale.float(), self.format)

    def _values(self) -> Tensor:
        latent = check_weight(self.latent, "latent of nearest")
        return latent / per_channel(self.scale(), latent.ndim)

    def codes(self) -> Tensor:
        return nearest_code(self._values(), self.format)

    def scale(self) -> Tensor:
        if self.learned is not None:
            return self.learned().detach().expand(self.shape[0])
        return self.fixed_scale.float()

    def latents(self) -> dict[str, Tensor]:
        latents: dict[str, Tensor] = {"latent": self.latent}
        if self.learned is not None:
            latents["scale"] = self.learned.value
        return latents

    def threshold_distance(self) -> Tensor:
        """Distance of the latent to the nearest midpoint between two levels."""
        scale = per_channel(self.scale(), len(self.shape)).double()  # float32 would overflow far outside the table
        return (midpoint_distance(self.latent.detach() / scale, self.format) * scale).float()

    def param_groups(self, *, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        groups = [{"params": [self.latent], "lr": lr, "weight_decay": weight_decay}]
        if self.learned is not None:
            groups.append({"params": [self.learned.value], "lr": lr, "weight_decay": 0.0})
        return groups

    def extra_repr(self) -> str:
        """As the base, with the sets that come later."""
        later = ", ".join(f"{f} from {a:g}" for f, a in zip(self.path[1:], self.narrow_at, strict=True))
        return super().extra_repr() + (f", {later}" if later else "")

    def set_progress(self, fraction: float) -> bool:
        stage = bisect_right(self.narrow_at, fraction)
        if stage <= self._stage:
            return False
        self._enter(stage)
        self._search_again()
        return True

    def rescaled(self, factor: Tensor) -> Nearest:
        twin = copy.deepcopy(self)
        with torch.no_grad():
            twin.latent.mul_(per_channel(factor.to(twin.latent.dtype), twin.latent.ndim))
        twin._search_again()
        return twin

    def _search_again(self) -> None:
        """The scale of the latent as it is now."""
        scale = self._searched()
        if self.learned is not None:
            self.learned.reset(scale[: self.learned.value.numel()])
        else:
            self.fixed_scale.copy_(scale)

    def _enter(self, stage: int) -> None:
        """The set of ``stage``."""
        self._stage = stage
        self.stage.fill_(stage)
        self.format = get_format(self.path[stage])
        if self.learned is not None:
            weights = self.latent.numel() / self.learned.value.numel()
            self.learned.factor = 1 / sqrt(weights * self.format.max_level)

    def after_step(self) -> None:
        if self.learned is not None:
            self.learned.after_step()

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        if self.narrow_at:
            self._enter(int(self.stage))

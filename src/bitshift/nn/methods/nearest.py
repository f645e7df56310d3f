"""Nearest level with a searched scale: post-training rounding for every format, or plain straight-through training."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bitshift.core.formats import FORMATS
from bitshift.nn.init import default_weight
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


@register
class Nearest(Method):
    """Rounding to the nearest level (ours; the common baseline). Any format; one latent a weight.

    Forward: ``W = level * scale``, the level nearest to ``latent / scale`` (a tie goes to the upper level), the scale
    fixed. Gradient: ``d latent = dL/dW`` where ``|latent| <= max_level * scale``, else 0 (clipped straight-through).

    The scale minimises the squared error of the starting weight: ``scale`` "pot" searches powers of two, "free" any
    number, a tensor (O,) gives it; ``granularity`` "channel" or "tensor". From scratch: PyTorch's default weight.

    Known weakness: signs freeze in sets with a zero, and a latent outside the table gets no gradient.
    """

    name = "nearest"
    bits = (1, 2, 3, 4, 5, 6)
    options: ClassVar[dict[str, Any]] = {"scale": "pot", "granularity": "channel"}

    fixed_scale: Tensor

    def __init__(self, latent: Tensor, format: str, *, scale: Tensor) -> None:
        super().__init__()
        self.format = self.check_format(format)
        self.shape = tuple(latent.shape)
        scale = torch.as_tensor(scale, dtype=torch.float32).detach()
        if scale.shape != self.shape[:1] or not bool(((scale > 0) & torch.isfinite(scale)).all()):
            raise ValueError(
                f"nearest: scale {tuple(scale.shape)} {scale.flatten()[:3].tolist()}; expected {self.shape[0]} positive"
                " finite numbers, one per output channel"
            )
        self.register_buffer("fixed_scale", scale.to(latent.device).clone())
        self.latent = nn.Parameter(latent.detach().clone())

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
        cls, shape: Iterable[int], format: str, *, generator: torch.Generator | None = None,
        scale: str | Tensor = "pot", granularity: str = "channel",
    ) -> Nearest:  # fmt: skip
        """PyTorch's default weight, its scale searched."""
        return cls.from_float(default_weight(shape, generator), format, scale=scale, granularity=granularity)

    @classmethod
    def from_float(
        cls, weight: Tensor, format: str, *, generator: torch.Generator | None = None, scale: str | Tensor = "pot",
        granularity: str = "channel",
    ) -> Nearest:  # fmt: skip
        """The weight itself as the latent."""
        fmt = cls.check_format(format)
        latent = check_weight(weight, "nearest.from_float")
        if isinstance(scale, str):
            search = {"pot": search_pot_scale, "free": search_free_scale}.get(scale)
            if search is None:
                raise ValueError(
                    f"nearest: scale={scale!r}; allowed: 'pot', 'free', or a tensor with one scale per channel"
                )
            scale = search(latent, fmt, granularity=granularity)
        return cls(latent, format, scale=scale)

    def weight(self) -> Tensor:
        return ClippedNearest.apply(self.latent, self.fixed_scale.float(), self.format)

    def _values(self) -> Tensor:
        latent = check_weight(self.latent, "latent of nearest")
        return latent / per_channel(self.scale(), latent.ndim)

    def codes(self) -> Tensor:
        return nearest_code(self._values(), self.format)

    def scale(self) -> Tensor:
        return self.fixed_scale.float()

    def latents(self) -> dict[str, Tensor]:
        return {"latent": self.latent}

    def threshold_distance(self) -> Tensor:
        """Distance of the latent to the nearest midpoint between two levels."""
        scale = per_channel(self.scale(), len(self.shape)).double()  # float32 would overflow far outside the table
        return (midpoint_distance(self.latent.detach() / scale, self.format) * scale).float()

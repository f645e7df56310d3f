"""Methods whose weight depends on the signs of several latents: what S3 and DenseShift share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from bitshift.core.formats import get_format
from bitshift.nn.init import device_of
from bitshift.nn.method import Method
from bitshift.nn.scale_search import check_weight, exponents_of, per_channel, scale_of, search_pot_scale
from bitshift.nn.ste import GateWeight, bits_of, gate_pattern


@dataclass(frozen=True)
class GateRule:
    """Forward and gradient of a gate method for each of the ``2**L`` sign patterns of its L latents.

    Bit 0 of a pattern is the sign latent, bit j latent j. ``levels`` is (2^L,), ``slopes[j]`` the gradient of the level
    for latent j, (L, 2^L).
    """

    names: tuple[str, ...]
    levels: np.ndarray
    slopes: np.ndarray

    def live(self) -> np.ndarray:
        """(L, 2^L) booleans: whether flipping latent j changes the level."""
        pattern = np.arange(self.levels.size)
        return np.stack([self.levels[pattern ^ (1 << j)] != self.levels for j in range(len(self.names))])


class GateMethod(Method):
    """Stacked latents ``stack`` (L, O, ...) whose signs pick the level by the table of a :class:`GateRule`."""

    unit_start = True
    first_gate: ClassVar[int]
    """Index of the innermost gate in the stack; the outermost is the last."""

    stack: nn.Parameter
    scale_exp: Tensor
    _values: Tensor
    _slopes: Tensor
    _codes: Tensor
    _live: Tensor

    def __init__(self, latents: Tensor, format: str, *, rule: GateRule, scale: Tensor | None) -> None:
        super().__init__()
        self.format = self.check_format(format)
        if latents.ndim < 2 or latents.shape[0] != len(rule.names) or latents.numel() == 0:
            raise ValueError(
                f"{self.name}: latents of shape {tuple(latents.shape)}; {format} needs ({len(rule.names)}, O, ...):"
                f" {', '.join(rule.names)}"
            )
        self.shape = tuple(latents.shape[1:])
        self.latent_names = rule.names
        self.stack = nn.Parameter(latents.detach().clone())
        exponents = (
            torch.zeros(self.shape[0], dtype=torch.int32)
            if scale is None
            else exponents_of(scale, self.shape[0], self.name)
        )
        self.register_buffer("scale_exp", exponents.to(latents.device))
        self._rule = rule
        self._set_tables(latents.device)

    def _set_tables(self, device: torch.device) -> None:
        """What the rule says, on ``device``; written into the tables that are there, which a graph may hold."""
        rule = self._rule
        for name, table in (
            ("_values", bits_of(rule.levels)),
            ("_slopes", bits_of(rule.slopes)),
            ("_codes", torch.from_numpy(self.format.encode(rule.levels).copy())),
            ("_live", torch.from_numpy(rule.live())),
        ):
            held = getattr(self, name, None)
            if held is not None and held.device == device:
                held.copy_(table)
            else:
                self.register_buffer(name, table.to(device), persistent=False)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        if hasattr(self, "_rule"):  # not in a module that was pickled before it had one
            self._set_tables(self.scale_exp.device)  # behind to_empty() they hold whatever the memory held

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move or cast; the stack stays contiguous, because its five axes are no image for ``to(channels_last)``."""
        return super()._apply(lambda t: fn(t.flatten(1)).view(t.shape) if t.ndim > 2 else fn(t), recurse)

    @staticmethod
    @abstractmethod
    def gates(bits: int) -> int:
        """Number of gates of the exponent at ``bits`` bits."""

    def weight(self) -> Tensor:
        return GateWeight.apply(self.stack, self.scale(), self._values, self._slopes)

    def codes(self) -> Tensor:
        pattern = gate_pattern(check_weight(self.stack, f"latents of {self.name}"))
        return self._codes.index_select(0, pattern.flatten().int()).view(self.shape)

    def scale(self) -> Tensor:
        return scale_of(self.scale_exp)

    def latents(self) -> dict[str, Tensor]:
        return {name: self.stack[j] for j, name in enumerate(self.latent_names)}

    @torch.no_grad()
    def threshold_distance(self) -> Tensor:
        """Smallest magnitude of those latents of a weight whose sign change would change its level."""
        stack = self.stack.detach().float()
        index = gate_pattern(stack).flatten().int()
        distance = torch.full(self.shape, torch.inf, device=stack.device)
        for j in range(stack.shape[0]):
            live = self._live[j].index_select(0, index).view(self.shape)
            distance = torch.where(live, torch.minimum(distance, stack[j].abs()), distance)
        return distance


def exponent_gates(
    pattern: np.ndarray, first: int, gates: int
) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """The recursion ``S_0 = 0, S_t = (S_{t-1} + 1) * b_t`` over the patterns: ``S_T``, all ``S_{t-1}``, all ``b_t``."""
    exponent = np.zeros(pattern.shape)
    before, opened = [], []
    for t in range(gates):
        before.append(exponent)
        opened.append((pattern >> (first + t)) & 1)
        exponent = (exponent + 1) * opened[-1]
    return exponent, before, opened


def gate_slopes(d_exponent: np.ndarray, before: list[np.ndarray], opened: list[np.ndarray]) -> list[np.ndarray]:
    """Chain rule of the recursion, outermost first: ``d b_t = dS_t (S_{t-1} + 1)``, ``dS_{t-1} = dS_t b_t``."""
    slopes = []
    for previous, b in zip(reversed(before), reversed(opened), strict=True):
        slopes.append(d_exponent * (previous + 1))
        d_exponent = d_exponent * b
    return slopes[::-1]


def split_weight(weight: Tensor, format: str, scale: Tensor | None, who: str) -> tuple[Tensor, Tensor]:
    """``weight / scale`` and the power-of-two scale ``(O,)``, searched for the least squared error unless given."""
    weight = check_weight(weight, f"{who}.from_float")
    if scale is None:
        scale = search_pot_scale(weight, get_format(format))
    scale = scale_of(exponents_of(scale, weight.shape[0], who).to(weight.device))
    return weight / per_channel(scale, weight.ndim), scale


def margin_gates(magnitude: Tensor, gates: int) -> list[Tensor]:
    """Gates 1 (innermost) to ``gates`` of the level nearest to ``magnitude``, as relative distances to the thresholds.

    Gate ``gates - k`` decides between the levels 2^k and 2^(k+1): ``(magnitude - 1.5 * 2^k) / 2^k``.
    """
    return [magnitude / 2.0**k - 1.5 for k in reversed(range(gates))]


def sign_consistent(
    latents: Tensor, rule: GateRule, first: int, std: float, generator: torch.Generator | None
) -> Tensor:
    """New latents |N(0, std)| with the signs of ``latents``; a gate behind a closed one gets a random sign."""
    noise = (
        torch.empty(latents.shape, device=device_of(generator)).normal_(0, std, generator=generator).to(latents.device)
    )
    size = noise.abs().clamp_min(torch.finfo(torch.float32).tiny)
    fresh = torch.where(latents > 0, size, -size)
    fresh[0] = torch.where(latents[0] >= 0, size[0], -size[0])
    index = gate_pattern(latents).flatten().int()
    for j in range(first, latents.shape[0]):
        live = torch.from_numpy(rule.live()[j]).to(latents.device).index_select(0, index).view(latents.shape[1:])
        fresh[j] = torch.where(live, fresh[j], noise[j])
    return fresh


__all__ = [
    "GateMethod",
    "GateRule",
    "exponent_gates",
    "gate_slopes",
    "margin_gates",
    "sign_consistent",
    "split_weight",
]

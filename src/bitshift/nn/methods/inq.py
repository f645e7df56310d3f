"""INQ: pretrained weights fixed at powers of two part by part, the rest retrained in float."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from math import frexp
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bitshift.nn.init import default_weight, numbers_of
from bitshift.nn.method import Method, register
from bitshift.nn.scale_search import (
    SCALE_EXP_MAX,
    SCALE_EXP_MIN,
    check_weight,
    exponents_of,
    midpoint_distance,
    nearest_code,
    per_channel,
    scale_of,
)

_FREE = 255
# In the buffer of fixed codes: this weight is still float. No code of a format up to 5 bits is as large.


def least_exponent(weight: Tensor, bits: int) -> int:
    """The paper's n2 of a layer: ``n1 = floor(log2(4 max|W| / 3))``, ``n2 = n1 + 1 - 2^(bits - 2)``; exact."""
    top = float(weight.abs().max())
    mantissa, exponent = frexp(top)  # top = mantissa * 2**exponent, mantissa in [1/2, 1)
    n1 = exponent if mantissa >= 0.75 else exponent - 1
    # a layer of zeros has no size of its own: any set represents it
    n2 = (n1 if top > 0 else 0) + 1 - (1 << (bits - 2))
    return min(max(n2, SCALE_EXP_MIN), SCALE_EXP_MAX)


def _checked_steps(portions: Sequence[float], at: Sequence[float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    portions, at = numbers_of("inq", portions=portions, at=at)
    rising = list(portions) == sorted(portions) and portions[:1] > (0.0,) and portions[-1:] == (1.0,)
    if not rising:
        raise ValueError(f"inq: portions={portions}; expected rising shares in (0, 1] that end with 1")
    if len(at) != len(portions) or list(at) != sorted(at) or not all(0 <= f < 1 for f in at):
        raise ValueError(f"inq: at={at}; expected {len(portions)} rising fractions of the run in [0, 1), one a portion")
    return portions, at


@register
class INQ(Method):
    """Incremental network quantisation, INQ (Zhou et al., ICLR 2017, arXiv 1702.03044).

    Levels of a layer: 0, +-2^n2 .. +-2^n1, n1 = floor(log2(4 max|W| / 3)), n2 = n1 + 1 - 2^(bits - 2): 3, 5, 9 and 17
    values at 2 to 5 bits. No format of the registry but ``pot2`` has exactly these; ``pot3``, ``pot4`` and ``pot5``
    have them as their smallest levels (scale = 2^n2 for all channels, largest level used 2^(2^(bits-2) - 1)).

    Forward: a weight is its latent while it is free and its fixed level afterwards. Gradient: ``d latent = dL/dW`` of a
    free weight, 0 of a fixed one. :meth:`set_progress` fixes weights at their nearest level, those of the largest
    magnitude first: with ``portions`` (0.5, 0.75, 0.875, 1) and ``at`` (0, 1/3, 2/3, 0.95), half of them from the first
    step on, three quarters from a third of the run on, all of them for the last 5 %. A fixed weight stays where it is,
    also under momentum and weight decay (:meth:`after_step`). One latent a weight.

    Before the last portion ``weight()`` is *not* ``levels(codes()) * scale()``: it is what trains, partly float.
    ``codes()`` are valid at any time (a free weight's is that of its nearest level), and evaluation, freezing and
    export go by them: they show the network as if it were fixed now.

    Start: a pretrained weight. From scratch: PyTorch's default weight, which the paper does not do.

    Where we differ: the authors run one training per portion and stop one iteration after the last; here they are
    stages of one run (give it restarts of the rate for the paper's schedule), and the last 5 % trains norms, biases and
    float layers. ``scale`` (powers of two, one per channel) replaces the rule for n2.
    """

    name = "inq"
    weight_units = True
    bits = (2, 3, 4, 5)
    options: ClassVar[dict[str, Any]] = {
        "portions": (0.5, 0.75, 0.875, 1.0), "at": (0.0, 1 / 3, 2 / 3, 0.95), "scale": None,
    }  # fmt: skip

    scale_exp: Tensor
    fixed: Tensor
    stage: Tensor

    def __init__(
        self, latent: Tensor, format: str, *, scale: Tensor, portions: Sequence[float] = (0.5, 0.75, 0.875, 1.0),
        at: Sequence[float] = (0.0, 1 / 3, 2 / 3, 0.95),
    ) -> None:  # fmt: skip
        super().__init__()
        self.format = self.check_format(format)
        self.shape = tuple(latent.shape)
        self.portions, self.at = _checked_steps(portions, at)
        self.top = 1 << ((1 << (self.format.bits - 2)) - 1)
        self.register_buffer("scale_exp", exponents_of(scale, self.shape[0], self.name).to(latent.device))
        self.register_buffer("fixed", torch.full_like(latent, _FREE, dtype=torch.uint8))
        self.register_buffer("stage", torch.zeros((), dtype=torch.int64))
        self._stage = 0
        self.latent = nn.Parameter(latent.detach().clone())

    @staticmethod
    def format_for(bits: int) -> str:
        if bits not in INQ.bits:
            raise ValueError(f"method 'inq' has no {bits}-bit set; allowed bits: 2, 3, 4, 5")
        return f"pot{bits}"

    @classmethod
    def random(
        cls, shape: Iterable[int], format: str, *, generator: torch.Generator | None = None, **options: Any
    ) -> INQ:
        """PyTorch's default weight."""
        return cls.from_float(default_weight(shape, generator), format, **options)

    @classmethod
    def from_float(
        cls, weight: Tensor, format: str, *, generator: torch.Generator | None = None,
        portions: Sequence[float] = (0.5, 0.75, 0.875, 1.0), at: Sequence[float] = (0.0, 1 / 3, 2 / 3, 0.95),
        scale: Tensor | None = None,
    ) -> INQ:  # fmt: skip
        """The weight itself as the latent, all of it free."""
        fmt = cls.check_format(format)
        latent = check_weight(weight, "inq.from_float")
        if scale is None:
            scale = torch.full((latent.shape[0],), 2.0 ** least_exponent(latent, fmt.bits))
        return cls(latent, format, scale=scale, portions=portions, at=at)

    @property
    def fixed_share(self) -> float:
        """Share of the weights that are fixed."""
        return float((self.fixed != _FREE).double().mean())

    def _level_table(self) -> Tensor:
        return torch.tensor(self.format.levels, dtype=torch.float32, device=self.latent.device)

    def _held(self) -> Tensor:
        """The value of each fixed weight; of a free one anything finite."""
        index = self.fixed.flatten().int().clamp_max_(len(self.format.levels) - 1)
        values = self._level_table().index_select(0, index).view(self.shape)
        return values.mul_(per_channel(self.scale(), len(self.shape)))

    def weight(self) -> Tensor:
        return torch.where(self.fixed == _FREE, self.latent.float(), self._held())

    def _values(self) -> Tensor:
        latent = check_weight(self.latent, "latent of inq")
        return (latent / per_channel(self.scale(), latent.ndim)).clamp_(-self.top, self.top)

    @torch.no_grad()
    def codes(self) -> Tensor:
        return torch.where(self.fixed == _FREE, nearest_code(self._values(), self.format), self.fixed)

    def scale(self) -> Tensor:
        return scale_of(self.scale_exp)

    def latents(self) -> dict[str, Tensor]:
        return {"latent": self.latent}

    def threshold_distance(self) -> Tensor:
        """Distance of the latent to the nearest midpoint between two levels, of a fixed weight too."""
        scale = per_channel(self.scale(), len(self.shape)).double()
        values = (self.latent.detach() / scale).clamp_(-self.top, self.top)
        outside = (self.latent.detach().abs() / scale - self.top).clamp_min_(0)
        return ((midpoint_distance(values, self.format) + outside) * scale).float()

    def set_progress(self, fraction: float) -> bool:
        """Fix the portions that are due; False, because what is fixed stays and what is free was not rounded."""
        stage = bisect_right(self.at, fraction)
        if stage <= self._stage:
            return False
        self._stage = stage
        self.stage.fill_(stage)
        with torch.no_grad():
            codes = self.codes().flatten()
            fixed = self.fixed.flatten()
            # fixed ones first, then the free ones by size; of equal sizes the earlier weight
            order = torch.where(fixed == _FREE, self.latent.abs().flatten().float(), torch.inf)
            chosen = order.sort(descending=True, stable=True).indices[: round(self.portions[stage - 1] * len(fixed))]
            fixed[chosen] = codes[chosen]
            self.fixed.copy_(fixed.view(self.shape))
        self.after_step()
        return False

    @torch.no_grad()
    def after_step(self) -> None:
        if self._stage:
            self.latent.copy_(torch.where(self.fixed == _FREE, self.latent, self._held().to(self.latent.dtype)))

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._stage = int(self.stage)

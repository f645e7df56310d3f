"""The table of an embedding: one row of shift weights a token."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bitshift.core.fixed import FixedPoint
from bitshift.nn.activations import ActQuant
from bitshift.nn.layers.base import IntegerForm, ShiftLayer, _Replace, integer_form
from bitshift.nn.method import Method
from bitshift.nn.ops import exact_embedding, exact_embedding_float

ONE = FixedPoint(1, 0, signed=False)
"""What a row is multiplied by: the one of a one-hot vector."""


class ShiftEmbedding(ShiftLayer):
    """Integer ids of any shape to rows of a weight ``(V, E)``; see :class:`ShiftLayer`. A scale belongs to a row.

    ``padding_idx`` names a row of zeros, without a gradient; it needs a format that has the level 0. A tied linear
    layer shares the method. In integers a row is ``level * 2**e``: exact, no quantiser comes before it.
    """

    def __init__(self, method: Method, *, padding_idx: int | None = None, **common: Any) -> None:
        if len(method.shape) != 2:
            raise ValueError(f"ShiftEmbedding needs a weight (V, E), the method has shape {tuple(method.shape)}")
        refused = sorted(name for name, value in common.items() if value is not None)
        if refused:
            raise ValueError(f"ShiftEmbedding has no {', '.join(refused)}")
        super().__init__(method)
        rows = method.shape[0]
        if padding_idx is not None and not -rows <= padding_idx < rows:
            raise ValueError(f"padding_idx={padding_idx} names no row of {rows}")
        if padding_idx is not None and not method.format.has_zero:
            raise ValueError(f"padding_idx={padding_idx} needs a row of zeros, and {method.format.name} has no level 0")
        self.padding_idx = None if padding_idx is None else padding_idx % rows
        self._integer = False

    @property
    def num_embeddings(self) -> int:
        """V."""
        return self.method.shape[0]

    @property
    def embedding_dim(self) -> int:
        """E."""
        return self.method.shape[1]

    @property
    def is_integer(self) -> bool:
        """Whether evaluation is in integers."""
        return self._integer

    def set_integer(self) -> None:
        """Make this a layer of an integer network: rows on a grid, carried as float64."""
        self._integer = True

    def set_input(self, quant: ActQuant) -> None:
        """Refused: ids are no activations."""
        raise ValueError(f"an embedding reads ids, not what {quant.describe()} rounds; use set_integer()")

    def codes(self) -> Tensor:
        """Codes of the method, the row ``padding_idx`` of zeros."""
        codes = self.method.codes()
        if self.padding_idx is None:
            return codes
        zero = next(
            c for c, v in enumerate(self.method.format.levels) if v == 0 and c not in self.method.format.reserved
        )
        codes = codes.clone()
        codes[self.padding_idx] = zero
        return codes

    def integer_form(self) -> IntegerForm:
        """The integers of ``eval``: rule 4 with the level as the sum, per row.

        Raises:
            IntegerError: see :func:`bitshift.nn.layers.base.integer_form`.
        """
        if not self._integer:
            raise RuntimeError("this layer has float activations; convert(..., activations=8) makes integer layers")
        with torch.no_grad():
            codes, gain = self.codes(), self.method.scale().double()
            largest = torch.full_like(gain, float(self.method.format.max_level))
            return integer_form(
                codes, gain, torch.zeros_like(gain), self.method.format, ONE, fit_int32=True, sums=largest
            )

    def forward(self, input: Tensor) -> Tensor:
        """Ids ``(...)`` to ``(..., E)``."""
        if self.training:
            return self._float(input)
        with torch.no_grad():
            if self._integer:
                value = self._exact(input, self.integer_form())
            else:
                value = self._exact_float(input, self.codes(), self.method.scale(), self.float_bias())
        if torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters()):
            return _Replace.apply(value, self._float(input))  # type: ignore[no-any-return]
        return value

    def _convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        if self.padding_idx is None:
            return F.embedding(x.long(), weight)
        kept = torch.ones(len(weight), 1, dtype=weight.dtype, device=weight.device)
        kept[self.padding_idx] = 0
        return F.embedding(x.long(), weight * kept)

    def _per_channel(self, v: Tensor) -> Tensor:
        return v.unsqueeze(-1)

    def _exact(self, x: Tensor, form: IntegerForm) -> Tensor:
        return exact_embedding(x, form.codes, form.mult, form.frac, form.format, wide=True)

    def _exact_float(self, x: Tensor, codes: Tensor, scale: Tensor, bias: Tensor) -> Tensor:  # noqa: ARG002 - no bias
        return exact_embedding_float(x, codes, scale, self.method.format.name)

    def extra_repr(self) -> str:
        """Format, method, rows and the row of zeros."""
        kind = "integer" if self._integer else "float activations"
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.method.name} {self.method.format.name}, shape={list(self.method.shape)}, {kind}{padding}"


__all__ = ["ShiftEmbedding"]

"""The linear layer."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from bitshift.nn.layers.base import IntegerForm, ShiftLayer
from bitshift.nn.method import Method
from bitshift.nn.ops import exact_linear, exact_linear_float


class ShiftLinear(ShiftLayer):
    """``(..., I)`` to ``(..., O)`` with a weight ``(O, I)`` of signed powers of two; see :class:`ShiftLayer`."""

    def __init__(self, method: Method, **common: Any) -> None:
        if len(method.shape) != 2:
            raise ValueError(f"ShiftLinear needs a weight (O, I), the method has shape {tuple(method.shape)}")
        super().__init__(method, **common)

    @property
    def in_features(self) -> int:
        """I."""
        return self.method.shape[1]

    @property
    def out_features(self) -> int:
        """O."""
        return self.method.shape[0]

    def _convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.linear(x, weight)

    def _per_channel(self, v: Tensor) -> Tensor:
        return v

    def _exact(self, x: Tensor, form: IntegerForm) -> Tensor:
        return exact_linear(x, form.codes, form.mult, form.offset, form.frac, form.format, form.input.frac, wide=True)

    def _exact_float(self, x: Tensor, codes: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        return exact_linear_float(x, codes, scale, bias, self.method.format.name)

"""Numbers that a cast of their module to half floats leaves in float32."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

HALF = (torch.bfloat16, torch.float16)


def wide_again(module: nn.Module, before: Mapping[str, Tensor]) -> None:
    """Undo what a cast to half floats did to tensors of ``module`` itself, which were as in ``before``, in place.

    A tensor that was half already becomes float32, too; its device is that of now.
    """
    for name, wide in before.items():
        moved = getattr(module, name)
        if moved.dtype not in HALF:
            continue
        value = wide.detach().to(moved.device, torch.promote_types(wide.dtype, torch.float32))
        if isinstance(moved, nn.Parameter):
            grad, moved.grad = moved.grad, None
            moved.data = value
            moved.grad = None if grad is None else grad.to(value.dtype)
        else:
            setattr(module, name, value)


__all__ = ["HALF", "wide_again"]

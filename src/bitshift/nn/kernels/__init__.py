"""Fused kernels of training: each quantiser's forward and backward in one pass over memory.

The formulas in PyTorch (``nn/ste.py``, ``nn/activations.py``, ``nn/norms.py``, the methods) are the reference and the
fallback; a kernel gives the same bits where an element depends on elements alone, and sums to the last digits. A caller
asks :func:`on_cpu` whether the compiled module can take its tensors. Under ``torch.compile`` and ``torch.export`` it
cannot: the compiler sees the formulas and fuses them itself.

``BITSHIFT_TORCH_ENGINE=off`` switches the compiled module off.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from bitshift.nn.kernels import cpu

_PLAIN = (Tensor, torch.nn.Parameter)


def on_cpu(*tensors: Tensor) -> bool:
    """Whether the compiled module can work on these: ordinary float32 or bfloat16 tensors of the CPU, not traced."""
    if cpu.native is None or torch.compiler.is_compiling() or _get_current_dispatch_mode() is not None:
        return False
    return all(type(t) in _PLAIN and t.device.type == "cpu" and t.dtype in cpu.REALS for t in tensors)


__all__ = ["cpu", "on_cpu"]

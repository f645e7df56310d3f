"""Fused kernels of training: each quantiser's forward and backward in one pass over memory.

The formulas in PyTorch (``nn/ste.py``, ``nn/activations.py``, ``nn/norms.py``, the methods) are the reference and the
fallback; a kernel gives the same bits where an element depends on elements alone, and sums to the last digits. A caller
asks :func:`fused` which module can take its tensors: the compiled one (``cpu.py``) or Triton's (``gpu.py``). Under
``torch.compile`` and ``torch.export`` it is none: the compiler sees the formulas and fuses them itself.

``BITSHIFT_TORCH_ENGINE=off`` switches the compiled module off, ``BITSHIFT_TRITON=off`` Triton.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from bitshift.nn.kernels import cpu

_PLAIN = (Tensor, torch.nn.Parameter)


@lru_cache(maxsize=1)
def _gpu() -> Any:
    """The module of Triton's kernels; None without Triton."""
    if os.environ.get("BITSHIFT_TRITON") == "off" or importlib.util.find_spec("triton") is None:
        return None
    return importlib.import_module("bitshift.nn.kernels.gpu")


def _plain(tensors: tuple[Tensor, ...], device: str) -> bool:
    """Whether these are ordinary float32 or bfloat16 tensors of one ``device``, and nobody traces."""
    if torch.compiler.is_compiling() or _get_current_dispatch_mode() is not None:
        return False
    here = tensors[0].device  # a kernel that got an address of another GPU would read whatever lies there
    return here.type == device and all(type(t) in _PLAIN and t.device == here and t.dtype in cpu.REALS for t in tensors)


def on_cpu(*tensors: Tensor) -> bool:
    """Whether the compiled module can work on these."""
    return cpu.native is not None and _plain(tensors, "cpu")


def fused(*tensors: Tensor) -> Any:
    """The module whose kernels can work on these; None: use the formulas."""
    if on_cpu(*tensors):
        return cpu
    return _gpu() if tensors[0].is_cuda and _plain(tensors, "cuda") else None


__all__ = ["cpu", "fused", "on_cpu"]

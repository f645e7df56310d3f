"""The kernels for convolutions and linear layers: one file each."""

from bitshift.backends.c99.kernels.plain import Plain
from bitshift.backends.c99.layer import Kernel

KERNELS: dict[str, Kernel] = {kernel.name: kernel for kernel in (Plain(),)}
"""By the name that ``--mode`` takes; ``plain`` computes every layer."""

__all__ = ["KERNELS"]

"""The kernels for convolutions and linear layers: one file each."""

from bitshift.backends.c99.kernels.depthwise import Depthwise
from bitshift.backends.c99.kernels.lists import Lists
from bitshift.backends.c99.kernels.packed import Packed
from bitshift.backends.c99.kernels.plain import Plain
from bitshift.backends.c99.kernels.unrolled import Unrolled
from bitshift.backends.c99.layer import Kernel

KERNELS: dict[str, Kernel] = {
    "plain": Plain(),
    "packed": Packed(4),
    "packed-2": Packed(2),
    "packed-1": Packed(1),
    "unrolled": Unrolled(),
    "depthwise": Depthwise(),
    "lists": Lists(),
}
"""By name; ``plain`` computes every layer."""

PACKED = ("packed", "packed-2", "packed-1", "depthwise")

MODES: dict[str, tuple[str, ...]] = {
    "auto": (*PACKED, "lists", "unrolled"),
    "packed": PACKED,
    "unrolled": ("unrolled",),
    "lists": ("lists",),
    "plain": ("plain",),
}
"""Kernels that a mode weighs; ``plain`` stands in where all refuse."""

__all__ = ["KERNELS", "MODES"]

"""Layers whose weights are signed powers of two."""

from bitshift.nn.layers.base import IntegerError, IntegerForm, ShiftLayer
from bitshift.nn.layers.conv import ShiftConv1d, ShiftConv2d, ShiftConv3d
from bitshift.nn.layers.embedding import ShiftEmbedding
from bitshift.nn.layers.linear import ShiftLinear
from bitshift.nn.layers.transposed import ShiftConvTranspose1d, ShiftConvTranspose2d, ShiftConvTranspose3d

__all__ = [
    "IntegerError",
    "IntegerForm",
    "ShiftConv1d",
    "ShiftConv2d",
    "ShiftConv3d",
    "ShiftConvTranspose1d",
    "ShiftConvTranspose2d",
    "ShiftConvTranspose3d",
    "ShiftEmbedding",
    "ShiftLayer",
    "ShiftLinear",
]

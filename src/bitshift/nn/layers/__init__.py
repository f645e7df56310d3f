"""Layers whose weights are signed powers of two."""

from bitshift.nn.layers.base import IntegerError, IntegerForm, ShiftLayer
from bitshift.nn.layers.conv import ShiftConv1d, ShiftConv2d
from bitshift.nn.layers.linear import ShiftLinear

__all__ = ["IntegerError", "IntegerForm", "ShiftConv1d", "ShiftConv2d", "ShiftLayer", "ShiftLinear"]

"""Training floor: methods, layers, norms, activation quantisers, conversion and freezing (needs torch)."""

from bitshift.nn.activations import ActQuant, FixedPointQuant, calibrate
from bitshift.nn.config import Rule, ShiftConfig
from bitshift.nn.convert import ConversionReport, ConvertError, convert
from bitshift.nn.freeze import FreezeError, FrozenModel, freeze
from bitshift.nn.layers import (
    ShiftConv1d,
    ShiftConv2d,
    ShiftConv3d,
    ShiftConvTranspose1d,
    ShiftConvTranspose2d,
    ShiftConvTranspose3d,
    ShiftEmbedding,
    ShiftLayer,
    ShiftLinear,
)
from bitshift.nn.norms import AffineNorm, ShiftNorm

__all__ = [
    "ActQuant",
    "AffineNorm",
    "ConversionReport",
    "ConvertError",
    "FixedPointQuant",
    "FreezeError",
    "FrozenModel",
    "Rule",
    "ShiftConfig",
    "ShiftConv1d",
    "ShiftConv2d",
    "ShiftConv3d",
    "ShiftConvTranspose1d",
    "ShiftConvTranspose2d",
    "ShiftConvTranspose3d",
    "ShiftEmbedding",
    "ShiftLayer",
    "ShiftLinear",
    "ShiftNorm",
    "calibrate",
    "convert",
    "freeze",
]

"""The ops of a graph: one file each, filed in :data:`OPS` by their name."""

from bitshift.core.ops import (
    add,
    affine,
    argmax,
    avg_pool,
    clamp,
    concat,
    conv,
    conv_transpose,
    dequantize,
    embedding,
    linear,
    max_pool,
    pad,
    quantize,
    requantize,
    rescale,
    reshape,
    slice,  # noqa: A004 - the op's name
    table,
    transpose,
    unary,
    upsample,
)
from bitshift.core.ops.base import OPS, Bound, Cost, Op, get_op

__all__ = ["OPS", "Bound", "Cost", "Op", "get_op"]

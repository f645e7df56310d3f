"""C for every op but the layers: one function an op, filed by the op's name."""

from bitshift.backends.c99.ops import argmax, conv_transpose, elementwise, embedding, moves, pools
from bitshift.backends.c99.ops.base import Emitter, Site

EMITTERS: dict[str, Emitter] = {
    "add": elementwise.aligned,
    "argmax": argmax.argmax,
    "avg_pool": pools.avg_pool,
    "clamp": elementwise.clamp,
    "concat": moves.concat,
    "conv_transpose": conv_transpose.conv_transpose,
    "embedding": embedding.embedding,
    "max_pool": pools.max_pool,
    "pad": moves.pad,
    "requantize": elementwise.aligned,
    "rescale": elementwise.rescale,
    "reshape": moves.copy,
    "slice": moves.crop,
    "table": elementwise.lookup,
    "transpose": moves.transpose,
    "upsample": moves.upsample,
}

__all__ = ["EMITTERS", "Emitter", "Site"]

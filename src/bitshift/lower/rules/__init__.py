"""One rule per torch op: how a call becomes nodes of the literal graph. Importing this package fills the registry."""

from bitshift.lower.rules import arithmetic, joins, moves, pointwise, pooling, shift, weights
from bitshift.lower.rules.registry import RULES, supported

__all__ = ["RULES", "arithmetic", "joins", "moves", "pointwise", "pooling", "shift", "supported", "weights"]

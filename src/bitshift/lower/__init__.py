"""Floor 2: a frozen torch model becomes a :class:`bitshift.core.graph.Graph`.

``capture`` runs torch.export, ``rules`` write the literal graph, ``passes`` fold it; no step changes an integer.
"""

from bitshift.lower.errors import LoweringError
from bitshift.lower.lowering import export, lower

__all__ = ["LoweringError", "export", "lower"]

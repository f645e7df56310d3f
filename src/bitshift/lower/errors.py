"""The error of this floor: a model that the graph cannot express, named by the user's own words for it."""

from __future__ import annotations


class LoweringError(ValueError):
    """A model that cannot be lowered; the message names the torch op, the module path, the source line and a remedy."""

"""A layer as a key of a cache."""

from __future__ import annotations

from bitshift.backends.c99.layer import Layer


class Key:
    """A layer by identity, so that what is planned for it is planned once."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer

    def __hash__(self) -> int:
        return id(self.layer)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and other.layer is self.layer


__all__ = ["Key"]

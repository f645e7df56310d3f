"""A kernel whose cost and text follow from one plan, which is made once for a layer and a target."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Generic, TypeVar

from bitshift.backends.c99.layer import Layer
from bitshift.backends.c99.targets import Target

Plan = TypeVar("Plan")


class Planned(Generic[Plan]):
    """What such kernels share; each says in :meth:`make` what its plan is, or why there is none."""

    def make(self, layer: Layer, target: Target) -> Plan | str:
        """The plan, or why this kernel cannot compute ``layer``."""
        raise NotImplementedError

    def refuses(self, layer: Layer, target: Target) -> str | None:
        """None, or why this kernel cannot compute ``layer``."""
        found = _made(self, _Same(layer), target)
        return found if isinstance(found, str) else None

    def plan(self, layer: Layer, target: Target) -> Plan:
        """The plan; ValueError where the kernel refuses."""
        found = _made(self, _Same(layer), target)
        if isinstance(found, str):
            raise ValueError(f"{layer.title}: {found}")
        return found


class _Same:
    """A layer by identity: a key for what is planned once."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer

    def __hash__(self) -> int:
        return id(self.layer)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.layer is self.layer


@lru_cache(maxsize=1024)
def _made(kernel: Planned[Any], same: _Same, target: Target) -> Any:
    return kernel.make(same.layer, target)


__all__ = ["Planned"]

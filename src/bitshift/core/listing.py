"""Lists in messages."""

from __future__ import annotations

from collections.abc import Sequence


def listed(things: Sequence[str], most: int) -> str:
    """At most ``most`` of them, and how many there are besides: "a, b and 3 more"."""
    more = len(things) - most
    return ", ".join(things[:most]) + (f" and {more} more" if more > 0 else "")


__all__ = ["listed"]

"""Lists in messages."""

from __future__ import annotations

from bitshift.core.listing import listed


def test_what_is_too_much_is_counted() -> None:
    assert listed("abcd", 4) == "a, b, c, d"
    assert listed(["fc.weight", "fc.bias", "stem"], 2) == "fc.weight, fc.bias and 1 more"
    assert listed([], 3) == ""

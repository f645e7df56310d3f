"""Options of methods that several of them check alike."""

from __future__ import annotations

import pytest

from bitshift.nn import methods as _filled  # noqa: F401 - fills the registry
from bitshift.nn.method import get_method


@pytest.mark.parametrize(
    ("method", "option"), [("denseshift", "surrogate"), ("apot", "normalise"), ("deepshift_q", "stochastic")]
)
def test_a_word_is_no_flag(method: str, option: str) -> None:
    kind = get_method(method)
    with pytest.raises(ValueError, match=rf"{method}: {option}='off' must be true or false"):
        kind.random((2, 3), kind.format_for(3), **{option: "off"})

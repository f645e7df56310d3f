"""JSON as the model file allows it: unique keys, bounded integers, finite floats, bounded nesting."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

MAX_DEPTH = 32
_INT64 = 1 << 63


class JsonError(ValueError):
    """A text that is no JSON, or JSON that the model file does not allow."""


def parse_object(text: str) -> dict[str, Any]:
    """The JSON object in ``text``.

    Refuses repeated keys, ``true`` and ``false``, NaN and infinities, integers beyond 64 bits, lone surrogates,
    and more than 32 levels of nesting.

    Raises:
        JsonError: says what was found.
    """
    try:
        found = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_int=_integer,
            parse_float=_float,
            parse_constant=_constant,
        )
    except JsonError:
        raise
    except RecursionError:
        raise JsonError(f"nested deeper than {MAX_DEPTH}") from None
    except ValueError as error:
        raise JsonError(f"no valid JSON: {error}") from None
    if not isinstance(found, dict):
        raise JsonError(f"expected a JSON object, found {type(found).__name__}")
    _check_tree(found)
    return found


def dump(tree: Any) -> str:
    """Compact ASCII JSON; refuses NaN and infinities."""
    return json.dumps(tree, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise JsonError(f"key {key[:80]!r} occurs twice")
            seen.add(key)
    return found


def _integer(digits: str) -> int:
    # The length is looked at first: converting thousands of digits takes quadratic time.
    if len(digits) > 20 or not -_INT64 <= int(digits) < _INT64:
        raise JsonError(f"integer {digits[:24]} does not fit 64 bits")
    return int(digits)


def _float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise JsonError(f"number {digits[:24]} is not finite")
    return value


def _constant(name: str) -> NoReturn:
    raise JsonError(f"{name} is not allowed")


def _check_tree(root: Any) -> None:
    """Depth, strings and booleans, without recursion."""
    level, depth = [root], 0
    while level:
        depth += 1
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                for key in item:
                    _check_text(key)
                below.extend(item.values())
            else:
                below.extend(item)
        for leaf in below:
            if isinstance(leaf, bool):
                raise JsonError("true and false are not allowed")
            if isinstance(leaf, str):
                _check_text(leaf)
        level = [x for x in below if isinstance(x, dict | list)]
        if depth > MAX_DEPTH:
            raise JsonError(f"nested deeper than {MAX_DEPTH}")


def is_text(text: str) -> bool:
    """Whether UTF-8 can hold ``text``: it has no lone surrogate."""
    try:
        return text.isascii() or bool(text.encode("utf-8"))
    except UnicodeEncodeError:
        return False


def _check_text(text: str) -> None:
    if not is_text(text):
        raise JsonError("a string holds a lone surrogate")

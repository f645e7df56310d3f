"""How flags look in ``--help``, where absent values and switches show no default, and how their numbers are read."""

from __future__ import annotations

import difflib
import inspect
import re
import types
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import tyro

NUMBERS = tyro.constructors.ConstructorRegistry()
"""Reads numbers with a complaint that says what was found and what is needed; a context for ``tyro.cli``."""
_WORDS = {int: "N", float: "X", str: "NAME"}


@NUMBERS.primitive_rule
def _number(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec[Any] | None:
    """A rule of tyro for ``int``, ``float`` and each of them or None."""
    inner = [a for a in get_args(info.type) if a is not type(None)]
    optional = get_origin(info.type) in (Union, types.UnionType) and len(inner) == 1
    kind = inner[0] if optional else info.type
    if kind not in (int, float):
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=_WORDS[kind],
        instance_from_str=lambda words: None if optional and words[0] == "None" else _read(kind, words[0]),
        is_instance=lambda value: isinstance(value, kind) or (optional and value is None),
        str_from_instance=lambda value: [str(value)],
    )


@NUMBERS.primitive_rule
def _choice(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec[Any] | None:
    """A rule of tyro for ``Literal`` or None: its own names None among the choices."""
    inner = [a for a in get_args(info.type) if a is not type(None)]
    if get_origin(info.type) not in (Union, types.UnionType) or len(inner) != 1 or get_origin(inner[0]) is not Literal:
        return None
    choices = {str(value): value for value in get_args(inner[0])}

    def read(words: list[str]) -> Any:
        if words[0] != "None" and words[0] not in choices:
            near = difflib.get_close_matches(words[0], choices, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"found {words[0]!r}, allowed is {', '.join(choices)}{hint}")
        return choices.get(words[0])

    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="{" + ",".join(choices) + "}",
        instance_from_str=read,
        is_instance=lambda value: value is None or value in choices.values(),
        str_from_instance=lambda value: [str(value)],
    )


def _read(kind: Callable[[str], Any], word: str) -> Any:
    try:
        return kind(word)
    except ValueError:
        needed = "a whole number, such as 3" if kind is int else "a number, such as 0.5 or 1e-3"
        if kind is int and (unit := re.fullmatch(r"(\d+) ?(k|m)i?b?", word, re.IGNORECASE)):
            count = int(unit[1]) << (10 if unit[2] in "kK" else 20)
            needed = f"a whole number without a unit, such as {count}"
        raise ValueError(f"found {word!r}, needed is {needed}") from None


def quiet_defaults(cls: type) -> None:
    """Rewrite the annotations of the dataclass ``cls`` and its bases; a second call changes nothing."""
    hints = get_type_hints(cls, include_extras=True)
    defaults = {f.name: f.default for f in fields(cls)}
    for owner in cls.__mro__:
        for name in inspect.get_annotations(owner):
            kind, default = hints[name], defaults.get(name, MISSING)
            if default is MISSING or get_origin(kind) is Annotated:
                continue
            silent = default is None or default == () or isinstance(default, bool)
            metavar = None if isinstance(default, bool) else _metavar(kind)
            argument = tyro.conf.arg(metavar=metavar, help_behavior_hint="" if silent else None)
            owner.__annotations__[name] = Annotated[kind, argument]


def _metavar(kind: Any) -> str | None:
    """N, X, NAME, PATH or the choices; of ``T | None`` that of T; None leaves it to tyro."""
    if get_origin(kind) in (Union, types.UnionType):
        inner = [a for a in get_args(kind) if a is not type(None)]
        return _metavar(inner[0]) if len(inner) == 1 else None
    if kind is bool:
        return "{True,False}"
    if get_origin(kind) is Literal:
        return "{" + ",".join(map(str, get_args(kind))) + "}"
    if get_origin(kind) is tuple:
        return "N ..." if get_args(kind)[0] is int else "NAME=VALUE ..."
    return _WORDS.get(kind, getattr(kind, "__name__", "value").upper())

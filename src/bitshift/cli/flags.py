"""How flags look in ``--help``: absent values and switches show no default, and metavars are words."""

from __future__ import annotations

import inspect
import types
from dataclasses import MISSING, fields
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import tyro

_WORDS = {int: "N", float: "X", str: "NAME"}


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

"""The flags that say how to convert, and the file of rules."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bitshift.cli.errors import CliError, near_miss

if TYPE_CHECKING:
    from bitshift.nn.config import Rule, ShiftConfig


@dataclass(frozen=True, kw_only=True)
class ShiftFlags:
    """How a float network becomes a shift network; None leaves the recipe's or the default value."""

    method: str | None = None
    """Training method (`bitshift inspect methods`), or float for the float network."""
    bits: int | None = None
    """Width of the weights; default 3."""
    format: str | None = None
    """Weight format (`bitshift inspect formats`); default: the method's own at --bits."""
    activations: str | None = None
    """float, 2 to 8 (integer network), or fixed point such as 16.16 or 3.5."""
    multiplier: bool | None = None
    """Integer networks: True allows one 16-bit multiplication per output channel; default: none at all."""
    keep_first: Literal["shift", "float", "int8"] | None = None
    """What becomes of the first layer."""
    keep_last: Literal["shift", "float", "int8"] | None = None
    """What becomes of the last layer."""
    rules: Path | None = None
    """Exceptions by module path, a .toml or .json file; see docs/cli.md."""
    init: Literal["random", "pretrained"] | None = None
    """Start the weights by the method's own rule, or from the float weights."""
    latents: Literal["float32", "bfloat16"] | None = None
    """Type of the trained weights' latents; bfloat16 halves their memory (SGD only, stochastic rounding)."""
    option: tuple[str, ...] = ()
    """Options of the method as NAME=VALUE; `bitshift inspect methods` lists them."""

    def given(self) -> bool:
        """Whether any of these flags was set."""
        return any(getattr(self, f.name) not in (None, ()) for f in fields(ShiftFlags))

    def shift_config(self, base: ShiftConfig | None) -> ShiftConfig | None:
        """``base`` (or the defaults) with the flags' changes; None for ``--method float``.

        Raises:
            CliError, ValueError: an unknown method, format or option, with the near misses.
        """
        from dataclasses import replace

        from bitshift.core.formats import get_format
        from bitshift.nn.config import ShiftConfig
        from bitshift.nn.method import get_method

        if self.method == "float":
            return None
        changes: dict[str, Any] = {}
        if self.method is not None:
            changes["method"] = get_method(self.method).name
            if base is not None and self.method != base.method:  # another method has other sets and options
                changes |= {"options": {}, "format": None}
                changes["bits"] = base.bits or (get_format(base.format).bits if base.format else None)
        if self.format is not None:
            changes |= {"format": get_format(self.format).name, "bits": None}
        if self.bits is not None:
            if self.format is not None:
                raise CliError(f"--bits {self.bits} and --format {self.format}: give one of them")
            changes |= {"bits": self.bits, "format": None}
        if self.activations is not None:
            changes["activations"] = parse_activations(self.activations)
        for name in ("multiplier", "init", "latents"):
            if (value := getattr(self, name)) is not None:
                changes[name] = value
        for name in ("keep_first", "keep_last"):
            if (value := getattr(self, name)) is not None:
                changes[name] = False if value == "shift" else value
        if self.rules is not None:
            changes["rules"] = read_rules(self.rules)
        if self.option:
            old = changes.get("options", dict(base.options) if base else {})
            changes["options"] = {**old, **dict(map(parse_option, self.option))}
        config = replace(base, **changes) if base is not None else ShiftConfig(**changes)
        method = get_method(config.method)
        method.check_options(config.options)
        if config.format is None and config.bits is not None:
            method.format_for(config.bits)
        return config


def parse_activations(text: str) -> int | str | None:
    """``float`` is None, a whole number the bits of an integer network, ``I.F`` fixed point."""
    if text == "float":
        return None
    return int(text) if text.isdecimal() else text


def parse_option(text: str, flag: str = "--option") -> tuple[str, Any]:
    """``NAME=VALUE`` of ``flag``; the value is read as JSON, and as a word if it is none."""
    name, found, value = text.partition("=")
    if not found or not name:
        raise CliError(f"{flag} {text!r}: write NAME=VALUE")
    words = {"True": True, "False": False, "None": None}
    if value in words:
        return name, words[value]
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def _check_kinds(entry: dict[str, Any], where: str) -> None:
    """CliError for a value of a rule that is of another kind than its key takes; null says nothing, as no key does."""
    for key, value in entry.items():
        if key == "bits":
            whole = isinstance(value, int) and not isinstance(value, bool)
            fits, allowed = whole and value >= 1, "a whole number from 1"
        elif key == "options":
            fits, allowed = isinstance(value, dict), "a table of options and their values"
        elif key == "keep":
            fits, allowed = value is False or isinstance(value, str), "false, 'float' or 'int8'"
        else:
            fits, allowed = isinstance(value, str), "a string"
        if not (fits or (value is None and key not in ("pattern", "keep"))):
            raise CliError(f"{where}: {key} is {value!r}; allowed: {allowed}")


def read_rules(path: Path) -> tuple[Rule, ...]:
    """The rules in a .json file (a list of objects) or a .toml file ([[rule]] tables), in order.

    Raises:
        CliError: no such file, a syntax error with its place, an unknown key with the near miss.
    """
    from bitshift.nn.config import Rule

    if not path.is_file():
        raise CliError(f"no such file: {path}")
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".toml":
            content = tomllib.loads(text).get("rule")
        elif path.suffix == ".json":
            content = json.loads(text)
        else:
            raise CliError(f"{path}: unknown kind of rules {path.suffix!r}; allowed: .toml, .json")
    except (tomllib.TOMLDecodeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CliError(f"{path}: {error}") from None
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        raise CliError(f"{path}: expected a list of rules ([[rule]] tables in TOML, a list of objects in JSON)")
    known = [f.name for f in fields(Rule)]
    rules = []
    for number, entry in enumerate(content, 1):
        for key in entry:
            if key not in known:
                raise CliError(f"{path}, rule {number}: {near_miss(key, known, 'key')}")
        _check_kinds(entry, f"{path}, rule {number}")
        try:
            rules.append(Rule(**entry))
        except (ValueError, TypeError) as error:
            raise CliError(f"{path}, rule {number}: {error}") from None
    return tuple(rules)

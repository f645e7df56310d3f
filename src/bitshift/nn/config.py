"""What to convert and how: the configuration of ``convert``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, Literal

Keep = Literal[False, "float", "int8"]
_KEEPS = (False, "float", "int8")


def _check_bits(bits: Any, who: str) -> None:
    """ValueError, with the type, for a width that is no whole number."""
    if bits is not None and (isinstance(bits, bool) or not isinstance(bits, Integral)):
        raise ValueError(
            f"{who}bits={bits!r} is a {type(bits).__name__}; write a whole number, as in bits=3, or leave it out"
        )


@dataclass(frozen=True, kw_only=True)
class Rule:
    """An exception for the layers whose module path matches ``pattern`` (fnmatch: ``layer1.*``, ``*.downsample.0``).

    ``keep="float"`` leaves the layer alone, ``"int8"`` makes it a uniform 8-bit layer; the other fields, where not
    None, replace the configuration's (``options`` are added to them where the method is the configuration's). So a new
    head starts by its method's own random rule in a network that otherwise starts from its weights:
    ``Rule(pattern="head.*", init="random")``. The first rule that matches a layer wins. ``keep=False`` says nothing:
    the first and last layer stay as ``keep_first`` and ``keep_last`` have them, whatever else the rule says.
    """

    pattern: str
    method: str | None = None
    format: str | None = None
    bits: int | None = None
    keep: Keep = False
    init: Literal["random", "pretrained"] | None = None
    options: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if not self.pattern:
            raise ValueError("rule with an empty pattern; '*' matches every layer")
        if self.keep not in _KEEPS:
            raise ValueError(f"rule {self.pattern!r}: keep={self.keep!r}; allowed are False, 'float', 'int8'")
        if self.keep and (self.method or self.format or self.bits or self.init or self.options):
            raise ValueError(
                f"rule {self.pattern!r}: keep={self.keep!r} leaves nothing for method, format, bits, init or options"
                " to say"
            )
        if self.init not in (None, "random", "pretrained"):
            raise ValueError(f"rule {self.pattern!r}: init={self.init!r}; allowed are 'random', 'pretrained'")
        _check_bits(self.bits, f"rule {self.pattern!r}: ")
        if self.format is not None and self.bits is not None:
            raise ValueError(f"rule {self.pattern!r}: give format or bits, not both")


@dataclass(frozen=True, kw_only=True)
class ShiftConfig:
    """How ``convert`` turns a model into a shift network.

    Attributes:
        method: training method, a name in ``bitshift.nn.method.METHODS``.
        format: weight set; by default the one that the method trains at ``bits``.
        bits: width of the weights; by default 3, or the method's smallest width where it has no 3.
        activations: None for float activations (layers are swapped, the model keeps its class); "I.F" for the papers'
            fixed point at the layers' inputs; 2 to 8 for an integer network with learned power-of-two grids.
        multiplier: integer networks only: one 16-bit multiplier per output channel instead of powers of two.
        keep_first: leave the first layer in "float", or make it "int8"; only a rule with its own ``keep`` overrides it.
        keep_last: the same for the last layer.
        rules: exceptions by module path; the first match wins.
        init: "random" starts the weights by the method, "pretrained" from the model's own.
        options: keyword options of the method.
        latents: type in which the latents are kept while training: "float32", or "bfloat16", which halves their memory
            and that of gradients and momenta; SGD then rounds stochastically (``nn/latents.py``).
    """

    method: str = "denseshift"
    format: str | None = None
    bits: int | None = None
    activations: int | str | None = None
    multiplier: bool = False
    keep_first: Keep = False
    keep_last: Keep = False
    rules: tuple[Rule, ...] = ()
    init: Literal["random", "pretrained"] = "random"
    options: Mapping[str, Any] = field(default_factory=dict)
    latents: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        if self.latents not in ("float32", "bfloat16"):
            raise ValueError(f"latents={self.latents!r}; allowed are 'float32', 'bfloat16'")
        _check_bits(self.bits, "")
        if self.format is not None and self.bits is not None:
            raise ValueError(f"format={self.format!r} and bits={self.bits}: give one of them")
        for name in ("keep_first", "keep_last"):
            if getattr(self, name) not in _KEEPS:
                raise ValueError(f"{name}={getattr(self, name)!r}; allowed are False, 'float', 'int8'")
        if self.init not in ("random", "pretrained"):
            raise ValueError(f"init={self.init!r}; allowed are 'random', 'pretrained'")
        a = self.activations
        whole = isinstance(a, int) and not isinstance(a, bool) and 2 <= a <= 8
        if not (a is None or whole or (isinstance(a, str) and re.fullmatch(r"\d+\.\d+", a))):
            raise ValueError(
                f"activations={a!r}; allowed are None (float), 2 to 8 (integer network), or fixed point like '16.16'"
            )
        if self.multiplier and not self.integer:
            raise ValueError("multiplier=True speaks of integer networks; set activations to 2..8")
        if not isinstance(self.rules, tuple) or not all(isinstance(r, Rule) for r in self.rules):
            raise ValueError("rules must be a tuple of Rule")

    @property
    def integer(self) -> bool:
        """Whether the result is an integer network."""
        return isinstance(self.activations, int)

"""A model file, or a graph, as C source in a folder."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bitshift import __version__
from bitshift.backends.c99 import files, golden
from bitshift.backends.c99.kernels import KERNELS
from bitshift.backends.c99.layer import Code, Kernel
from bitshift.backends.c99.memory import Plan, plan
from bitshift.backends.c99.ops import EMITTERS
from bitshift.backends.c99.program import Program, Step, build
from bitshift.backends.c99.targets import Target, get_target
from bitshift.core import modelfile
from bitshift.core.graph import Graph

MODES = ("auto", "packed", "unrolled", "lists", "plain")


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A network in C before it is laid out: steps, the kernel of each layer, the text of each step, the arena."""

    program: Program
    kernels: Mapping[str, Kernel]
    codes: Mapping[str, Code]
    plan: Plan
    target: Target


def compile_graph(graph: Graph, *, target: str = "generic", mode: str = "auto") -> Unit:
    """``graph`` as C functions.

    Raises:
        GraphError: the graph holds what C cannot have; names the layer and what would help.
        ValueError: an unknown target or mode.
    """
    processor = get_target(target)
    if mode not in MODES:
        raise ValueError(f"unknown mode {mode!r}; allowed: {', '.join(MODES)}")
    program = build(graph)
    kernels = {layer.name: KERNELS["plain"] for layer in program.layers}
    codes = {step.name: _code(step, kernels, processor) for step in program.steps}
    return Unit(program=program, kernels=kernels, codes=codes, plan=plan(program, codes), target=processor)


def _code(step: Step, kernels: Mapping[str, Kernel], target: Target) -> Code:
    if step.layer is not None:
        return kernels[step.name].emit(step.layer, target)
    assert step.site is not None
    return EMITTERS[step.site.node.op](step.site)


def render(
    unit: Unit, *, name: str = "model", origin: str = "a graph", hash: str = "", samples: int = 3
) -> dict[str, str]:
    """The files of ``unit`` by name: ``NAME.h``, ``NAME.c``, ``NAME_selftest.c``."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,30}", name):
        raise ValueError(f"name {name!r}: allowed are C identifiers of 1 to 31 letters, digits and _, a letter first")
    program = unit.program
    label = files.Label(name=name, origin=origin, version=__version__, hash=hash, target=unit.target.title)
    given = golden.inputs(program, samples)
    return {
        f"{name}.h": files.header(program, label, unit.plan),
        f"{name}.c": files.source(program, label, unit.plan, unit.codes),
        f"{name}_selftest.c": files.selftest(program, label, given, golden.outputs(program, given)),
    }


def export_c(
    model: Graph | str | os.PathLike[str], folder: str | os.PathLike[str], *, name: str = "model",
    target: str = "generic", mode: str = "auto", samples: int = 3,
) -> Unit:  # fmt: skip
    """Write ``model``, a model file or a graph, as C99 source into ``folder``, which is made."""
    if isinstance(model, Graph):
        graph, origin, data = model, "a graph", modelfile.dumps(model)
    else:
        path = Path(model)
        data = path.read_bytes()
        graph, origin = modelfile.loads(data), path.name
    unit = compile_graph(graph, target=target, mode=mode)
    hash = hashlib.sha256(data).hexdigest()[:16]
    texts = render(unit, name=name, origin=origin, hash=hash, samples=samples)
    root = Path(folder)
    for file, text in texts.items():
        at = root / file
        at.parent.mkdir(parents=True, exist_ok=True)
        at.write_text(text, encoding="utf-8")
    return unit

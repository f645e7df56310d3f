"""A model file, or a graph, as C99 source in a folder."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from bitshift import __version__
from bitshift.backends.c99 import files, golden, layouts
from bitshift.backends.c99.boards import get_board
from bitshift.backends.c99.example import example_files
from bitshift.backends.c99.report import Row, readme, rows
from bitshift.backends.c99.unit import Unit, compile_graph
from bitshift.core import modelfile
from bitshift.core.graph import Graph

C_HEADERS = frozenset(
    (
        "arduino", "assert", "complex", "ctype", "errno", "fenv", "float", "inttypes", "iso646", "limits", "locale",
        "math", "setjmp", "signal", "stdalign", "stdarg", "stdatomic", "stdbool", "stddef", "stdint", "stdio",
        "stdlib", "stdnoreturn", "string", "tgmath", "threads", "time", "uchar", "wchar", "wctype",
    )
)  # fmt: skip
"""Headers that a firmware includes: a ``NAME.h`` in its include path must not hide one."""

AVR_NEAR = 0x10000
"""Bytes that a pointer of an 8-bit AVR reaches, in flash and in data memory."""

AVR_RESERVE = 1024
"""Of these in flash, bytes that wait for what lies before the constants: the vector table, tables of the firmware."""

MARKERS = re.compile(
    r"written by `?bitshift \S+ emit-c`? |^(//|/\*|#|;) bitshift emit-c: |^author=bitshift$|^name: bitshift_"
    r"|^(if\(CONFIG_|config )BITSHIFT_",
    re.IGNORECASE | re.MULTILINE,
)
"""What one of the first lines of every file says that bitshift wrote."""
MARKED = 5
"""Lines that may hold it."""


@dataclass(frozen=True, kw_only=True)
class Emitted:
    """What :func:`export_c` wrote, and what it takes.

    Args:
        files: paths under ``folder``.
        arena: bytes of working memory; ``arena_bound`` is what lives at once in the fullest step.
        inputs, outputs: bytes of the caller's buffers.
        constants: bytes of tables, exactly; ``flash`` is with code, about.
        rows: a row a step.
    """

    folder: Path
    files: tuple[str, ...]
    target: str
    arena: int
    arena_bound: int
    inputs: int
    outputs: int
    constants: int
    flash: int
    rows: tuple[Row, ...]


def render(
    unit: Unit,
    *,
    name: str = "model",
    origin: str = "a graph",
    hash: str = "",
    samples: int = 3,
) -> dict[str, str]:
    """The files of ``unit`` by name: ``NAME.h``, ``NAME.c``, ``NAME_selftest.c``, ``README.md``."""
    return _texts(unit, _label(unit, name, origin, hash), rows(unit), samples)


def _texts(unit: Unit, label: files.Label, steps: Sequence[Row], samples: int) -> dict[str, str]:
    name, program = label.name, unit.program
    given = golden.inputs(program, samples)
    return {
        f"{name}.h": files.header(program, label, unit.plan),
        f"{name}.c": files.source(program, label, unit.plan, unit.codes),
        f"{name}_selftest.c": files.selftest(program, label, given, golden.outputs(program, given)),
        "README.md": readme(unit, label, steps),
    }


def _label(unit: Unit, name: str, origin: str, digest: str) -> files.Label:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,30}", name):
        raise ValueError(f"name {name!r}: allowed are C identifiers of 1 to 31 letters, digits and _, a letter first")
    if name.lower() in C_HEADERS:
        raise ValueError(f"name {name!r}: {name}.h would hide the C header of that name; choose another name")
    if re.fullmatch(r"s\d{2,}(_\w*)?", name):
        raise ValueError(
            f"name {name!r}: the functions of the layers are called s00_LAYER, s01_LAYER, ...; choose a name that does "
            "not begin as they do"
        )
    return files.Label(
        name=name, origin=files.readable(origin), version=__version__, hash=digest, target=unit.target.title
    )


def export_c(
    model: Graph | str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    name: str = "model",
    target: str = "generic",
    mode: str = "auto",
    flash: int | None = None,
    ram: int | None = None,
    samples: int = 3,
    arduino: bool = False,
    zephyr: bool = False,
    example: bool = False,
) -> Emitted:
    """Write ``model``, a model file or a graph, as C99 source into ``folder``, which is made.

    Args:
        model: path of a model file, or a graph.
        folder: files that an earlier call wrote are replaced.
        name: prefix of every file and of every public C name.
        target: a processor of :data:`bitshift.backends.c99.targets.TARGETS`.
        mode: kernel of the layers: auto, packed, unrolled, lists, plain.
        flash: bytes that constants and code may take; None: any.
        ram: bytes that the working memory may take, inputs and outputs not counted; None: any.
        samples: inputs of the self-test.
        arduino: lay the files out as an Arduino library.
        zephyr: lay the files out as a Zephyr module.
        example: add start-up code and a Makefile that runs the self-test in an emulator.

    Raises:
        GraphError: the network holds what C cannot have; names the layer and what would help.
        OSError: the model file cannot be read.
        ModelFileError: the file is no model file.
        ValueError: a wrong option, a budget that cannot be met, or a folder that cannot be written or holds files of
            these names that bitshift did not write.
    """
    if arduino and zephyr:
        raise ValueError("arduino and zephyr lay the same folder out in two ways: export into a folder for each")
    if example and (arduino or zephyr):
        raise ValueError(
            "the example goes with the plain folder: leave out arduino and zephyr, whose tools start boards"
        )
    _check_count("samples", samples, "inputs of the self-test")
    for what, budget in (("flash", flash), ("ram", ram)):
        if budget is not None:
            _check_count(what, budget, "bytes")
    graph, origin, data = _read(model)
    unit = compile_graph(graph, target=target, mode=mode, flash=flash, ram=ram)
    steps = rows(unit)
    if unit.target.name == "avr":
        _check_avr(unit, steps, samples)
    label = _label(unit, name, origin, hashlib.sha256(data).hexdigest()[:16])
    texts = _texts(unit, label, steps, samples)
    if arduino:
        texts = layouts.arduino(texts, label)
    if zephyr:
        texts = layouts.zephyr(texts, label)
    if example:
        sample = _sample_bytes(unit)
        stored = sum(row.flash for row in steps) + samples * sample
        board = get_board(target, flash=stored, ram=unit.plan.size + sample)
        texts |= {f"example/{file}": text for file, text in example_files(name, board, unit.target).items()}
    result = _emitted(unit, steps, Path(folder), tuple(texts))
    _write(result.folder, texts)
    return result


def _check_count(what: str, value: object, unit: str) -> None:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{what} is {value!r}: needed is a whole number of {unit}, 1 or more")


def _write(folder: Path, texts: Mapping[str, str]) -> None:
    """The files, unless one of these names is there that bitshift did not write; nothing is written then."""
    try:
        for file in texts:
            at = folder / file
            if at.exists() and not _is_ours(at):
                raise ValueError(
                    f"{at} is there, and bitshift did not write it: name another folder, or move that file"
                )
        for file, text in texts.items():
            at = folder / file
            at.parent.mkdir(parents=True, exist_ok=True)
            at.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ValueError(
            f"{error.filename or folder} cannot be written: {error.strerror}; name another folder"
        ) from error


def _is_ours(path: Path) -> bool:
    with path.open(encoding="utf-8", errors="replace") as file:
        return MARKERS.search("".join(islice(file, MARKED))) is not None


def _sample_bytes(unit: Unit) -> int:
    """Bytes of all inputs and outputs."""
    return sum(b.port.size_bytes for b in (*unit.program.inputs, *unit.program.outputs))


def _read(model: Graph | str | os.PathLike[str]) -> tuple[Graph, str, bytes]:
    if isinstance(model, Graph):
        return model, str(model.meta.get("name", "a graph")), modelfile.dumps(model)
    path = Path(model)
    data = path.read_bytes()
    graph = modelfile.load(path)
    return graph, str(graph.meta.get("name", path.name)), data


def _emitted(unit: Unit, steps: Sequence[Row], folder: Path, names: tuple[str, ...]) -> Emitted:
    return Emitted(
        folder=folder,
        files=names,
        target=unit.target.name,
        arena=unit.plan.size,
        arena_bound=unit.plan.bound,
        inputs=sum(b.port.size_bytes for b in unit.program.inputs),
        outputs=sum(b.port.size_bytes for b in unit.program.outputs),
        constants=sum(row.constants for row in steps),
        flash=sum(row.flash for row in steps),
        rows=tuple(steps),
    )


def _check_avr(unit: Unit, steps: Sequence[Row], samples: int) -> None:
    """What an 8-bit AVR cannot address, which its compiler would say in other words or not at all."""
    for border in unit.program.inputs:
        if border.port.size_bytes > files.AVR_ARRAY:
            raise ValueError(
                f"input {border.name!r}: {border.port.size_bytes:,} bytes; an array on an AVR has at most "
                f"{files.AVR_ARRAY:,}: use a smaller input, or a 32-bit target"
            )
    for step, row in zip(unit.program.steps, steps, strict=True):
        for what, size in (
            ("constants", row.constants), ("working memory", row.scratch), ("outputs", step.y.size_bytes),
        ):  # fmt: skip
            if size > files.AVR_ARRAY:
                raise ValueError(
                    f"{row.title}: {size:,} bytes of {what}; an array on an AVR has at most {files.AVR_ARRAY:,}: "
                    "use fewer channels in this layer, or a 32-bit target"
                )
    if unit.plan.size > AVR_NEAR:
        raise ValueError(
            f"{steps[unit.plan.fullest].title}: {unit.plan.size:,} bytes of working memory live in this step; an AVR "
            f"addresses {AVR_NEAR:,}: use a smaller input, fewer channels in this layer, or a 32-bit target"
        )
    _check_avr_flash(unit, steps, samples)


def _check_avr_flash(unit: Unit, steps: Sequence[Row], samples: int) -> None:
    """Constants and stored samples together: their addresses would wrap silently."""
    constants, sample = sum(row.constants for row in steps), _sample_bytes(unit)
    room = AVR_NEAR - AVR_RESERVE
    if constants + sample > room:
        row = max(steps, key=lambda row: row.constants)
        raise ValueError(
            f"{constants:,} bytes of constants, most of them in {row.title} ({row.constants:,}), and {sample:,} of a "
            f"sample of the self-test; an AVR reads {AVR_NEAR:,} bytes of flash with near pointers, of which "
            f"{AVR_RESERVE:,} stay free for the vector table: use a format of fewer bits, or a 32-bit target"
        )
    largest = max(b.port.size_bytes for b in (*unit.program.inputs, *unit.program.outputs))
    fitting = min(files.AVR_ARRAY // largest, (room - constants) // sample)
    if samples > fitting:
        raise ValueError(
            f"samples is {samples}: the self-test stores {sample:,} bytes for each, beside {constants:,} of constants; "
            f"on an AVR an array has at most {files.AVR_ARRAY:,} bytes, and constants and samples at most {room:,}: "
            f"samples may be {fitting} at most"
        )


__all__ = ["Emitted", "export_c", "render"]

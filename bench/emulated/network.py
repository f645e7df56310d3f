"""A generated folder on a board: the same inputs as the reference gets, and every output back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bitshift.backends.c99.boards import BOARDS, Board
from bitshift.core.graph import Graph, Value
from emulated.build import OPTIMISE, WARNINGS, Image, TooLargeError, build
from emulated.elf import Elf
from emulated.machine import Run, run

CHUNK = 0x8000
"""Bytes that one call of the feed moves: its length has 16 bits."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """``folder/NAME.c`` built with a driver for a board."""

    graph: Graph
    image: Image
    name: str

    @property
    def model(self) -> Elf:
        """The object file of ``NAME.c``."""
        return self.image.objects[f"{self.name}.c"]

    @property
    def functions(self) -> tuple[str, ...]:
        """Names of the functions that ``NAME.c`` defines and the image holds, duplicates of other files excepted."""
        return tuple(f.name for f in self.model.functions)

    def evaluate(
        self, inputs: Mapping[str, np.ndarray], *, count: bool = False, marks: Sequence[str] = (), timeout: float = 300
    ) -> tuple[dict[str, np.ndarray], Run]:
        """Outputs by name for ``inputs`` (N, *shape) by name, as ``core.reference.execute`` gives them, and the run.

        ``marks`` names functions of the model that begin a counted region each; without them, ``NAME_run`` is region 1.
        """
        arrays = [np.ascontiguousarray(inputs[name]) for name in self.graph.inputs]
        samples = len(arrays[0])
        data = b"".join(array[i].tobytes() for i in range(samples) for array in arrays)
        marked = marks or ("region_begin",)
        done = run(self.image, data, count=count, marks=marked, timeout=timeout)
        return self._outputs(done.output, samples), done

    def _outputs(self, data: bytes, samples: int) -> dict[str, np.ndarray]:
        values = [self.graph.values[name] for name in self.graph.outputs]
        each = sum(value.size_bytes for value in values)
        if len(data) != samples * each:
            raise ValueError(
                f"{self.image.elf.path}: {len(data)} bytes of output; {samples} samples give {samples * each}"
            )
        rows = np.frombuffer(data, dtype=np.uint8).reshape(samples, each)
        out, at = {}, 0
        for value in values:
            part = np.ascontiguousarray(rows[:, at : at + value.size_bytes])
            out[value.name] = part.view(value.type.dtype).reshape(samples, *value.shape)
            at += value.size_bytes
        return out


def build_network(
    folder: Path,
    graph: Graph,
    target: str,
    work: Path,
    *,
    name: str = "model",
    boards: Sequence[Board] = (),
    options: Sequence[str] = OPTIMISE,
) -> Network:
    """Build ``folder/NAME.c`` for the first of ``boards`` (of ``target``, by rising memory) that holds it, in ``work``.

    Raises:
        TooLargeError: no board holds it; the last refusal.
    """
    boards = boards or [b for b in BOARDS.values() if target in b.targets and b.name != "attiny85"]
    work.mkdir(parents=True, exist_ok=True)
    main = work / "drive.c"
    main.write_text(driver(graph, name), encoding="utf-8")
    for board in boards:
        try:
            image = build(
                board, [main, folder / f"{name}.c"], work / board.name, include=[folder], options=[*options, *WARNINGS]
            )
        except TooLargeError:
            if board is boards[-1]:
                raise
            continue
        return Network(graph=graph, image=image, name=name)
    raise ValueError(f"target {target!r} has no board")


def driver(graph: Graph, name: str = "model") -> str:
    """``main``: reads a sample, runs the network as a counted region, writes its outputs; until the inputs end."""
    inputs = [graph.values[value] for value in graph.inputs]
    outputs = [graph.values[value] for value in graph.outputs]
    arrays = [
        f"static {_ctype(v)} {side}{i}[{v.size}];"
        for side, values in (("x", inputs), ("y", outputs))
        for i, v in enumerate(values)
    ]
    names = [f"x{i}" for i in range(len(inputs))] + [f"y{i}" for i in range(len(outputs))]
    reads = "".join(_transfer("feed_read", f"x{i}", v) for i, v in enumerate(inputs))
    writes = "".join(_transfer("feed_write", f"y{i}", v) for i, v in enumerate(outputs))
    return f"""#include "feed.h"
#include "{name}.h"

{chr(10).join(arrays)}

int main(void) {{
    for (;;) {{
{reads}        region_begin();
        {name}_run({", ".join(names)});
        region_end();
{writes}    }}
}}
"""


def _ctype(value: Value) -> str:
    dtype = value.type.dtype
    if dtype.kind == "f":
        return "float"
    return f"{'u' if dtype.kind == 'u' else ''}int{8 * dtype.itemsize}_t"


def _transfer(call: str, array: str, value: Value) -> str:
    """Lines that move ``array`` through the feed; a read at the end of the inputs ends the program."""
    lines = []
    place = f"({'const ' if call == 'feed_write' else ''}uint8_t *){array}"
    for at in range(0, value.size_bytes, CHUNK):
        what = f"{call}({place} + {at}, {min(CHUNK, value.size_bytes - at)}u)"
        lines.append(
            f"        if (!{what}) {{\n            return 0;\n        }}\n"
            if call == "feed_read"
            else f"        {what};\n"
        )
    return "".join(lines)

"""A generated folder on a board: the same inputs as the reference gets, and every output back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bitshift.backends.c99.boards import BOARDS, Board
from bitshift.backends.c99.layer import Port
from bitshift.backends.c99.program import Program
from bitshift.backends.c99.program import build as program_of
from bitshift.core.graph import Graph
from emulated.build import OPTIMISE, WARNINGS, Image, TooLargeError, build
from emulated.elf import Elf
from emulated.machine import Run, run

CHUNK = 0x8000
"""Bytes that one call of the feed moves: its length has 16 bits."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """``folder/NAME.c`` built with a driver for a board."""

    program: Program
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
        """Outputs by name for ``inputs`` (N, *shape) by name, and the run.

        Both are integers, as ``core.reference.execute`` takes and gives them; those of a float border are as in
        ``c99.golden``. ``marks`` names functions of the model that begin a counted region each; without them,
        ``NAME_run`` is region 1.
        """
        arrays = [np.ascontiguousarray(inputs[name]) for name in [border.name for border in self.program.inputs]]
        samples = len(arrays[0])
        data = b"".join(array[i].tobytes() for i in range(samples) for array in arrays)
        marked = marks or ("region_begin",)
        done = run(self.image, data, count=count, marks=marked, timeout=timeout)
        return self._outputs(done.output, samples), done

    def _outputs(self, data: bytes, samples: int) -> dict[str, np.ndarray]:
        each = sum(border.port.size_bytes for border in self.program.outputs)
        if len(data) != samples * each:
            raise ValueError(
                f"{self.image.elf.path}: {len(data)} bytes of output; {samples} samples give {samples * each}"
            )
        rows = np.frombuffer(data, dtype=np.uint8).reshape(samples, each)
        out, at = {}, 0
        for border in self.program.outputs:
            port = border.port
            part = np.ascontiguousarray(rows[:, at : at + port.size_bytes])
            out[border.name] = part.view(port.type.dtype).reshape(samples, *port.shape)
            at += port.size_bytes
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
    boards = boards or [b for b in BOARDS.values() if target in b.targets and b.offered]
    work.mkdir(parents=True, exist_ok=True)
    main = work / "drive.c"
    program = program_of(graph)
    main.write_text(driver(program, name), encoding="utf-8")
    for board in boards:
        try:
            image = build(
                board, [main, folder / f"{name}.c"], work / board.name, include=[folder], options=[*options, *WARNINGS]
            )
        except TooLargeError:
            if board is boards[-1]:
                raise
            continue
        return Network(program=program, image=image, name=name)
    raise ValueError(f"target {target!r} has no board")


def driver(program: Program, name: str = "model") -> str:
    """``main``: reads a sample, runs the network as a counted region, writes its outputs; until the inputs end."""
    inputs, outputs = ([border.port for border in side] for side in (program.inputs, program.outputs))
    arrays = [
        f"static {v.ctype} {side}{i}[{v.size}];"
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


def _transfer(call: str, array: str, port: Port) -> str:
    """Lines that move ``array`` through the feed; a read at the end of the inputs ends the program."""
    lines = []
    place = f"({'const ' if call == 'feed_write' else ''}uint8_t *){array}"
    for at in range(0, port.size_bytes, CHUNK):
        what = f"{call}({place} + {at}, {min(CHUNK, port.size_bytes - at)}u)"
        lines.append(
            f"        if (!{what}) {{\n            return 0;\n        }}\n"
            if call == "feed_read"
            else f"        {what};\n"
        )
    return "".join(lines)

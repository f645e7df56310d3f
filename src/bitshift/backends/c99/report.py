"""What a generated network takes, layer by layer, and the README that says so beside the files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bitshift.backends.c99.files import Label, arguments, prototype, readable
from bitshift.backends.c99.unit import Unit, flash_of


@dataclass(frozen=True, kw_only=True)
class Row:
    """One step: constants exactly, its share of the flash about, and the bytes of the arena that live during it.

    ``why`` says what spoke for the kernel of a layer.
    """

    title: str
    kernel: str
    constants: int
    flash: int
    scratch: int
    live: int
    why: str = ""


def rows(unit: Unit) -> list[Row]:
    """A row a step, in order."""
    found = []
    for step, live in zip(unit.program.steps, unit.plan.live, strict=True):
        code, kernel = unit.codes[step.name], unit.kernels.get(step.name)
        found.append(
            Row(
                title=step.title,
                kernel="" if kernel is None else kernel.name,
                constants=code.table_bytes,
                flash=flash_of(unit, step),
                scratch=code.scratch,
                live=live,
                why=choice.why if (choice := unit.choices.get(step.name)) is not None else "",
            )
        )
    return found


def _line(row: Row) -> str:
    cells = [
        _cell(row.title),
        row.kernel or "-",
        *(f"{n:,}" for n in (row.constants, row.flash, row.scratch, row.live)),
    ]
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    """``text`` where it does not end a cell of a table."""
    return readable(text).replace("|", "\\|")


def readme(unit: Unit, label: Label, steps: Sequence[Row]) -> str:
    """README.md of the folder; ``steps`` are the rows of ``unit``."""
    name, up, plan = label.name, label.upper, unit.plan
    inputs, outputs = arguments(unit.program, up)
    constants, flash = sum(r.constants for r in steps), sum(r.flash for r in steps)
    call = ", ".join(a.variable for a in (*inputs, *outputs))
    buffers = "\n".join(f"static {a.port.ctype} {a.variable}[{a.macro}_SIZE];" for a in (*inputs, *outputs))
    borders = "\n".join(
        f"| `{a.variable}` | {_cell(a.border.name)} | {list(a.port.shape)} | `{a.port.ctype}` | 2^{-a.port.type.frac} "
        f"| {a.port.size_bytes:,} |"
        for a in (*inputs, *outputs)
    )
    table = "\n".join(_line(row) for row in steps)
    reasons = "\n".join(f"- {readable(row.title)}: {row.kernel}; {row.why}" for row in steps if row.why)
    return (
        f"""\
# {name}: a network in C99

Written by `bitshift {label.version} emit-c` from {label.origin} (hash `{label.hash}`) for {unit.target.title}.
Freestanding C99: no libc, no malloc, no floats, no multiplication; its integers are the trained network's, bit for bit.

```c
#include "{name}.h"

{buffers}

{name}_run({call});
```

`{prototype(unit.program, label)}`

| parameter | name | shape | type | one step is | bytes |
|---|---|---|---|---|---|
{borders}

`{name}_selftest()` (in `{name}_selftest.c`, which a firmware may leave out) runs stored inputs and returns 0 if every
output is the stored one. `{name}_run` uses one static array, so it is not reentrant; define `{up}_ARENA` as the name of
a `uint32_t` array of your own to place that memory yourself. Any C99 compiler does, at `-Os` or `-O2`.

## Memory

- Working memory (RAM): **{plan.size:,} bytes** (`{up}_ARENA_BYTES`); {plan.bound:,} live at once in the fullest step,
  so no plan is smaller. Inputs and outputs are the caller's, and come on top.
- Constants (flash): **{constants:,} bytes** exactly; with code about {flash:,} (an estimate: your compiler decides).

| layer | kernel | constants, bytes | with code, about | scratch, bytes | RAM in this step, bytes |
|---|---|---|---|---|---|
{table}

{reasons}
""".rstrip()
        + "\n"
    )

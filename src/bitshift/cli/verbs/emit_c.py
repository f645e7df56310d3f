"""``bitshift emit-c``: a model file as C99 source for a microcontroller."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import tyro

from bitshift.cli.errors import CliError
from bitshift.cli.output import Output, size_text
from bitshift.cli.verbs import Verb

if TYPE_CHECKING:
    from bitshift.backends.c99.export import Emitted


@dataclass(frozen=True, kw_only=True)
class EmitC(Verb):
    """Flags of ``bitshift emit-c``."""

    help_text: ClassVar[str] = """Write a model file as C99 source: two files that drop into any firmware.

Freestanding: no libc, no malloc, no floats, no multiplication. The network's integers are the reference's, bit for
bit; a self-test with stored inputs and outputs comes along, and a README with flash and RAM by layer. Needs no PyTorch.

examples:
  bitshift emit-c runs/demo/net.safetensors -o firmware/
  bitshift emit-c net.safetensors -o firmware/ --target cortex-m0 --flash 131072 --ram 16384
  bitshift emit-c net.safetensors -o firmware/ --target cortex-m0 --example && make -C firmware/example run
  bitshift emit-c net.safetensors -o digits/ --name digits --arduino
"""
    model: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="MODEL")]]
    """A model file written by `bitshift export`."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """The folder to write; what an earlier call wrote there is replaced."""
    name: str = "model"
    """Prefix of the files and of every public C name."""
    target: str = "generic"
    """generic, cortex-m0, cortex-m3, cortex-m4, cortex-m7, cortex-m33, rv32i, rv32im or avr."""
    mode: Literal["auto", "packed", "unrolled", "lists", "plain"] = "auto"
    """Kernel of the layers; auto chooses by layer within the budgets."""
    flash: int | None = None
    """Bytes that constants and code may take; without it auto takes 256 KiB as given, on AVR 24."""
    ram: int | None = None
    """Bytes that the working memory may take; inputs and outputs are not counted."""
    samples: int = 3
    """Inputs of the self-test."""
    arduino: bool = False
    """Lay the folder out as an Arduino library (PlatformIO takes it, too)."""
    zephyr: bool = False
    """Lay the folder out as a Zephyr module."""
    example: bool = False
    """Add start-up code and a Makefile that runs the self-test in an emulator of the target."""

    def run(self, out: Output) -> None:  # noqa: D102 - Verb.run
        from bitshift.backends.c99.export import export_c
        from bitshift.cli.models import model_path

        if self.output.exists() and not self.output.is_dir():
            raise CliError(f"--output {self.output} is a file; name a folder")
        path = model_path(self.model)
        done = export_c(
            path, self.output, name=self.name, target=self.target, mode=self.mode, flash=self.flash, ram=self.ram,
            samples=self.samples, arduino=self.arduino, zephyr=self.zephyr, example=self.example,
        )  # fmt: skip
        _show(done, out)
        if self.example:
            out.line(f"next: make -C {self.output / 'example'} run")
        out.result({**asdict(done), "rows": [asdict(row) for row in done.rows]})


def _show(done: Emitted, out: Output) -> None:
    rows = [
        [r.title, r.kernel or "-", f"{r.constants:,}", f"{r.flash:,}", f"{r.scratch:,}", f"{r.live:,}", r.why]
        for r in done.rows
    ]
    columns = ["layer", "kernel", "constants", "flash, about", "scratch", "RAM", "why"]
    out.table(f"{done.folder} for {done.target}, bytes by layer", columns, rows, right=(2, 3, 4, 5))
    out.line(f"files: {', '.join(done.files)}")
    out.line(
        f"flash: {size_text(done.constants)} of constants, about {size_text(done.flash)} with code; "
        f"RAM: {size_text(done.arena)} beside {size_text(done.inputs)} of input and {size_text(done.outputs)} of output"
    )


VERB = EmitC

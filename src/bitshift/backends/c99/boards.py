"""Boards that an emulator on a development machine plays: where generated C is built, run and counted."""

from __future__ import annotations

from dataclasses import dataclass

from bitshift.backends.c99.targets import Target, get_target

KIB = 1024


@dataclass(frozen=True, kw_only=True)
class Board:
    """A processor with memory, and the emulator that runs an image for it.

    Args:
        name: what ``make BOARD=`` calls it.
        targets: names of the targets whose code it runs.
        flash, ram: bytes; ``flash_at`` and ``ram_at`` are their addresses (not of AVR, whose linker scripts know).
        stack: bytes of ``ram`` that static data must leave free.
        flags: of the compiler, instead of the target's, where the part decides (AVR).
        link: flags of the linker beyond the memory map.
        sources: files of ``example/`` that start the board; ``script`` is its linker script, if it needs one.
        emulator: command in front of the image; empty: no stock emulator plays it.
        packages: Debian packages of compiler and emulator.
        offered: whether :func:`get_board` may choose it; else it serves measurements only.
    """

    name: str
    title: str
    targets: tuple[str, ...]
    flash: int
    ram: int
    flash_at: int = 0
    ram_at: int = 0
    stack: int = 1024
    flags: tuple[str, ...] = ()
    link: tuple[str, ...] = ()
    sources: tuple[str, ...]
    script: str = ""
    emulator: tuple[str, ...] = ()
    packages: tuple[str, ...]
    offered: bool = True

    def compile_flags(self, target: Target) -> tuple[str, ...]:
        """Flags that every file is compiled with."""
        return (*(self.flags or target.flags), *FREESTANDING)

    def link_flags(self, folder: str) -> tuple[str, ...]:
        """Flags of the link; ``folder`` holds the linker script. No libc and no libgcc: nothing can multiply unseen."""
        places = {"FLASH_AT": self.flash_at, "FLASH_BYTES": self.flash, "RAM_AT": self.ram_at, "RAM_BYTES": self.ram}
        script = [f"-Wl,--defsym={name}={number:#x}" for name, number in places.items()] if self.script else []
        if self.script:
            script += ["-T", f"{folder}/{self.script}"]
        return ("-nostartfiles", "-nostdlib", "-Wl,--gc-sections", *self.link, *script)


FREESTANDING = (
    "-std=c99", "-ffreestanding", "-ffunction-sections", "-fdata-sections", "-fno-tree-loop-distribute-patterns",
)  # fmt: skip
_ARM = ("gcc-arm-none-eabi", "qemu-system-arm")
_RISCV = ("gcc-riscv64-unknown-elf", "qemu-system-misc", "qemu-system-data")
_AVR = ("gcc-avr", "avr-libc", "simavr")


def _arm(
    name: str, title: str, target: str, machine: str, flash: int, ram: int, *more: str, secure: bool = False
) -> Board:
    return Board(
        name=name,
        title=title,
        targets=(target,),
        flash=flash,
        ram=ram,
        flash_at=0x10000000 if secure else 0,
        ram_at=0x38000000 if secure else 0x20000000,
        sources=("board_arm.c", "memory.c"),
        script="arm.ld",
        emulator=(
            "qemu-system-arm", "-M", machine, *more, "-nographic", "-monitor", "none", "-serial", "none",
            "-semihosting-config", "enable=on,target=native", "-kernel",
        ),
        packages=_ARM,
    )  # fmt: skip


def _riscv(target: str, multiplier: str) -> Board:
    traps = "" if multiplier == "true" else ": a multiply instruction traps"
    return Board(
        name=f"virt-{target}",
        title=f"QEMU's virt machine with {target.upper()}{traps}",
        targets=(target,),
        flash=16 * KIB * KIB,
        ram=16 * KIB * KIB,
        flash_at=0x80000000,
        ram_at=0x81000000,
        sources=("board_riscv.c", "memory.c"),
        script="riscv.ld",
        emulator=(
            "qemu-system-riscv32", "-M", "virt", "-cpu", f"rv32,m={multiplier},a=false,f=false,d=false,c=false",
            "-bios", "none", "-nographic", "-monitor", "none", "-semihosting-config", "enable=on,target=native",
            "-kernel",
        ),
        packages=_RISCV,
    )  # fmt: skip


def _avr(
    name: str, title: str, flash: int, ram: int, stack: int, *flags: str, external: int = 0, offered: bool = True
) -> Board:
    part = name.partition("-")[0]
    return Board(
        name=name,
        title=title,
        targets=("avr",),
        flash=flash,
        ram=ram,
        stack=stack,
        flags=(f"-mmcu={part}", "-DF_CPU=16000000UL", *flags),
        link=(f"-Wl,-Tdata={0x800000 + external:#x}",) if external else (),
        sources=("start_avr.S", "board_avr.c", "memory.c"),
        emulator=() if external else ("simavr", "-m", part, "-f", "16000000"),
        packages=_AVR,
        offered=offered,
    )


BOARDS = {
    board.name: board
    for board in (
        _arm("microbit", "BBC micro:bit (nRF51822)", "cortex-m0", "microbit", 256 * KIB, 16 * KIB),
        _arm(
            "microbit-large", "Cortex-M0 of a micro:bit with memory that no real one has", "cortex-m0", "microbit",
            4096 * KIB, 1024 * KIB,
            "-global", "nrf51-soc.flash-size=0x400000", "-global", "nrf51-soc.sram-size=0x100000",
        ),
        _arm("mps2-an385", "Arm MPS2, Cortex-M3", "cortex-m3", "mps2-an385", 4096 * KIB, 1024 * KIB),
        _arm("mps2-an386", "Arm MPS2, Cortex-M4", "cortex-m4", "mps2-an386", 4096 * KIB, 1024 * KIB),
        _arm("mps2-an500", "Arm MPS2, Cortex-M7", "cortex-m7", "mps2-an500", 4096 * KIB, 1024 * KIB),
        _arm("mps2-an505", "Arm MPS2, Cortex-M33", "cortex-m33", "mps2-an505", 4096 * KIB, 1024 * KIB, secure=True),
        _riscv("rv32i", "false"),
        _riscv("rv32im", "true"),
        _avr("atmega328p", "ATmega328P (Arduino Uno)", 32 * KIB, 2 * KIB, 256),
        _avr("atmega2560", "ATmega2560 (Arduino Mega)", 256 * KIB, 8 * KIB, 512),
        _avr(
            "atmega2560-xmem", "ATmega2560 with 55 KB of external RAM", 256 * KIB, 0x10000 - 0x2200, 0,
            "-DBOARD_EXTERNAL_RAM", external=0x2200,
        ),
        _avr("attiny85", "ATtiny85: no multiply instruction, no UART", 8 * KIB, 512, 64, offered=False),
        _avr(
            "at90usb162-large", "AVR without a multiply instruction, with memory that no real one has", 64 * KIB,
            0x10000 - 0x300, 0, external=0x300, offered=False,
        ),
    )
}  # fmt: skip


def get_board(target: str, *, flash: int = 0, ram: int = 0) -> Board:
    """The smallest board for ``target`` with ``flash`` and ``ram`` bytes for the program, its stack beside them.

    Raises:
        ValueError: the target is unknown or has no board (``generic`` is the host), or none is large enough.
    """
    get_target(target)
    boards = [board for board in BOARDS.values() if target in board.targets and board.offered]
    if not boards:
        raise ValueError(f"target {target!r} has no emulated board; with a board: {', '.join(with_boards())}")
    for board in boards:
        if flash <= board.flash and ram + board.stack <= board.ram:
            return board
    largest = boards[-1]
    raise ValueError(
        f"no emulated {target} board has {flash:_} bytes of flash and {ram:_} bytes of RAM; "
        f"the largest, {largest.name}, has {largest.flash:_} and {largest.ram - largest.stack:_}"
    )


def with_boards() -> tuple[str, ...]:
    """Names of the targets that a board here plays."""
    return tuple(dict.fromkeys(target for board in BOARDS.values() for target in board.targets))


__all__ = ["BOARDS", "Board", "get_board", "with_boards"]

"""What a person sees when a verb fails: one to three lines, an exit code, no traceback."""

from __future__ import annotations

import difflib
import dis
import traceback
from collections.abc import Iterable
from types import TracebackType

OK, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
"""Exit codes: success; failed while running; wrong usage or input; stopped by Ctrl-C."""

INSTALL_TORCH = "this needs PyTorch: pip install 'bitshift[torch]'"
_EXTRAS = {
    "torch": INSTALL_TORCH,
    "safetensors": INSTALL_TORCH,
    "matplotlib": "drawing needs matplotlib: pip install 'bitshift[plots]'",
    "PIL": "reading images needs Pillow: pip install pillow",
}
_RAISE = {dis.opmap[name] for name in ("RAISE_VARARGS", "RERAISE")}


class CliError(Exception):
    """A finished message for the person at the terminal: place, value found, what is allowed, next step."""

    def __init__(self, message: str, *, code: int = BAD_INPUT) -> None:
        super().__init__(message)
        self.code = code


def near_miss(word: str, known: Iterable[str], what: str) -> str:
    """``unknown WHAT 'word'; did you mean ...? Known: ...`` for a name that is not in ``known``."""
    known = list(known)
    near = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
    return f"unknown {what} {word!r}{hint} Known: {', '.join(known) or 'none'}"


def explain(error: BaseException) -> tuple[int, str]:
    """Exit code and message for an exception that left a verb.

    A ``ValueError`` (which includes ``GraphError`` and ``ModelFileError``) that bitshift itself raised is bad input and
    already names place and remedy, as does our ``RuntimeError``; one from inside another library is a failure of ours
    and says so.
    """
    if isinstance(error, CliError):
        return error.code, str(error)
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, "stopped by Ctrl-C"
    if isinstance(error, ModuleNotFoundError):
        root = (error.name or "").partition(".")[0]
        if root in _EXTRAS:
            return FAILED, _EXTRAS[root]
    if isinstance(error, FileNotFoundError) and error.filename is not None:
        return BAD_INPUT, f"no such file: {error.filename}"
    if isinstance(error, IsADirectoryError) and error.filename is not None:
        return BAD_INPUT, f"{error.filename} is a directory; give a file"
    if isinstance(error, PermissionError) and error.filename is not None:
        return BAD_INPUT, f"no permission for {error.filename}"
    if isinstance(error, OSError):
        return FAILED, f"{error.strerror or error} {error.filename or ''}".rstrip()
    if isinstance(error, MemoryError):
        return FAILED, "out of memory; use a smaller batch (--batch-size)"
    if isinstance(error, (ValueError, NotImplementedError)) and _raised_here(error.__traceback__):
        return BAD_INPUT, str(error)
    if isinstance(error, RuntimeError) and _raised_here(error.__traceback__):
        return FAILED, str(error)
    first = (str(error).splitlines() or [""])[0][:300]
    where = _place(error.__traceback__)
    return FAILED, (
        f"unexpected {type(error).__name__}: {first} (at {where})\n"
        "this is a fault in bitshift or in your module; --traceback shows where"
    )


def _raised_here(trace: TracebackType | None) -> bool:
    """Whether a ``raise`` of ours raised it, not a C function (of numpy, of torch) that one of our lines called."""
    last = trace
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None or not str(last.tb_frame.f_globals.get("__name__", "")).startswith("bitshift"):
        return False
    return last.tb_frame.f_code.co_code[last.tb_lasti] in _RAISE


def _place(trace: TracebackType | None) -> str:
    frames = traceback.extract_tb(trace)
    return f"{frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}" if frames else "unknown place"

"""One process at a time trains into a run directory: two would write over each other's checkpoints without a word."""

from __future__ import annotations

import errno
import json
import logging
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = ".lock"
"""The file in the run directory; it says who trains there, and goes with them."""
RESTART_PATIENCE = 60.0
"""Seconds that a process under torchrun waits for its predecessor, which may be dying on another node, to be gone."""
_HELD = (errno.EACCES, errno.EAGAIN)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)
_ours: set[tuple[int, int, int]] = set()
# (process, device, inode) of the directories that this process holds. A record lock belongs to a process: it does not
# keep the process itself out, and opening the file once more and closing it would release it.
_log = logging.getLogger("bitshift")


class RunInUseError(ValueError):
    """Another process trains into the run directory; the message names it."""


@contextmanager
def run_lock(folder: Path, *, patience: float | None = None) -> Iterator[None]:
    """Inside the block this process alone may train into ``folder``, which is made if it is not there.

    The lock is one of the operating system's record locks on ``folder/.lock``: it ends with its process, however that
    ends, and a process that a fork left behind does not keep it. Where the file system has none, what the file says
    decides, with a warning: an owner that is alive on this machine keeps the folder, one that is not loses it, and one
    on another machine cannot be asked.

    Args:
        folder: the run directory.
        patience: seconds to wait for another owner; None: :data:`RESTART_PATIENCE` under torchrun, else 0.

    Raises:
        RunInUseError: another process has it, and kept it for ``patience``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stat = folder.stat()
    key = os.getpid(), stat.st_dev, stat.st_ino
    if key in _ours:
        raise RunInUseError(f"{folder}: this process trains into it already; choose another run directory")
    if patience is None:
        patience = RESTART_PATIENCE if "TORCHELASTIC_RUN_ID" in os.environ else 0.0
    path, end, waiting = folder / LOCK, time.monotonic() + patience, False
    while (file := _try(path)) is None:
        if time.monotonic() >= end:
            raise RunInUseError(
                f"{folder}: {_describe(_owner(path))} trains into it; wait for its end, stop it, or choose another run "
                "directory"
            )
        if not waiting:
            _log.warning("%s: waiting up to %.0f s for %s to end", folder, patience, _describe(_owner(path)))
            waiting = True
        time.sleep(0.1)
    _ours.add(key)
    try:
        yield
    finally:
        _ours.discard(key)
        try:
            path.unlink(missing_ok=True)  # while it is still ours: who waits for it looks whether it is still there
        finally:
            os.close(file)


def _try(path: Path) -> int | None:
    """The open lock file, ours now; None when another process has it."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        ours = False
        try:
            if not _locked(file, path):
                return None
            ours = _is_file(path, file)  # else its owner took it away between our opening and locking it: once more
            if ours:
                os.ftruncate(file, 0)
                os.write(file, json.dumps(_myself()).encode())
                return file
        except BaseException:
            ours = False
            raise
        finally:
            if not ours:
                os.close(file)


def _is_file(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except FileNotFoundError:
        return False


def _locked(file: int, path: Path) -> bool:
    """Whether the lock is ours now."""
    reason = "there are no file locks on this system"
    if fcntl is not None:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _HELD:
                return False
            if error.errno not in _NO_LOCKS:
                raise
            reason = f"its file system has no locks ({error.strerror})"
        else:
            return True
    owner = _owner(path)
    if owner and owner.get("host") == platform.node() and _is_alive(owner):
        return False
    elsewhere = f", and {_describe(owner)} may train into it too" if _is_elsewhere(owner) else ""
    _log.warning("%s: %s; only processes of this machine are kept out%s", path.parent, reason, elsewhere)
    return True


def _myself() -> dict[str, Any]:
    return {
        "process": os.getpid(), "host": platform.node(), "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "started": _start_of(os.getpid()), "command": " ".join(sys.argv)[:200],
    }  # fmt: skip


def _owner(path: Path) -> Mapping[str, Any]:
    """What the lock file says of its owner; empty when that cannot be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # gone, or its owner is just writing it
        return {}
    return content if isinstance(content, dict) and isinstance(content.get("process"), int) else {}


def _describe(owner: Mapping[str, Any]) -> str:
    if not owner:
        return "another process"
    command = f": {owner['command']}" if owner.get("command") else ""
    return f"process {owner['process']} on {owner.get('host')} (since {owner.get('since')}{command})"


def _is_elsewhere(owner: Mapping[str, Any]) -> bool:
    return bool(owner) and owner.get("host") != platform.node()


def _is_alive(owner: Mapping[str, Any]) -> bool:
    """Whether the process lives that wrote this, on this machine; its number may have been given to another one."""
    number = int(owner["process"])
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return owner.get("started") in (None, _start_of(number))


def _start_of(process: int) -> str | None:
    """When a process started, in ticks since the machine did; None where the system does not tell, and of a zombie."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # from the third on; the second is a name that may hold anything
    return None if fields[0] == "Z" else fields[19]


__all__ = ["LOCK", "RESTART_PATIENCE", "RunInUseError", "run_lock"]

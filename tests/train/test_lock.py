"""A run directory takes one run at a time, and a dead one's lock keeps nobody out."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from bitshift.train import lock
from bitshift.train.lock import LOCK, RunInUseError, run_lock

HOLD = """
import os, sys
from pathlib import Path
from bitshift.train.lock import run_lock
with run_lock(Path(sys.argv[1])):
    if "fork" in sys.argv and os.fork() == 0:
        sys.stdin.read()  # what a decoding process does: lives on for a while when its parent is killed
        os._exit(0)
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)


@contextmanager
def holder(folder: Path, *arguments: str):
    """A process that holds the lock of ``folder``."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_second_process_is_told_who_trains_there(tmp_path):
    with holder(tmp_path / "run") as other:
        message = rf"run: process {other.pid} on .*choose another run directory"
        with pytest.raises(RunInUseError, match=message), run_lock(tmp_path / "run"):
            pytest.fail("two of them")
        other.communicate("go\n")
        with run_lock(tmp_path / "run"):
            assert json.loads((tmp_path / "run" / LOCK).read_text())["process"] == os.getpid()
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize("arguments", [(), ("fork",)])
def test_a_killed_owner_keeps_nobody_out_not_even_by_its_children(tmp_path, arguments):
    with holder(tmp_path, *arguments) as other:
        other.send_signal(signal.SIGKILL)
        other.wait()
        assert (tmp_path / LOCK).exists()
        with run_lock(tmp_path):
            pass


def test_a_process_is_kept_out_by_itself_and_keeps_its_lock(tmp_path):
    (tmp_path / "other_name").symlink_to(tmp_path / "run")
    with run_lock(tmp_path / "run"):
        with pytest.raises(RunInUseError, match="this process"), run_lock(tmp_path / "other_name"):
            pytest.fail("two of them")
        with run_lock(tmp_path / "run" / "float"):
            pass
        code = "import sys; from pathlib import Path; from bitshift.train.lock import run_lock\n"
        code += "run_lock(Path(sys.argv[1])).__enter__()"
        done = subprocess.run(
            [sys.executable, "-c", code, tmp_path / "run"], capture_output=True, text=True, check=False
        )
        assert f"process {os.getpid()} on" in done.stderr
    with run_lock(tmp_path / "run"):
        pass


def test_a_restart_under_torchrun_waits_for_its_dying_predecessor(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    code = HOLD.replace("sys.stdin.readline()", "import time; time.sleep(0.5)")
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    begin = time.monotonic()
    with run_lock(tmp_path):
        assert time.monotonic() - begin < 30
    assert f"waiting up to 60 s for process {process.pid}" in caplog.text
    process.communicate()


def test_a_lock_that_is_taken_away_while_it_is_opened_is_not_mistaken_for_ours(tmp_path, monkeypatch):
    whole, looks = lock._locked, []

    def locked_late(file: int, path: Path) -> bool:
        if not looks:
            path.unlink()  # its owner has just ended
        looks.append(path)
        return whole(file, path)

    monkeypatch.setattr(lock, "_locked", locked_late)
    with run_lock(tmp_path):
        assert (tmp_path / LOCK).exists()
    assert len(looks) == 2


# --- file systems without locks


@pytest.fixture
def lockless(monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "lockf", refuse)


def leave(folder: Path, **owner: object) -> None:
    (folder / LOCK).write_text(json.dumps({**lock._myself(), **owner}))


def test_without_locks_the_living_owner_of_this_machine_keeps_the_folder(tmp_path, lockless):
    leave(tmp_path, process=os.getppid(), started=lock._start_of(os.getppid()))
    with pytest.raises(RunInUseError, match=f"process {os.getppid()} on"), run_lock(tmp_path):
        pytest.fail("two of them")


@pytest.mark.parametrize("content", [{"process": 2**22 + 1}, {"process": 1, "started": "0"}, None])
def test_without_locks_a_dead_owner_s_file_keeps_nobody_out(tmp_path, lockless, caplog, content):
    if content is None:
        (tmp_path / LOCK).write_text("{half a l")
    else:
        leave(tmp_path, **content)
    with run_lock(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()
    assert "has no locks (No locks available); only processes of this machine are kept out" in caplog.text
    assert "may train into it too" not in caplog.text


def test_without_locks_an_owner_on_another_machine_is_named(tmp_path, lockless, caplog):
    leave(tmp_path, host="elsewhere", process=7)
    with run_lock(tmp_path):
        pass
    assert "process 7 on elsewhere" in caplog.text
    assert "may train into it too" in caplog.text


def test_without_locks_a_zombie_is_dead(tmp_path, lockless):
    child = os.posix_spawn("/bin/true", ["true"], {})
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    leave(tmp_path, process=child, started="12")
    with run_lock(tmp_path):
        pass
    os.waitpid(child, 0)


def test_other_failures_of_the_lock_are_not_swallowed(tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(lock.fcntl, "lockf", fail)
    with pytest.raises(OSError, match="Input/output"), run_lock(tmp_path):
        pytest.fail("it was not locked")

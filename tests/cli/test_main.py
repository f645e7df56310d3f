"""The command line as a whole: help, exit codes, JSON, and that light verbs stay light."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bitshift.cli import main
from bitshift.cli.verbs import SUMMARIES


def run(*argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bitshift.cli", *argv]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})


def test_help_lists_every_verb_with_its_summary(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for verb, summary in SUMMARIES.items():
        assert verb in text
        assert summary in text


@pytest.mark.parametrize("verb", SUMMARIES)
def test_the_help_of_every_verb_shows_examples_of_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    text = capsys.readouterr().out
    assert "examples:" in text
    assert f"\n  bitshift {verb} " in text or f"\n  bitshift {verb}\n" in text
    assert "--json" in text


def test_without_a_verb_the_help_is_shown_and_the_code_says_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "usage: bitshift VERB" in capsys.readouterr().out


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    import bitshift

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"bitshift {bitshift.__version__}\n"


def test_an_unknown_verb_names_the_near_miss(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspct"]) == 2
    assert "did you mean 'inspect'?" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["run"], ["inspect", "x", "--no-such-flag"], ["eval", "x", "--split", "valid"]])
def test_wrong_flags_end_with_code_2_and_nothing_on_stdout(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err


def test_debug_shows_the_traceback_and_keeps_the_message(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    missing = str(tmp_path / "nope.safetensors")
    assert main(["inspect", missing, "--traceback"]) == 2
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv("BITSHIFT_DEBUG", "1")
    assert main(["inspect", missing]) == 2
    captured = capsys.readouterr().err
    assert "Traceback" in captured
    assert captured.rstrip().endswith(f"no such file: {missing}")


def test_a_failing_verb_with_json_prints_one_object_with_the_error(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["inspect", str(tmp_path / "nope.safetensors"), "--json"]) == 2
    answer = json.loads(capsys.readouterr().out)
    assert answer["exit_code"] == 2
    assert "no such file" in answer["error"]


BLOCK_TORCH = """
import sys
from bitshift.cli.torchless import block_torch, torch_modules
block_torch()
from bitshift.cli import main
code = main(sys.argv[1:])
assert not torch_modules()
sys.exit(code)
"""


def without_torch(*argv: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process where every ``import torch`` fails."""
    return subprocess.run([sys.executable, "-c", BLOCK_TORCH, *argv], capture_output=True, text=True, check=False)


def test_help_run_inspect_and_report_of_a_file_work_without_torch(model_file: Path, tmp_path: Path) -> None:
    import numpy as np

    np.save(tmp_path / "x.npy", np.zeros((1, 4, 5), np.float32))
    commands = [
        ["--help"],
        ["run", str(model_file), str(tmp_path / "x.npy")],
        ["inspect", str(model_file)],
        ["report", str(model_file)],
    ]
    for argv in commands:
        done = without_torch(*argv)
        assert done.returncode == 0, done.stderr


def test_a_verb_that_needs_torch_says_how_to_install_it() -> None:
    done = without_torch("train", "--data", "mnist_5k", "--model", "lenet")
    assert done.returncode == 1
    assert done.stderr == "bitshift train: error: this needs PyTorch: pip install 'bitshift[torch]'\n"


def test_a_closed_pipe_is_no_error(model_file: Path) -> None:
    command = f"{sys.executable} -m bitshift.cli inspect formats | true"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr == ""


def test_help_imports_neither_torch_nor_numpy_nor_tyro() -> None:
    done = subprocess.run([sys.executable, "-X", "importtime", "-m", "bitshift.cli", "--help"], capture_output=True,
                          text=True, check=False)  # fmt: skip
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not loaded & {"torch", "numpy", "tyro", "rich"}
    assert "argparse" in loaded or "dataclasses" in loaded, "importtime printed nothing"


def test_of_the_processes_of_torchrun_only_the_main_one_says_what_stops_all(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for local, said in (("0", "bitshift train: error: unknown recipe"), ("1", "")):
        monkeypatch.setenv("LOCAL_RANK", local)
        assert main(["train", "no_such_recipe"]) == 2
        captured = capsys.readouterr().err
        assert captured.startswith(said)
        assert bool(captured) == bool(said)
    monkeypatch.delenv("WORLD_SIZE")  # not torchrun's, which sets all of them
    assert main(["train", "no_such_recipe"]) == 2
    assert "unknown recipe" in capsys.readouterr().err


def test_what_only_one_process_meets_while_it_trains_is_said_by_that_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from bitshift.cli import BAD_INPUT, FAILED, _speaker

    found: dict[str, Any] = {}
    exec(compile("def step(): raise ValueError('a picture of this process')", "/somewhere/loop.py", "exec"), found)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(ValueError, match="a picture") as caught:
        found["step"]()
    assert _speaker(BAD_INPUT, caught.value) == "[process 3] "
    assert _speaker(FAILED, RuntimeError()) == "[process 3] "
    assert _speaker(BAD_INPUT, ValueError()) is None

"""Which exceptions are the person's to act on, and which are ours."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest

from bitshift.cli.errors import BAD_INPUT, FAILED, CliError, explain, near_miss


def caught(source: str, module: str) -> BaseException:
    """The exception that ``source`` raises when it is part of ``module``."""
    place = types.ModuleType(module)
    place.__dict__["np"] = np
    try:
        exec(compile(source, f"/somewhere/{module}.py", "exec"), place.__dict__)
    except Exception as error:  # noqa: BLE001
        return error
    raise AssertionError("nothing was raised")


def test_a_value_error_that_bitshift_raises_is_bad_input() -> None:
    assert explain(caught("raise ValueError('layer x: no')", "bitshift.nn.x")) == (BAD_INPUT, "layer x: no")


def test_a_runtime_error_that_bitshift_raises_is_a_plain_failure() -> None:
    assert explain(caught("raise RuntimeError('no scale yet')", "bitshift.nn.x")) == (FAILED, "no scale yet")


@pytest.mark.parametrize(
    ("source", "module"),
    [
        ("raise ValueError('odd')", "torch.nn.x"),
        ("np.zeros(3) + np.zeros(4)", "bitshift.nn.x"),
        ("int('x')", "bitshift.nn.x"),
        ("raise KeyError('k')", "bitshift.nn.x"),
    ],
)
def test_an_error_from_elsewhere_is_called_a_fault(source: str, module: str) -> None:
    error = caught(source, module)
    code, message = explain(error)
    assert code == FAILED
    assert message.startswith(f"unexpected {type(error).__name__}: ")
    assert "--traceback" in message
    assert len(message.splitlines()) == 2


def test_a_cli_error_brings_its_own_code() -> None:
    assert explain(CliError("stop", code=7)) == (7, "stop")


def test_a_missing_torch_is_an_installation_matter() -> None:
    error = ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn")
    assert explain(error) == (FAILED, "this needs PyTorch: pip install 'bitshift[torch]'")


def test_ctrl_c_has_the_shells_code() -> None:
    assert explain(KeyboardInterrupt())[0] == 130


def test_near_misses_come_first_and_everything_known_follows() -> None:
    assert (
        near_miss("pot3", ["pot3d", "int8"], "format")
        == "unknown format 'pot3'; did you mean 'pot3d'? Known: pot3d, int8"
    )
    assert near_miss("zzz", ["pot3d"], "format") == "unknown format 'zzz'. Known: pot3d"


def test_the_modules_of_this_test_were_not_left_behind() -> None:
    assert "bitshift.nn.x" not in sys.modules

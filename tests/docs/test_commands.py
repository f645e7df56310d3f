"""Every command on a page exists: verbs and their flags, make targets, files."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from docs.pages import PAGES, ROOT, commands, name

LINES = [
    pytest.param(command, id=f"{name(page)}: {command}") for page in PAGES for command in dict.fromkeys(commands(page))
]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
ANYWHERE = {"apt-get", "cc", "cd", "git", "pip", "torchrun", "cmake", "ctest", "lint-imports"}


@cache
def help_of(verb: str) -> str:
    """What ``bitshift VERB --help`` prints; fails if it does not exit with 0."""
    done = subprocess.run(
        [sys.executable, "-m", "bitshift.cli", *([verb] if verb else []), "--help"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"COLUMNS": "200"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def check_verb(words: list[str]) -> None:
    verb = words[0] if words and not words[0].startswith("-") else ""
    text = help_of(verb) + (" --version" if not verb else "")
    for word in words:
        if word.startswith("--") and word != "--help":
            flag = word.partition("=")[0]
            assert re.search(rf"(^|[\s,|]){re.escape(flag)}\b", text), f"bitshift {verb} has no flag {flag}"


def check_tests(paths: list[str]) -> None:
    for path in paths:
        file, _, function = path.partition("::")
        assert (ROOT / file).exists(), f"there is no {file}"
        assert not function or f"def {function}(" in (ROOT / file).read_text(), f"{file} has no {function}"


def check_runner(words: list[str]) -> None:
    usage = (ROOT / "cpp" / "runner" / "main.cpp").read_text()
    for word in words:
        if word.startswith("--"):
            assert re.search(rf'"  {re.escape(word.partition("=")[0])}\b', usage), f"bitshift-run has no flag {word}"


@pytest.mark.parametrize("command", LINES)
def test_a_command_of_the_docs_exists(command: str) -> None:
    words = shlex.split(command)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):  # VARIABLE=value in front of a command
        words = words[1:]
    program = words[0].removeprefix(".venv/bin/")
    if program == "bitshift":
        check_verb(words[1:])
    elif "bitshift.cli" in words:
        check_verb(words[words.index("bitshift.cli") + 1 :])
    elif words[:3] == ["make", "-C", "firmware/example"]:  # what emit-c --example has written
        example = (ROOT / "src" / "bitshift" / "backends" / "c99" / "example" / "Makefile").read_text()
        assert all(re.search(rf"^{goal}:", example, re.MULTILINE) for goal in words[3:])
    elif program == "make":
        goals = [word for word in words[1:] if "=" not in word and not word.startswith("-")]
        assert set(goals) <= TARGETS, f"the Makefile has no target {set(goals) - TARGETS}"
    elif program == "bitshift-run":
        check_runner(words[1:])
    elif program.startswith("build/ctest/cpp/tests/"):
        made = (ROOT / "cpp" / "tests" / "CMakeLists.txt").read_text()
        assert f"add_executable({Path(program).name} " in made, f"the C tests have no program {program}"
    elif words[1:3] == ["-m", "pytest"]:
        check_tests([word for word in words[3:] if word.startswith("tests/")])
    elif program in ("python", "python3") and len(words) > 1 and words[1].endswith(".py"):
        assert Path(ROOT / words[1]).is_file(), f"there is no {words[1]}"
    else:
        assert program in ANYWHERE | {"python", "python3"}, f"the tests do not know the program {program!r}"


def test_the_help_lists_every_verb_of_the_readme() -> None:
    verbs = set(re.findall(r"^bitshift ([\w-]+) --help", (ROOT / "README.md").read_text(), re.MULTILINE))
    listed = set(re.findall(r"^  ([\w-]+) ", help_of(""), re.MULTILINE))
    assert len(verbs) == 11
    assert verbs <= listed

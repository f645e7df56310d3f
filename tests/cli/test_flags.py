"""Help texts show words, not types of Python."""

from __future__ import annotations

import re

import pytest

from bitshift.cli import main
from bitshift.cli.verbs import SUMMARIES


@pytest.mark.parametrize("verb", SUMMARIES)
def test_help_shows_no_none_and_no_default_of_a_switch(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    text = capsys.readouterr().out
    for noise in ("{None}", "(default: None)", "(default: False)", "(default: True)", "(default: )", "--json {"):
        assert noise not in text


def test_choices_and_real_defaults_stay_visible(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help"]) == 0
    assert "--optimizer {sgd,adamw,radam}" in capsys.readouterr().out
    assert main(["run", "--help"]) == 0
    assert "(default: 64)" in capsys.readouterr().out


def test_parsing_twice_gives_the_same_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--help"]) == 0
    first = capsys.readouterr().out
    assert main(["run", "--help"]) == 0
    assert capsys.readouterr().out == first


def test_patterns_and_formats_are_no_pairs_of_name_and_value(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help"]) == 0
    assert "--new-head PATTERN ..." in capsys.readouterr().out
    assert main(["search", "--help"]) == 0
    assert "--formats FORMAT ..." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--keep-first", "fload"], "found 'fload', allowed is shift, float, int8; did you mean 'float'?"),
        (["train", "--channels", "2"], "found '2', allowed is 1, 3"),
        (["emit-c", "x", "-o", "y", "--flash", "128k"], "needed is a whole number without a unit, such as 131072"),
        (["emit-c", "x", "-o", "y", "--ram", "1 MiB"], "needed is a whole number without a unit, such as 1048576"),
    ],
)
def test_a_wrong_value_names_what_is_allowed(words, message, capsys) -> None:
    assert main(words) == 2
    assert message in re.sub(r"[\s│]+", " ", capsys.readouterr().err)

"""Help texts show words, not types of Python."""

from __future__ import annotations

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

"""Flags and rules files become a ShiftConfig."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bitshift.cli.errors import CliError
from bitshift.cli.rules import ShiftFlags, parse_activations, parse_option, read_rules
from bitshift.nn.config import Rule, ShiftConfig

TOML = """
[[rule]]
pattern = "layer1.*"
format = "pot4x2"

[[rule]]
pattern = "fc"
keep = "int8"
"""
JSON = '[{"pattern": "layer1.*", "format": "pot4x2"}, {"pattern": "fc", "keep": "int8"}]'


@pytest.mark.parametrize(("name", "text"), [("r.toml", TOML), ("r.json", JSON)])
def test_rules_are_read_in_their_order(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    assert read_rules(tmp_path / name) == (Rule(pattern="layer1.*", format="pot4x2"), Rule(pattern="fc", keep="int8"))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("r.toml", "[[rule]\n", "r.toml: "),
        ("r.json", "[", "r.json: "),
        ("r.json", "{}", "expected a list of rules"),
        ("r.toml", "rule = 3\n", "expected a list of rules"),
        ("r.yaml", "", "unknown kind of rules '.yaml'"),
        ("r.json", '[{"pattern": ""}]', "rule 1: rule with an empty pattern"),
        ("r.json", "[{}]", "rule 1: .*pattern"),
        ("r.json", '[{"pattern": "a", "keep": "fp16"}]', "allowed are False, 'float', 'int8'"),
        ("r.json", '[{"pattern": "a"}, {"pattern": 3}]', "r.json, rule 2: pattern is 3; allowed: a string"),
        ("r.json", '[{"pattern": null}]', "rule 1: pattern is None; allowed: a string"),
        ("r.toml", '[[rule]]\npattern = "a"\nbits = "3"\n', "rule 1: bits is '3'; allowed: a whole number from 1"),
        ("r.json", '[{"pattern": "a", "bits": true}]', "rule 1: bits is True; allowed: a whole number from 1"),
        ("r.json", '[{"pattern": "a", "bits": 0}]', "rule 1: bits is 0; allowed: a whole number from 1"),
        ("r.json", '[{"pattern": "a", "options": "x"}]', "rule 1: options is 'x'; allowed: a table of options"),
        ("r.json", '[{"pattern": "a", "method": ["s3"]}]', r"rule 1: method is \['s3'\]; allowed: a string"),
        ("r.json", '[{"pattern": "a", "keep": true}]', "rule 1: keep is True; allowed: false, 'float' or 'int8'"),
    ],
)
def test_a_wrong_rules_file_is_refused_with_its_place(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(CliError, match=message):
        read_rules(tmp_path / name)


def test_null_says_nothing_of_a_rule(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text('[{"pattern": "a", "bits": null, "options": null, "format": "pot2d"}]')
    assert read_rules(tmp_path / "r.json") == (Rule(pattern="a", format="pot2d"),)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a=1", 1),
        ("a=1e-3", 1e-3),
        ("a=true", True),
        ("a=False", False),
        ("a=None", None),
        ("a=word", "word"),
        ("a=b=c", "b=c"),
    ],
)
def test_option_values_are_read_as_json_or_as_words(text: str, value: Any) -> None:
    name, got = parse_option(text)
    assert (name, got) == ("a", value)
    assert type(got) is type(value)


def test_activations_are_float_bits_or_fixed_point() -> None:
    assert [parse_activations(t) for t in ("float", "8", "16.16")] == [None, 8, "16.16"]


def test_flags_alone_give_the_defaults_with_their_changes() -> None:
    flags = ShiftFlags(method="s3", bits=2, activations="4", keep_first="int8", option=("alpha=0.5",))
    want = ShiftConfig(method="s3", bits=2, activations=4, keep_first="int8", options={"alpha": 0.5})
    assert flags.shift_config(None) == want


def test_flags_change_only_what_they_name() -> None:
    base = ShiftConfig(method="denseshift", bits=3, activations=8, init="pretrained", options={"std": 0.1})
    assert ShiftFlags(bits=2).shift_config(base) == ShiftConfig(
        method="denseshift", bits=2, activations=8, init="pretrained", options={"std": 0.1}
    )
    assert ShiftFlags().shift_config(base) == base


def test_another_method_keeps_the_width_and_drops_the_old_options() -> None:
    base = ShiftConfig(method="denseshift", format="pot3d", activations=8, options={"std": 0.1})
    assert ShiftFlags(method="uniform").shift_config(base) == ShiftConfig(method="uniform", bits=3, activations=8)


def test_the_method_float_converts_nothing() -> None:
    assert ShiftFlags(method="float").shift_config(ShiftConfig()) is None


def test_the_type_of_the_latents_is_a_flag() -> None:
    config = ShiftFlags(latents="bfloat16").shift_config(None)
    assert config is not None
    assert config.latents == "bfloat16"
    unchanged = ShiftFlags(bits=3).shift_config(ShiftConfig(latents="bfloat16"))
    assert unchanged is not None
    assert unchanged.latents == "bfloat16"

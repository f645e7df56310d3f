"""Whose class names a result is shown under: those that the network was trained with."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest

from bitshift.cli import main
from bitshift.cli.errors import CliError
from bitshift.cli.runs import with_trained_classes
from bitshift.train.data import ArrayData


def rows(*names: str) -> ArrayData:
    return ArrayData(
        images=np.zeros((len(names), 1, 2, 2), np.uint8), labels=np.arange(len(names)), class_names=names
    )  # fmt: skip


@pytest.mark.parametrize(
    ("names", "trained", "shown"),
    [
        (("0", "1"), ("cat", "dog", "owl"), ("cat", "dog", "owl")),  # a file of bare numbers; the last class is absent
        (("cat", "dog"), ("cat", "dog", "owl"), ("cat", "dog", "owl")),
        (("cat", "dog"), ("0", "1"), ("cat", "dog")),
        (("cat", "dog"), ("cat", "dog"), ("cat", "dog")),
    ],
)
def test_bare_numbers_take_the_names_of_the_other_side(names, trained, shown):
    assert with_trained_classes(rows(*names), trained, "runs/x").class_names == shown


@pytest.mark.parametrize(
    ("names", "trained", "message"),
    [
        (("dog", "cat"), ("cat", "dog"), r"class 0 is 'dog', of runs/x 'cat'; give data"),
        (("0", "1", "2"), ("cat", "dog"), r"3 classes \(0, 1, 2\), runs/x knows 2 \(cat, dog\)"),
        (("dog",), ("cat", "dog"), r"1 classes \(dog\)"),
    ],
)
def test_other_classes_or_another_order_are_refused(names, trained, message):
    with pytest.raises(CliError, match=message):
        with_trained_classes(rows(*names), trained, "runs/x")


def test_a_run_and_its_file_show_their_names_for_an_npz_without_any(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "named_classes_net.py").write_text(
        "from torch import nn\ndef net(): return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))\n"
    )
    x, y = np.random.default_rng(0).integers(0, 256, (12, 1, 4, 4), dtype=np.uint8), np.arange(12) % 3
    np.savez("named.npz", x_train=x, y_train=y, x_test=x, y_test=y, class_names=np.array(["cat", "dog", "owl"]))
    np.savez("bare.npz", x_train=x, y_train=y, x_test=x[:8], y_test=y[:8] % 2)  # and no owl among them
    words = ["convert", "named_classes_net:net", "--data", "named.npz", "--activations", "8", "--output", "run"]
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(words) == 0
        assert main(["export", "run"]) == 0
    for what in ("run", "run/net.safetensors"):
        stream = io.StringIO()
        with contextlib.redirect_stdout(stream):
            assert main(["eval", what, "--data", "bare.npz", "--json"]) == 0
        answer = json.loads(stream.getvalue())
        assert answer["labels"] == ["cat", "dog", "owl"]
        assert np.shape(answer["confusion"]) == (3, 3)

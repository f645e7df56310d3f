"""Verbs that take minutes on a CPU say how far they are."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from bitshift.cli import main
from bitshift.train.progress import Count


def test_convert_and_eval_count_their_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(Count.__init__.__kwdefaults__, "every", 0.0)
    (tmp_path / "counted_net.py").write_text(
        "from torch import nn\ndef net(): return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))\n"
    )
    torch.save({"1.weight": torch.ones(3, 16), "1.bias": torch.zeros(3)}, "w.pt")
    x, y = np.random.default_rng(0).integers(0, 256, (300, 1, 4, 4), dtype=np.uint8), np.arange(300) % 3
    np.savez("d.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    words = ["counted_net:net", "--weights", "w.pt", "--data", "d.npz", "--activations", "8", "--output", "run"]

    def said(*argv: str) -> list[str]:
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="bitshift"):
            assert main([*argv, "--json"]) == 0
        return [m.partition("  left")[0] for m in caplog.messages if " rows" in m]

    assert said("convert", *words) == [
        "calibrating the activation grids: 100 of 300 rows", "calibrating the activation grids: 200 of 300 rows",
        "evaluating the float network: 250 of 300 rows", "evaluating the converted network: 250 of 300 rows",
    ]  # fmt: skip
    assert main(["export", "run"]) == 0
    assert said("eval", "run") == ["evaluating run: 250 of 300 rows"]
    file = ("eval", "run/net.safetensors", "--data", "d.npz", "--batch-size", "200")
    assert said(*file) == ["evaluating run/net.safetensors: 200 of 300 rows"]

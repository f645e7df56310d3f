"""A run stopped at any step and resumed equals the undisturbed run, whatever options are combined."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from bitshift.nn import ShiftConfig, convert
from bitshift.train import loop
from bitshift.train.checkpoint import load_checkpoint
from bitshift.train.config import TrainConfig
from bitshift.train.data import Shift
from bitshift.train.loop import fit
from train.tiny_run import tiny_data, tiny_net

TRAIN, VALID = tiny_data(32), tiny_data(24, seed=1)
NETS: dict[str, dict[str, Any] | None] = {
    "float": None,
    "denseshift": {"method": "denseshift", "bits": 3},
    "integer": {"method": "uniform", "bits": 3, "activations": 8, "multiplier": True},
    "folded": {"method": "nearest", "format": "pot4x2", "activations": 8, "init": "pretrained"},
    "partial": {"method": "inq", "bits": 4, "init": "pretrained"},
    "narrowing": {
        "method": "nearest", "format": "pot3d", "init": "pretrained",
        "options": {"learn": "scale", "wide": "pot4x2", "narrow_at": 0.3},
    },
}  # fmt: skip

options = st.fixed_dictionaries(
    {
        "optimizer": st.sampled_from(["sgd", "sgd", "adamw", "radam"]),
        "accumulate": st.sampled_from([1, 2]),
        "ema_decay": st.sampled_from([0.0, 0.9]),
        "reestimate_rows": st.sampled_from([0, 20]),
        "amp": st.sampled_from(["off", "bf16", "fp16"]),
        "mixup": st.sampled_from([0.0, 0.3]),
        "cutmix": st.sampled_from([0.0, 1.0]),
        "label_smoothing": st.sampled_from([0.0, 0.1]),
        "clip_norm": st.sampled_from([None, 1.0]),
        "schedule": st.sampled_from(["cosine", "step", "onecycle"]),
        "keep": st.sampled_from(["last", "best"]),
        "eval_every": st.sampled_from([1, 2]),
        "checkpoint_every_steps": st.sampled_from([0, 1, 3]),
        "flips_every": st.sampled_from([0, 2]),
        "nesterov": st.booleans(),
        "seed": st.integers(0, 5),
    }
)


class Stop(Exception):  # noqa: N818
    pass


def net(kind: str) -> nn.Module:
    changes = NETS[kind]
    if changes is None:
        return tiny_net()
    sample = TRAIN.normalise(TRAIN.batch(np.arange(4))[0])
    return convert(tiny_net(), ShiftConfig(**changes), sample=sample, generator=torch.Generator().manual_seed(0))[0]


def train(folder: Path, kind: str, config: TrainConfig, taught: bool, stop_at: int | None = None) -> None:
    step = loop._Run._step

    def failing(self, images, labels):
        if self.step == stop_at:
            raise Stop
        step(self, images, labels)

    loop._Run._step = failing
    try:
        fit(
            net(kind), config, TRAIN, VALID, run_dir=folder, augment=Shift(pixels=1),
            teacher=tiny_net(7) if taught else None,
        )  # fmt: skip
    finally:
        loop._Run._step = step


def written(folder: Path) -> tuple[bytes, list[dict[str, Any]], dict[str, bytes]]:
    """The model's file, the metrics without times, the checkpoint's tensors."""
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    plain = [{k: v for k, v in line.items() if k not in ("seconds", "images_per_s")} for line in metrics]
    found = load_checkpoint(folder)
    assert found is not None
    tensors = {name: t.contiguous().flatten().view(torch.uint8).numpy().tobytes() for name, t in found.tensors.items()}
    return (folder / "model.safetensors").read_bytes(), plain, tensors


def check(kind: str, taught: bool, stops: list[int], changes: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        base = {"epochs": 2, "batch_size": 8, "lr": 0.01, "log_every": 2, "progress": "off", "eval_batch_size": 16}
        kept = str(root / "cache") if taught and changes["seed"] % 2 else None
        config = TrainConfig(**(base | changes | {"teacher_cache": kept}))
        train(root / "whole", kind, config, taught)
        for stop in sorted(stops):
            with pytest.raises(Stop):
                train(root / "broken", kind, config, taught, stop)
        train(root / "broken", kind, config, taught)
        one, two = written(root / "whole"), written(root / "broken")
        different = [name for name in one[2] if one[2][name] != two[2].get(name)]
        assert not different
        assert one[1] == two[1]
        assert one[0] == two[0]


law = given(
    kind=st.sampled_from(sorted(NETS)), taught=st.booleans(),
    stops=st.lists(st.integers(0, 7), min_size=1, max_size=2, unique=True), changes=options,
)  # fmt: skip
quiet = [HealthCheck.too_slow, HealthCheck.data_too_large]


@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=quiet)
@law
def test_resumed_equals_undisturbed_for_options_at_random(kind, taught, stops, changes):
    check(kind, taught, stops, changes)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=quiet)
@law
def test_resumed_equals_undisturbed_for_many_options_at_random(kind, taught, stops, changes):
    check(kind, taught, stops, changes)

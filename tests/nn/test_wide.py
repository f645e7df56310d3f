"""Scales, steps and clips outlive a cast to half floats; tables outlive memory that held nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from bitshift.nn import ShiftConfig, convert
from bitshift.nn.gates import GateMethod
from bitshift.nn.latents import keep_in_bfloat16
from bitshift.nn.method import Method, get_method

SCALED = [
    ("nearest", "pot6d", {}),
    ("nearest", "pot3d", {"scale": "free"}),
    ("nearest", "pot3d", {"learn": "scale"}),
    ("nearest", "pot3d", {"learn": "scale", "scale": "free"}),
    ("uniform", "int8", {}),
    ("apot", "apot4", {}),
    ("apot", "apot4", {"scale": "pot"}),
]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("name", "format", "options"), SCALED)
def test_scales_stay_float32(name: str, format: str, options: dict[str, Any], dtype: torch.dtype) -> None:
    weight = torch.randn(4, 8, generator=torch.Generator().manual_seed(1)) * 0.003
    method = get_method(name).from_float(weight, format, **options)
    scale = method.scale().clone()
    method.weight().sum().backward()
    method.to(dtype)
    assert torch.equal(method.scale(), scale)
    assert method.weight().norm() > 0.5 * weight.norm()
    for p in method.parameters():
        assert p.dtype == (dtype if method.holds_weights(p) else torch.float32)
        assert p.grad is None or p.grad.dtype == p.dtype


def test_a_cast_to_float64_casts_everything() -> None:
    method = get_method("uniform").from_float(torch.randn(4, 8), "int4").double()
    assert {p.dtype for p in method.parameters()} == {torch.float64}


@pytest.mark.parametrize("name", ["s3", "denseshift"])
def test_tables_are_there_behind_to_empty(name: str) -> None:
    cls = get_method(name)
    method = cls.random((4, 8), cls.format_for(3), generator=torch.Generator().manual_seed(0))
    empty = cls.random((4, 8), cls.format_for(3)).to("meta").to_empty(device="cpu")
    assert isinstance(empty, GateMethod)
    assert isinstance(method, GateMethod)
    for table in (empty._values, empty._codes, empty._slopes, empty._live):
        table.fill_(1)
    empty.load_state_dict(method.state_dict())
    assert torch.equal(empty.weight(), method.weight())
    assert torch.equal(empty.codes(), method.codes())
    grads = []
    for m in (empty, method):
        m.weight().square().sum().backward()
        grads.append(m.stack.grad)
    assert torch.equal(*grads)


def test_tables_stay_where_they_are_when_a_state_is_loaded() -> None:
    method = get_method("denseshift").random((4, 8), "pot3d", generator=torch.Generator().manual_seed(0))
    places = [t.data_ptr() for t in method.buffers()]
    with torch.inference_mode():
        method.load_state_dict(method.state_dict())
    assert [t.data_ptr() for t in method.buffers()] == places
    method.weight().sum().backward()


def test_steps_of_layers_with_one_input_are_no_latents() -> None:
    config = ShiftConfig(method="uniform", bits=4, init="pretrained", latents="bfloat16")
    net, _ = convert(nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 1)), config, sample=torch.randn(2, 1))
    methods = [m for m in keep_in_bfloat16(net).modules() if isinstance(m, Method)]
    assert [m.step.dtype for m in methods] == [torch.float32] * 2
    assert [m.latent.dtype for m in methods] == [torch.bfloat16] * 2

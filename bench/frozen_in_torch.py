"""A frozen network inside torch: its integer layers on the engine's kernels beside exact float arithmetic.

ResNet-20 on (3, 32, 32), pot3d weights, 8-bit activations, random weights; the same module both times, so that
everything between the layers costs the same. Equal bits first. One thread.

    python bench/frozen_in_torch.py --json out.json
"""

from __future__ import annotations

import argparse

import torch
from common import Row, check_equal, main, paired
from torch import Tensor, nn

from bitshift import ShiftConfig, convert, freeze
from bitshift.backends import engine
from bitshift.nn import native
from bitshift.train.models import build


def frozen(name: str) -> nn.Module:
    """The frozen form of a random network whose quantisers have seen random data."""
    torch.manual_seed(0)
    sample = torch.randn(8, 3, 32, 32)
    config = ShiftConfig(method="nearest", format="pot3d", activations=8)
    model, _ = convert(build(name, num_classes=10, in_channels=3), config, sample=sample)
    model.train()(sample)
    return freeze(model.eval(), sample[:4])


def by_floats(model: nn.Module, x: Tensor) -> Tensor:
    """``model(x)`` without the engine."""
    module, native._native = native._native, None
    try:
        return model(x)
    finally:
        native._native = module


def rows(options: argparse.Namespace) -> list[Row]:
    """Milliseconds a sample of both, and how many times faster the engine is."""
    reason = engine.available()
    if reason is not None or native._native is None:
        raise SystemExit(f"frozen_in_torch: {reason or 'BITSHIFT_TORCH_ENGINE is off'}")
    torch.set_num_threads(1)
    model, found = frozen("resnet20"), []
    with torch.no_grad():
        for batch in (1,) if options.quick else (1, 16):
            x = torch.randn(batch, 3, 32, 32)
            case = f"frozen ResNet-20 pot3d, s8, batch {batch}"
            check_equal(case, by_floats(model, x).numpy(), model(x).numpy())
            repeats = 1 if options.quick else max(1, 8 // batch)
            times = paired(
                {
                    "engine": lambda x=x, n=repeats: [model(x) for _ in range(n)],
                    "floats": lambda x=x, n=repeats: [by_floats(model, x) for _ in range(n)],
                },
                rounds=3 if options.quick else 25,
            )
            each = 1e3 / (batch * repeats)
            found += [
                times["engine"].row(case, "engine's kernels, a sample", scale=each),
                times["floats"].row(case, "floats, a sample", scale=each),
                times["engine"].ratio(times["floats"], case=case, against="exact floats in torch"),
            ]
    return found


if __name__ == "__main__":
    main(__doc__, rows)

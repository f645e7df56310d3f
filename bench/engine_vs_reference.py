"""The compiled engine against the numpy reference on whole networks: equal integers first, then time for a sample.

Networks have random codes and the shapes of real ones: LeNet on (1, 28, 28) and ResNet-20 on (3, 32, 32), pot3d
weights, 8-bit activations, rule 4 with power-of-two multipliers; and a ResNet-20 with float activations. Both run on
one thread.

    python bench/engine_vs_reference.py --json out.json
"""

from __future__ import annotations

import argparse

import numpy as np
from common import Row, check_equal, main, paired
from nets import lenet, resnet20

from bitshift.backends import engine, reference


def rows(options: argparse.Namespace) -> list[Row]:
    """Milliseconds a sample of both, and how many times faster the engine is."""
    reason = engine.available()
    if reason is not None:
        raise SystemExit(f"engine_vs_reference: {reason}")
    cases = {"LeNet pot3d, s8": lenet()}
    if not options.quick:
        cases |= {"ResNet-20 pot3d, s8": resnet20(), "ResNet-20 pot3d, f32": resnet20(real=True)}
    found = []
    rounds = 3 if options.quick else 15
    for case, graph in cases.items():
        fast, slow = engine.compile(graph), reference.compile(graph)
        for batch in (1, 16):
            rng = np.random.default_rng(batch)
            x = rng.standard_normal((batch, *graph.values["x"].shape)).astype(np.float32)
            name = f"{case}, batch {batch}"
            (expected,), (got,) = slow.run_int({"x": x}).values(), fast.run_int({"x": x}).values()
            if expected.dtype == np.float32:
                # Sums of up to 576 products in another order: far under 1e-4 of the largest output.
                if not np.allclose(got, expected, rtol=0, atol=1e-4 * float(np.abs(expected).max())):
                    raise SystemExit(f"{name}: the outputs differ; nothing was timed")
            else:
                check_equal(name, expected, got)
                if np.unique(expected).size < expected.size // 2:
                    raise SystemExit(f"{name}: the outputs are all alike, which would hide an error; nothing was timed")
            repeats = 1 if options.quick else max(1, 64 // batch if "LeNet" in case else 2)
            times = paired(
                {
                    "engine": lambda run=fast, x=x, n=repeats: [run.run_int({"x": x}) for _ in range(n)],
                    "reference": lambda run=slow, x=x, n=repeats: [run.run_int({"x": x}) for _ in range(n)],
                },
                rounds=rounds,
            )
            each = 1e3 / (batch * repeats)
            found += [
                times["engine"].row(name, "engine, a sample", scale=each),
                times["reference"].row(name, "reference, a sample", scale=each),
                times["engine"].ratio(times["reference"], case=name, against="numpy reference"),
            ]
    return found


if __name__ == "__main__":
    main(__doc__, rows)

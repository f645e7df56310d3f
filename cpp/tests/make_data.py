"""Write cpp/tests/data: small valid model files that hold every op in every mode, for the C tests and the fuzzer.

Run it from the checkout after a change of the model file: ``python cpp/tests/make_data.py``.
"""

# ruff: noqa: INP001, T201
from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from bitshift.core.fixed import FixedPoint  # noqa: E402
from bitshift.core.formats import FORMATS  # noqa: E402
from bitshift.core.graph import Graph, Node, Value  # noqa: E402
from bitshift.core.modelfile import save  # noqa: E402
from bitshift.core.ops import OPS  # noqa: E402
from strategies import FLOAT_ONLY, INT_ONLY, Seeded, one_op, random_case  # noqa: E402

DATA = Path(__file__).resolve().parent / "data"


def small_cnn() -> Graph:
    """conv, residual conv, pools, linear, argmax-free: one input (2, 9, 7) s8.7, one output (10) s32."""
    rng = np.random.default_rng(7)
    form = FORMATS["pot3d"]
    values, nodes, constants = {}, [], {}

    def value(name: str, shape: tuple[int, ...], type: FixedPoint) -> str:
        values[name] = Value(name, shape, type)
        return name

    def weighted(op: str, inputs: list[str], out: str, shape: tuple[int, ...], attrs: dict) -> None:
        count = shape[0]
        constants[f"{out}.codes"] = rng.integers(0, 1 << form.bits, shape).astype(np.uint8)
        constants[f"{out}.offset"] = rng.integers(-500, 500, count)
        constants[f"{out}.mult"] = (1 << rng.integers(0, 3, count)).astype(np.int32)
        constants[f"{out}.shift"] = rng.integers(5, 9, count).astype(np.uint8)
        roles = ["codes", "offset", "mult", "shift"]
        if len(inputs) == 2:
            constants[f"{out}.res_shift"] = rng.integers(3, 6, count).astype(np.uint8)
            roles.append("res_shift")
        nodes.append(
            Node(op, tuple(inputs), out, {"format": form.name, **attrs}, {r: f"{out}.{r}" for r in roles}, f"m.{out}")
        )

    same = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1}
    x = value("x", (2, 9, 7), FixedPoint(8, 7))
    a = value("a", (6, 9, 7), FixedPoint(8, 4, signed=False))
    b = value("b", (6, 9, 7), FixedPoint(8, 4, signed=False))
    c = value("c", (6, 4, 3), FixedPoint(8, 4, signed=False))
    d = value("d", (72,), FixedPoint(8, 4, signed=False))
    y = value("y", (10,), FixedPoint(32, 11))
    weighted("conv", [x], a, (6, 2, 3, 3), same)
    weighted("conv", [a, a], b, (6, 6, 3, 3), {**same, "clamp": (0, 200)})
    pool = {"kernel": (2, 2), "stride": (2, 2), "padding": ((0, 0), (0, 0)), "dilation": (1, 1)}
    nodes.append(Node("max_pool", (b,), c, pool))
    nodes.append(Node("reshape", (c,), d, {"shape": (72,)}))
    weighted("linear", [d], y, (10, 72), {})
    return Graph((x,), (y,), values, tuple(nodes), constants, {"labels": [str(i) for i in range(10)]})


def main() -> None:
    """Write all files and say how large they are."""
    DATA.mkdir(exist_ok=True)
    for old in DATA.glob("*.safetensors"):
        old.unlink()
    total = save(small_cnn(), DATA / "small_cnn.safetensors")
    for op in sorted(OPS):
        if op not in FLOAT_ONLY:
            total += save(one_op(Seeded(3), op).graph, DATA / f"{op}.safetensors")
        if op not in INT_ONLY:
            total += save(one_op(Seeded(5), op, floats=True).graph, DATA / f"{op}_f32.safetensors")
    for op in ("conv", "conv_transpose", "max_pool", "avg_pool", "upsample"):
        for floats in (False, True):
            seeds = (one_op(Seeded(seed), op, floats=floats).graph for seed in range(100))
            volume = next(g for g in seeds if len(g.values[g.inputs[0]].shape) == 4 and len(g.inputs) == 1)
            total += save(volume, DATA / f"{op}_3d{'_f32' if floats else ''}.safetensors")
    for seed in range(12):
        total += save(random_case(seed + 100, floats=seed % 3 == 0).graph, DATA / f"random_{seed:02}.safetensors")
    print(f"{len(list(DATA.glob('*')))} files, {total} bytes in {DATA}")


if __name__ == "__main__":
    main()

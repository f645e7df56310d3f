"""Run a model file over a set of pictures in a process that cannot import torch, and prove that it cannot.

``python -m bitshift.cli.torchless MODEL PIXELS.npy OUT.npy BACKEND`` reads uint8 pixels (N, C, H, W), applies the
file's preprocess, writes the network's integers (N, ...) and prints one JSON object. The demo starts it; nothing of
torch reaches the numbers that it writes.
"""

from __future__ import annotations

import importlib
import importlib.abc
import json
import sys
import time
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

BATCH = 250


class TorchBlockedError(ModuleNotFoundError):
    """An import of torch was attempted."""


class TorchBlocker(importlib.abc.MetaPathFinder):
    """Stands first in ``sys.meta_path`` and refuses torch and everything below it."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,  # noqa: ARG002 - the interface of importlib
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        """None for every other module: the next finder looks."""
        if fullname == "torch" or fullname.startswith("torch."):
            raise TorchBlockedError(f"import of {fullname!r} is blocked in this process", name=fullname)
        return None


def block_torch() -> None:
    """Install the blocker and try it; RuntimeError if torch is already loaded or still comes in."""
    if loaded := torch_modules():
        raise RuntimeError(f"torch was loaded before it could be blocked: {loaded[:3]}")
    sys.meta_path.insert(0, TorchBlocker())
    try:
        importlib.import_module("torch")
    except TorchBlockedError:
        return
    raise RuntimeError("the blocker let torch in")


def torch_modules() -> list[str]:
    """Names of the torch modules in this process."""
    return sorted(name for name in sys.modules if name == "torch" or name.startswith("torch."))


def run_file(model: Path, pixels: Path, out: Path, backend: str) -> dict[str, object]:
    """Write the integers of the whole set to ``out``; returns backend, samples, seconds and the state of torch."""
    block_torch()
    import numpy as np

    from bitshift import runtime
    from bitshift.cli.inputs import prepare

    net = runtime.load(model, backend=backend)
    images = np.load(pixels, allow_pickle=False)
    begin = time.perf_counter()
    parts = [net.run_int(prepare(net, images[i : i + BATCH])) for i in range(0, len(images), BATCH)]
    seconds = time.perf_counter() - begin
    np.save(out, np.concatenate(parts), allow_pickle=False)
    return {
        "backend": net.backend,
        "samples": len(images),
        "seconds": seconds,
        "torch_blocked": not torch_modules(),
        "torch_modules": torch_modules(),
    }


if __name__ == "__main__":
    arguments = sys.argv[1:]
    print(json.dumps(run_file(Path(arguments[0]), Path(arguments[1]), Path(arguments[2]), arguments[3])))

"""Run an exported model with numpy alone: no PyTorch, no compiler needed.

    python examples/deploy.py net.safetensors [input.npy]

Without an input, zeros are run.
"""

import sys

import numpy as np

import bitshift as bs


def main(path: str, input_path: str | None = None) -> np.ndarray:
    model = bs.load(path)  # the compiled engine if it was built, else numpy; the integers are the same
    print(model)
    value = model.graph.values[model.graph.inputs[0]]
    x = np.zeros((1, *value.shape), np.float32) if input_path is None else np.load(input_path)

    integers = model.run_int(x)  # what every backend and device computes, bit for bit
    scores = model.run(x)  # the same as numbers: integer * 2**-frac
    print(f"integers {integers[0].tolist()}\nscores   {scores[0].tolist()}")
    best = int(scores[0].argmax())
    print(f"class    {best if model.labels is None else model.labels[best]}")
    return integers


if __name__ == "__main__":
    main(*sys.argv[1:3] or ["net.safetensors"])

"""One training step of ResNet-18 (forward, loss, backward, SGD with momentum): DenseShift-3 against plain float.

    python bench/train_step.py --json FILE [--batch 32] [--size 224] [--rounds 5] [--threads 1]

Both nets run in turns in one process, float32. Before timing, the shift network's logits are compared with those of
a float network that was given its effective weights: they must be equal, as both run the same convolutions. Peak
memory is the high-water mark of a process of its own per net, above the same process before the net was built.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from common import Row, Timing, arguments, check_equal, main, paired
from torch import nn

from bitshift.nn import ShiftConfig, convert
from bitshift.nn.method import Method
from bitshift.train.config import TrainConfig
from bitshift.train.distill import task_loss
from bitshift.train.models import build
from bitshift.train.optim import build_optimizer

SHIFT = ShiftConfig(method="denseshift", bits=3, keep_first="float", keep_last="float")
NETS = ("float", "denseshift-3")


def make(name: str) -> nn.Module:
    """The net before training, seeded."""
    torch.manual_seed(0)
    model = build("resnet18", num_classes=1000, in_channels=3)
    if name == "float":
        return model
    return convert(model, SHIFT, generator=torch.Generator().manual_seed(0))[0]


def stepper(model: nn.Module, batch: int, size: int) -> Callable[[], None]:
    """A function that does one whole step, as the training loop does it."""
    optimizer = build_optimizer(model, TrainConfig(epochs=1, batch_size=batch, lr=0.1))
    methods = [m for m in model.modules() if isinstance(m, Method)]
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(batch, 3, size, size, generator=generator).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(1000, (batch,), generator=generator)
    model.train()

    def step() -> None:
        loss = task_loss(model(images), labels)
        for method in methods:
            loss = loss + method.penalty()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        for method in methods:
            method.after_step()

    return step


def counted(step: Callable[[], None], seconds: list[float]) -> Callable[[], None]:
    """``step``, noting the processor time of each call: on a busy machine it says more than the clock."""

    def run() -> None:
        start = time.process_time()
        step()
        seconds.append(time.process_time() - start)

    return run


def check(size: int) -> None:
    """The shift network computes what a float network with its weights computes."""
    shift, plain = make(NETS[1]), make(NETS[0])
    state = plain.state_dict()
    for path, module in shift.named_modules():
        if isinstance(module, Method):
            state[path.removesuffix(".method") + ".weight"] = module.weight().detach()
    missing = plain.load_state_dict(state).missing_keys
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        check_equal("logits", plain.eval()(images).numpy(), shift.eval()(images).numpy())
    if missing:
        raise SystemExit(f"weights not compared: {missing}")


def peak(name: str, options: argparse.Namespace) -> float:
    """MiB of two steps of ``name`` above an idle process, measured in a process of its own."""
    command = [sys.executable, __file__, "--peak-of", name, "--batch", str(options.batch), "--size", str(options.size)]
    done = subprocess.run([*command, "--threads", str(options.threads)], capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout))


def rows(options: argparse.Namespace) -> list[Row]:
    """Check, time in turns, then measure memory."""
    torch.set_num_threads(options.threads)
    if options.quick:
        options.batch, options.size, options.rounds = 2, 64, 2
    check(min(options.size, 64))
    case = f"ResNet-18, batch {options.batch}, {options.size}x{options.size}"
    cpu: dict[str, list[float]] = {n: [] for n in NETS}
    steps: dict[str, Callable[[], object]] = {
        n: counted(stepper(make(n), options.batch, options.size), cpu[n]) for n in NETS
    }
    times = paired(steps, rounds=options.rounds, warmup=1)
    used = {n: Timing(tuple(cpu[n][-options.rounds :])) for n in NETS}
    memory = {n: peak(n, options) for n in NETS}
    out = [times[n].row(f"{case}, {n}", "time of a step") for n in NETS]
    for metric, measured in (("time ratio", times), ("processor time ratio", used)):
        name = f"{case}, denseshift-3"
        out.append(measured["float"].ratio(measured["denseshift-3"], case=name, against="float", metric=metric))
    out += [Row(case=f"{case}, {n}", metric="peak memory", value=memory[n], unit="MiB") for n in NETS]
    larger = memory["denseshift-3"] / memory["float"]
    out.append(Row(case=f"{case}, denseshift-3", metric="memory ratio", value=larger, unit="x", against="float"))
    return out


def high_water() -> int:
    """Largest resident size of this process so far, KiB. Not getrusage's: that one is inherited from the parent."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    raise SystemExit("/proc/self/status has no VmHWM: peak memory can be measured on Linux only")


def print_peak(options: argparse.Namespace) -> None:
    """What :func:`peak` runs: prints the high-water mark of two steps."""
    torch.set_num_threads(options.threads)
    before = high_water()
    step = stepper(make(options.peak_of), options.batch, options.size)
    step()
    step()
    print(json.dumps((high_water() - before) / 1024))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = arguments(__doc__)
    made.add_argument("--batch", type=int, default=32)
    made.add_argument("--size", type=int, default=224, help="height and width of the images")
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--peak-of", choices=NETS, help=argparse.SUPPRESS)
    return made


if __name__ == "__main__":
    chosen = parser().parse_args()
    if chosen.peak_of:
        print_peak(chosen)
    else:
        main(__doc__, rows, parser=parser())

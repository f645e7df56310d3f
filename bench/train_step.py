"""One training step of ResNet-18 and ResNet-50 (forward, loss, backward, SGD with momentum): methods against float.

    python bench/train_step.py --json FILE [--nets resnet18 resnet50] [--batches 32 64] [--methods denseshift-3 ...]
        [--rounds 3] [--threads 2] [--amp]
    python bench/train_step.py --memory --json FILE [the same]
    python bench/train_step.py --compile --json FILE [the same]

METHOD-BITS may end in -bf16, latents in bfloat16, or -a8, an integer network with 8-bit activations. `--amp` runs all
nets in bfloat16 autocast. `--nets resnet20 --size 32 --batches 128` is CIFAR's network.

All nets of a case run in turns in one process, float32; but for -a8 the first and last layer stay float. Before timing,
each shift network's logits are compared with those of a float network that was given its effective weights: they must
be equal, as both run the same convolutions (not for -a8, which rounds activations). `--memory` measures instead the
peak memory of a process of its own per net, above the same process before the net was built; `--compile` each net's
step under torch.compile, as `TrainConfig(compile=True)` has it, against its own plain step; the
first losses must agree to four digits.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from common import Row, Timing, arguments, check_equal, main, paired
from torch import nn

from bitshift.nn import ShiftConfig, convert
from bitshift.nn.activations import calibrate
from bitshift.nn.method import Method
from bitshift.train.compiled import compiled_forward
from bitshift.train.config import TrainConfig
from bitshift.train.distill import task_loss
from bitshift.train.distributed import World
from bitshift.train.models import build
from bitshift.train.optim import build_optimizer

METHODS = (
    "denseshift-3", "denseshift-3-bf16", "denseshift-2", "denseshift-4", "s3-3", "deepshift_q-5", "deepshift_ps-5",
    "nearest-4", "uniform-4", "apot-4", "inq-5",
)  # fmt: skip
NETS = ("resnet18", "resnet50", "resnet20")


def make(net: str, name: str, size: int) -> nn.Module:
    """``net`` before training, seeded; ``name`` is "float" or METHOD-BITS with what the module's docstring allows."""
    torch.manual_seed(0)
    model = build(net, num_classes=10 if net == "resnet20" else 1000, in_channels=3)
    if name == "float":
        return model
    method, bits, *more = name.split("-")
    integer = "a8" in more
    config = ShiftConfig(
        method=method, bits=int(bits), latents="bfloat16" if "bf16" in more else "float32",
        keep_first=False if integer else "float", keep_last=False if integer else "float",
        activations=8 if integer else None, init="pretrained" if integer else "random",
    )  # fmt: skip
    sample = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(0)
    converted = convert(model, config, sample=sample if integer else None, generator=generator)[0]
    for m in methods_of(converted):
        m.set_progress(0.0)
    return calibrate(converted, [sample])


def methods_of(model: nn.Module) -> list[Method]:
    """The methods of ``model``, in order."""
    return [m for m in model.modules() if isinstance(m, Method)]


def stepper(
    model: nn.Module, batch: int, size: int, *, amp: bool, compiled: bool = False
) -> Callable[[int], float]:  # fmt: skip
    """A function that does one whole step on as many images, as the training loop does it, and returns its loss."""
    optimizer = build_optimizer(model, TrainConfig(epochs=1, batch_size=batch, lr=0.1))
    methods = methods_of(model)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(batch, 3, size, size, generator=generator).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (batch,), generator=generator)
    model.train()
    half = torch.bfloat16 if amp else None
    forward = compiled_forward(model, images, half=half, world=World()) if compiled else model

    def step(count: int) -> float:
        with torch.autocast("cpu", half, enabled=amp):
            logits = forward(images[:count])
        loss = task_loss(logits, labels[:count])
        for method in methods:
            loss = loss + method.penalty()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        for method in methods:
            method.after_step()
        return loss.item()

    return step


def counted(step: Callable[[int], float], batch: int, seconds: list[float]) -> Callable[[], None]:
    """``step``, noting the processor time of each call: on a busy machine it says more than the clock."""

    def run() -> None:
        start = time.process_time()
        step(batch)
        seconds.append(time.process_time() - start)

    return run


def check(net: str, name: str, size: int) -> None:
    """The shift network computes what a float network with its weights computes."""
    shift, plain = make(net, name, size), make(net, "float", size)
    state = plain.state_dict()
    for path, module in shift.named_modules():
        if isinstance(module, Method):
            state[path.removesuffix(".method") + ".weight"] = module.weight().detach()
    missing = plain.load_state_dict(state).missing_keys
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        check_equal(f"logits of {net} {name}", plain.train()(images).numpy(), shift.train()(images).numpy())
    if missing:
        raise SystemExit(f"weights not compared: {missing}")


def peak(net: str, name: str, batch: int, options: argparse.Namespace) -> float:
    """MiB of two steps above an idle process, measured in a process of its own."""
    command = [sys.executable, __file__, "--peak-of", name, "--nets", net, "--batches", str(batch)]
    command += ["--size", str(options.size), "--threads", str(options.threads), *(["--amp"] if options.amp else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout))


def rows(options: argparse.Namespace) -> list[Row]:
    """The rows of every net and batch."""
    torch.set_num_threads(options.threads)
    if options.quick:
        options.nets, options.batches, options.size, options.rounds = ["resnet18"], [2], 64, 2
        options.methods = ["denseshift-3", "s3-3"]
    measure = memory if options.memory else compiling if options.compile else times
    return [row for net in options.nets for batch in options.batches for row in measure(net, batch, options)]


def title(net: str, batch: int, options: argparse.Namespace) -> str:
    """What the rows of a net begin with."""
    return f"{net}, batch {batch}, {options.size}x{options.size}" + (", bf16 autocast" if options.amp else "")


def times(net: str, batch: int, options: argparse.Namespace) -> list[Row]:
    """Check, then time in turns."""
    names = ["float", *options.methods]
    for name in (n for n in options.methods if not n.endswith("-a8")):
        check(net, name, min(options.size, 64))
    case = title(net, batch, options)
    cpu: dict[str, list[float]] = {n: [] for n in names}
    steps: dict[str, Callable[[], object]] = {
        n: counted(stepper(make(net, n, options.size), batch, options.size, amp=options.amp), batch, cpu[n])
        for n in names
    }
    taken = paired(steps, rounds=options.rounds, warmup=1)
    used = {n: Timing(tuple(cpu[n][-options.rounds :])) for n in names}
    out = [taken["float"].row(f"{case}, float", "time of a step")]
    for metric, measured in (("time ratio", taken), ("processor time ratio", used)):
        out += [
            measured["float"].ratio(measured[n], case=f"{case}, {n}", against="float", metric=metric)
            for n in options.methods
        ]
    return out


def compiling(net: str, batch: int, options: argparse.Namespace) -> list[Row]:
    """Each net's compiled step against its plain one."""
    out = []
    for name in ["float", *options.methods]:
        case = f"{title(net, batch, options)}, {name}"
        cpu: dict[str, list[float]] = {}
        steps: dict[str, Callable[[], object]] = {}
        losses = {}
        for kind in ("plain", "compiled"):
            step = stepper(
                make(net, name, options.size), batch, options.size, amp=options.amp, compiled=kind == "compiled"
            )
            losses[kind] = step(batch)
            cpu[kind] = []
            steps[kind] = counted(step, batch, cpu[kind])
        if not np.allclose(losses["plain"], losses["compiled"], rtol=1e-2 if options.amp else 1e-4):
            raise SystemExit(f"{case}: losses {losses} differ")
        taken = paired(steps, rounds=options.rounds, warmup=1)
        used = {kind: Timing(tuple(cpu[kind][-options.rounds :])) for kind in steps}
        out.append(taken["plain"].row(case, "time of a plain step"))
        for metric, measured in (("time ratio", taken), ("processor time ratio", used)):
            out.append(measured["plain"].ratio(measured["compiled"], case=case, against="plain", metric=metric))
    return out


def memory(net: str, batch: int, options: argparse.Namespace) -> list[Row]:
    """Peak memory of each net, and its ratio to the float one's."""
    case = title(net, batch, options)
    base = peak(net, "float", batch, options)
    out = [Row(case=f"{case}, float", metric="peak memory", value=base, unit="MiB")]
    for name in options.methods:
        found = peak(net, name, batch, options)
        out.append(Row(case=f"{case}, {name}", metric="peak memory", value=found, unit="MiB"))
        out.append(Row(case=f"{case}, {name}", metric="memory ratio", value=found / base, unit="x", against="float"))
    return out


def high_water() -> int:
    """Largest resident size of this process so far, KiB. Not getrusage's: that one is inherited from the parent."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    raise SystemExit("/proc/self/status has no VmHWM: peak memory can be measured on Linux only")


def print_peak(options: argparse.Namespace) -> None:
    """What :func:`peak` runs: prints the high-water mark of a small step, which makes the momentum, and a whole one."""
    torch.set_num_threads(options.threads)
    before = high_water()
    (batch,) = options.batches
    step = stepper(make(options.nets[0], options.peak_of, options.size), batch, options.size, amp=options.amp)
    step(min(batch, 2))
    step(batch)
    print(json.dumps((high_water() - before) / 1024))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = arguments(__doc__)
    made.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS[:2]))
    made.add_argument("--batches", nargs="+", type=int, default=[32])
    made.add_argument("--methods", nargs="+", default=list(METHODS), metavar="METHOD-BITS")
    made.add_argument("--size", type=int, default=224, help="height and width of the images")
    made.add_argument("--rounds", type=int, default=3)
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--amp", action="store_true", help="bfloat16 autocast")
    instead = made.add_mutually_exclusive_group()
    instead.add_argument("--memory", action="store_true", help="peak memory instead of times")
    instead.add_argument("--compile", action="store_true", help="compiled steps against plain ones")
    made.add_argument("--peak-of", help=argparse.SUPPRESS)
    return made


if __name__ == "__main__":
    chosen = parser().parse_args()
    if chosen.peak_of:
        print_peak(chosen)
    else:
        main(__doc__, rows, parser=parser())

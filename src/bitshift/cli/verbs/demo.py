"""``bitshift demo``: the whole way on real digits, in minutes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from bitshift.cli.errors import FAILED, CliError
from bitshift.cli.output import Output, percent, size_text, to_json
from bitshift.cli.verbs import Verb
from bitshift.train.files import CONFIG, FLOAT, NET

if TYPE_CHECKING:
    import numpy as np

    from bitshift.cli.runs import Run
    from bitshift.cli.training import Plan
    from bitshift.train.data import TrainData

RECIPE = "demo_mnist"


@dataclass(frozen=True, kw_only=True)
class Demo(Verb):
    """Flags of ``bitshift demo``."""

    help_text: ClassVar[str] = """Train, freeze, export and run a shift network on 5,000 real MNIST digits, in minutes.

It trains a float network and its twin with 3-bit power-of-two weights (DenseShift; every value an integer, no
multiplication), exports the twin to one file, runs the whole test set from that file in a process that cannot import
torch, and compares every output integer with the training simulation. It also measures int8 and uniform weights of
the same width, prints one table, and writes result.json and report.html into the run directory.

examples:
  bitshift demo
  bitshift demo --run-dir /tmp/demo --epochs 2
  bitshift demo --json
"""
    run_dir: Path = Path("runs/demo")
    """Where everything goes; a demo that is there is replaced, unless --resume."""
    epochs: int | None = None
    """Fewer epochs for a quicker, worse demo; default: the recipe's."""
    resume: bool = False
    """Continue a demo that was stopped."""
    baselines: bool = True
    """Do not measure int8 and uniform weights for the report."""
    backend: str = "auto"
    """What runs the file: auto (the engine, else the numpy reference with a warning), engine or reference."""

    def run(self, out: Output) -> None:  # noqa: D102 - Verb.run
        from bitshift.cli import training
        from bitshift.cli.models import check_backend
        from bitshift.cli.recipes import recipe_plan
        from bitshift.cli.runs import open_run

        check_backend(self.backend)
        begin = time.perf_counter()
        plan = recipe_plan(RECIPE)
        if self.epochs is not None:
            if self.epochs < 1:
                raise CliError(f"--epochs {self.epochs}: must be at least 1")
            plan = _shorter(plan, self.epochs)
        old = self._earlier_demo()
        data = training.open_splits(plan.data)
        if old and not self.resume:
            shutil.rmtree(self.run_dir)
        trained = training.train(plan, data, self.run_dir)
        assert trained.twin is not None
        seconds = {"float_training": trained.twin.seconds, "shift_training": trained.result.seconds}
        run = open_run(self.run_dir)
        model_file = self.run_dir / NET
        outcome = self._export_and_run(run, data, model_file)
        self._compare(run, data, plan, trained.twin.accuracy, outcome, out)
        result = {
            "float_accuracy": trained.twin.accuracy,
            "simulation_accuracy": outcome["simulation_accuracy"],
            "engine_accuracy": outcome["engine_accuracy"],
            "differing_outputs": outcome["differing_outputs"],
            "float_bytes": _float_bytes(run),
            "file_bytes": model_file.stat().st_size,
            "seconds": round(time.perf_counter() - begin, 2),
            "compared_outputs": outcome["compared_outputs"],
            "test_samples": len(data[1]),
            "backend": outcome["backend"],
            "torch_blocked": outcome["torch_blocked"],
            "multiplications": outcome["multiplications"],
            "seconds_by_part": seconds | {"run_file": outcome["run_seconds"]},
            "network": run.spec.describe(),
        }
        (self.run_dir / "result.json").write_text(to_json(result) + "\n", encoding="utf-8")
        page = self.run_dir / "report.html"
        from bitshift.cli.verbs.report import write_report

        write_report(self.run_dir, page)
        result["report"] = page
        self._print(out, result)
        out.result(result)
        if outcome["differing_outputs"]:
            raise CliError(
                f"{outcome['differing_outputs']} of {outcome['compared_outputs']} output integers differ between the "
                "training simulation and the file; please report this",
                code=FAILED,
            )

    def _earlier_demo(self) -> bool:
        """Whether the run directory holds a demo; CliError if it holds anything else."""
        if not self.run_dir.exists():
            return False
        if not self.run_dir.is_dir():
            raise CliError(f"--run-dir {self.run_dir} is a file")
        if not any(self.run_dir.iterdir()):
            return False
        from bitshift.cli.rundir import read_config

        for folder in (self.run_dir, self.run_dir / FLOAT):
            if (folder / CONFIG).exists() and read_config(folder).get("about", {}).get("recipe") == RECIPE:
                return True
        raise CliError(f"--run-dir {self.run_dir} is not empty and no earlier demo; choose another directory")

    def _export_and_run(self, run: Run, data: tuple[TrainData, TrainData], path: Path) -> dict[str, Any]:
        """Export, run the test set from the file without torch, and compare every integer with the simulation."""
        import numpy as np

        from bitshift.cli.evaluating import store
        from bitshift.cli.exporting import export_network, simulate
        from bitshift.cli.models import open_graph
        from bitshift.core.cost import count

        test = data[1]
        model = run.network()
        export_network(model, data[0], path, name=run.spec.describe())
        graph = open_graph(path)
        pixels = test.batch(np.arange(len(test)))[0]
        simulated = simulate(model, test.normalise(pixels), graph.values[graph.outputs[0]])
        integers, about = run_without_torch(path, pixels.numpy(), backend=self.backend, folder=self.run_dir)
        guesses = integers.argmax(axis=1)
        classes = len(test.class_names)
        confusion = np.bincount(test.labels * classes + guesses, minlength=classes**2).reshape(classes, classes)
        title = f"The {len(test):,} test digits, file run by the {about['backend']} without torch"
        store(run.path, title, test.class_names, confusion)
        return {
            "simulation_accuracy": float((simulated.argmax(axis=1) == test.labels).mean()),
            "engine_accuracy": float((guesses == test.labels).mean()),
            "differing_outputs": int((simulated != integers).sum()),
            "compared_outputs": int(integers.size),
            "backend": about["backend"],
            "torch_blocked": about["torch_blocked"],
            "run_seconds": about["seconds"],
            "multiplications": count(graph).total.multiplications,
        }

    def _compare(
        self,
        run: Run,
        data: tuple[TrainData, TrainData],
        plan: Plan,
        float_accuracy: float,
        outcome: dict[str, Any],
        out: Output,
    ) -> None:
        from bitshift.cli import comparing

        comparing.measure_ours(run, data[1], outcome["engine_accuracy"])
        note = f"float twin, {plan.float_train.epochs} epochs" if plan.float_train else ""
        comparing.measure_float(run.path, data[1], float_accuracy, run.path / NET, note)
        if self.baselines:
            comparing.measure_all(run, note=out.note)

    def _print(self, out: Output, result: dict[str, Any]) -> None:
        times = result["seconds_by_part"]
        rows = [
            ("float twin (torch)", percent(result["float_accuracy"]), size_text(result["float_bytes"]),
             f"{times['float_training']:.1f} s training"),
            ("shift network, training simulation (torch)", percent(result["simulation_accuracy"]), "",
             f"{times['shift_training']:.1f} s training"),
            (f"the exported file, run by the {result['backend']} without torch", percent(result["engine_accuracy"]),
             size_text(result["file_bytes"]), f"{times['run_file']:.2f} s for {result['test_samples']:,} digits"),
        ]  # fmt: skip
        out.table(f"bitshift demo: {result['network']}", ("", "accuracy", "bytes", "time"), rows, right=(1, 2))
        ratio = result["float_bytes"] / result["file_bytes"]
        out.line(
            f"{result['differing_outputs']} of {result['compared_outputs']:,} output integers differ between simulation"
            f" and file; the file is {ratio:.1f} x smaller than the float weights; {result['multiplications']} "
            f"multiplications a digit; {result['seconds']:.0f} s in all"
        )
        out.line(f"result: {self.run_dir / 'result.json'}")
        out.line(f"report: {result['report']}")


def _shorter(plan: Plan, epochs: int) -> Plan:
    """The plan with ``epochs`` epochs; a warm-up keeps its share."""

    def cut(config: Any) -> Any:
        return replace(config, epochs=epochs, warmup_epochs=config.warmup_epochs * epochs / config.epochs)

    return replace(plan, train=cut(plan.train), float_train=cut(plan.float_train) if plan.float_train else None)


def _float_bytes(run: Run) -> int:
    """Bytes of the float twin's parameters, without the norms' statistics: what the exported file replaces."""
    return sum(p.numel() * p.element_size() for p in replace(run.spec, shift=None).build_float().parameters())


def run_without_torch(
    model: Path, images: np.ndarray, *, backend: str, folder: Path
) -> tuple[np.ndarray, dict[str, Any]]:
    """Integers of ``model`` for uint8 ``images``, computed by a process in which importing torch fails.

    Raises:
        CliError: that process failed, or torch was in it; the message holds its last words.
    """
    import numpy as np

    pixels, answers = folder / "test-pixels.npy", folder / "test-outputs.npy"
    np.save(pixels, images, allow_pickle=False)
    command = [sys.executable, "-m", "bitshift.cli.torchless", str(model), str(pixels), str(answers), backend]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ.copy())  # noqa: S603
    sys.stderr.write(done.stderr)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise CliError(f"running {model} without torch failed: {last}", code=FAILED)
    about = json.loads(done.stdout)
    if not about["torch_blocked"]:
        raise CliError(f"torch was in the process that should not have it: {about['torch_modules'][:3]}", code=FAILED)
    integers = np.load(answers, allow_pickle=False)
    pixels.unlink()
    answers.unlink()
    return integers, about


VERB = Demo

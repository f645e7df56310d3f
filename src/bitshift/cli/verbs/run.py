"""``bitshift run``: a model file on arrays or pictures, without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import tyro

from bitshift.cli.errors import CliError
from bitshift.cli.output import Output
from bitshift.cli.verbs import Verb

if TYPE_CHECKING:
    import numpy as np

    from bitshift.runtime import Model


@dataclass(frozen=True, kw_only=True)
class Run(Verb):
    """Flags of ``bitshift run``."""

    help_text: ClassVar[str] = """Run a model file on inputs and print the strongest labels with their values.

An input is a picture (.png, .jpg: resized and scaled as the file's own preprocess says) or an array written by
numpy.save, for one sample or a batch. Float arrays are values; arrays in the input's integer type pass unchanged.
The values printed are the network's outputs (integers times a power of two), not probabilities. Needs no PyTorch.

examples:
  bitshift run runs/demo/net.safetensors digit.png
  bitshift run net.safetensors a.jpg b.jpg --top 5
  bitshift run net.safetensors batch.npy --json
  bitshift run net.safetensors pixels_uint8.npy --pixels --output logits.npy
  bitshift run two_inputs.safetensors left=a.npy right=b.npy
  bitshift run net.safetensors batch.npy --profile trace.json
"""
    model: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="MODEL")]]
    """The model file (written by `bitshift export`)."""
    inputs: tyro.conf.Positional[
        Annotated[tuple[str, ...], tyro.conf.arg(metavar="INPUT [INPUT ...]", help_behavior_hint="")]
    ]
    """Pictures or .npy arrays; for a model with several inputs NAME=FILE, one for each."""
    top: int = 3
    """How many labels to print for a sample."""
    pixels: bool = False
    """uint8 arrays hold pixels 0..255: apply the file's preprocess to them."""
    output: Path | None = None
    """Also write the outputs (float32, one row a sample) to this .npy file."""
    backend: str = "auto"
    """auto (the engine, else the numpy reference), engine, or reference."""
    batch_size: int = 64
    """Samples that run at once."""
    threads: int | None = None
    """Threads of the engine; by default BITSHIFT_THREADS, else all processors."""
    profile: Path | None = None
    """Also time every step of the engine on the first input's first batch, in 10 runs, and write a Chrome trace to
    this file (open it in ui.perfetto.dev)."""

    def run(self, out: Output) -> None:  # noqa: D102 - Verb.run
        from bitshift.cli.models import open_model

        if not self.inputs:
            raise CliError("no input given; for example: bitshift run net.safetensors digit.png")
        if self.top < 1 or self.batch_size < 1:
            raise CliError(f"--top {self.top} --batch-size {self.batch_size}: both must be at least 1")
        options = {} if self.threads is None else {"threads": self.threads}
        model = open_model(self.model, backend=self.backend, **options)
        self._check_targets(model)
        batches = self._read(model)
        names = model.graph.outputs
        results: list[dict[str, Any]] = []
        collected: dict[str, list[np.ndarray]] = {name: [] for name in names}
        for title, arrays in batches:
            outputs = _run_batched(model, arrays, self.batch_size)
            for name in names:
                collected[name].append(outputs[name])
            count = len(outputs[names[0]])
            for i in range(count):
                where = title if count == 1 else f"{title}[{i}]"
                results.append(
                    {"input": where, "outputs": {n: _answer(model, n, outputs[n][i], self.top) for n in names}}
                )
        self._print(out, model, results)
        if self.output is not None:
            self._write(out, collected)
        if self.profile is not None:
            self._profile(out, model, {n: a[: self.batch_size] for n, a in batches[0][1].items()})

    def _check_targets(self, model: Model) -> None:
        """Refuse what could not be written, before anything runs."""
        from bitshift.cli.targets import check_target

        for flag, path in (("--output", self.output), ("--profile", self.profile)):
            if path is not None:
                check_target(flag, path)
        if self.output is not None and len(model.outputs) > 1:
            names = ", ".join(value.name for value in model.outputs)
            raise CliError(f"--output writes one array; this model has the outputs {names}")
        if self.profile is not None:
            try:
                model.steps  # noqa: B018 - asks whether the backend knows them
            except ValueError as error:
                raise CliError(f"--profile: {error}") from None

    def _read(self, model: Model) -> list[tuple[str, dict[str, np.ndarray]]]:
        """(title, arrays by input name) for each run; several graph inputs are one joint run."""
        from bitshift.cli.inputs import read_input

        graph = model.graph
        if len(graph.inputs) == 1:
            (name,) = graph.inputs
            return [(path, {name: read_input(Path(path), model, name, pixels=self.pixels)}) for path in self.inputs]
        given = {name: file for name, _, file in (item.partition("=") for item in self.inputs)}
        if set(given) != set(graph.inputs):
            need = " ".join(f"{n}=FILE" for n in graph.inputs)
            raise CliError(f"{self.model} has {len(graph.inputs)} inputs; give each by name: {need}")
        arrays = {n: read_input(Path(given[n]), model, n, pixels=self.pixels) for n in graph.inputs}
        counts = {n: len(a) for n, a in arrays.items()}
        if len(set(counts.values())) > 1:
            raise CliError(f"the inputs hold different numbers of samples: {counts}")
        return [(", ".join(self.inputs), arrays)]

    def _print(self, out: Output, model: Model, results: list[dict[str, Any]]) -> None:
        several = len(model.graph.outputs) > 1
        rows = [
            ([r["input"], name] if several else [r["input"]]) + [_sentence(answer)]
            for r in results
            for name, answer in r["outputs"].items()
        ]
        out.table("", ["input", "output", "answer"] if several else ["input", "answer"], rows)
        out.result({"model": str(self.model), "backend": model.backend, "results": results})

    def _profile(self, out: Output, model: Model, arrays: dict[str, np.ndarray]) -> None:
        assert self.profile is not None
        found = model.profile(arrays)
        found.save(self.profile)
        slowest = sorted(found.times, key=lambda t: t.seconds, reverse=True)[:10]
        rows = [
            [
                t.step.source or t.step.name,
                t.step.op,
                f"{t.step.kernel} {t.step.isa}",
                f"{t.seconds * 1e3:.4f}",
                f"{t.seconds / found.seconds:.1%}",
                f"{t.gops:.1f}",
            ]
            for t in slowest
        ]
        out.table("", ["slowest steps", "op", "kernel", "ms", "of the run", "GOP/s"], rows)
        out.note(
            f"wrote {self.profile}: {len(found.steps)} steps, {found.samples} samples, {found.threads} threads, "
            f"median run {found.seconds * 1e3:.3f} ms"
        )

    def _write(self, out: Output, collected: dict[str, list[np.ndarray]]) -> None:
        import numpy as np

        assert self.output is not None
        array = np.concatenate(next(iter(collected.values())))
        with self.output.open("wb") as file:
            np.save(file, array, allow_pickle=False)
        out.note(f"wrote {self.output}: {array.dtype} {array.shape}")


def _run_batched(model: Model, arrays: dict[str, np.ndarray], batch_size: int) -> dict[str, np.ndarray]:
    import numpy as np

    count = len(next(iter(arrays.values())))
    parts = []
    for start in range(0, count, batch_size):
        result = model.run({n: a[start : start + batch_size] for n, a in arrays.items()})
        parts.append(result if isinstance(result, dict) else {model.graph.outputs[0]: result})
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def _answer(model: Model, name: str, values: np.ndarray, top: int) -> dict[str, Any]:
    """One sample of one output: the label of an argmax, a number, the strongest entries of a vector, else shape and
    range.
    """
    import numpy as np

    labels = model.labels or []
    node = next((n for n in model.graph.nodes if n.output == name), None)
    best = node is not None and node.op == "argmax"
    if values.ndim == 0 and not best:
        return {"value": float(values)}
    if best and values.size == 1:
        index = int(values.item())
        return {"index": index, "label": labels[index] if index < len(labels) else str(index)}
    if values.ndim > 1 or best:
        return {"shape": list(values.shape), "min": float(values.min()), "max": float(values.max())}
    order = np.argsort(-values, kind="stable")[:top]
    fits = len(labels) == len(values)
    return {
        "top": [
            {"index": int(i), "label": labels[i] if fits else str(int(i)), "value": float(values[i])} for i in order
        ]
    }


def _sentence(answer: dict[str, Any]) -> str:
    if "top" in answer:
        return "   ".join(f"{t['label']} {t['value']:.4g}" for t in answer["top"])
    if "label" in answer:
        return answer["label"]
    if "value" in answer:
        return f"{answer['value']:.4g}"
    return f"array {tuple(answer['shape'])} from {answer['min']:.4g} to {answer['max']:.4g}; save it with --output"


VERB = Run

"""One file per verb: a frozen dataclass that tyro turns into its command line, and what it does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from bitshift.cli.output import Output

SUMMARIES: dict[str, str] = {
    "demo": "train, freeze, export and run a shift network on real digits, in minutes",
    "train": "train a recipe, or a model, method and data set of your choice",
    "convert": "turn a float network into a shift network and say what changed",
    "search": "choose a weight format for each layer under a budget of size or time",
    "eval": "accuracy of a run, or of an exported file, on a data set",
    "export": "write a trained run as one small integer model file",
    "emit-c": "write a model file as plain C for microcontrollers: no multiplication, no malloc (no PyTorch)",
    "run": "run a model file on .npy arrays or pictures (no PyTorch)",
    "inspect": "what is in a model file; which methods, formats, models, ops exist (no PyTorch for files)",
    "bench": "time a model file on this machine, layer by layer, beside torch, ONNX Runtime and OpenVINO",
    "shards": "pack an image folder into tar shards",
    "report": "one self-contained HTML page about a run or a model file",
}
"""The verbs in the order of a project's life, with the line that `bitshift --help` shows."""


@dataclass(frozen=True, kw_only=True)
class Verb(ABC):
    """What every verb takes, and the interface that ``main`` calls."""

    help_text: ClassVar[str]
    """Shown by ``--help``: what it does, then example lines."""

    json: bool = False
    """Print one JSON object on stdout and nothing else there."""
    traceback: bool = False
    """Show the Python traceback of an error (also: BITSHIFT_DEBUG=1)."""

    @abstractmethod
    def run(self, out: Output) -> None:
        """Do it. Raises CliError, or a ValueError of the library, for bad input."""

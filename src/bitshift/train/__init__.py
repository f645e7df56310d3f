"""Training (floor 3): loop, checkpoints, data, reference models, recipes."""

from __future__ import annotations

from bitshift.train.config import TrainConfig
from bitshift.train.data import ArrayData, Normalise, open_data
from bitshift.train.evaluate import EvalResult, evaluate
from bitshift.train.loop import FitResult, TrainingDiverged, TrainingStopped, fit
from bitshift.train.models import MODELS, build

__all__ = [
    "MODELS", "ArrayData", "EvalResult", "FitResult", "Normalise", "TrainConfig", "TrainingDiverged", "TrainingStopped",
    "build", "evaluate", "fit", "open_data",
]  # fmt: skip

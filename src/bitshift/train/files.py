"""The names of what a run directory holds. Imports nothing: verbs that read a run without torch need them, too."""

from __future__ import annotations

CONFIG = "config.json"
METRICS = "metrics.jsonl"
WEIGHTS = "model.safetensors"
CHECKPOINT = "checkpoint.safetensors"
CHECKPOINT_TEXT = "checkpoint.json"
"""The JSON part of the checkpoint, for people and tools."""
FLOAT = "float"
"""The float twin's run directory inside the run's."""
NET = "net.safetensors"
"""The exported model file."""

"""Which format each layer takes: its sensitivity from data, its cost from sizes or a stopwatch, and an exact choice."""

from bitshift.train.search.choice import Choice, choose
from bitshift.train.search.latency import layer_latencies
from bitshift.train.search.sensitivity import Layer, Scan, scan

__all__ = ["Choice", "Layer", "Scan", "choose", "layer_latencies", "scan"]

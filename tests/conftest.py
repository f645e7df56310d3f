"""Settings that every test shares: one thread a worker, reproducible hypothesis runs."""

from __future__ import annotations

import os

# Two xdist workers on two cores: more threads would only fight. Set before numpy or torch start their pools.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import settings

settings.register_profile("bitshift", max_examples=200, deadline=None, derandomize=True)
settings.load_profile("bitshift")

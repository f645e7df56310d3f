"""Runs a function in several processes that gloo joins over the loopback; for workers that tests start."""

from __future__ import annotations

import os
import socket
import traceback
import warnings
from collections.abc import Callable

import torch


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_ranks(world: int, act: Callable[[int], None], *, may_fail: bool = False) -> None:
    """``act(rank)`` in ``world`` forks of this process, which must not have started torch's threads."""
    warnings.simplefilter("ignore", DeprecationWarning)  # fork in a threaded process; ours has one thread
    port = free_port()
    children = []
    for rank in range(world):
        pid = os.fork()
        if pid == 0:
            try:
                if world > 1:
                    os.environ |= {
                        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world),
                        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo",
                    }  # fmt: skip
                torch.set_num_threads(1)
                act(rank)
                os._exit(0)
            except BaseException:  # noqa: BLE001 - a fork must not return into its parent's code
                traceback.print_exc()
                os._exit(1)
        children.append(pid)
    status = [os.waitpid(pid, 0)[1] for pid in children]
    if any(status) != may_fail:
        raise SystemExit(f"processes of world {world} ended with {status}")

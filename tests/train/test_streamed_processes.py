"""Photos through the command line by one, two and four processes; decoders of a process that was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from photo_folder import photo_folder

pytestmark = pytest.mark.slow
NET = """
from torch import nn

def net(num_classes, in_channels):
    return nn.Sequential(nn.Conv2d(in_channels, 8, 3, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(128, num_classes))
"""


def environment(tmp_path: Path) -> dict[str, str]:
    found = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH"), *sys.path])]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(found), "BITSHIFT_CACHE": str(tmp_path / "cache"), "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1",
    }  # fmt: skip


def test_two_and_four_processes_have_the_loss_curve_of_one(tmp_path):
    photo_folder(tmp_path / "photos", each=16)
    photo_folder(tmp_path / "photos", split="val", each=4)
    (tmp_path / "photo_net.py").write_text(NET)
    flags = [
        "-m", "bitshift.cli", "train", "--data", "photos", "--model", "photo_net:net", "--bits", "3", "--epochs", "2",
        "--batch-size", "16", "--image-size", "16", "--augment", "imagenet_colour", "--data-workers", "1",
        "--no-export", "--set", "log_every=1", "progress=off", "mixup=0.2", "cutmix=1.0",
    ]  # fmt: skip
    curves = []
    for count in (1, 2, 4):
        start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)] if count > 1 else []
        command = [sys.executable, *start, *flags, "--run-dir", f"run{count}"]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == 0, done.stderr
        lines = [json.loads(line) for line in (tmp_path / f"run{count}" / "metrics.jsonl").read_text().splitlines()]
        curves.append([line["loss"] for line in lines if line["kind"] == "step"])
    assert len(curves[0]) == 6
    for curve in curves[1:]:
        np.testing.assert_allclose(curve, curves[0], rtol=0, atol=2e-6)


def test_decoders_end_soon_after_their_process_was_killed(tmp_path):
    root = photo_folder(tmp_path / "photos")
    script = tmp_path / "endless.py"
    script.write_text(
        "import sys\nimport multiprocessing\nimport numpy as np\nfrom pathlib import Path\n"
        "from bitshift.train.data import Request, open_folder\n"
        "if __name__ == '__main__':\n"
        "    data = open_folder(Path(sys.argv[1]), size=24, stream=True, workers=2)\n"
        "    for n, _ in enumerate(data.batches(Request(rows=np.arange(24)) for _ in range(10**9))):\n"
        "        if n == 1:\n"
        "            print(*(child.pid for child in multiprocessing.active_children()), flush=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, str(script), str(root / "train")], env=environment(tmp_path), stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    with process.stdout:
        decoders = [int(word) for word in process.stdout.readline().split()]
        assert len(decoders) == 2
        process.send_signal(signal.SIGKILL)
        process.wait()
    for _ in range(300):
        if not any(alive(pid) for pid in decoders):
            break
        time.sleep(0.1)
    assert not any(alive(pid) for pid in decoders)


def alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and that nobody has asked about counts as ended."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False

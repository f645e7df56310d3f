"""`bitshift bench`: turns, workers, the record, missing peers, bad input."""

from __future__ import annotations

import importlib.util
import json
import mmap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nets
import numpy as np
import pytest

from bitshift.backends import engine
from bitshift.cli import main
from bitshift.cli.bench import rounds
from bitshift.cli.bench.compare import as_real, check_exact, draw_inputs
from bitshift.cli.bench.layers import layer_times
from bitshift.cli.bench.machine import Limits, processors
from bitshift.cli.bench.peers import PEERS
from bitshift.cli.bench.worker import Candidate, Job, Worker, WorkerError, metered
from bitshift.core import modelfile
from bitshift.core.graph import Graph

HERE = Path(__file__).stem
QUICK = ("--rounds", "2", "--seconds", "0.002", "--json")
needs_engine = pytest.mark.skipif(engine.available() is not None, reason="there is no engine to time")


@pytest.fixture
def net_file(tmp_path: Path) -> Path:
    """LeNet with float input."""
    path = tmp_path / "lenet.safetensors"
    modelfile.save(nets.lenet(), path)
    return path


class FakeWorker:
    """Answers like a worker; its calls take as long as it is told."""

    pid = 1

    def __init__(self, seconds: list[float], log: list[str], name: str) -> None:
        self.left, self.log, self.name = list(seconds), log, name

    def measure(self, calls: int) -> list[float]:
        self.log.append(self.name)
        return [self.left.pop(0) if self.left else 9.0] * calls


def quiet(monkeypatch: pytest.MonkeyPatch, shares: list[float]) -> None:
    """/proc says that others used ``shares`` of the processors, round by round."""
    left = list(shares)
    monkeypatch.setattr(rounds, "_processor_time", lambda _: object())
    monkeypatch.setattr(rounds, "_foreign", lambda *_: left.pop(0))
    monkeypatch.setattr(time, "sleep", lambda _: None)


def turns(monkeypatch: pytest.MonkeyPatch, shares: list[float]) -> tuple[rounds.Measured, list[str]]:
    """Two candidates, as many rounds as ``shares``; b takes twice the time of a."""
    quiet(monkeypatch, shares)
    log: list[str] = []
    count = len(shares)
    workers: dict[str, Any] = {
        "a": FakeWorker([1.0, 1.0, *(float(i + 1) for i in range(count))], log, "a"),
        "b": FakeWorker([1.0, 1.0, *(2.0 * (i + 1) for i in range(count))], log, "b"),
    }
    return rounds.interleave(workers, rounds=count, seconds=0.01), log[4:]


def test_candidates_take_turns_and_another_one_begins_each_round(monkeypatch: pytest.MonkeyPatch) -> None:
    measured, log = turns(monkeypatch, [0.0] * 3)
    assert log == ["a", "b", "b", "a", "a", "b"]
    assert measured.seconds == {"a": (1.0, 2.0, 3.0), "b": (2.0, 4.0, 6.0)}
    assert (measured.time("a").median, measured.time("a").low, measured.time("a").high) == (2.0, 1.5, 2.5)
    assert measured.ratio("a", "b").median == 2.0  # taken within each round, so without spread
    assert measured.ratio("a", "b").low == measured.ratio("a", "b").high == 2.0


def test_rounds_in_which_others_were_busy_are_left_out_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    measured, _ = turns(monkeypatch, [0.0, 0.5, 0.05])
    assert measured.seconds["a"] == (1.0, 3.0)
    assert measured.dropped == 1
    assert measured.foreign == (0.0, 0.5, 0.05)
    assert measured.noise.startswith("1 of 3 rounds left out")


def test_where_hardly_a_round_is_clean_all_count_and_the_noise_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    measured, _ = turns(monkeypatch, [0.4, 0.5, 0.6])
    assert len(measured.seconds["a"]) == 3
    assert measured.dropped == 0
    assert measured.noise.startswith("NOISY: others used 50 %")


def test_a_foreign_share_is_what_neither_we_nor_the_workers_computed() -> None:
    before, after = rounds._Time(10.0, 4.0, 1.0), rounds._Time(14.0, 7.0, 2.0)
    assert rounds._foreign(before, after) == pytest.approx(0.5)


# --- workers: this file is imported in the worker's process ----------------------------------------------------------


def sleeper(*, seconds: float, threads: int, cpus: list[int]) -> Candidate:
    """Sleeps, and knows what it was given."""
    return Candidate(
        run=lambda: time.sleep(seconds), outputs=lambda: [np.array([threads, *cpus])], about={"threads": threads}
    )


def self_timed(*, threads: int, cpus: list[int]) -> Candidate:
    """Reports what it likes."""
    return Candidate(run=lambda: None, seconds=lambda: 0.25, outputs=list)


def broken(*, threads: int, cpus: list[int]) -> Candidate:
    """Cannot be made."""
    raise ValueError("no such runtime here\nsecond line")


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Start a worker with a factory of this file; all are closed at the end."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    made: list[Worker] = []

    def begin(name: str, **arguments: Any) -> Worker:
        cpus = tuple(processors()[:1])
        made.append(Worker(Job(factory=f"{HERE}:{name}", arguments=arguments, threads=1, cpus=cpus)))
        return made[-1]

    yield begin
    for worker in made:
        worker.close()


def test_a_worker_times_its_candidate_and_gives_its_outputs(start: Callable[..., Worker]) -> None:
    worker = start("sleeper", seconds=0.002)
    about = worker.ready()
    assert about["threads"] == 1
    seconds = worker.measure(3)
    assert len(seconds) == 3
    assert all(0.002 <= s < 1 for s in seconds)
    assert worker.outputs()[0].tolist() == [1, *processors()[:1]]


def test_loading_is_timed_and_its_memory_measured() -> None:
    ran: list[np.ndarray] = []

    def load() -> np.ndarray:
        time.sleep(0.01)
        # 8 MiB of pages that this process has not touched: the heap may hold some that it has.
        fresh = np.frombuffer(mmap.mmap(-1, 8 << 20), np.uint8)
        fresh[:] = 1
        return fresh

    loaded, about = metered(load, ran.append)
    assert ran[0] is loaded
    assert about["load_s"] >= 0.01
    if about["memory_bytes"] is not None:  # where the system says it
        assert 7 << 20 <= about["memory_bytes"] <= 64 << 20


def test_a_candidate_may_time_itself(start: Callable[..., Worker]) -> None:
    worker = start("self_timed")
    worker.ready()
    assert worker.measure(2) == [0.25, 0.25]


def test_a_candidate_that_cannot_be_made_says_why(start: Callable[..., Worker]) -> None:
    with pytest.raises(WorkerError, match=r"^ValueError: no such runtime here$"):
        start("broken").ready()
    with pytest.raises(WorkerError, match="no_such_factory"):
        start("no_such_factory").ready()


# --- the verb --------------------------------------------------------------------------------------------------------


def answer(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> Any:
    """The JSON of a run that succeeds."""
    assert main(["bench", *map(str, argv)]) == 0
    return json.loads(capsys.readouterr().out)


@needs_engine
def test_the_engine_alone(net_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, net_file, "--no-peers", "--batch", "1", "3", *QUICK)
    assert found["equal_to"] == "the numpy reference"
    assert [(c["threads"], c["batch"]) for c in found["configurations"]] == [(1, 1), (1, 3)]
    for configuration in found["configurations"]:
        (ours,) = configuration["candidates"]
        assert ours["name"] == "bitshift"
        assert ours["seconds"]["low"] <= ours["seconds"]["median"] <= ours["seconds"]["high"]
        assert ours["samples_per_second"] == pytest.approx(configuration["batch"] / ours["seconds"]["median"])
        assert ours["bitshift_times_faster"]["median"] == 1.0
        assert ours["agreement"] == pytest.approx(1.0)
        assert ours["load_s"] > 0
        assert ours["planned_bytes"] > 0
        assert len(configuration["foreign_share"]) in (0, 2)
    steps = engine.load(net_file, threads=1).steps
    assert [x["name"] for x in found["layers"]] == [s.name for s in steps]
    assert sum(x["share"] for x in found["layers"]) == pytest.approx(1.0)
    assert found["limits"]["operations"] > 1e9
    assert {"cpu", "flags", "versions"} <= set(found["machine"])


@needs_engine
def test_every_installed_peer_computes_the_same_network(net_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, net_file, "--no-layers", *QUICK)
    (configuration,) = found["configurations"]
    candidates = {c["name"]: c for c in configuration["candidates"]}
    installed = {name for name, peer in PEERS.items() if peer.missing() is None} - {"torch-compile"}
    assert set(candidates) == {"bitshift"} | installed
    assert set(configuration["missing"]) == set(PEERS) - {"torch-compile"} - installed
    for name, candidate in candidates.items():
        assert candidate["agreement"] > 0.98, name
        if name in PEERS and PEERS[name].int8:
            assert 0 < candidate["int8_layers"] <= 5, name  # OpenVINO makes one layer of a chain of linear ones
            assert candidate["float_layers"] == 0, name
    assert found["layers"] == []
    assert found["limits"] is None


@needs_engine
def test_a_peer_that_is_not_installed_is_named_with_its_remedy(
    net_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "openvino" else find(name, *more)
    )
    assert main(["bench", str(net_file), "--peers", "openvino-int8", "--no-layers", *QUICK[:-1]]) == 0
    captured = capsys.readouterr()
    assert "openvino-int8 is not in the comparison: openvino not installed; pip install" in captured.err
    assert "bitshift" in captured.out


@needs_engine
def test_int8_peers_are_left_out_where_activations_are_float(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "real.safetensors"
    modelfile.save(nets.lenet(real=True), path)
    found = answer(capsys, path, "--peers", "ort-int8", "--no-layers", *QUICK)
    (reason,) = found["configurations"][0]["missing"].values()
    assert "8-bit" in reason or "not installed" in reason


@needs_engine
def test_a_plot_is_written(net_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "bench.svg"
    assert main(["bench", str(net_file), "--no-peers", "--no-layers", "--plot", str(picture), *QUICK[:-1]]) == 0
    assert "bitshift" in picture.read_text()
    assert "equal the numpy reference" in capsys.readouterr().out


@needs_engine
@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--peers", "ort-int9"], "did you mean 'ort-int8'"),
        (["--threads", "0"], "--threads 0: at least 1 is needed"),
        (["--batch", "0"], "--batch 0: at least 1"),
        (["--rounds", "0"], "--rounds 0"),
        (["--seconds", "0"], "--seconds 0.0: must be more than 0"),
        (["--seconds", "nan"], "--seconds nan: must be more than 0, and finite"),
        (["--seconds", "inf"], "--seconds inf: must be more than 0, and finite"),
        (["--plot", "no_such_folder/bench.png"], "--plot no_such_folder/bench.png: there is no folder no_such_folder"),
        (["--threads", "100000"], "processors to pin to"),
        (["--cpus", "99999"], "--cpus 99999: this process may use"),
        (["--isa", "sse9", "--no-peers"], "sse9"),
    ],
)
def test_bad_input_is_refused_by_name(
    net_file: Path, argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if not processors() and ("--cpus" in argv or "100000" in argv):
        pytest.skip("this system has no processor lists")
    assert main(["bench", str(net_file), *argv]) == 2
    assert message in capsys.readouterr().err


def test_without_an_engine_there_is_nothing_to_time(
    net_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "available", lambda: "it was not built")
    assert main(["bench", str(net_file)]) == 2
    assert "there is no engine to time: it was not built" in capsys.readouterr().err


@needs_engine
def test_an_engine_that_differs_stops_the_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    graph: Graph = nets.lenet()
    inputs = draw_inputs(graph, 2)
    assert check_exact(graph, inputs, threads=1, isa=None, with_reference=True) == "the numpy reference"
    assert check_exact(graph, inputs, threads=1, isa=None, with_reference=False) == "the portable kernels"
    run = engine.Executable.run_int

    def wrong(self: engine.Executable, given: Any) -> dict[str, np.ndarray]:
        outputs = run(self, given)
        for array in outputs.values():
            array[1, 3] += 1
        return outputs

    monkeypatch.setattr(engine.Executable, "run_int", wrong)
    with pytest.raises(ValueError, match=r"at \(1, 3\): the engine gives .* nothing was timed"):
        check_exact(graph, inputs, threads=1, isa=None, with_reference=True)


def test_inputs_cover_the_type_and_peers_get_its_values() -> None:
    graph = nets.resnet8(float_input=False)
    inputs = draw_inputs(graph, 4)
    assert inputs["x"].dtype == np.int8
    assert (inputs["x"].min(), inputs["x"].max()) == (-128, 127)
    np.testing.assert_array_equal(as_real(graph, inputs)["x"], inputs["x"].astype(np.float32) / 32)


@needs_engine
def test_a_layer_s_share_of_the_roofline_is_the_least_time_over_its_own() -> None:
    graph = nets.lenet()
    profile = engine.compile(graph, threads=1).profile(draw_inputs(graph, 2), repeats=2)
    limits = Limits(threads=1, isa="avx512", operations=1e9, read=1e6, read_memory=1e6)
    for row, found in zip(layer_times(profile, limits), profile.times, strict=True):
        step = found.step
        size = step.activation_bytes * 2 + step.weight_bytes
        assert row.roofline == pytest.approx(max(step.operations * 2 / 1e9, size / 1e6) / found.seconds)

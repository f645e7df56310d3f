"""Every wrong input ends with code 2 and one to three lines that name the place and the next step, no traceback."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bitshift.cli import main
from bitshift.core import modelfile
from bitshift.core.graph import Graph


def text_file(folder: Path) -> Path:
    path = folder / "notes.safetensors"
    path.write_text("this is no model file")
    return path


def other_safetensors(folder: Path) -> Path:
    """A valid safetensors file that is not ours."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    path = folder / "weights.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0\0\0")
    return path


def run_directory(folder: Path, **about: object) -> Path:
    path = folder / "rundir"
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps({"about": about}))
    return path


def npy(folder: Path, array: np.ndarray) -> Path:
    np.save(folder / "x.npy", array)
    return folder / "x.npy"


def file_with(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text)
    return folder / name


def data(folder: Path) -> Path:
    """Twelve pictures of 28x28 in three classes."""
    x, y = np.zeros((12, 1, 28, 28), np.uint8), np.arange(12) % 3
    np.savez(folder / "data.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    return folder / "data.npz"


def one_split(folder: Path) -> Path:
    np.savez(folder / "one.npz", x=np.zeros((12, 1, 28, 28), np.uint8), y=np.arange(12) % 3)
    return folder / "one.npz"


def keys(folder: Path, **arrays: np.ndarray) -> Path:
    np.savez(folder / "keys.npz", **arrays)  # pyright: ignore[reportArgumentType]
    return folder / "keys.npz"


def state(folder: Path, *, exported: bool) -> Path:
    """The weights that training leaves in a run directory."""
    run = run_directory(folder)
    other_safetensors(run).rename(run / "model.safetensors")
    if exported:
        (run / NET).touch()
    return run / "model.safetensors"


def full_folder(folder: Path) -> Path:
    (folder / "photos").mkdir()
    (folder / "photos" / "a.png").touch()
    return folder / "photos"


def cut_model(folder: Path) -> Path:
    path = folder / "cut.safetensors"
    path.write_bytes((folder / "net.safetensors").read_bytes()[:-7])
    return path


NET = "net.safetensors"
CASES: dict[str, tuple[Callable[[Path], list[str | Path]], str]] = {
    "run: missing file": (lambda t: ["run", t / "no.safetensors", "x.npy"], "no such file: .*no.safetensors; there is"),
    "run: directory": (lambda t: ["run", t, "x.npy"], "is a run directory; its model file is .*net.safetensors"),
    "run: unexported run": (lambda t: ["run", run_directory(t), "x.npy"], "not exported yet; run: bitshift export"),
    "run: text file": (lambda t: ["run", text_file(t), "x.npy"], "is this a model file"),
    "run: other safetensors": (lambda t: ["run", other_safetensors(t), "x.npy"], "weights.safetensors: .*model"),
    "run: cut file": (lambda t: ["run", cut_model(t), "x.npy"], "cut.safetensors"),
    "run: no input": (lambda t: ["run", t / NET], "no input given; for example"),
    "run: missing input": (lambda t: ["run", t / NET, t / "no.npy"], "no such file: .*no.npy"),
    "run: wrong shape": (lambda t: ["run", t / NET, npy(t, np.zeros((3, 3), np.float32))], "shape .3, 3.; the in"),
    "run: wrong dtype": (lambda t: ["run", t / NET, npy(t, np.zeros((1, 4, 5), np.int32))], "dtype int32; allowed"),
    "run: unknown backend": (lambda t: ["run", t / NET, "x", "--backend", "enigne"], "did you mean 'engine'"),
    "run: top 0": (lambda t: ["run", t / NET, "x", "--top", "0"], "must be at least 1"),
    "run: training state": (
        lambda t: ["run", state(t, exported=True), "x.npy"],
        "rundir/model.safetensors is the training state of a run, not a model file; its model file is .*/net",
    ),
    "emit-c: training state": (
        lambda t: ["emit-c", state(t, exported=False), "-o", t / "c"],
        "not a model file; run: bitshift export .*rundir",
    ),
    "inspect: missing": (lambda t: ["inspect", t / "no.safetensors"], "no such file"),
    "inspect: near registry": (lambda t: ["inspect", "formts"], "the registries are formats, ops"),
    "inspect: text": (lambda t: ["inspect", text_file(t)], "is this a model file"),
    "eval: no data": (lambda t: ["eval", t / NET], "give --data"),
    "eval: neither file nor run": (lambda t: ["eval", t / "nosuch"], "no such file: .*nosuch"),
    "eval: missing": (lambda t: ["eval", t / "no.safetensors", "--data", "x"], "no such file"),
    "eval: other shape": (lambda t: ["eval", t / NET, "--data", data(t)], "the data are \\(1, 28, 28\\) a sample"),
    "eval: unknown data": (lambda t: ["eval", t / NET, "--data", "mnist5k"], "did you mean 'mnist_5k'"),
    "eval: no run directory": (lambda t: ["eval", t], "no run directory \\(it has no config.json\\)"),
    "eval: foreign run": (lambda t: ["eval", run_directory(t)], "does not say which network it holds"),
    "export: missing": (lambda t: ["export", t / "nowhere"], "no such directory; a run directory is what"),
    "export: file": (lambda t: ["export", t / NET], "a file, not a run directory"),
    "export: unfinished": (lambda t: ["export", run_directory(t, network={})], "training has not finished"),
    "export: rows": (lambda t: ["export", t, "--rows", "0"], "must be at least 1"),
    "report: missing": (lambda t: ["report", t / "nowhere"], "no such file"),
    "report: no run": (lambda t: ["report", t], "it has no config.json"),
    "report: measure a file": (lambda t: ["report", t / NET, "--measure"], "--measure needs a run directory"),
    "report: data of a run": (
        lambda t: ["report", run_directory(t, data="mnist_5k"), "--data", "x"],
        "a run knows its data set, .*rundir mnist_5k; .*: bitshift eval .*rundir --data x, then",
    ),
    "report: data of a run without": (
        lambda t: ["report", run_directory(t, data=None), "--data", "x"],
        "was made without data; .*: bitshift eval .*rundir --data x, then",
    ),
    "report: folder of the output": (
        lambda t: ["report", t / NET, "--output", t / "no" / "x.html"],
        "--output .*: there is no folder .*no; make it first",
    ),
    "search: folder of the output": (
        lambda t: [
            "search", "lenet", "--weights", t, "--data", data(t), "--bits", "3", "--output", t / "no" / "r.json",
        ],
        "--output .*: there is no folder .*no; make it first",
    ),
    "report: damaged config": (
        lambda t: ["report", file_with(run_directory(t), "config.json", "{").parent],
        "config.json: damaged",
    ),
    "train: nothing said": (lambda t: ["train"], "--data and --model must be given"),
    "train: one split": (
        lambda t: ["train", "--data", one_split(t), "--model", "lenet"],
        "one.npz: holds one split, and a test on the training rows tells nothing",
    ),
    "train: keys": (
        lambda t: ["train", "--data", keys(t, a=np.zeros(3)), "--model", "lenet"],
        "keys.npz: holds \\['a'\\]; needed are x_train and y_train",
    ),
    "train: rows for a batch": (
        lambda t: ["train", "--data", data(t), "--model", "lenet", "--run-dir", t / "r"],
        "--batch-size 128: allowed is 1 to 12, the number of training rows in .*data.npz",
    ),
    "train: foreign run directory": (
        lambda t: ["train", "--data", data(t), "--model", "lenet", "--batch-size", "4", "--run-dir", full_folder(t)],
        "--run-dir .*photos is no run directory and holds other files \\(a.png\\); choose another",
    ),
    "train: other size": (
        lambda t: [
            "train", "--data", keys(t, x_train=(x := np.zeros((4, 32, 32), np.uint8)), y_train=(y := np.arange(4)),
                                    x_test=x, y_test=y),
            "--model", "lenet", "--batch-size", "4", "--run-dir", t / "r",
        ],
        "the data are \\(1, 32, 32\\) a sample, lenet is meant for pictures of 28x28 \\(--image-size 28\\); .*mat1",
    ),
    "train: part of a recipe's name": (lambda t: ["train", "s3"], "did you mean 's3_imagenet'\\? Known recipes"),
    "train: no recipe's name": (lambda t: ["train", "zzzz"], "unknown recipe 'zzzz'\\. Known recipes"),
    "train: recipe": (lambda t: ["train", "demo_mnst"], "did you mean 'demo_mnist'"),
    "train: model": (lambda t: ["train", "--data", data(t), "--model", "resnet21"], "'resnet20'"),
    "train: method": (
        lambda t: ["train", "--data", data(t), "--model", "lenet", "--method", "denshift"],
        "did you mean 'denseshift'",
    ),
    "train: format": (
        lambda t: ["train", "--data", data(t), "--model", "lenet", "--format", "pot3dd"],
        "did you mean 'pot3d'",
    ),
    "train: bits of the method": (
        lambda t: ["train", "--data", data(t), "--model", "lenet", "--method", "denseshift", "--bits", "7"],
        "denseshift.*7",
    ),
    "train: bits and format": (
        lambda t: ["train", "--data", data(t), "--model", "lenet", "--bits", "3", "--format", "pot3d"],
        "give one of them",
    ),
    "train: activations": (
        lambda t: ["train", "--data", data(t), "--model", "lenet", "--activations", "9"],
        "activations=9; allowed are",
    ),
    "train: option": (
        lambda t: ["train", "--data", data(t), "--model", "lenet", "--option", "surogate=false"],
        "surogate",
    ),
    "train: option without value": (
        lambda t: ["train", "--data", data(t), "--model", "lenet", "--option", "x"],
        "write NAME=VALUE",
    ),
    "train: field": (
        lambda t: ["train", "--data", data(t), "--model", "lenet", "--set", "log_evry=3"],
        "did you mean 'log_every'",
    ),
    "train: value": (lambda t: ["train", "--data", data(t), "--model", "lenet", "--lr", "-1"], "--lr -1.0: allowed"),
    "train: word for a number": (
        lambda t: ["train", "--data", data(t), "--model", "lenet", "--set", "momentum=high"],
        "momentum|--set",
    ),
    "train: augmentation": (
        lambda t: ["train", "--data", data(t), "--model", "lenet", "--augment", "shfit", "--run-dir", t / "r"],
        "did you mean 'shift'",
    ),
    "train: data": (lambda t: ["train", "--data", t / "no", "--model", "lenet"], "no such file or folder"),
    "train: weights": (
        lambda t: ["train", "--data", data(t), "--model", "lenet", "--pretrained", t / "no.pt"],
        "no such file: .*no.pt",
    ),
    "train: compare a float network": (
        lambda t: ["train", "--data", data(t), "--model", "lenet", "--method", "float", "--compare"],
        "--compare is for shift networks",
    ),
    "convert: model": (lambda t: ["convert", "lnet", "--input-shape", "1", "28", "28"], "did you mean 'lenet'"),
    "convert: no shape": (lambda t: ["convert", "lenet"], "--input-shape 3 32 32"),
    "convert: float": (lambda t: ["convert", "lenet", "--method", "float"], "converts nothing"),
    "convert: module": (
        lambda t: ["convert", "no_such_module_x:net", "--input-shape", "3", "8", "8"],
        "no module 'no_such_module_x'",
    ),
    "convert: function": (lambda t: ["convert", "json:net", "--input-shape", "3", "8", "8"], "has no function 'net'"),
    "convert: arguments": (
        lambda t: ["convert", "json:dumps", "--input-shape", "3", "8", "8"],
        "json:dumps: needs the argument\\(s\\) obj",
    ),
    "convert: no module returned": (
        lambda t: ["convert", "builtins:dict", "--input-shape", "3", "8", "8"],
        "a torch.nn.Module is needed|builtins:dict",
    ),
    "convert: weights kind": (
        lambda t: ["convert", "lenet", "--input-shape", "1", "28", "28", "--weights", file_with(t, "w.txt", "")],
        "w.txt: the file is empty",
    ),
    "convert: weights damaged": (
        lambda t: ["convert", "lenet", "--input-shape", "1", "28", "28", "--weights", file_with(t, "w.pt", "no")],
        "damaged: it does not begin as a safetensors or torch file",
    ),
    "convert: other weights": (
        lambda t: ["convert", "lenet", "--input-shape", "1", "28", "28", "--weights", other_safetensors(t)],
        "belongs to another network than lenet",
    ),
    "convert: rules missing": (
        lambda t: ["convert", "lenet", "--input-shape", "1", "28", "28", "--rules", t / "no.toml"],
        "no such file",
    ),
    "convert: rules key": (
        lambda t: [
            "convert", "lenet", "--input-shape", "1", "28", "28",
            "--rules", file_with(t, "r.toml", '[[rule]]\npatern = "fc1"\n'),
        ],
        "r.toml, rule 1: unknown key 'patern'; did you mean 'pattern'",
    ),
    "convert: rules match nothing": (
        lambda t: [
            "convert", "lenet", "--input-shape", "1", "28", "28",
            "--rules", file_with(t, "r.json", '[{"pattern": "fc9", "keep": "float"}]'),
        ],
        "rule 'fc9' matches no layer",
    ),
    "demo: a full directory": (lambda t: ["demo", "--run-dir", t], "not empty and no earlier demo"),
    "demo: epochs": (lambda t: ["demo", "--epochs", "0"], "must be at least 1"),
    "demo: backend": (lambda t: ["demo", "--backend", "cuda"], "unknown backend 'cuda'"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_answered_with_code_2_and_a_short_message(
    case: str, model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert model_file.parent == tmp_path
    make, message = CASES[case]
    argv = [str(a) for a in make(tmp_path)]
    code = main(argv)
    captured = capsys.readouterr()
    assert re.search(message, captured.err), captured.err
    assert code == 2, captured.err
    assert captured.out == ""
    assert "Traceback" not in captured.err
    assert 1 <= len(captured.err.strip().splitlines()) <= 3


def test_a_picture_model_without_preprocess_says_what_to_give(
    tmp_path: Path, small_graph: Callable[..., Graph], capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    modelfile.save(small_graph(meta=False), tmp_path / "bare.safetensors")
    Image.new("L", (5, 4)).save(tmp_path / "a.png")
    assert main(["run", str(tmp_path / "bare.safetensors"), str(tmp_path / "a.png")]) == 2
    assert "give a .npy array, or export again with preprocess=" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--output", "--profile"])
def test_a_file_that_cannot_be_written_is_named_before_anything_runs(
    flag: str, model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x = npy(tmp_path, np.zeros((1, 4, 5), np.float32))
    for target, says in (
        (tmp_path / "no" / "y", f"there is no folder {tmp_path / 'no'}; make it first"),
        (tmp_path, "is a directory; give a file"),
    ):
        assert main(["run", str(model_file), str(x), flag, str(target)]) == 2
        captured = capsys.readouterr()
        assert f"{flag} {target}: {says}" in captured.err
        assert captured.out == ""


def test_the_missing_engine_is_loud_and_the_reference_answers(
    model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from bitshift import runtime
    from bitshift.backends import engine

    monkeypatch.setattr(engine, "available", lambda: "it was not built: no compiler was found")
    runtime._warn_slow.cache_clear()
    x = npy(tmp_path, np.zeros((1, 4, 5), np.float32))
    assert main(["run", str(model_file), str(x), "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["backend"] == "reference"
    assert "no compiler was found" in captured.err
    assert captured.err.startswith("warning: ")
    assert main(["run", str(model_file), str(x), "--backend", "engine"]) == 2
    assert "no compiler was found" in capsys.readouterr().err
    runtime._warn_slow.cache_clear()


def test_an_unsupported_operation_is_named_with_its_module(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An integer network with an operation that has no rule: the message names module path and operation."""
    source = (
        "from torch import nn\nimport torch\n"
        "class Odd(nn.Module):\n    def forward(self, x): return torch.fft.fft(x).real\n"
        "def net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(20, 8), Odd(), nn.Linear(8, 3))\n"
    )
    (tmp_path / "odd_net_for_cli.py").write_text(source)
    data = {"x_train": np.zeros((8, 1, 4, 5), np.uint8), "y_train": np.arange(8) % 3}
    np.savez(tmp_path / "d.npz", **data, x_test=data["x_train"], y_test=data["y_train"])
    monkeypatch.chdir(tmp_path)
    converted = main(
        ["convert", "odd_net_for_cli:net", "--data", "d.npz", "--activations", "8", "--output", str(tmp_path / "run")]
    )
    code = converted or main(["export", str(tmp_path / "run")])
    message = capsys.readouterr().err
    assert code == 2, message
    assert "aten.fft_fft.default in module '2'" in message

"""What a run writes and shows."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from bitshift.train.progress import Count, MetricsFile, Reporter, tensorboard_writer


def test_metrics_are_cut_back_to_the_size_of_a_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path, 0)
    file.write("step", step=1)
    size = file.size
    file.write("step", step=2)
    file.close()
    file = MetricsFile(path, size)
    file.write("step", step=3)
    file.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 3]


def test_metrics_shorter_than_the_checkpoint_says_keep_their_whole_lines(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"st')
    file = MetricsFile(path, 100)
    assert file.size == 12
    file.write("step", step=3)
    file.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 3]
    assert "has 16 bytes, its checkpoint knew 100" in caplog.text


def reporter(folder, **changes) -> Reporter:
    return Reporter(
        folder,
        **(
            {"size": 0, "total_steps": 10, "start_step": 0, "tensorboard": False, "progress": "auto", "epochs": 2}
            | changes
        ),
    )


def test_away_from_a_terminal_there_are_plain_lines_with_the_time_left(tmp_path, caplog, capsys):
    with caplog.at_level(logging.INFO, logger="bitshift"), reporter(tmp_path) as report:
        report.step(5)
        report.write("step", 5, epoch=0, loss=0.25)
        report.write("flips", 5, mean={})
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("step 5/10  epoch 1/2  loss 0.25  left 0:0")
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])["epoch"] == 0
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_there_is_a_bar(tmp_path, caplog, monkeypatch, capsys):
    pytest.importorskip("rich")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with caplog.at_level(logging.INFO, logger="bitshift"), reporter(tmp_path) as report:
        report.step(5)
        report.write("epoch", 5, epoch=1, valid_accuracy=0.5)
    assert not caplog.messages
    shown = capsys.readouterr()
    assert "5/10" in shown.err
    assert "epoch 2/2  valid_accuracy 0.5" in shown.err
    assert shown.out == ""


def test_off_is_silent_but_still_writes(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="bitshift"), reporter(tmp_path, progress="off") as report:
        report.write("step", 1, loss=1.0)
    assert not caplog.messages
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"kind": "step", "step": 1, "loss": 1.0}


def test_ranks_above_zero_write_nothing(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="bitshift"), reporter(None) as report:
        report.write("step", 1, loss=1.0)
        assert report.size == 0
    assert not caplog.messages
    assert not list(tmp_path.iterdir())


def test_a_missing_tensorboard_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match=r"pip install 'bitshift\[tensorboard\]'"):
        tensorboard_writer(tmp_path)


def test_numbers_go_to_tensorboard(tmp_path, monkeypatch):
    seen = []

    class Writer:
        def add_scalar(self, name, value, step):
            seen.append((name, value, step))

        def close(self):
            seen.append("closed")

    monkeypatch.setattr("bitshift.train.progress.tensorboard_writer", lambda folder: Writer())
    with reporter(tmp_path, tensorboard=True, progress="off") as report:
        report.write("step", 3, epoch=0, loss=0.5, note="x")
    assert seen == [("step/loss", 0.5, 3), "closed"]


def test_a_pass_over_rows_is_counted_by_lines_once_in_a_while(caplog, monkeypatch):
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr("bitshift.train.progress.time.perf_counter", lambda: float(next(clock)))
    with caplog.at_level(logging.INFO, logger="bitshift"), Count("evaluating x", 2_000, every=9.0) as count:
        for _ in range(8):
            count(250)
    assert [m.partition("  left")[0] for m in caplog.messages] == [
        "evaluating x: 750 of 2,000 rows", "evaluating x: 1,250 of 2,000 rows", "evaluating x: 1,750 of 2,000 rows",
    ]  # fmt: skip
    caplog.clear()
    monkeypatch.undo()
    with caplog.at_level(logging.INFO, logger="bitshift"), Count("evaluating x", 10) as count:
        count(10)
    assert not caplog.messages, "a short pass needs no line"


def test_a_pass_over_rows_has_a_bar_on_a_terminal(monkeypatch, capsys):
    pytest.importorskip("rich")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Count("evaluating x", 10) as count:
        count(4)
        count(3)
    shown = capsys.readouterr()
    assert "7/10" in shown.err
    assert "evaluating x" in shown.err
    assert shown.out == ""

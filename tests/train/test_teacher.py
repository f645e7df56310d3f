"""A teacher's logits on disk are the logits that would be computed."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from torch import nn

from bitshift.train import teacher as module
from bitshift.train.data import Shift
from bitshift.train.loop import fit
from bitshift.train.teacher import TeacherCache, model_fingerprint
from train.tiny_run import tiny_config, tiny_data, tiny_net

TRAIN, VALID = tiny_data(64), tiny_data(40, seed=1)


def cache(folder, **changes) -> TeacherCache:
    return TeacherCache(folder, {"seed": 0} | changes, rows=8, classes=3)


def logits(rows: int = 4) -> torch.Tensor:
    return torch.randn(rows, 3, generator=torch.Generator().manual_seed(rows))


def test_what_was_put_comes_back_to_the_bit_in_any_cut(tmp_path):
    written = logits(8)
    cache(tmp_path).put(2, 0, written)
    for place, count in ((0, 8), (3, 2), (7, 1)):
        found = cache(tmp_path).get(2, place, count)
        assert found is not None
        assert torch.equal(found, written[place : place + count])
    assert cache(tmp_path).get(1, 0, 1) is None
    assert cache(tmp_path, seed=1).get(2, 0, 1) is None


def test_rows_that_were_never_written_or_are_damaged_are_not_returned(tmp_path):
    one = cache(tmp_path)
    one.put(0, 4, logits(4))
    assert one.get(0, 0, 1) is None, "a hole of zeros"
    assert one.get(0, 3, 2) is None
    assert one.get(0, 7, 2) is None, "behind the end"
    path = one.folder / "epoch-0.rows"
    content = bytearray(path.read_bytes())
    content[5 * 16 + 2] ^= 1
    path.write_bytes(bytes(content))
    assert one.get(0, 5, 1) is None
    assert one.get(0, 6, 2) is not None


def test_the_fingerprint_changes_with_one_bit_and_with_the_structure():
    net = tiny_net()
    first = model_fingerprint(net)
    assert model_fingerprint(tiny_net()) == first
    with torch.no_grad():
        net[0].weight.view(torch.int32).flatten()[0] ^= 1
    assert model_fingerprint(net) != first
    net = tiny_net()
    net[2] = torch.nn.ReLU6()
    assert model_fingerprint(net) != first


def test_runs_with_an_empty_a_full_and_no_cache_are_equal_and_the_second_never_asks_the_teacher(tmp_path):
    def run(name, *, teacher=None, **changes):
        config = tiny_config(distill_weight=0.7, **changes)
        fit(tiny_net(), config, TRAIN, VALID, run_dir=tmp_path / name, teacher=teacher or tiny_net(5), augment=Shift())
        return (tmp_path / name / "model.safetensors").read_bytes()

    class Counting(torch.nn.Sequential):
        calls = 0

        def forward(self, x):
            type(self).calls += 1
            return super().forward(x)

    kept = str(tmp_path / "cache")
    plain = run("plain")
    assert run("filling", teacher=Counting(*tiny_net(5)), teacher_cache=kept) == plain
    assert Counting.calls == 24
    assert run("reading", teacher=Counting(*tiny_net(5)), teacher_cache=kept) == plain
    assert Counting.calls == 24
    assert run("other", teacher=Counting(*tiny_net(6)), teacher_cache=kept) != plain
    assert Counting.calls == 48
    run("seed", teacher=Counting(*tiny_net(5)), teacher_cache=kept, seed=1)
    assert Counting.calls == 72
    assert len(list((tmp_path / "cache").iterdir())) == 3


@pytest.mark.parametrize("classes", [1, 5])
@pytest.mark.parametrize("cached", [False, True])
def test_a_teacher_of_other_classes_is_refused(tmp_path, classes, cached):
    teacher = tiny_net(5)
    teacher[5] = nn.Linear(64, classes)
    config = tiny_config(teacher_cache=str(tmp_path / "cache") if cached else None)
    with pytest.raises(ValueError, match=rf"the teacher gives shape \(8, {classes}\) for 8 images of 4 classes"):
        fit(tiny_net(), config, TRAIN, VALID, run_dir=tmp_path / "run", teacher=teacher)


def test_one_changed_image_is_another_data_set(tmp_path):
    data = tiny_data(640)
    images = data.images.copy()
    images[1] = 255 - images[1]
    other = replace(data, images=images)
    assert other.fingerprint() == data.fingerprint(), "which looks at every tenth of these"
    config = tiny_config(epochs=1, teacher_cache=str(tmp_path / "cache"))
    for name, rows in (("a", data), ("b", other), ("a again", data)):
        fit(tiny_net(), config, rows, VALID, run_dir=tmp_path / name, teacher=tiny_net(5))
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_a_disk_that_refuses_ends_the_caching_but_not_the_run(tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError("No space left on device")

    config = tiny_config()
    fit(tiny_net(), config, TRAIN, VALID, run_dir=tmp_path / "plain", teacher=tiny_net(5))
    monkeypatch.setattr(module.os, "pwrite", full)
    with caplog.at_level(logging.WARNING):
        cached = replace(config, teacher_cache=str(tmp_path / "cache"))
        fit(tiny_net(), cached, TRAIN, VALID, run_dir=tmp_path / "full", teacher=tiny_net(5))
    assert caplog.text.count("No space left") == 1
    assert (tmp_path / "full" / "model.safetensors").read_bytes() == (
        tmp_path / "plain" / "model.safetensors"
    ).read_bytes()


def test_many_may_open_one_cache_at_the_same_moment(tmp_path):
    together = threading.Barrier(8)

    def opened(_: int) -> str:
        together.wait()
        return (cache(tmp_path).folder / "key.json").read_text()

    for _ in range(10):
        with ThreadPoolExecutor(8) as pool:
            assert len(set(pool.map(opened, range(8)))) == 1
        (folder,) = tmp_path.iterdir()
        assert [p.name for p in folder.iterdir()] == ["key.json"]
        (folder / "key.json").unlink()


@pytest.mark.parametrize("value", [3, ""])
def test_a_wrong_cache_folder_is_named(value):
    with pytest.raises(ValueError, match=r"TrainConfig\.teacher_cache"):
        tiny_config(teacher_cache=value)

"""The table of microcontroller nets: its cross-validation, its speech augmentation, its C."""

from __future__ import annotations

import mcu_nets
import numpy as np
import torch
from emulated.graphs import small_network
from tiny.host_c import HostModel
from tiny.sources import Speech

from bitshift import runtime
from bitshift.backends.c99 import golden
from bitshift.backends.c99.program import build
from bitshift.core import modelfile
from bitshift.train.data import ArrayData
from c99_host import needs_cc


def speech(count: int) -> ArrayData:
    rng = np.random.default_rng(0)
    return ArrayData(
        images=rng.normal(size=(count, 1, 49, 10)).astype(np.float32),
        labels=rng.permutation(np.arange(count) % 4).astype(np.int64), class_names=("a", "b", "c", "d"),
    )  # fmt: skip


def test_each_row_is_tested_once_by_a_net_that_has_not_seen_it():
    data = speech(43)
    parts = list(mcu_nets.folds(data, 5))
    tested = np.concatenate([unseen for _, unseen in parts])
    assert sorted(tested) == list(range(43))
    for seen, unseen in parts:
        assert not set(seen) & set(unseen)
        assert len(seen) + len(unseen) == 43
        counts = np.bincount(data.labels[unseen], minlength=4)
        assert counts.max() - counts.min() <= 1


def test_a_word_moves_in_time_and_mixes_with_another():
    data = torch.arange(2 * 49 * 10, dtype=torch.float32).reshape(2, 1, 49, 10)
    still = torch.tensor([[0, 0, 1], [0, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(Speech().apply(data, still), data)
    moved = Speech().apply(data, torch.tensor([[3, 0, 1], [-2, 0.25, 0]], dtype=torch.float64))
    torch.testing.assert_close(moved[0, 0, :46], data[0, 0, 3:])
    torch.testing.assert_close(moved[0, 0, 46:], data[0, 0, 48:].expand(3, 10))  # the edge is repeated
    torch.testing.assert_close(moved[1, 0, 2:], 0.75 * data[1, 0, :-2] + 0.25 * moved[0, 0, 2:])
    drawn = Speech(frames=4, mix=0.4).draw(1000, torch.Generator().manual_seed(0))
    assert drawn[:, 0].unique().tolist() == list(range(-4, 5))
    assert 0 <= drawn[:, 1].min() < drawn[:, 1].max() < 0.4
    assert sorted(drawn[:, 2].tolist()) == list(range(1000))


@needs_cc
def test_a_file_as_c_on_this_machine_gives_the_integers_of_the_reference(tmp_path):
    file, graph = tmp_path / "net.safetensors", small_network()
    modelfile.save(graph, file)
    (x,) = golden.inputs(build(graph), 20).values()
    expected = runtime.load(file, backend="reference").run_int(x)
    with HostModel(file) as host:
        np.testing.assert_array_equal(host.run_int(x), expected)
        step = 2.0 ** -graph.values[graph.inputs[0]].type.frac
        np.testing.assert_array_equal(host.run_int((x * step).astype(np.float32)), expected)

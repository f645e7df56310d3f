"""Photos and shards through the verbs: what is trained, remembered and packed."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bitshift.cli import main
from bitshift.cli.comparing import images_of
from bitshift.cli.errors import CliError
from bitshift.cli.images import ImageFlags, ImageOptions
from bitshift.cli.runs import open_run
from photo_folder import cut, photo_folder

pytestmark = [
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
]
NET = """
from torch import nn

def net(num_classes, in_channels):
    return nn.Sequential(nn.Conv2d(in_channels, 4, 3, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(64, num_classes))
"""
FLAGS = [
    "--model", "photo_net:net", "--epochs", "1", "--batch-size", "8", "--image-size", "16", "--augment", "imagenet",
    "--bits", "3", "--set", "progress=off",
]  # fmt: skip


def verb(*argv: str | Path) -> Any:
    stream = io.StringIO()
    with contextlib.redirect_stdout(stream):
        code = main([*map(str, argv), "--json"])
    assert code == 0, stream.getvalue()
    return json.loads(stream.getvalue())


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BITSHIFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo_net.py").write_text(NET)
    photo_folder(tmp_path / "photos")
    photo_folder(tmp_path / "photos", split="val", each=2)
    return Path("photos")


def test_grey_training_photos_beside_test_photos_in_colour_train_in_colour(photos):
    for path in (photos / "train").rglob("*.*"):
        Image.open(path).convert("L").save(path)
    flags = [*FLAGS, "--data-workers", "0", "--no-export"]
    trained = verb("train", "--data", photos, *flags, "--run-dir", "run")
    assert trained["network"]["input_shape"] == [3, 16, 16]
    assert verb("eval", "run", "--split", "train")["accuracy"] is not None, "as the network takes them, not as they are"
    trained = verb("train", "--data", photos, *flags, "--run-dir", "grey", "--channels", "1")
    assert trained["network"]["input_shape"] == [1, 16, 16]
    assert verb("eval", "grey")["accuracy"] is not None


def test_photos_and_their_shards_train_to_the_same_bits(photos, tmp_path):
    packed = verb("shards", photos, "packed", "--shard-mb", "1")
    assert (packed["train"]["rows"], packed["test"]["rows"]) == (24, 6)
    for data, flags in (("photos", ["--data-workers", "0"]), ("packed", ["--data-workers", "1", "--no-export"])):
        verb("train", "--data", data, *FLAGS, *flags, "--run-dir", f"run-{data}")
    weights = [(tmp_path / f"run-{data}" / "model.safetensors").read_bytes() for data in ("photos", "packed")]
    assert weights[0] == weights[1]
    about = json.loads(Path("run-photos/config.json").read_text())["about"]
    assert about["images"] == {"size": 16, "short": 19}
    one = verb("eval", "run-photos", "--data-workers", "0")
    assert one["samples"] == 6
    file = verb("eval", "run-photos/net.safetensors", "--data", "packed", "--image-size", "16", "--image-short", "19")
    assert file["confusion"] == one["confusion"]
    verb(
        "convert", "photo_net:net", "--data", "photos", "--image-size", "16", "--activations", "8", "--output", "run-c"
    )
    assert verb("eval", "run-c")["samples"] == 6


def test_a_cut_photo_stops_training_by_name_unless_it_may_be_replaced(photos, capsys, caplog):
    cut(photos / "train" / "c1" / "2.jpg")
    command = ["train", "--data", "photos", *FLAGS, "--no-export", "--run-dir", "run"]
    assert main(command) == 2
    assert "2.jpg: cannot be decoded as an image" in capsys.readouterr().err
    with caplog.at_level(logging.WARNING, logger="bitshift"):
        verb(*command, "--skip-corrupt")
    assert "1 images of 24 could not be decoded and were replaced" in caplog.text


def test_every_verb_that_takes_training_photos_can_replace_a_cut_one(photos, capsys, caplog):
    cut(photos / "train" / "c1" / "2.jpg")
    flags = ["--data", "photos", "--image-size", "16"]  # small: decoded into memory
    verb("train", *flags, "--model", "photo_net:net", "--epochs", "1", "--batch-size", "8", "--bits", "3",
         "--skip-corrupt", "--no-export", "--run-dir", "run")  # fmt: skip
    assert verb("export", "run")["differing_outputs"] == 0, "a run knows that it may"
    convert = ["convert", "photo_net:net", *flags, "--activations", "8"]
    assert main(convert) == 2
    assert "2.jpg: cannot be decoded as an image" in capsys.readouterr().err
    caplog.clear()
    verb(*convert, "--skip-corrupt")
    assert "1 images of 24 could not be decoded and were replaced" in caplog.text
    assert main(["eval", "run", "--split", "train"]) == 2, "an evaluation must not count another image"


def test_the_report_of_a_file_opens_photos_as_the_file_takes_them(photos, capsys):
    verb("train", "--data", photos, *FLAGS, "--data-workers", "0", "--run-dir", "run")
    flags = ["report", "run/net.safetensors", "--output", "page.html"]
    verb(*flags, "--data", photos)
    assert '<section id="confusion"' in Path("page.html").read_text()
    verb(*flags, "--data", photos, "--image-size", "16", "--image-short", "19")
    assert main([*flags, "--data", str(photos), "--image-size", "8"]) == 2
    assert "the data are (3, 8, 8) a sample, the model takes (3, 16, 16)" in capsys.readouterr().err
    assert main([*flags, "--image-size", "16"]) == 2
    assert "give --data" in capsys.readouterr().err
    assert main(["report", "run", "--image-size", "16"]) == 2
    assert "a run knows how its photos are opened" in capsys.readouterr().err


def test_photos_of_several_sizes_ask_for_a_size(photos, capsys):
    assert main(["train", "--data", "photos", "--model", "photo_net:net"]) == 2
    assert "--image-size N" in capsys.readouterr().err


def test_shards_asks_for_a_folder_with_the_split(photos, capsys):
    assert main(["shards", "photos/train", "out"]) == 2
    assert "no folder for the split train" in capsys.readouterr().err


def test_flags_become_options_and_random_crops_ask_for_streaming_and_a_border():
    flags = ImageFlags(image_size=224)
    assert flags.image_options() == ImageOptions(size=224)
    assert flags.image_options(random_crop=True) == ImageOptions(size=224, short=256, stream=True)
    assert ImageFlags(stream="no").image_options(ImageOptions(size=64), random_crop=True) == ImageOptions(
        size=64, short=74, stream=False
    )
    remembered = ImageOptions(size=224, short=256)
    assert ImageOptions.from_about(remembered.recorded()) == remembered
    assert ImageOptions().recorded() == {}
    assert ImageFlags(image_size=64).image_options(remembered) == ImageOptions(size=64), "another size, another border"


@pytest.mark.parametrize(("augment", "stream"), [("imagenet", True), ("pad_crop_flip", None), (None, None)])
def test_the_nets_beside_a_run_see_the_windows_that_it_saw(tmp_path, augment, stream):
    (tmp_path / "config.json").write_text(
        json.dumps({"about": {
            "network": {"model": "lenet", "num_classes": 3, "input_shape": [3, 32, 32], "shift": None},
            "data": "photos", "augment": augment, "images": {"size": 32, "short": 36},
        }})
    )  # fmt: skip
    (tmp_path / "model.safetensors").touch()
    images = images_of(open_run(tmp_path))
    assert (images.size, images.short, images.stream) == (32, 36, stream)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"image_size": 0}, "--image-size 0: must be at least 1"), ({"image_short": 9}, "needs --image-size"),
        ({"image_size": 9, "image_short": 8}, "must be at least --image-size 9"),
        ({"data_workers": -1}, "--data-workers -1: must be at least 0"),
    ],
)  # fmt: skip
def test_flags_that_do_not_fit_are_refused(flags, message):
    with pytest.raises(CliError, match=message):
        ImageFlags(**flags).image_options()


@pytest.mark.parametrize("flags", [("--augment", "flip"), ("--set", "mixup=0.2")])
def test_features_are_neither_augmented_nor_mixed(tmp_path, capsys, monkeypatch, flags):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "net_of_features.py").write_text(
        "from torch import nn\ndef net(num_classes, in_channels): return nn.Linear(in_channels, num_classes)\n"
    )
    arrays = {f"x_{s}": np.zeros((16, 8), np.float32) for s in ("train", "test")}
    np.savez(tmp_path / "data.npz", **arrays, **{f"y_{s}": np.arange(16) % 4 for s in ("train", "test")})
    words = ["train", "--data", "data.npz", "--model", "net_of_features:net", "--batch-size", "8", *flags]
    assert main(words) == 2
    assert re.search(r"images \((N, )?C, H, W\).*\(8,", capsys.readouterr().err)

"""Data sets in memory or decoded on the way: readers, normalisation, augmentation, row order."""

from __future__ import annotations

from bitshift.train.data.arrays import ArrayData, stratified_split
from bitshift.train.data.augment import Augment, Chain, Flip, PadCropFlip, Shift
from bitshift.train.data.base import (
    IMAGENET_NORMALISE,
    DataError,
    Normalise,
    Request,
    TrainData,
)
from bitshift.train.data.cifar import CIFAR10_CLASSES
from bitshift.train.data.colour import ColourJitter, Erase, Lighting
from bitshift.train.data.crops import RandomResizedCrop
from bitshift.train.data.folder import read_folder
from bitshift.train.data.idx import read_idx
from bitshift.train.data.index import index_folder
from bitshift.train.data.mix import Mixing
from bitshift.train.data.named import AUGMENTS, crops_at_decoding, random_crop
from bitshift.train.data.opening import LAYOUTS, NAMED, SPLITS, eval_short, open_data, open_folder, same_classes
from bitshift.train.data.packing import pack_folder
from bitshift.train.data.sampler import EpochSampler, step_generator
from bitshift.train.data.shards import ShardWriter, index_shards
from bitshift.train.data.streamed import StreamedData

__all__ = [
    "AUGMENTS",
    "CIFAR10_CLASSES",
    "IMAGENET_NORMALISE",
    "LAYOUTS",
    "NAMED",
    "SPLITS",
    "ArrayData",
    "Augment",
    "Chain",
    "ColourJitter",
    "DataError",
    "EpochSampler",
    "Erase",
    "Flip",
    "Lighting",
    "Mixing",
    "Normalise",
    "PadCropFlip",
    "RandomResizedCrop",
    "Request",
    "ShardWriter",
    "Shift",
    "StreamedData",
    "TrainData",
    "crops_at_decoding",
    "eval_short",
    "index_folder",
    "index_shards",
    "open_data",
    "open_folder",
    "pack_folder",
    "random_crop",
    "read_folder",
    "read_idx",
    "same_classes",
    "step_generator",
    "stratified_split",
]

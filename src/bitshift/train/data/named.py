"""The augmentations that a recipe or the command line can name, and where they are carried out."""

from __future__ import annotations

from bitshift.train.data.augment import Augment, Chain, Flip, PadCropFlip, Shift
from bitshift.train.data.base import TrainData
from bitshift.train.data.colour import ColourJitter, Erase, Lighting
from bitshift.train.data.crops import RandomResizedCrop
from bitshift.train.data.streamed import StreamedData

AUGMENTS: dict[str, Augment] = {
    "pad_crop_flip": PadCropFlip(),
    "shift": Shift(),
    "flip": Flip(),
    "imagenet": Chain((RandomResizedCrop(), Flip())),
    "imagenet_colour": Chain((RandomResizedCrop(), Flip(), ColourJitter(), Lighting())),
    "imagenet_erase": Chain((RandomResizedCrop(), Flip(), Erase())),
}
"""By name. ``imagenet`` is what the papers' ImageNet tables use; ``_colour`` adds the jitter and lighting of Torch's
ResNets, ``_erase`` random erasing."""


def random_crop(augment: Augment | None) -> RandomResizedCrop | None:
    """The random crop with which ``augment`` starts; None when it does not."""
    first = augment.parts[0] if isinstance(augment, Chain) and augment.parts else augment
    return first if isinstance(first, RandomResizedCrop) else None


def crops_at_decoding(data: TrainData, augment: Augment | None) -> tuple[TrainData, Augment | None]:
    """The same training, with a leading random crop moved from ``augment`` into data that are decoded on the way.

    The decoder has all pixels of the photo, and need not scale what is cut off. Arrays, and streamed images that are
    taken whole, keep the crop in the augmentation.
    """
    crop = random_crop(augment)
    if crop is None or not isinstance(data, StreamedData) or data.size is None:
        return data, augment
    rest = Chain(augment.parts[1:]) if isinstance(augment, Chain) and len(augment.parts) > 1 else None
    return data.with_crop(crop), rest


__all__ = ["AUGMENTS", "crops_at_decoding", "random_crop"]

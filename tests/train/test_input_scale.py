"""Networks moved from one normalisation of the pixels to another."""

import pytest
import torch
from torch import Tensor, nn

from bitshift.train.data.base import IMAGENET_NORMALISE, Normalise
from bitshift.train.input_scale import OnInput, change_of_input, fold_input

PIXEL = Normalise()


def pixels(size: int = 8) -> Tensor:
    return torch.randint(0, 256, (4, 3, size, size), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


@pytest.mark.parametrize(
    "first",
    [
        nn.Conv2d(3, 4, 3, bias=False),
        nn.Conv2d(3, 6, 3, groups=3),
        nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 5)),
    ],
)
def test_a_network_without_padding_gives_the_same_logits(first):
    torch.manual_seed(0)
    model = nn.Sequential(first, nn.ReLU()).eval()
    x = pixels()
    moved = fold_input(model, IMAGENET_NORMALISE, PIXEL, sample=PIXEL(x))
    torch.testing.assert_close(moved(PIXEL(x)), model(IMAGENET_NORMALISE(x)), rtol=1e-4, atol=1e-4)
    assert first is not moved[0]


def test_a_wrapper_is_exact_with_padding_too():
    model = nn.Conv2d(3, 4, 3, padding=1).eval()
    x = pixels()
    wrapped = OnInput(model, IMAGENET_NORMALISE, PIXEL, 3)
    torch.testing.assert_close(wrapped(PIXEL(x)), model(IMAGENET_NORMALISE(x)), rtol=1e-4, atol=1e-4)


def test_the_change_of_input_maps_one_normalisation_to_the_other():
    factor, shift = change_of_input(IMAGENET_NORMALISE, PIXEL, 3)
    x = pixels()
    found = PIXEL(x).double() * factor.view(1, 3, 1, 1) + shift.view(1, 3, 1, 1)
    torch.testing.assert_close(found, IMAGENET_NORMALISE(x).double(), rtol=1e-5, atol=1e-5)


def test_networks_that_cannot_take_the_scale_are_named():
    with pytest.raises(ValueError, match="takes 6 channels, the input has 3"):
        fold_input(nn.Sequential(nn.PixelUnshuffle(1), _Double(), nn.Conv2d(6, 4, 1)), IMAGENET_NORMALISE, PIXEL,
                   sample=PIXEL(pixels()))  # fmt: skip
    with pytest.raises(ValueError, match="no such layer"):
        fold_input(nn.Flatten(), IMAGENET_NORMALISE, PIXEL, sample=PIXEL(pixels()))
    with pytest.raises(ValueError, match="2 channels"):
        change_of_input(Normalise(mean=(1.0, 2.0), scale=(1.0,)), PIXEL, 3)


class _Double(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, x], 1)

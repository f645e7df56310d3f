"""Carry a trained backbone over to a network with new parts: its latents, or its discrete weights alone."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from bitshift.core.listing import listed
from bitshift.nn.activations import ActQuant
from bitshift.nn.layers import (
    ShiftConvTranspose1d,
    ShiftConvTranspose2d,
    ShiftConvTranspose3d,
    ShiftEmbedding,
    ShiftLayer,
)
from bitshift.nn.layers.base import PACE
from bitshift.nn.ops import decode
from bitshift.nn.scale_search import per_channel
from bitshift.nn.weights import inputs_first

logger = logging.getLogger("bitshift")


class TransferError(ValueError):
    """A backbone that does not fit; the message names tensors, what was found and the next step.

    ``found`` is the message without the step, ``unfit`` are the modules whose tensors the backbone lacks or has in
    another shape, for callers whose next step has another name than an argument of :func:`load_backbone`.
    """

    def __init__(self, found: str, step: str = "", *, unfit: Sequence[str] = ()) -> None:
        super().__init__(f"{found}; {step}" if step else found)
        self.found, self.unfit = found, tuple(unfit)


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """What :func:`load_backbone` did, by tensor names: ``taken`` from the backbone, ``new`` here, ``unused`` there."""

    taken: tuple[str, ...]
    new: tuple[str, ...]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        parts = [f"{len(self.taken)} tensors from the backbone", f"new: {', '.join(_modules(self.new)) or 'nothing'}"]
        if self.unused:
            parts.append(f"not used: {', '.join(_modules(self.unused))}")
        return "; ".join(parts)


def is_new(name: str, new: Iterable[str]) -> bool:
    """Whether a tensor or module called ``name``, or a module around it, matches one of the patterns ``new``."""
    parts = name.split(".")
    around = [".".join(parts[:n]) for n in range(1, len(parts) + 1)]
    return any(fnmatchcase(path, pattern) for pattern in new for path in around)


def load_backbone(model: nn.Module, state: Mapping[str, Tensor], *, new: Sequence[str]) -> Transfer:
    """Fill ``model`` (changed in place) from the state dict of another network, but for the modules called ``new``.

    Names and shapes must agree for everything else. A shift network takes the latents with it; load the weights of
    :func:`discrete_weights` into a float model *before* ``convert``, which then makes latents of them. Latents do not
    say what they are of: a state from a run of another method or width may have the same shapes, and is taken as it
    is (``bitshift train --backbone RUN`` knows the run's configuration, and refuses it).

    Args:
        model: with its new parts in place, converted already if ``state`` is of a converted network.
        state: of the trained network, which may have other parts (its old head).
        new: patterns of module paths (``"linear"``, ``"head.*"``) that keep their present tensors.

    Raises:
        TransferError: a pattern that matches nothing, or tensors that the backbone lacks or has in another shape.
    """
    own = model.state_dict()
    for pattern in new:
        if not any(is_new(name, [pattern]) for name in own):
            modules = [path for path, _ in model.named_modules() if path]
            near = difflib.get_close_matches(pattern.replace("*", "").rstrip("."), modules, n=3, cutoff=0.3)
            hint = f"near misses: {', '.join(map(repr, near))}" if near else f"modules are: {listed(modules, 20)}"
            raise TransferError(f"new part {pattern!r} matches no module with tensors; {hint}")
    wanted = [name for name in own if not is_new(name, new)]
    older = [name for name in wanted if name not in state and name.rpartition(".")[2] == PACE]
    missing = [
        name for name in wanted if name not in state and name not in older and not name.endswith("num_batches_tracked")
    ]
    shapes = [name for name in wanted if name in state and state[name].shape != own[name].shape]
    if missing or shapes:
        raise _misfit(missing, shapes, own, state)
    if older:
        logger.warning(
            "the backbone was saved by an older version, without the pace of its folded layers (%s): they learn at the "
            "pace of the weights that this network was converted from; train the backbone again for its own",
            listed(_modules(older), 5),
        )
    taken = [name for name in wanted if name in state]
    with torch.no_grad():
        model.load_state_dict({**own, **{name: state[name] for name in taken}})
    return Transfer(
        taken=tuple(taken),
        new=tuple(name for name in own if is_new(name, new)),
        unused=tuple(name for name in state if name not in set(taken)),
    )


def _misfit(
    missing: list[str], shapes: list[str], own: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> TransferError:
    found = []
    if missing:
        found.append(f"the backbone has no {listed(missing, 5)}")
    if shapes:
        texts = [f"{name} is {tuple(state[name].shape)} there and {tuple(own[name].shape)} here" for name in shapes]
        found.append(listed(texts, 5))
    unfit = _modules([*missing, *shapes])
    here, there = (any(".method." in name for name in names) for names in (own, state))
    if here and not there:
        step = "these are float weights: load them before convert(), with init='pretrained'"
    elif there and not here:
        step = "these are latents of a shift network: convert() the model in the same way before"
    else:
        step = f"name the parts that are new (new={unfit[:4]}), or build the backbone as it was trained"
    return TransferError("; ".join(found), step, unfit=unfit)


def _modules(names: Iterable[str]) -> list[str]:
    """The modules that hold the tensors, without what is inside a layer."""
    paths = (name.partition(".method.")[0] if ".method." in name else name.rpartition(".")[0] for name in names)
    return list(dict.fromkeys(path or "(model)" for path in paths))


@torch.no_grad()
def discrete_weights(model: nn.Module) -> dict[str, Tensor]:
    """The state dict that the float model of a shift network would have with the discrete weights in it.

    ``weight`` of every shift layer is ``level * scale``; latents and activation quantisers are left out. Convert with
    ``init="pretrained"`` and, for S3 and DenseShift, ``options={"start": "sign_consistent"}`` to make latents of low
    variance from it again.

    Raises:
        TransferError: no shift layer, or one that has taken in a norm (integer networks): its float model had no such.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    layers = {path: m for path, m in modules.items() if isinstance(m, ShiftLayer)}
    if not layers:
        raise TransferError("the model has no shift layer; save its own state dict")
    for path, layer in layers.items():
        if layer.norm is not None:
            raise TransferError(
                f"layer {path!r} holds a norm of its own: the weights of an integer network have no float form; carry"
                " its latents over with load_backbone()"
            )
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        around = ["", *(name[:at] for at, letter in enumerate(name) if letter == ".")]
        layer = next((p for p in around if p in layers and name.startswith(f"{p}.method.".lstrip("."))), None)
        if layer is not None:
            weight = f"{layer}.weight".lstrip(".")
            if weight not in state:
                state[weight] = _float_weight(layers[layer])
        elif not any(isinstance(modules.get(path), ActQuant) for path in around):
            state[name] = tensor.clone()
    return state


def _float_weight(layer: ShiftLayer) -> Tensor:
    """The discrete weight in the layout of torch's layer, an embedding's row of zeros included."""
    method = layer.method
    codes = layer.codes() if isinstance(layer, ShiftEmbedding) else method.codes()
    weight = decode(codes, method.format.name, torch.float32) * per_channel(method.scale(), codes.ndim)
    transposed = isinstance(layer, (ShiftConvTranspose1d, ShiftConvTranspose2d, ShiftConvTranspose3d))
    return inputs_first(weight, layer.groups) if transposed else weight


__all__ = ["Transfer", "TransferError", "discrete_weights", "is_new", "load_backbone"]

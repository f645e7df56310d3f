"""Why weights do not fit a network, and which option would make them fit, from the names and shapes found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bitshift.core.listing import listed
from bitshift.train.models import MODELS, build, published_state

if TYPE_CHECKING:
    from bitshift.cli.network import NetworkSpec

_SHOWN = 4


def misfit(model: nn.Module, state: Mapping[str, Tensor], spec: NetworkSpec) -> str | None:
    """What is wrong with ``state`` for the float ``model`` that ``spec`` built, and the next step; None if it fits."""
    own = model.state_dict()
    counters = {name for name in own if name.endswith("num_batches_tracked")}
    missing = [name for name in own if name not in state and name not in counters]
    extra = [name for name in state if name not in own]
    other = [name for name in own if name in state and state[name].shape != own[name].shape]
    if not (missing or extra or other):
        return None
    found = []
    if other:
        shapes = [f"{n} is {tuple(state[n].shape)}, {spec.model} needs {tuple(own[n].shape)}" for n in other]
        found.append(listed(shapes, _SHOWN))
    if missing:
        found.append(f"{spec.model} needs {listed(missing, _SHOWN)}, which the file lacks")
    if extra:
        found.append(f"the file has {listed(extra, _SHOWN)}, which {spec.model} has no place for")
    return f"{'; '.join(found)}.\n{_advice(own, state, spec, missing + extra, other)}"


def _advice(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor], spec: NetworkSpec, names: list[str], other: list[str]
) -> str:
    if any(".method." in name for name in state) and not any(".method." in name for name in own):
        return (
            "These are the latents of a shift network: go on from them with `bitshift train --backbone`, which takes "
            "the run directory"
        )
    if not names and (advice := _other_ends(own, state, spec, other)):
        return advice
    models = models_of(state, spec)
    if models:
        return (
            f"These are weights of {' or '.join(models)}: say so (train: --model {models[0]}; convert, search: "
            f"{models[0]} in place of {spec.model})"
        )
    if not {name for name in own if name in state and not name.endswith("num_batches_tracked")}:
        return (
            "No name agrees: another network, or other names for its parts. No model of `bitshift inspect models` has "
            "these names; write module:function that builds the network which was trained"
        )
    return (
        "Build the network that was trained (--model; `bitshift inspect models`, or module:function), or take the "
        "parts that agree: bitshift train --backbone FILE --new-head MODULE ..."
    )


def _other_ends(own: Mapping[str, Tensor], state: Mapping[str, Tensor], spec: NetworkSpec, other: list[str]) -> str:
    """Advice where only the first layer's inputs or the last layer's outputs differ; "" for anything else."""
    head = {name for name in other if own[name].shape[:1] == (spec.num_classes,) and _same_but(own, state, name, 0)}
    first = {name for name in other if own[name].dim() > 1 and _same_but(own, state, name, 1)}
    classes = {state[name].shape[0] for name in head}
    if head and head == set(other) and len(classes) == 1:
        count = classes.pop()
        module = next(iter(head)).rpartition(".")[0]
        return (
            f"The weights are of {count} classes, the network has {spec.num_classes}. Without --data: --classes "
            f"{count}. To train them for {spec.num_classes} classes under a new head: "
            f"bitshift train --backbone FILE --model {spec.model} --new-head {module} ..."
        )
    if first and first == set(other) and len(first) == 1:
        name = first.pop()
        theirs, mine = state[name].shape[1], own[name].shape[1]
        grey = {1: "grey images", 3: "colour images"}
        what = (
            f"{theirs} channels{f' ({grey[theirs]})' * (theirs in grey)} and the network's input has {mine}"
            if own[name].dim() > 2
            else f"{theirs} features at {name}, and the network has {mine}: images of another size (--image-size)"
        )
        return f"The weights are for {what}; give data of that kind, or other weights"
    return ""


def _same_but(own: Mapping[str, Tensor], state: Mapping[str, Tensor], name: str, axis: int) -> bool:
    """Whether two shapes differ along ``axis`` only."""
    mine, theirs = list(own[name].shape), list(state[name].shape)
    return len(mine) == len(theirs) > axis and mine[:axis] + mine[axis + 1 :] == theirs[:axis] + theirs[axis + 1 :]


def models_of(state: Mapping[str, Tensor], spec: NetworkSpec) -> list[str]:
    """The models of the registry that have the names and shapes of ``state``, whatever their classes and inputs."""
    found = []
    for name in MODELS:
        with torch.device("meta"):
            model = build(name, num_classes=spec.num_classes, in_channels=spec.input_shape[0])
        own, theirs = (
            {n: t for n, t in tensors.items() if not n.endswith("num_batches_tracked")}
            for tensors in (model.state_dict(), published_state(model, state))
        )
        if own.keys() == theirs.keys() and all(
            t.shape == theirs[n].shape
            or (t.shape[:1] == (spec.num_classes,) and _same_but(own, theirs, n, 0))
            or (t.shape[1:2] == (spec.input_shape[0],) and _same_but(own, theirs, n, 1))
            for n, t in own.items()
        ):
            found.append(name)
    return found


__all__ = ["misfit", "models_of"]

"""How much discrete weights move while they train: flip rates and freezing, per layer and as a weighted mean.

The papers name weight (sign) freezing and do not print a formula that we could read; these are *our definitions*.
For one weight tensor with n elements, between the records a and b:

=================  ==================================================================================================
``value_rate``     share of the n weights whose code differs between a and b; ``freezing_rate`` is 1 minus this. None
                   where the format changed in between (progressive bits): the numbers of two sets do not compare
``sign_rate``      share whose sign differs; zero is a sign of its own
``never_flipped``  share whose sign was, at every record since the first, the sign of the first
``reversal_rate``  share whose sign turned from + to - or from - to +, without what became or was zero
``zeros``          share of the weights that are zero now
``distance``       mean over the weights of (smallest distance of a latent to a threshold at which the code changes,
                   :meth:`Method.threshold_distance`), over the standard deviation of all latents of the layer
``update``         root mean square, over all latents of the layer, of what the last optimiser step moved them
                   (projection included); known where :meth:`FlipTracker.before_step` was called before that step
``steps``          10, 50 and 90 % quantiles over the weights of that smallest distance over ``update``: how many
                   typical steps, all in one direction, a weight is away from another code
=================  ==================================================================================================

The mean over layers weighs each layer by its n (of ``steps``: the mean of the layers' quantiles). A float weight has
one threshold, zero, and no codes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bitshift.nn.method import Method

QUANTILES = (0.1, 0.5, 0.9)
"""Of ``LayerFlips.steps``."""


@dataclass(frozen=True, kw_only=True)
class LayerFlips:
    """One layer's figures; rates are None in the first record, ``value_rate`` also for a float weight."""

    name: str
    count: int
    value_rate: float | None
    sign_rate: float | None
    never_flipped: float
    distance: float | None
    """None where all latents are equal."""
    reversal_rate: float | None = None
    zeros: float = 0.0
    update: float | None = None
    steps: tuple[float, float, float] | None = None
    """None without a step before the record, or where that step moved nothing."""

    @property
    def freezing_rate(self) -> float | None:
        """``1 - value_rate``."""
        return None if self.value_rate is None else 1 - self.value_rate

    def as_dict(self) -> dict[str, Any]:
        """The fields and ``freezing_rate``."""
        return asdict(self) | {"freezing_rate": self.freezing_rate}


@dataclass(frozen=True, kw_only=True)
class FlipRecord:
    """The figures of all layers at one call of :meth:`FlipTracker.record`."""

    label: int
    layers: tuple[LayerFlips, ...]

    @property
    def mean(self) -> LayerFlips:
        """All layers, weighted by their number of weights; a figure is the mean over the layers that have it."""

        def weighted(figure: Callable[[LayerFlips], float | None]) -> float | None:
            pairs = [(value, layer.count) for layer in self.layers if (value := figure(layer)) is not None]
            return sum(v * n for v, n in pairs) / sum(n for _, n in pairs) if pairs else None

        steps = tuple(weighted(lambda layer, i=i: layer.steps[i] if layer.steps else None) for i in range(3))
        return LayerFlips(
            name="mean",
            count=sum(layer.count for layer in self.layers),
            value_rate=weighted(lambda layer: layer.value_rate),
            sign_rate=weighted(lambda layer: layer.sign_rate),
            never_flipped=weighted(lambda layer: layer.never_flipped) or 0.0,
            distance=weighted(lambda layer: layer.distance),
            reversal_rate=weighted(lambda layer: layer.reversal_rate),
            zeros=weighted(lambda layer: layer.zeros) or 0.0,
            update=weighted(lambda layer: layer.update),
            steps=None if None in steps else steps,  # pyright: ignore[reportArgumentType]
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and strings, for a JSON line: ``{"label", "mean": {...}, "layers": [{...}, ...]}``."""
        return {"label": self.label, "mean": self.mean.as_dict(), "layers": [layer.as_dict() for layer in self.layers]}


def change_rate(before: Tensor, after: Tensor) -> float:
    """Share of the elements of two tensors of one shape that differ."""
    if before.shape != after.shape:
        raise ValueError(f"change_rate: shapes {tuple(before.shape)} and {tuple(after.shape)} differ")
    return float((before != after.to(before.device)).double().mean())


@dataclass(frozen=True)
class _Source:
    """Where one layer's codes, signs and distances come from; float weights have no codes."""

    name: str
    method: Method | None
    weight: nn.Parameter | None

    def codes(self) -> Tensor | None:
        """The codes of evaluation: stochastic rounding would flip codes by itself."""
        if self.method is None:
            return None
        training = self.method.training
        self.method.training = False
        try:
            return self.method.codes()
        finally:
            self.method.training = training

    def format(self) -> Tensor:
        """The name of the codes' set as bytes, for a state of tensors."""
        return torch.tensor(list(self.method.format.name.encode()) if self.method else [], dtype=torch.uint8)

    def signs(self, codes: Tensor | None) -> Tensor:
        """int8, -1, 0 or 1."""
        if self.method is None or codes is None:
            assert self.weight is not None
            return self.weight.detach().sign().to(torch.int8)
        levels = torch.tensor(self.method.format.levels, dtype=torch.float64, device=codes.device)
        return levels.sign().to(torch.int8).index_select(0, codes.flatten().int()).view(codes.shape)

    def latents(self) -> list[Tensor]:
        """The trained tensors that have the weight's shape."""
        if self.method is None:
            assert self.weight is not None
            return [self.weight.detach()]
        return [t.detach() for t in self.method.latents().values() if tuple(t.shape) == self.method.shape]

    def distances(self) -> Tensor:
        """Of each weight to the nearest change of its code, in units of the latents."""
        if self.method is None:
            assert self.weight is not None
            return self.weight.detach().abs()
        return self.method.threshold_distance()


def _over_spread(distances: Tensor, latents: list[Tensor]) -> float | None:
    spread = torch.cat([t.double().flatten() for t in latents]).std(correction=0)
    return float(distances.double().mean() / spread) if spread > 0 else None


def _moved(before: list[Tensor] | None, latents: list[Tensor]) -> float | None:
    """Root mean square of the difference."""
    if before is None:
        return None
    squares = sum(
        float((a.double() - b.to(a.device).double()).square().sum()) for a, b in zip(latents, before, strict=True)
    )
    return (squares / sum(t.numel() for t in latents)) ** 0.5


def _steps(distances: Tensor, update: float | None) -> tuple[float, float, float] | None:
    """The quantiles of ``distances / update``, of every k-th weight where there are over a million."""
    if not update:
        return None
    some = distances.flatten()[:: max(1, distances.numel() >> 20)].double() / update
    low, middle, high = torch.quantile(some, some.new_tensor(QUANTILES)).tolist()
    return low, middle, high


class FlipTracker:
    """Records the codes of every :class:`Method` in ``model`` at each call and compares them with the call before.

    ``floats=True`` also follows the signs of float weights of two or more axes (``nn.Linear``, ``nn.Conv*``), to
    compare a shift network with its float twin. The tracker holds four bytes a weight; :meth:`state_dict` is all of it.
    """

    def __init__(self, model: nn.Module, *, floats: bool = False) -> None:
        self._sources = tuple(_sources(model, floats))
        self._codes: dict[str, Tensor] = {}
        self._signs: dict[str, Tensor] = {}
        self._first: dict[str, Tensor] = {}
        self._kept: dict[str, Tensor] = {}
        self._formats: dict[str, Tensor] = {}
        self._records = 0
        self._before: dict[str, list[Tensor]] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Module paths of the weights that are followed."""
        return tuple(source.name for source in self._sources)

    @torch.no_grad()
    def before_step(self) -> None:
        """Remember the latents until the next record, which then tells what the one step between moved."""
        self._before = {s.name: [t.clone() for t in s.latents()] for s in self._sources}

    @torch.no_grad()
    def record(self, label: int | None = None) -> FlipRecord:
        """Compare with the last record and remember the present; ``label`` (an epoch) defaults to a running number."""
        layers = []
        for source in self._sources:
            name, codes = source.name, source.codes()
            signs = source.signs(codes)
            first = self._first.setdefault(name, signs).to(signs.device)
            kept = self._kept.get(name, torch.ones_like(signs, dtype=torch.bool)).to(signs.device) & (signs == first)
            value_rate = None
            if codes is not None and name in self._codes and torch.equal(self._formats[name], source.format()):
                value_rate = change_rate(self._codes[name], codes)
            sign_rate = change_rate(self._signs[name], signs) if name in self._signs else None
            reversal_rate = None
            if name in self._signs:
                reversal_rate = float((self._signs[name].to(signs.device) * signs < 0).double().mean())
            latents, distances = source.latents(), source.distances()
            update = _moved(self._before.get(name), latents)
            layers.append(
                LayerFlips(
                    name=name,
                    count=signs.numel(),
                    value_rate=value_rate,
                    sign_rate=sign_rate,
                    never_flipped=float(kept.double().mean()),
                    distance=_over_spread(distances, latents),
                    reversal_rate=reversal_rate,
                    zeros=float((signs == 0).double().mean()),
                    update=update,
                    steps=_steps(distances, update),
                )
            )
            if codes is not None:
                self._codes[name], self._formats[name] = codes.clone(), source.format()
            self._signs[name], self._kept[name] = signs, kept
        self._before = {}
        label = self._records if label is None else int(label)
        self._records += 1
        return FlipRecord(label=label, layers=tuple(layers))

    def state_dict(self) -> dict[str, Tensor]:
        """Flat tensors that continue the records exactly after :meth:`load_state_dict`."""
        state = {"records": torch.tensor(self._records)}
        for role, tensors in self._roles():
            state |= {f"{role}/{name}": tensor.clone() for name, tensor in tensors.items()}
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over a state made for the same model; ValueError names what does not fit."""
        shapes = {s.name: tuple(s.method.shape if s.method else s.weight.shape) for s in self._sources}  # pyright: ignore[reportOptionalMemberAccess]
        fresh: dict[str, dict[str, Tensor]] = {role: {} for role, _ in self._roles()}
        for key, tensor in state.items():
            if key == "records":
                continue
            role, _, name = key.partition("/")
            shape = tuple(tensor.shape) if role != "format" else shapes.get(name)
            if role not in fresh or shapes.get(name) != shape or name not in shapes:
                raise ValueError(
                    f"flip tracker: state {key!r} of shape {tuple(tensor.shape)} does not fit this model, which has"
                    f" {shapes.get(name, 'no such weight')}; resume with the model that wrote it"
                )
            fresh[role][name] = tensor.clone()
        if "records" not in state:
            raise ValueError("flip tracker: the state has no 'records' entry; it is not a state of a FlipTracker")
        for role, tensors in self._roles():
            tensors.clear()
            tensors.update(fresh[role])
        for source in self._sources:  # a state of before formats were kept
            if source.name in self._codes:
                self._formats.setdefault(source.name, source.format())
        self._records = int(state["records"])

    def _roles(self) -> tuple[tuple[str, dict[str, Tensor]], ...]:
        return (
            ("codes", self._codes), ("signs", self._signs), ("first", self._first), ("kept", self._kept),
            ("format", self._formats),
        )  # fmt: skip


def _sources(model: nn.Module, floats: bool) -> Iterator[_Source]:
    seen: set[int] = set()
    inside: list[str] = []
    for path, module in model.named_modules():
        if isinstance(module, Method):
            inside.append(path + ".")
            yield _Source(path, module, None)
        elif floats and not path.startswith(tuple(inside)):
            for key, weight in module.named_parameters(recurse=False):
                if weight.ndim >= 2 and weight.is_floating_point() and id(weight) not in seen:
                    seen.add(id(weight))
                    yield _Source(f"{path}.{key}" if path else key, None, weight)


__all__ = ["QUANTILES", "FlipRecord", "FlipTracker", "LayerFlips", "change_rate"]

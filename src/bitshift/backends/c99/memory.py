"""The arena: where each value and each step's working memory lies, by lifetime; no two that live at once overlap."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from bitshift.backends.c99.layer import Code
from bitshift.backends.c99.program import Memory, Program, Step

ALIGN = 4


@dataclass(frozen=True, kw_only=True)
class Block:
    """``size`` bytes that are needed from step ``first`` to step ``last``, both included."""

    name: Memory
    size: int
    first: int
    last: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Where everything lies in the arena.

    Args:
        offsets: byte offset of each memory, and of a step's scratch under :func:`scratch_of` it; multiples of 4.
        size: bytes of the arena.
        bound: bytes that live at once in the fullest step: no plan is smaller.
        live: that sum by step.
        shared: memories that lie in another one's place, by name: the step's output in its input.
    """

    offsets: dict[Memory, int]
    size: int
    bound: int
    live: tuple[int, ...]
    shared: dict[Memory, Memory]

    @property
    def fullest(self) -> int:
        """The step in which most bytes live."""
        return max(range(len(self.live)), key=self.live.__getitem__) if self.live else 0


def scratch_of(step: Step) -> Memory:
    """The key of ``step``'s scratch memory: a pair, as any name may be that of a value."""
    return step.name, "scratch"


def plan(program: Program, codes: Mapping[str, Code]) -> Plan:
    """The smallest arena that a few orders of placing find; ``codes`` by the name of the step."""
    last = {memory: i for i, step in enumerate(program.steps) for memory in step.inputs}
    shared = _shared(program, codes, last)
    blocks = _blocks(program, codes, last, shared)
    found = min((_place(sorted(blocks, key=order)) for order in ORDERS), key=_top)
    offsets = {name: at for name, (at, _) in found.items()}
    for name in shared:
        offsets[name] = offsets[_root(shared, name)]
    live = tuple(sum(b.size for b in blocks if b.first <= i <= b.last) for i in range(len(program.steps)))
    return Plan(offsets=offsets, size=_top(found), bound=max(live, default=0), live=live, shared=shared)


ORDERS: tuple[Callable[[Block], tuple[int, ...]], ...] = (
    lambda b: (-b.size, b.first),
    lambda b: (b.first - b.last, -b.size),
    lambda b: (b.first, -b.size),
    lambda b: (-(b.last - b.first + 1) * b.size, b.first),
)


def _root(shared: Mapping[Memory, Memory], name: Memory) -> Memory:
    while name in shared:
        name = shared[name]
    return name


def _shared(program: Program, codes: Mapping[str, Code], last: Mapping[Memory, int]) -> dict[Memory, Memory]:
    """Outputs that take the place of an input that nobody reads afterwards, where the step's code allows it."""
    shared: dict[Memory, Memory] = {}
    taken: set[Memory] = set()
    for i, step in enumerate(program.steps):
        if step.output in program.external:
            continue
        allowed = codes[step.name].in_place
        for at in sorted(allowed):
            if at < len(step.inputs) and _may_share(program, step, at, allowed, last[step.inputs[at]] == i, taken):
                shared[step.output] = step.inputs[at]
                taken.add(step.inputs[at])
                break
    return shared


def _may_share(
    program: Program, step: Step, at: int, allowed: Collection[int], dies: bool, taken: Collection[Memory]
) -> bool:
    memory = step.inputs[at]
    # What is read as another input, too, is written over only where that input allows it likewise.
    every = all(i in allowed for i, name in enumerate(step.inputs) if name == memory)
    size = step.ports[at].type.dtype.itemsize
    same = step.y.type.dtype.itemsize == size and step.y.shape == step.ports[at].shape
    return dies and every and same and memory not in program.external and memory not in taken


def _blocks(
    program: Program, codes: Mapping[str, Code], last: Mapping[Memory, int], shared: Mapping[Memory, Memory]
) -> list[Block]:
    lives: dict[Memory, list[int]] = {}
    for i, step in enumerate(program.steps):
        if step.output not in program.external:
            lives.setdefault(_root(shared, step.output), []).extend((i, last.get(step.output, i)))
    blocks = [
        Block(name=name, size=_aligned(program.sizes[name]), first=min(times), last=max(times))
        for name, times in lives.items()
    ]
    for i, step in enumerate(program.steps):
        if codes[step.name].scratch:
            size = _aligned(codes[step.name].scratch)
            blocks.append(Block(name=scratch_of(step), size=size, first=i, last=i))
    return blocks


def _aligned(size: int) -> int:
    return -(-size // ALIGN) * ALIGN


Placed = dict[Memory, tuple[int, Block]]


def _top(placed: Placed) -> int:
    return max((at + block.size for at, block in placed.values()), default=0)


def _place(blocks: list[Block]) -> Placed:
    """Each block in turn in the smallest gap between those that live with it, or, without one, above them."""
    placed: Placed = {}
    for block in blocks:
        neighbours = sorted(
            (at, at + other.size)
            for at, other in placed.values()
            if other.first <= block.last and block.first <= other.last
        )
        best, room, top = -1, 0, 0
        for begin, end in neighbours:
            gap = begin - top
            if gap >= block.size and (best < 0 or gap < room):
                best, room = top, gap
            top = max(top, end)
        placed[block.name] = (best if best >= 0 else top, block)
    return placed


__all__ = ["Plan", "plan", "scratch_of"]

"""The least damage under a budget: a multiple-choice knapsack."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BUCKETS = 20_000
"""Steps into which the budget is cut: costs are rounded up to a step, so the choice never exceeds the budget."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """``picked[i]`` is the option of item i; ``damage`` and ``cost`` are the sums over the items."""

    picked: tuple[int, ...]
    damage: float
    cost: float


def choose(damage: np.ndarray, cost: np.ndarray, budget: float) -> Choice:
    """One option for each item so that the sum of ``damage`` is least while the sum of ``cost`` is at most ``budget``.

    Exact but for the rounding of costs to 1 / 20,000 of what the budget leaves above the cheapest options; what that
    rounding leaves over is spent afterwards on the best single change that still fits, again and again.

    Args:
        damage: float (items, options), finite.
        cost: of the same shape, finite and not negative.
        budget: in the unit of ``cost``.

    Raises:
        ValueError: shapes that differ, values or a budget that are not finite, or one below the cheapest options.
    """
    damage, cost = np.asarray(damage, dtype=np.float64), np.asarray(cost, dtype=np.float64)
    if damage.shape != cost.shape or damage.ndim != 2 or not damage.size:
        raise ValueError(f"damage {damage.shape} and cost {cost.shape} must be equal (items, options), not empty")
    if not np.isfinite(damage).all() or not np.isfinite(cost).all() or (cost < 0).any():
        raise ValueError("damage and cost must be finite, and costs not negative")
    if not np.isfinite(budget):
        raise ValueError(f"the budget is {budget}; allowed: a finite number in the unit of the costs")
    least = cost.min(axis=1)
    spare = budget - least.sum()
    if spare < -1e-9 * max(1.0, abs(budget)):
        raise ValueError(f"the budget {budget:.6g} is below {least.sum():.6g}, the cost of the cheapest options")
    spare = max(spare, 0.0)
    unit = spare / BUCKETS
    extra = cost - least[:, None]
    # tiny tolerance: a cost that is a whole number of steps must not be rounded to one more
    with np.errstate(over="ignore"):  # a budget one ulp above the least: more steps than an integer holds
        wanted = np.ceil(extra / unit - 1e-9) if unit else np.where(extra > 0, np.inf, 0)
    steps = np.minimum(wanted, BUCKETS + 1).astype(np.int64)
    best = np.zeros(BUCKETS + 1)
    picks = np.empty((len(cost), BUCKETS + 1), dtype=np.int16)
    for item in range(len(cost)):
        reached = np.full(BUCKETS + 1, np.inf)
        for option in range(cost.shape[1]):
            weight = steps[item, option]
            if weight > BUCKETS:
                continue
            found = np.full(BUCKETS + 1, np.inf)
            found[weight:] = best[: BUCKETS + 1 - weight] + damage[item, option]
            better = found < reached
            reached[better] = found[better]
            picks[item, better] = option
        best = reached
    at, picked = BUCKETS, []
    for item in reversed(range(len(cost))):
        option = int(picks[item, at])
        picked.append(option)
        at -= int(steps[item, option])
    chosen = np.array(picked[::-1])
    _spend(chosen, damage, cost, budget)
    items = np.arange(len(cost))
    return Choice(
        picked=tuple(chosen.tolist()), damage=float(damage[items, chosen].sum()), cost=float(cost[items, chosen].sum())
    )


def _spend(chosen: np.ndarray, damage: np.ndarray, cost: np.ndarray, budget: float) -> None:
    """Change ``chosen`` by the single options that lower the damage most and still fit."""
    items = np.arange(len(cost))
    while True:
        left = budget - cost[items, chosen].sum()
        gain = damage[items, chosen][:, None] - damage
        more = cost - cost[items, chosen][:, None]
        gain[more > left] = 0.0
        item, option = np.unravel_index(int(gain.argmax()), gain.shape)
        if gain[item, option] <= 0:
            return
        chosen[item] = option


__all__ = ["BUCKETS", "Choice", "choose"]

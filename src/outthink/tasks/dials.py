"""Difficulty dials: from one scalar to the settings of a family, smoothly, with overrides by keyword."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

from outthink.core.errors import TaskError

D = TypeVar("D")
T = TypeVar("T")


def linear(low: float, high: float, difficulty: float) -> float:
    """``low`` at difficulty 0, ``high`` at 1, a straight line between."""
    return low + (high - low) * difficulty


def geometric(low: float, high: float, difficulty: float) -> float:
    """``low`` at difficulty 0, ``high`` at 1, a constant ratio between equal steps; both ends positive."""
    return low * (high / low) ** difficulty


def whole(rng: random.Random, value: float) -> int:
    """``value`` rounded down or up by chance, so that its mean is ``value``; draws one number from ``rng``.

    A dial that counts something may thus be fractional, and accuracy falls smoothly with difficulty.
    """
    floor = int(value)
    return floor + (rng.random() < value - floor)


def shuffled(rng: random.Random, items: Iterable[T]) -> list[T]:
    """``items`` in random order, several times faster than ``rng.shuffle``; draws one number for each."""
    return sorted(items, key=lambda _: rng.random())


def some(rng: random.Random, items: Iterable[T], count: int) -> list[T]:
    """``count`` of ``items`` in random order, without repetition; draws one number for each."""
    pool = list(items)
    for place in range(count):
        other = place + int(rng.random() * (len(pool) - place))
        pool[place], pool[other] = pool[other], pool[place]
    return pool[:count]


def override(dials: D, changes: Mapping[str, Any]) -> D:
    """``dials`` with ``changes`` made to it; a TaskError names the known dials where one is not among them."""
    for name in changes:
        known = [item.name for item in fields(dials)]  # type: ignore[arg-type]
        if name not in known:
            raise TaskError(f"Unknown dial '{name}' of {type(dials).__name__}. Known: {', '.join(known)}.")
    return replace(dials, **changes) if changes else dials  # type: ignore[type-var]


def within(dial: str, value: float, low: float, high: float) -> None:
    """Nothing where ``low <= value <= high``, else a TaskError that names the dial and its range."""
    if not low <= value <= high:
        raise TaskError(f"Dial '{dial}' is {value!r}: give a number from {low:g} to {high:g}.")

"""The task families by name: ours, and those that installed plugins add under the entry point ``outthink.tasks``."""

from __future__ import annotations

from functools import cache

from outthink.core.registry import Registry
from outthink.tasks.problem import Family, Problem

FAMILIES: Registry[type[Family]] = Registry(
    "task family",
    "outthink.tasks",
    {
        "arithmetic": "outthink.tasks.arithmetic:Arithmetic",
    },
)


@cache
def get_family(name: str) -> Family:
    """The family called ``name``; an UnknownNameError lists the known ones."""
    return FAMILIES.get(name)()


def family_names() -> list[str]:
    """Every known family."""
    return FAMILIES.names()


def read_problem(prompt: str) -> Problem | None:
    """The problem that ``prompt`` states, by the first family that recognises it, or None."""
    for name in family_names():
        if (problem := get_family(name).read(prompt)) is not None:
            return problem
    return None

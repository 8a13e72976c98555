"""The registry of task families: built-in ones by module path, a user's own by the entry-point group `outthink.tasks`.

A plugin names a class without constructor arguments (or an instance) that follows the `Family` protocol.
"""

from __future__ import annotations

from functools import cache

from outthink.core.registry import Registry
from outthink.tasks.problem import Family, Problem

FAMILIES: Registry[type[Family] | Family] = Registry(
    "task family",
    "outthink.tasks",
    {
        "algorithms": "outthink.tasks.algorithms:Algorithms",
        "arithmetic": "outthink.tasks.arithmetic:Arithmetic",
        "calculator": "outthink.tasks.calculator:Calculator",
        "constraints": "outthink.tasks.constraints:Constraints",
        "countdown": "outthink.tasks.countdown:Countdown",
        "deduction": "outthink.tasks.deduction:Deduction",
        "paths": "outthink.tasks.paths:Paths",
        "procedures": "outthink.tasks.procedures:Procedures",
        "recall": "outthink.tasks.recall:Recall",
        "sequences": "outthink.tasks.sequences:Sequences",
    },
)


def family_names() -> list[str]:
    """The names of all families, plugins included, in alphabetical order; imports none of them."""
    return FAMILIES.names()


@cache
def get_family(name: str) -> Family:
    """The family called ``name``, its module imported now; raises UnknownNameError, which lists the known names."""
    found = FAMILIES.get(name)
    return found() if isinstance(found, type) else found


def read_problem(prompt: str) -> Problem | None:
    """The problem that ``prompt`` states, by the first family in alphabetical order that recognises it, else None."""
    for name in family_names():
        problem = get_family(name).read(prompt)
        if problem is not None:
            return problem
    return None

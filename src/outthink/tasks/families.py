"""The registry of task families: built-in ones by module path, a user's own by the entry-point group `outthink.tasks`.

A plugin names a class without constructor arguments (or an instance) that follows the `Family` protocol.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from outthink.core.errors import PluginError
from outthink.core.registry import Registry
from outthink.tasks.problem import Family, Problem

MAX_PROMPT = 4000
"""Characters above which no text is taken for a problem: several times the longest of any family's, and below the 4,300
digits at which Python refuses to read a number."""


def check_family(name: str, found: Any) -> None:
    """Raise PluginError unless ``found`` is a `Family` called ``name``, or a class of such."""
    made = found() if isinstance(found, type) else found
    parts = ("name", "summary", "generate", "check", "extendable", "rerender", "read")
    if missing := [part for part in parts if not hasattr(made, part)]:
        raise PluginError(f"it is no task family: it lacks {', '.join(missing)}")
    if made.name != name:
        raise PluginError(f"its name is '{made.name}'; the entry point must have the same name")


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
    check_family,
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
    """The problem that ``prompt`` states, by the first family in alphabetical order that recognises it, else None.

    None too above `MAX_PROMPT` characters: what a stranger sent must not keep a pattern busy, and no family comes near.
    Families of broken plugins are left out; `outthink tasks` says what is wrong with them.
    """
    if len(prompt) > MAX_PROMPT:
        return None
    for name in FAMILIES.usable():
        problem = get_family(name).read(prompt)
        if problem is not None:
            return problem
    return None

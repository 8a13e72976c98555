"""One hierarchy of errors. A message says what was wrong, where, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class OutthinkError(Exception):
    """Base of every error that Outthink raises on purpose."""


class UserError(OutthinkError):
    """The caller can mend it: a bad value, an unknown name, a broken file. Commands exit with code 2."""


class BudgetError(UserError):
    """A budget that cannot be read, or that is negative."""


class CheckpointError(UserError):
    """A model directory that cannot be loaded; the message names the file and the tensor."""


class PromptError(UserError):
    """A prompt that is empty, or that does not fit into the model's context or the page pool."""


class TaskError(UserError):
    """A task family, difficulty or problem text that cannot be used."""


class SamplingError(UserError):
    """A sampling or stopping option outside its range."""


class BranchClosedError(OutthinkError):
    """A closed branch was extended or scored. Keep a branch open for as long as it is needed."""


class CapabilityError(UserError):
    """A strategy needs something that this language model or verifier does not offer."""


class PluginError(UserError):
    """An installed plugin that cannot be used; the message names its distribution and what is wrong with it."""


class EngineError(OutthinkError):
    """The engine stopped, and every request in flight gets this error; or it could not compute this one request."""


class UnknownNameError(UserError):
    """A name that is in no registry; the message lists the known ones."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        near = get_close_matches(name, names, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        super().__init__(f"Unknown {kind} '{name}'.{hint} Known: {', '.join(names)}.")
        self.kind, self.name, self.known = kind, name, names

"""Checks of the options of searches, before anything is spent."""

from __future__ import annotations

from outthink.core.errors import UserError


def at_least(least: float, /, **options: float | None) -> None:
    """Raise UserError for an option below ``least``; None stands for no limit."""
    for name, value in options.items():
        if value is not None and not value >= least:
            raise UserError(f"{name}={value} must be at least {least:g}.")

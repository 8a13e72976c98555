"""The command line. Commands import what they need when they run, so that help and mistakes answer at once."""

from __future__ import annotations

from io import TextIOWrapper


def main() -> None:
    """Entry point of the ``outthink`` console script. Exit codes: 0, 1 for failures, 2 for mistakes, 130 for ctrl-C."""
    import os
    import sys

    if sys.stdin is None:  # closed by whoever started us
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115  for as long as the program runs
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    try:
        from outthink.cli.app import app
    except KeyboardInterrupt:
        sys.exit(130)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal that cannot write a character shows a stand-in
            stream.reconfigure(errors="replace")
    app(prog_name="outthink")

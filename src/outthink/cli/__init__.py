"""The command line. Commands import what they need when they run, so that help and mistakes answer at once."""

from __future__ import annotations

from io import TextIOWrapper


def main() -> None:
    """Entry point of the ``outthink`` console script. Exit codes: 0, 1 for failures, 2 for mistakes, 130 for ctrl-C."""
    import sys

    from outthink.cli.app import app

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal that cannot write a character shows a stand-in
            stream.reconfigure(errors="replace")
    app(prog_name="outthink")

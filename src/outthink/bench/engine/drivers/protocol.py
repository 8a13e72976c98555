"""The conversation of the benchmark with a runner. Runs in every runner's environment: the standard library alone.

One JSON object a line. The first request is ``load``; every answer has ``ok``, and ``error`` where that is false.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, Protocol


class Runner(Protocol):
    """A model that does workloads. Each returns the seconds of the timed part and the tokens that were drawn."""

    def decode(self, prompts: list[list[int]], new_tokens: int) -> tuple[float, list[list[int]]]:
        """Compute the prompts; timed: ``new_tokens`` steps over all. The tokens drawn, one more for each sequence."""
        ...

    def prefill(self, prompt: list[int]) -> tuple[float, list[list[int]]]:
        """Timed: the prompt, up to its last position's likeliest token."""
        ...

    def branches(self, prompt: list[int], firsts: list[int], new_tokens: int) -> tuple[float, list[list[int]]]:
        """Timed: the prompt, then a continuation that begins with each of ``firsts``, of ``new_tokens`` more."""
        ...


def serve(load: Callable[[dict[str, Any]], Any], packages: tuple[str, ...]) -> None:
    """Answer requests until stdin ends. ``load`` makes the runner of a ``load`` request: a `Runner`, or whatever has a
    method, from named values to a JSON object, for each operation that it is asked for.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not get between the answers
    runner: Any = None
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            operation = asked.pop("op")
            if operation == "load":
                runner = load(asked)
                answer = {"versions": {name: version(name) for name in packages}, **getattr(runner, "told", {})}
            elif operation in ("decode", "prefill", "branches"):
                seconds, tokens = getattr(runner, operation)(**asked)
                answer = {"seconds": seconds, "tokens": tokens}
            else:
                answer = getattr(runner, operation)(**asked)
            answer["ok"] = True
        except Exception as error:  # noqa: BLE001  whatever it is, the other end reports it
            traceback.print_exc()
            answer = {"ok": False, "error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

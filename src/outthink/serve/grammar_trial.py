"""A process of its own that tries a grammar out, so that one without end takes nobody else's time or memory.

Reads ``{"grammar", "cpu_seconds", "memory_bytes", "limits"}`` from standard input; writes what llguidance has against
the grammar to standard output, nothing where it has nothing. Run it as a file: it imports nothing of Outthink.
"""

from __future__ import annotations

import json
import random
import resource
import sys
from typing import Any

STEPS = 48


def main() -> None:
    """Compile the grammar, and write some random text by it."""
    asked = json.load(sys.stdin)
    for which, most in ((resource.RLIMIT_CPU, asked["cpu_seconds"]), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(which, (most, most))
    if sys.platform == "linux":  # elsewhere address space cannot be bounded
        resource.setrlimit(resource.RLIMIT_AS, (asked["memory_bytes"],) * 2)
    sys.stdout.write(_trouble(asked["grammar"], asked["limits"]))


def _trouble(grammar: str, limits: dict[str, Any]) -> str:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

    matcher = LLMatcher(LLTokenizer("byte"), grammar, log_level=0, limits=LLParserLimits(**limits))
    rng = random.Random(0)
    for _ in range(STEPS):
        if matcher.is_error():
            return matcher.get_error() or "error"
        if matcher.is_stopped():
            return ""
        mask = int.from_bytes(matcher.compute_bitmask(), "little")
        allowed = [token for token in range(256) if mask >> token & 1]
        if not matcher.is_error() and not allowed:
            return ""
        if not matcher.is_error():
            matcher.consume_token(rng.choice(allowed))
    return matcher.get_error() if matcher.is_error() else ""


if __name__ == "__main__":
    main()

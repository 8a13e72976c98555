"""Log-probabilities of given text, from a server that echoes its prompt with them."""

from __future__ import annotations

import math
from typing import Any

from outthink.core.budget import Ledger
from outthink.core.errors import CapabilityError
from outthink.core.sampling import Sampling, Until
from outthink.lm.remote.errors import UnusableResponseError
from outthink.lm.remote.meter import Meter
from outthink.lm.remote.prefix import Prefix
from outthink.lm.remote.server import Server
from outthink.lm.remote.wire import read, request

GREEDY = Sampling(temperature=0.0)


async def score(server: Server, prefix: Prefix, text: str, ids: tuple[int, ...] | None, ledger: Ledger) -> list[float]:
    """The log-probability of each token of ``text`` (``ids``, where they are known) after ``prefix``.

    By text, the server's tokenizer decides where tokens end: one that reaches over from the prefix into the text counts
    as the text's first. A server draws one token more than it is asked about, which is billed. Empty where the budget
    does not pay for all of it: nothing is sent then. Raises CapabilityError where the server does not echo.
    """
    route = server.route(prefix)
    if not route.echoes:
        raise CapabilityError(f"{server.name} gives no log-probabilities of a prompt, and so cannot score given text.")
    whole = prefix.then(text, ids, None if ids is None else len(ids), drawn=False)
    if ledger.exhausted:
        return []
    if ledger.tokens_left < math.inf:
        await server.learn(whole)
    known = whole.surely_cached if route.caches else 0
    least = max(0, whole.most - known) + 1
    deposit = await server.bank.take(ledger, least, least)
    try:
        if deposit.left < least or (server.flops and ledger.flops_left < least * server.flops):
            return []
        prompt = whole.prompt(route.token_ids)
        body = request(route, server.capabilities.model, prompt, 1, 1, Until(), GREEDY, 0) | {"echo": True}
        for name in route.stream or {}:
            body.pop(name)
        meter = Meter(ledger, whole, deposit, server.flops)
        answer = await server.client.post(route.path, body)
        reading = read(answer)
        meter.report(reading.usage)
        meter.close()
        whole.learn(reading.prompt_ids, None)
        log_probs = _by_id(answer, len(prompt), len(ids)) if ids is not None and isinstance(prompt, list) else None
        return _by_text(answer, prefix.text or "", text) if log_probs is None else log_probs
    finally:
        deposit.close()


def _by_id(answer: Any, length: int, wanted: int) -> list[float]:
    """The last ``wanted`` of the ``length`` tokens of the prompt."""
    values = _field(answer, "token_logprobs")
    return _numbers(values[length - wanted : length], wanted)


def _by_text(answer: Any, prefix: str, text: str) -> list[float]:
    """The tokens of the echoed prompt that end within ``text``, after ``prefix``."""
    values, offsets = _field(answer, "token_logprobs"), _field(answer, "text_offset")
    usage = answer.get("usage")
    drawn = usage.get("completion_tokens", 1) if isinstance(usage, dict) else 1
    length = len(values) - drawn
    echoed = answer["choices"][0].get("text") or ""
    # A begin token that is spelled out shifts every offset; the end of the prompt shows by how much.
    end = offsets[length] if drawn and length < len(offsets) else len(echoed)
    start = end - len(text)
    ends = [*offsets[1:length], end]
    first = next((i for i in range(length) if offsets[i] >= start or ends[i] > start), length)
    return _numbers(values[first:length], None)


def _field(answer: Any, name: str) -> list[Any]:
    log_probs = answer["choices"][0].get("logprobs") or {}
    values = log_probs.get(name) if isinstance(log_probs, dict) else None
    if not isinstance(values, list):
        raise UnusableResponseError(
            f"The server was asked to echo its prompt with log-probabilities, and sent no {name}."
        )
    return values


def _numbers(values: list[Any], wanted: int | None) -> list[float]:
    if any(not isinstance(value, int | float) for value in values) or (wanted is not None and len(values) != wanted):
        raise UnusableResponseError(f"The server's log-probabilities of the prompt are incomplete: {values!r:.80}.")
    return [min(0.0, float(value)) for value in values]

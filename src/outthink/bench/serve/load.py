"""Load of our own making: so many streams at once, each asking again as soon as it is answered.

Every gap between two chunks is kept, so that latencies are those of tokens, not means of requests.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from outthink.bench.serve.servers import Server

REQUEST_S = 600.0


@dataclass(frozen=True)
class Shape:
    """What one request asks: a prompt of about ``prompt_tokens``, and exactly ``output_tokens``."""

    prompt_tokens: int = 128
    output_tokens: int = 64


@dataclass
class Tally:
    """What came of requests. Times in seconds: ``first`` to the first token, ``gaps`` between two chunks, ``whole`` to
    the end. ``tokens`` are those of ``seconds`` of load: of requests that ended later, the part that came before. They
    are what the server counted, or one for each chunk where it does not tell.
    """

    first: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    dropped: int = 0
    tokens: int = 0
    seconds: float = 0.0


def run_load(
    server: Server,
    streams: int,
    seconds: float,
    shape: Shape,
    seed: int,
    *,
    drop_every: int = 0,
    progress: Callable[[float], None] = lambda _: None,
) -> Tally:
    """Load a server for so many seconds, then wait for what is in flight; no prompt is sent twice.

    ``drop_every`` k: the client of every k-th request leaves after its first token (0: of none).
    """
    return asyncio.run(_run(server, streams, seconds, shape, seed, drop_every, progress))


async def _run(
    server: Server,
    streams: int,
    seconds: float,
    shape: Shape,
    seed: int,
    drop_every: int,
    progress: Callable[[float], None],
) -> Tally:
    import httpx

    tally, texts, begun = Tally(), prompts(shape.prompt_tokens, seed), 0
    limits = httpx.Limits(max_connections=streams)
    async with httpx.AsyncClient(base_url=server.url, timeout=REQUEST_S, limits=limits) as client:
        start = perf_counter()
        end = start + seconds

        async def one_stream() -> None:
            nonlocal begun
            while perf_counter() < end:
                begun += 1
                dropped = drop_every > 0 and begun % drop_every == 0
                try:
                    await _ask(client, server, next(texts), shape, tally, end, dropped)
                except (httpx.HTTPError, ValueError, KeyError, IndexError) as error:
                    tally.errors.append(f"{type(error).__name__}: {error}"[:200])

        async def tell() -> None:
            while True:
                progress(min(seconds, perf_counter() - start))
                await asyncio.sleep(0.5)

        telling = asyncio.create_task(tell())
        try:
            await asyncio.gather(*(one_stream() for _ in range(streams)))
        finally:
            telling.cancel()
    tally.seconds = seconds
    return tally


async def _ask(client: Any, server: Server, prompt: str, shape: Shape, tally: Tally, end: float, dropped: bool) -> None:
    """One request; its tokens count as long as they come before ``end``."""
    body = {"model": server.model, "prompt": prompt, "max_tokens": shape.output_tokens, "temperature": 1.0}
    body |= {**server.asks, "stream": True, "stream_options": {"include_usage": True}}
    asked = perf_counter()
    before, chunks, in_time, told = asked, 0, 0, None
    async with client.stream("POST", "/v1/completions", json=body) as response:
        if response.status_code != 200:
            said = (await response.aread()).decode(errors="replace")
            tally.errors.append(f"{response.status_code}: {said}"[:200])
            await asyncio.sleep(0.1)
            return
        async for line in response.aiter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            event = json.loads(line[6:])
            if "error" in event:
                tally.errors.append(f"in the stream: {event['error']}"[:200])
                return
            told = (event.get("usage") or {}).get("completion_tokens", told)
            if not event["choices"]:
                continue
            now = perf_counter()
            (tally.gaps if chunks else tally.first).append(now - before)
            before, chunks = now, chunks + 1
            in_time += now < end
            if dropped:
                break
    tally.dropped += dropped
    if not chunks:
        tally.errors.append("an answer without a token")
        return
    tally.tokens += in_time if told is None else round(told * in_time / chunks)
    if not dropped:
        tally.whole.append(perf_counter() - asked)


def prompts(tokens: int, seed: int) -> Any:
    """Texts of about so many tokens, no two alike: sums of numbers, a token for each digit and for each plus."""
    draw = random.Random(seed)
    while True:
        text = f"compute {draw.randrange(10, 100)}"
        for _ in range(max(0, tokens - 4) // 3):
            text += f" + {draw.randrange(10, 100)}"
        yield text

"""Work done at once, so that none of it is left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


async def together(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results in the order of ``work``, which begins in that order. What one raises, this raises; by then the
    others are cancelled and over.
    """
    tasks = [asyncio.ensure_future(part) for part in work]
    if not tasks:
        return []
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:  # each is cancelled once only: a second time would interrupt what it does to clean up
        for task in tasks:
            if not task.done():
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    errors = [task.exception() for task in tasks if not task.cancelled()]
    for error in filter(None, errors):
        raise error
    return [task.result() for task in tasks]

"""Batches: files of requests that are worked off beside everything else, and taken up again after a kill."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection
from contextvars import Context
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from fastapi import FastAPI
from pydantic import Field, StringConstraints

from outthink.serve.batch_store import UNFINISHED, Batch, BatchStore
from outthink.serve.database import MAX_DEATHS
from outthink.serve.failures import ApiError
from outthink.serve.gate import Gate
from outthink.serve.row_source import RowSource, Survey, survey
from outthink.serve.rows import Endpoint, run_row, undone
from outthink.serve.schema import Name, Strict
from outthink.serve.service import Service
from outthink.serve.shares import Shares
from outthink.serve.stored import Stored

WINDOW = 24 * 3600
MAX_BATCHES = 64
MAX_OUTPUT = 256 << 20
MAX_READ = 2
"""Batches whose whole file, or all of whose results, are in memory at once; one of each tenant."""
RETRY_SECONDS = 60
log = logging.getLogger("outthink.serve")


class BatchRequest(Strict):
    """``POST /v1/batches``."""

    input_file_id: Name
    endpoint: Endpoint
    completion_window: Literal["24h"]
    metadata: (
        Annotated[
            dict[
                Annotated[str, StringConstraints(max_length=64)],
                Annotated[str, StringConstraints(max_length=512)],
            ],
            Field(max_length=16),
        ]
        | None
    ) = None


@dataclass
class Work:
    """A batch that this process works on. ``rows``: the task that works off its rows, once there is one; ``bytes``:
    how large its results are together; ``deaths``: of processes that got no further with it.
    """

    batch: Batch
    details: dict[str, Any]
    task: asyncio.Task[None] | None = None
    rows: asyncio.Task[None] | None = None
    cancelled: bool = False
    bytes: int = 0
    deaths: int = 0


@dataclass
class Batches:
    """The batches of a server. `start` takes up those that a former process left unfinished."""

    service: Service
    store: BatchStore
    stored: Stored
    app: FastAPI
    working: dict[str, Work] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Half of the places stay for those who wait for an answer.
        self.places = max(1, min(self.service.config.max_rows, self.service.config.max_running // 2))
        self._places = Gate(self.places)
        self._files = Gate(MAX_READ, max_each=1)
        self._shares = Shares("batches", MAX_BATCHES)

    async def start(self) -> None:
        """Go on with what is unfinished."""
        for batch in await asyncio.to_thread(self.store.adopted, self.service.name):
            self._launch(batch)

    async def create(self, tenant: str, request: BatchRequest) -> Batch:
        """Begin a batch. Raises ApiError 404 for an unknown file, 429 where too many are unfinished, most of them this
        tenant's, 503 where the server stops.
        """
        self.service.gate.refuse_if_closing()
        if await self.stored.ask(self.store.file, request.input_file_id, tenant) is None:
            raise ApiError(404, "There is no such file.", param="input_file_id", code="not_found")
        details = {
            "completion_window": request.completion_window,
            "expires_at": int(time.time()) + WINDOW,
            "metadata": request.metadata,
        }
        arguments = (tenant, self.service.name, request.input_file_id, request.endpoint, details)
        with self._shares.adding(tenant, RETRY_SECONDS):
            batch = await self.stored.ask(self.store.add, *arguments)
            self._launch(batch)
        return batch

    async def get(self, batch_id: str, tenant: str) -> dict[str, Any]:
        """A batch as clients see it. Raises ApiError 404."""
        batch = await self.stored.ask(self.store.get, batch_id, tenant)
        if batch is None:
            raise ApiError(404, "There is no such batch.", code="not_found")
        shown = batch.to_json()
        if batch.status in UNFINISHED:
            completed, failed = await self.stored.ask(self.store.counts, batch_id)
            shown["request_counts"] = {**shown["request_counts"], "completed": completed, "failed": failed}
        return shown

    async def cancel(self, batch_id: str, tenant: str) -> dict[str, Any]:
        """Stop a batch and free its pages; what is finished of it becomes its output. One that is over stays."""
        work = self.working.get(batch_id)
        if work is not None and work.batch.tenant == tenant:
            work.cancelled = True
            work.details.setdefault("cancelling_at", int(time.time()))
            if work.rows is not None:
                work.rows.cancel()
                await asyncio.gather(work.rows, return_exceptions=True)
            await self.stored.ask(self.store.set, batch_id, "cancelling", work.details)
        return await self.get(batch_id, tenant)

    async def close(self) -> None:
        """Stop working; what is unfinished stays in the store, for the next process to take up."""
        tasks = [work.task for work in self.working.values() if work.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _launch(self, batch: Batch) -> None:
        work = self.working[batch.id] = Work(
            batch, dict(batch.details), cancelled=batch.status == "cancelling", deaths=batch.deaths or 0
        )
        self._shares.add(batch.tenant)
        # In a context of its own: the moments and spans of the request that began it end with that request.
        work.task = asyncio.create_task(self._run(work), context=Context())
        work.task.add_done_callback(lambda task: self._over(batch.id, task))

    def _over(self, batch_id: str, task: asyncio.Task[None]) -> None:
        self._shares.remove(self.working.pop(batch_id).batch.tenant)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("batch %s waits for the next start of the server", batch_id, exc_info=error)

    async def _run(self, work: Work) -> None:
        """Read, check, work off, and end: each step can be done again where a kill came in between."""
        tenant = work.batch.tenant
        async with self._files.admitted(tenant):
            found, done = await self._look(work)
        if found.faults:
            return
        if work.deaths >= MAX_DEATHS:
            told = {"code": "fatal", "message": f"The server died {MAX_DEATHS} times over the next rows.", "line": None}
            work.details["errors"] = {"object": "list", "data": [{**told, "param": None}]}
            status = "failed"
        else:
            status = await self._work_off(work, found, done)
        if status is not None:
            async with self._files.admitted(tenant):
                await self._finish(work, status, found)

    async def _look(self, work: Work) -> tuple[Survey, set[int]]:
        """What is in the file, and the rows that are done; one with faults is failed, one that is new is begun."""
        batch, fresh = work.batch, work.batch.status == "validating"
        content = await self.stored.insist(self.store.content, batch.input_file, batch.tenant)
        service = self.service if fresh else None
        found = await asyncio.to_thread(survey, content or b"", batch.endpoint, service)
        del content
        if found.faults:
            work.details["errors"] = {"object": "list", "data": [fault.to_json() for fault in found.faults]}
            work.details["failed_at"] = int(time.time())
            await self.stored.insist(self.store.set, batch.id, "failed", work.details)
            return found, set()
        outline = await self.stored.insist(self.store.outline, batch.id)
        done, work.bytes = {number for number, _, _ in outline}, sum(size for _, _, size in outline)
        if fresh:
            refused, found.refused = found.refused, []
            new = [result for result in refused if result.number not in done]
            await self.stored.insist(self.store.add_results, batch.id, new)
            done |= {result.number for result in refused}
            work.details |= {"request_counts": {"total": len(found), "completed": 0, "failed": 0}}
            work.details.setdefault("in_progress_at", int(time.time()))
            await self.stored.insist(self.store.set, batch.id, "in_progress", work.details)
        return found, done

    def _source(self, work: Work, found: Survey, done: Collection[int]) -> RowSource:
        async def piece(start: int, size: int) -> bytes:
            batch = work.batch
            return await self.stored.insist(self.store.piece, batch.input_file, batch.tenant, start, size)

        return RowSource(found, done, piece)

    async def _work_off(self, work: Work, found: Survey, done: Collection[int]) -> str | None:
        """Answer what is not ``done``; says how that ended, None where the server or its engine stops first."""
        if not work.cancelled:
            rows = self._source(work, found, done)
            work.rows = asyncio.create_task(self._answer_all(work, rows, len(found) - len(done)))
            left = work.details["expires_at"] - time.time()
            try:
                await asyncio.wait((work.rows,), timeout=max(0.0, left))
                if not work.rows.done():
                    return "expired"
                if not work.rows.cancelled():
                    work.rows.result()
            finally:
                work.rows.cancel()
                await asyncio.gather(work.rows, return_exceptions=True)
        if work.cancelled:
            return "cancelled"
        return None if self.service.gate.closing or self.service.model.engine.broken else "completed"

    async def _answer_all(self, work: Work, rows: RowSource, num_left: int) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(self.places, num_left)):
                group.create_task(self._answer_some(work, rows))

    async def _answer_some(self, work: Work, rows: RowSource) -> None:
        batch = work.batch
        while (row := await rows.next()) is not None:
            async with self._places.admitted(batch.tenant):
                if self.service.gate.closing or self.service.model.engine.broken:
                    return
                if work.bytes > MAX_OUTPUT:
                    result = undone(row, "output_too_large", f"The output was {MAX_OUTPUT:,} bytes before this row.")
                else:
                    result = await run_row(self.app, self.service, batch.tenant, row)
                if result is not None:  # kept before the next is begun: so a kill costs only what was in flight
                    work.bytes += len(result.line)
                    await self.stored.insist(self.store.add_results, batch.id, [result])
                    if work.deaths:
                        work.deaths = 0
                        await self.stored.insist(self.store.forgive, batch.id)

    async def _finish(self, work: Work, status: str, found: Survey) -> None:
        batch, now = work.batch, int(time.time())
        outline = await self.stored.insist(self.store.outline, batch.id)
        rows, more = self._source(work, found, {number for number, _, _ in outline}), []
        code, why = f"batch_{status}", f"The batch was {status} before this row was answered."
        while (row := await rows.next()) is not None:
            more.append(undone(row, code, why))
        failed = sum(each_failed for _, each_failed, _ in outline) + len(more)
        work.details["request_counts"] = {"total": len(found), "completed": len(found) - failed, "failed": failed}
        work.details.setdefault("finalizing_at", now)
        work.details[f"{status}_at"] = now
        await self.stored.insist(self.store.finish, batch, status, work.details, more)
        log.info("batch %s is %s: %d rows, %d failed", batch.id, status, len(found), failed)

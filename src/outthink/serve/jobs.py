"""Solves that go on without their client: queued in the store, run a few at a time, taken up again after a kill."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any

from outthink.core.errors import OutthinkError
from outthink.core.posterior import Posterior
from outthink.core.question import parse_answer
from outthink.core.sampling import Sampling
from outthink.core.thought import Thought
from outthink.lm.local import LocalLM
from outthink.serve.database import MAX_DEATHS
from outthink.serve.failures import ApiError, as_api_error
from outthink.serve.gate import Gate
from outthink.serve.schema import SolveRequest
from outthink.serve.service import GRACE, Service
from outthink.serve.shares import Shares
from outthink.serve.store import UNFINISHED, Job, Store
from outthink.serve.stored import Stored
from outthink.serve.terms import Terms
from outthink.serve.thinking import Plan, deliberate, plan_of, progress, within_limits
from outthink.show import copied, record_of

NEWS_SECONDS = 0.25
BUSY_SHARE = 0.25  # of one core, at most, goes into telling of one search
MOST_PAUSE = 2.0  # seconds
NOTE_SECONDS = 5.0
log = logging.getLogger("outthink.serve")


@dataclass
class Running:
    """A solve in this process: whose it is, its task, and the `LM` once it has begun."""

    tenant: str
    task: asyncio.Task[None]
    lm: LocalLM | None = None
    _news: asyncio.Task[dict[str, Any]] | None = None
    _next: float = 0.0

    async def grown(self) -> dict[str, Any]:
        """How far it is: ``progress``, the best ``so_far`` and the ``tree``, as they were a moment ago.

        However many ask, a tree is told of once in a while, on another thread; the larger it is, the more rarely.
        """
        if self._news is None or (self._news.done() and time.monotonic() >= self._next):
            self._news = asyncio.create_task(self._tell())
        return await asyncio.shield(self._news)

    async def _tell(self) -> dict[str, Any]:
        assert self.lm is not None
        began, tree, far = time.monotonic(), copied(self.lm.tree), progress(self.lm)  # of one moment
        told = await asyncio.to_thread(lambda: {"so_far": so_far(tree), "tree": tree.to_json()})
        self._next = time.monotonic() + pause_after(time.monotonic() - began)
        return {"progress": far, **told}


@dataclass
class Jobs:
    """The solves of a server. `start` takes up those that a former process left unfinished."""

    service: Service
    store: Store
    stored: Stored
    running: dict[str, Running] = field(default_factory=dict)

    def __post_init__(self) -> None:
        config = self.service.config
        self._gate = Gate(config.max_jobs)  # which nobody is turned away from: the shares see to that
        self._shares = Shares("solves", config.max_jobs + config.max_waiting)
        self._notes: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Go on with what is queued or was being worked on."""
        for job in await asyncio.to_thread(self.store.adopted, self.service.name):
            if (job.deaths or 0) >= MAX_DEATHS:
                await asyncio.to_thread(self.store.set, job.id, "failed", _fatal().body()["error"])
            else:
                self._launch(job)

    async def submit(self, tenant: str, request: SolveRequest) -> Job:
        """Queue a solve. Raises, before anything is stored, what the request's plan raises, ApiError 400 for a problem
        that cannot fit, 429 where too many wait, most of them this tenant's, and 503 where the server stops.
        """
        service = self.service
        service.gate.refuse_if_closing()
        await check_solve(service, request)
        asked = request.model_dump(mode="json", exclude_unset=True)
        with self._shares.adding(tenant, self._gate.retry_after):
            job = await self.stored.ask(self.store.add, tenant, service.name, asked)
            self._launch(job)
        return job

    async def get(self, job_id: str, tenant: str) -> Job:
        """A tenant's job. Raises ApiError 404."""
        job = await self.stored.ask(self.store.get, job_id, tenant)
        if job is None:
            raise ApiError(404, "There is no such solve.", code="not_found")
        return job

    async def recent(self, tenant: str, limit: int) -> list[Job]:
        """The newest jobs of a tenant, newest first."""
        return await self.stored.ask(self.store.recent, tenant, limit)

    async def cancel(self, job_id: str, tenant: str) -> Job:
        """Stop a solve and free its pages, whatever the database says; one that is over stays as it is.

        Raises ApiError 404, and 503 where the database does not take it: it will be told again.
        """
        running = self.running.get(job_id)
        if running is None or running.tenant != tenant:
            await self.get(job_id, tenant)
        else:
            running.task.cancel()
            await asyncio.gather(running.task, return_exceptions=True)
        note = asyncio.create_task(self.stored.insist(self.store.set, job_id, "cancelled"))
        self._notes.add(note)
        note.add_done_callback(self._notes.discard)
        await asyncio.wait((note,), timeout=NOTE_SECONDS)
        if not note.done():
            raise ApiError(
                503, "The solve was stopped; the job database, which cannot be used now, will be told.", "server_error",
                code="store_unavailable",
            )  # fmt: skip
        return await self.get(job_id, tenant)

    async def delete(self, job_id: str, tenant: str) -> dict[str, Any]:
        """Stop a solve, as `cancel` does; of one that is over, nothing is kept: what is shown of it is the last."""
        running = self.running.get(job_id)
        if running is None or running.tenant != tenant:
            job = await self.get(job_id, tenant)
            if job.status not in UNFINISHED:
                await self.stored.ask(self.store.remove, job_id, tenant)
                return {**await self.shown(job), "deleted": True}
        return await self.shown(await self.cancel(job_id, tenant))

    async def follow(self, job_id: str, tenant: str, tell: Callable[[Job], Awaitable[bytes]]) -> AsyncIterator[bytes]:
        """What ``tell`` says of a solve, a few times a second until it is over; more rarely where telling takes long.

        Raises ApiError 404.
        """
        while True:
            job = await self.get(job_id, tenant)
            began = time.monotonic()
            yield await tell(job)
            if job.status not in UNFINISHED or self.service.gate.closing:
                return
            pause = pause_after(time.monotonic() - began)
            running = self.running.get(job_id)
            await (asyncio.wait({running.task}, timeout=pause) if running else asyncio.sleep(pause))

    async def shown(self, job: Job, with_tree: bool = False) -> dict[str, Any]:
        """A job as clients see it: where it stands, the best answer so far, and at the end the posterior."""
        shown: dict[str, Any] = {
            "id": job.id,
            "object": "solve",
            "created": job.created,
            "status": job.status,
            "problem": job.request["problem"],
            "thinking": job.request.get("thinking", {}),
            "temperature": job.request.get("temperature", 1.0),
            "seed": job.request.get("seed"),
        }
        running = self.running.get(job.id)
        if job.result is not None:
            result = dict(job.result)
            if not with_tree:
                result.pop("tree", None)
            return {**shown, ("error" if job.status == "failed" else "posterior"): result}
        if running is not None and running.lm is not None:
            grown = await running.grown()
            shown |= grown if with_tree else {key: grown[key] for key in ("progress", "so_far")}
        return shown

    async def written(self, job: Job, with_tree: bool = True) -> bytes:
        """`shown` as JSON."""
        return await asyncio.to_thread(as_json, await self.shown(job, with_tree))

    async def close(self) -> None:
        """Stop working; what is unfinished stays in the store, for the next process to take up."""
        tasks = [*(running.task for running in self.running.values()), *self._notes]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _launch(self, job: Job) -> None:
        # In a context of its own: the moments and spans of the request that began it end with that request.
        task = asyncio.create_task(self._run(job), context=Context())
        self.running[job.id] = Running(job.tenant, task)
        self._shares.add(job.tenant)
        task.add_done_callback(lambda task: self._over(job.id, task))

    def _over(self, job_id: str, task: asyncio.Task[None]) -> None:
        self._shares.remove(self.running.pop(job_id).tenant)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("solve %s waits for the next start of the server", job_id, exc_info=error)

    async def _run(self, job: Job) -> None:
        timeout = job.request.get("timeout")
        try:
            async with asyncio.timeout(None if timeout is None else timeout - _age(job)) as waiting:
                async with self._gate.admitted(job.tenant, job.request.get("priority", 0)):
                    waiting.reschedule(None)
                    await self._work(job)
        except TimeoutError as error:
            await self.stored.insist(self.store.set, job.id, "failed", as_api_error(error).body()["error"])

    async def _work(self, job: Job) -> None:
        await self.stored.insist(self.store.set, job.id, "running")

        def watch(lm: LocalLM) -> None:
            self.running[job.id].lm = lm

        status, result = await solved(self.service, job.tenant, job.request, watch, _age(job))
        await self.stored.insist(self.store.set, job.id, status, result)


async def solved(
    service: Service,
    tenant: str,
    asked: Mapping[str, Any],
    watch: Callable[[LocalLM], None] = lambda _: None,
    waited: float = 0.0,
) -> tuple[str, dict[str, Any]]:
    """Do what a `SolveRequest` asks, ``waited`` seconds ago: "done" and the posterior with its tree, or "failed" and
    the error.
    """
    try:
        request = SolveRequest.model_validate(asked)
        service.accept(request, waited)
        Terms.here().begin()
        sampling = Sampling(temperature=request.temperature, seed=request.seed or 0)
        prompt = _prompt(service, request.problem)
        async with asyncio.timeout(service.config.deadline + GRACE):
            async for found in deliberate(service, tenant, prompt, plan_of_solve(request), sampling):
                if isinstance(found, Posterior):
                    return "done", record_of(found)
                watch(found)
    except (ApiError, OutthinkError, TimeoutError) as error:
        return "failed", as_api_error(error).body()["error"]
    raise AssertionError("a deliberation ends in a posterior")


async def check_solve(service: Service, request: SolveRequest) -> None:
    """Raise what a solve would end with before it computes anything: ApiError for what cannot fit, or cannot be."""
    within_limits(service, plan_of_solve(request))
    service.accept(request)
    prompt = _prompt(service, request.problem)
    tokens = await (service.encode(prompt) if isinstance(prompt, str) else service.encode_chat(prompt))
    service.check_size([tokens], 1, 0)


def plan_of_solve(request: SolveRequest) -> Plan:
    """How a solve thinks; by default as `Plan` says."""
    plan = plan_of(request.thinking)
    assert plan is not None
    return plan


def _age(job: Job) -> float:
    """Seconds since it was asked for."""
    return max(0.0, time.time() - job.created)


def _fatal() -> ApiError:
    return ApiError(500, f"The server died {MAX_DEATHS} times while it worked on this.", "server_error", code="fatal")


def pause_after(took: float) -> float:
    """The seconds between two times that a search is told of, which took ``took`` of them."""
    return min(MOST_PAUSE, max(NEWS_SECONDS, took / BUSY_SHARE))


def as_json(value: Any) -> bytes:
    """``value`` as it goes over the wire. What is large is to be written on another thread."""
    return json.dumps(value, separators=(",", ":")).encode()


def so_far(tree: Thought) -> dict[str, Any]:
    """The answers that whole lines have reached, by count: what can be said before a strategy has weighed them."""
    answers: Counter[str] = Counter()
    for thought in tree.walk():
        if thought.finish == "stop" and not thought.children:
            answer = parse_answer("".join(each.text for each in thought.line()))
            if answer is not None:
                answers[answer] += 1
    best = answers.most_common(1)
    return {"best": best[0][0] if best else None, "answers": dict(answers.most_common(20)), "lines": answers.total()}


def _prompt(service: Service, problem: str) -> str | list[dict[str, str]]:
    chat = service.model.loaded.tokenizer.chat_template is not None
    return [{"role": "user", "content": problem}] if chat else problem

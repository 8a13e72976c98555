"""Solves that go on without their client: queued in the store, run a few at a time, taken up again after a kill."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any

from outthink.core.errors import OutthinkError
from outthink.core.posterior import Posterior
from outthink.core.question import parse_answer
from outthink.core.sampling import Sampling
from outthink.lm.local import LocalLM
from outthink.serve.database import MAX_DEATHS
from outthink.serve.failures import ApiError, as_api_error
from outthink.serve.schema import SolveRequest
from outthink.serve.service import GRACE, Service
from outthink.serve.store import Job, Store
from outthink.serve.stored import Stored
from outthink.serve.thinking import Plan, deliberate, plan_of, progress
from outthink.show import record_of

NEWS_SECONDS = 0.25
NOTE_SECONDS = 5.0
log = logging.getLogger("outthink.serve")


@dataclass
class Running:
    """A solve in this process: whose it is, its task, and the `LM` once it has begun."""

    tenant: str
    task: asyncio.Task[None]
    lm: LocalLM | None = None


@dataclass
class Jobs:
    """The solves of a server. `start` takes up those that a former process left unfinished."""

    service: Service
    store: Store
    stored: Stored
    running: dict[str, Running] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._places = asyncio.Semaphore(self.service.config.max_jobs)
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
        that cannot fit, 429 where too many wait, and 503 where the server stops.
        """
        service = self.service
        service.gate.refuse_if_closing()
        await check_solve(service, request)
        if len(self.running) >= service.config.max_waiting:
            raise ApiError(
                429, "Too many solves wait already; try again later.", "rate_limit_error", headers={"Retry-After": "5"}
            )
        asked = request.model_dump(mode="json", exclude_unset=True)
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

    def show(self, job: Job, with_tree: bool = False) -> dict[str, Any]:
        """A job as clients see it: where it stands, the best answer so far, and at the end the posterior."""
        shown: dict[str, Any] = {
            "id": job.id,
            "object": "solve",
            "created": job.created,
            "status": job.status,
            "problem": job.request["problem"],
            "thinking": job.request.get("thinking", {}),
        }
        running = self.running.get(job.id)
        if job.result is not None:
            result = dict(job.result)
            if not with_tree:
                result.pop("tree", None)
            return {**shown, ("error" if job.status == "failed" else "posterior"): result}
        if running is not None and running.lm is not None:
            shown |= {"progress": progress(running.lm), "so_far": so_far(running.lm)}
            if with_tree:
                shown["tree"] = running.lm.tree.to_json()
        return shown

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
        task.add_done_callback(lambda task: self._over(job.id, task))

    def _over(self, job_id: str, task: asyncio.Task[None]) -> None:
        del self.running[job_id]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("solve %s waits for the next start of the server", job_id, exc_info=error)

    async def _run(self, job: Job) -> None:
        async with self._places:
            await self.stored.insist(self.store.set, job.id, "running")

            def watch(lm: LocalLM) -> None:
                self.running[job.id].lm = lm

            status, result = await solved(self.service, job.tenant, job.request, watch)
            await self.stored.insist(self.store.set, job.id, status, result)


async def solved(
    service: Service, tenant: str, asked: Mapping[str, Any], watch: Callable[[LocalLM], None] = lambda _: None
) -> tuple[str, dict[str, Any]]:
    """Do what a `SolveRequest` asks: "done" and the posterior with its tree, or "failed" and the error."""
    try:
        request = SolveRequest.model_validate(asked)
        service.accept(request)
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
    plan_of_solve(request)
    service.accept(request)
    prompt = _prompt(service, request.problem)
    tokens = await (service.encode(prompt) if isinstance(prompt, str) else service.encode_chat(prompt))
    service.check_size([tokens], 1, 0)


def plan_of_solve(request: SolveRequest) -> Plan:
    """How a solve thinks; by default as `Plan` says."""
    plan = plan_of(request.thinking)
    assert plan is not None
    return plan


def _fatal() -> ApiError:
    return ApiError(500, f"The server died {MAX_DEATHS} times while it worked on this.", "server_error", code="fatal")


def so_far(lm: LocalLM) -> dict[str, Any]:
    """The answers that whole lines have reached, by count: what can be said before a strategy has weighed them."""
    answers: Counter[str] = Counter()
    for thought in lm.tree.walk():
        if thought.finish == "stop" and not thought.children:
            answer = parse_answer("".join(each.text for each in thought.line()))
            if answer is not None:
                answers[answer] += 1
    best = answers.most_common(1)
    return {"best": best[0][0] if best else None, "answers": dict(answers.most_common(20)), "lines": answers.total()}


def _prompt(service: Service, problem: str) -> str | list[dict[str, str]]:
    chat = service.model.loaded.tokenizer.chat_template is not None
    return [{"role": "user", "content": problem}] if chat else problem

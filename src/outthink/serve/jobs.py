"""Solves that go on without their client: queued in the store, run a few at a time, taken up again after a kill."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from outthink.core.errors import OutthinkError
from outthink.core.posterior import Posterior
from outthink.core.question import parse_answer
from outthink.core.sampling import Sampling
from outthink.lm.local import LocalLM
from outthink.serve.failures import ApiError, as_api_error
from outthink.serve.schema import SolveRequest
from outthink.serve.service import Service
from outthink.serve.store import Job, Store, StoreError
from outthink.serve.thinking import Plan, deliberate, plan_of, progress, report

log = logging.getLogger("outthink.serve")
NEWS_SECONDS = 0.25


@dataclass
class Running:
    """A solve in this process: its task, and the `LM` once it has begun."""

    task: asyncio.Task[None]
    lm: LocalLM | None = None


@dataclass
class Jobs:
    """The solves of a server. `start` takes up those that a former process left unfinished."""

    service: Service
    store: Store
    running: dict[str, Running] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._places = asyncio.Semaphore(self.service.config.max_jobs)

    async def start(self) -> None:
        """Go on with what is queued or was being worked on."""
        for job in await asyncio.to_thread(self.store.unfinished):
            self._launch(job)

    async def submit(self, tenant: str, request: SolveRequest) -> Job:
        """Queue a solve. Raises what the request's plan raises, before anything is stored; 429 where too many wait."""
        plan_of_solve(request)
        if len(self.running) >= self.service.config.max_waiting:
            raise ApiError(
                429, "Too many solves wait already; try again later.", "rate_limit_error", headers={"Retry-After": "5"}
            )
        job = await self._stored(self.store.add, tenant, request.model_dump(mode="json", exclude_unset=True))
        self._launch(job)
        return job

    async def get(self, job_id: str, tenant: str) -> Job:
        """A tenant's job. Raises ApiError 404."""
        job = await self._stored(self.store.get, job_id, tenant)
        if job is None:
            raise ApiError(404, "There is no such solve.", code="not_found")
        return job

    async def cancel(self, job_id: str, tenant: str) -> Job:
        """Stop a solve and free its pages; one that is over stays as it is."""
        await self.get(job_id, tenant)
        await self._stored(self.store.set, job_id, "cancelled")
        running = self.running.get(job_id)
        if running is not None:
            running.task.cancel()
            await asyncio.gather(running.task, return_exceptions=True)
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
        tasks = [running.task for running in self.running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _launch(self, job: Job) -> None:
        task = asyncio.create_task(self._run(job))
        self.running[job.id] = Running(task)
        task.add_done_callback(lambda _: self.running.pop(job.id, None))

    async def _run(self, job: Job) -> None:
        async with self._places:
            try:
                await self._stored(self.store.set, job.id, "running")
                posterior = await self._solve(job)
                status, result = "done", report(posterior, with_tree=True)
            except (ApiError, OutthinkError, TimeoutError) as error:
                status, result = "failed", as_api_error(error).body()["error"]
            await self._keep(job.id, status, result)

    async def _solve(self, job: Job) -> Posterior:
        request = SolveRequest.model_validate(job.request)
        sampling = Sampling(temperature=request.temperature, seed=request.seed or 0)
        prompt = _prompt(self.service, request.problem)
        async with asyncio.timeout(self.service.config.deadline):
            async for found in deliberate(self.service, job.tenant, prompt, plan_of_solve(request), sampling):
                if isinstance(found, Posterior):
                    return found
                self.running[job.id].lm = found
        raise AssertionError("a deliberation ends in a posterior")

    async def _keep(self, job_id: str, status: str, result: dict[str, Any]) -> None:
        """Write a result, again and again while the database refuses: it was paid for."""
        wait = 0.5
        while True:
            try:
                await asyncio.to_thread(self.store.set, job_id, status, result)
                return
            except StoreError as error:
                log.warning("cannot store the result of %s yet: %s", job_id, error)
                await asyncio.sleep(wait)
                wait = min(30.0, 2 * wait)

    async def _stored(self, call: Any, *arguments: Any) -> Any:
        try:
            return await asyncio.to_thread(call, *arguments)
        except StoreError as error:
            raise ApiError(
                503, "The job database cannot be written now.", "server_error", headers={"Retry-After": "5"}
            ) from error


def plan_of_solve(request: SolveRequest) -> Plan:
    """How a solve thinks; by default as `Plan` says."""
    plan = plan_of(request.thinking)
    assert plan is not None
    return plan


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

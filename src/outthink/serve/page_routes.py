"""What the page at ``/`` asks beside the API: what may be chosen, what it costs, searches as they are drawn."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse

from outthink.core.question import Question
from outthink.models.flops import head_flops, position_flops
from outthink.reason import STRATEGIES
from outthink.reason.scale import SCALES, Room, scale_of
from outthink.reason.solve import ask
from outthink.serve.body import JsonRoute
from outthink.serve.delivery import EventStream
from outthink.serve.failures import ApiError
from outthink.serve.jobs import Jobs, as_json
from outthink.serve.metrics import read_engine
from outthink.serve.openai_routes import service_of, tenant_of
from outthink.serve.store import Job
from outthink.serve.thinking import DEFAULT_BUDGET, DEFAULT_STRATEGY, verifiers
from outthink.show import copied, live_view, read_record, view_of
from outthink.show.page import recorded_page
from outthink.tasks.suites import CORE, draw

router = APIRouter(route_class=JsonRoute)
TYPICAL_CONTEXT = 64  # positions that a sampled token attends to, for its FLOPs before any were billed
MOST_LINES = 4096  # the largest option that a client may set


def jobs_of(request: Request) -> Jobs:
    """The solves of the server behind a request."""
    return request.app.state.jobs


@router.get("/api/methods")
async def methods(request: Request) -> JSONResponse:
    """The strategies that one model alone can run, with what they promise and how they spend; and the verifiers."""
    config = service_of(request).model.loaded.config
    strategies = [
        {
            **{key: getattr(m, key) for key in ("name", "family", "summary", "guarantee", "promise", "paper")},
            "options": {
                name: value for name, value in m.options.items() if isinstance(value, bool | int | float | str)
            },
            "how": scale_of(m.name).how,
            "judged": m.name in SCALES and SCALES[m.name].verifier,
        }
        for m in STRATEGIES
        if not m.models
    ]
    return JSONResponse(
        {
            "strategies": strategies,
            "verifiers": verifiers(),
            "default_strategy": DEFAULT_STRATEGY,
            "token_flops": position_flops(config, TYPICAL_CONTEXT) + head_flops(config),
        }
    )


@router.get("/api/options")
async def options(
    strategy: Annotated[str, Query(max_length=256)],
    tokens: Annotated[int, Query(ge=1, le=1 << 40)],
    line: Annotated[float, Query(ge=1, le=1 << 20)] = 32.0,
) -> JSONResponse:
    """The options with which ``strategy`` ends at a budget of ``tokens``, not before; a line takes ``line`` of them."""
    STRATEGIES.get(strategy)
    found = scale_of(strategy).options(Room(tokens, line))
    return JSONResponse({name: min(value, MOST_LINES) for name, value in found.items()})


@router.get("/api/problem")
async def problem() -> JSONResponse:
    """A fresh problem of a kind that the bundled models know."""
    drawn = draw(random.choice(CORE), secrets.randbits(48), round(random.uniform(0.1, 0.5), 2), "test")
    return JSONResponse({"family": drawn.family, "difficulty": drawn.difficulty, "prompt": drawn.prompt})


@router.get("/api/status")
def status(request: Request) -> JSONResponse:
    """What is going on, in numbers: for the page's status view."""
    service, jobs = service_of(request), jobs_of(request)
    gauges, counters = read_engine(service.model.thread)
    readings = {name: value for name, (_, value) in {**gauges, **counters}.items()}
    return JSONResponse(
        {
            "model": service.name,
            "context": service.context,
            "uptime": time.time() - service.created,
            "requests_running": service.gate.num_running,
            "requests_waiting": service.gate.num_waiting,
            "solves": len(jobs.running),
            "pages": service.model.engine.cache.num_pages,
            "max_tokens": service.config.max_tokens,
            "max_jobs": service.config.max_jobs,
            **readings,
        }
    )


@router.get("/api/solves/{job_id}/view")
async def watch(request: Request, job_id: str) -> EventStream:
    """A solve as it is drawn, a few times a second until it is over; more rarely where its tree is large."""
    jobs = jobs_of(request)

    async def tell(job: Job) -> bytes:
        return await asyncio.to_thread(as_json, await drawn(jobs, job))

    return EventStream(jobs.follow(job_id, tenant_of(request), tell))


@router.get("/v1/solves/{job_id}/tree.html")
async def tree_file(request: Request, job_id: str) -> HTMLResponse:
    """A finished solve as a page that stands alone."""
    jobs = jobs_of(request)
    job = await jobs.get(job_id, tenant_of(request))
    if job.status != "done" or job.result is None:
        raise ApiError(409, f"This solve is {job.status}: there is a page of one that is done.", code="not_done")
    page = await asyncio.to_thread(recorded_page, job.result, question_of(jobs, job), facts_of(jobs, job))
    name = {"Content-Disposition": f'attachment; filename="{job.id}.html"'}
    return HTMLResponse(page.encode("utf-8", "replace"), headers=name)


async def drawn(jobs: Jobs, job: Job) -> dict[str, Any]:
    """A job with its ``view``: of a posterior, of a tree that grows here, or None where there is nothing to draw."""
    shown: dict[str, Any] = {
        **{key: getattr(job, key) for key in ("id", "created", "status")},
        "problem": job.request["problem"],
        "thinking": job.request.get("thinking", {}),
        "seed": job.request.get("seed"),
        "view": None,
    }
    facts, question = facts_of(jobs, job), question_of(jobs, job)
    running = jobs.running.get(job.id)
    if job.status == "failed":
        shown["error"] = job.result
    elif job.result is not None:
        record = await asyncio.to_thread(read_record, job.result)
        shown["view"] = await asyncio.to_thread(view_of, record, question, facts)
    elif running is not None and running.lm is not None:
        lm = running.lm
        tree, bill, spent = copied(lm.tree), lm.ledger.bill, lm.ledger.fraction_spent  # of one moment
        shown["view"] = await asyncio.to_thread(live_view, tree, bill, spent, question, str(facts["strategy"]), facts)
    return shown


def question_of(jobs: Jobs, job: Job) -> Question:
    """The question that a job asks."""
    return ask(job.request["problem"], chat=jobs.service.model.chat)


def facts_of(jobs: Jobs, job: Job) -> Mapping[str, Any]:
    """How a job was set up, as a person is told."""
    thinking = job.request.get("thinking", {})
    budget = thinking.get("budget", DEFAULT_BUDGET)
    return {
        "model": jobs.service.name,
        "strategy": thinking.get("strategy") or DEFAULT_STRATEGY,
        "budget": f"{budget:,} tokens" if isinstance(budget, int) else str(budget),
        "verifier": thinking.get("verifier"),
        "options": thinking.get("options") or {},
        "sampling": {"temperature": job.request.get("temperature", 1.0), "seed": job.request.get("seed", 0)},
    }

"""The application: routes behind the guard, and what begins and ends with it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from outthink.core.errors import OutthinkError
from outthink.lm.model import Model
from outthink.serve import batch_routes, openai_routes, other_routes, responses_routes
from outthink.serve.batch_store import BatchStore
from outthink.serve.batches import Batches
from outthink.serve.config import ServeConfig
from outthink.serve.database import Database
from outthink.serve.failures import ApiError, as_api_error
from outthink.serve.gate import Gate
from outthink.serve.guard import Guard
from outthink.serve.jobs import Jobs
from outthink.serve.metrics import Metrics
from outthink.serve.service import Service
from outthink.serve.store import Store
from outthink.serve.stored import Stored

PAGE = Path(__file__).parent / "page"
log = logging.getLogger("outthink.serve")


def make_app(model: Model, config: ServeConfig) -> Guard:
    """The ASGI application that serves ``model``. It does not own the model: close that yourself afterwards."""
    gate = Gate(config.max_running, config.max_waiting)
    service = Service(model, config, gate, Metrics(model.thread, gate, config.served_name or model.name))
    store, stored = Store(Database(config.database)), Stored()
    jobs = Jobs(service, store, stored)
    app = FastAPI(title="Outthink", lifespan=lambda _: running(), docs_url=None, redoc_url=None)
    batches = Batches(service, BatchStore(store.database), stored, app)

    @asynccontextmanager
    async def running() -> AsyncIterator[None]:
        await jobs.start()
        await batches.start()
        try:
            yield
        finally:
            await batches.close()
            await jobs.close()
            try:
                async with asyncio.timeout(config.drain):
                    await gate.drain()
            except TimeoutError:
                log.warning("stopping with %d requests in flight", gate.num_running)
            stored.close()
            store.close()

    app.state.service, app.state.jobs, app.state.batches = service, jobs, batches
    app.include_router(openai_routes.router)
    app.include_router(responses_routes.router)
    app.include_router(other_routes.router)
    app.include_router(batch_routes.router)
    app.mount("/", StaticFiles(directory=PAGE, html=True))
    _handle_errors(app, service)
    return Guard(app, config, store.secret)


def _handle_errors(app: FastAPI, service: Service) -> None:
    def answer(request: Request, error: ApiError) -> Response:
        service.metrics.failed.labels(str(error.status)).inc()
        return error.response()

    @app.exception_handler(ApiError)
    async def _refused(request: Request, error: ApiError) -> Response:
        return answer(request, error)

    @app.exception_handler(OutthinkError)
    async def _ours(request: Request, error: OutthinkError) -> Response:
        return answer(request, as_api_error(error))

    @app.exception_handler(TimeoutError)
    async def _late(request: Request, error: TimeoutError) -> Response:
        return answer(request, as_api_error(error))

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> Response:
        found = error.errors()[0]
        where = ".".join(str(part) for part in found["loc"] if part not in ("body", "query", "path"))[:200]
        return answer(request, ApiError(400, f"{where or 'body'}: {found['msg']}"[:500], param=where or None))

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        kinds = {404: "There is nothing at this path.", 405: "This path does not take that method."}
        message = kinds.get(error.status_code, "The request could not be read.")
        return answer(request, ApiError(error.status_code, message, headers=error.headers or {}))

    @app.exception_handler(ClientDisconnect)
    async def _gone(request: Request, error: ClientDisconnect) -> Response:
        return JSONResponse(None, 499)

    @app.exception_handler(Exception)
    async def _unexpected(request: Request, error: Exception) -> Response:
        log.error("request %s failed", request.state.request_id, exc_info=error)
        return answer(request, as_api_error(error))

"""The application: routes behind the guard, and what begins and ends with it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match, Mount

from outthink.core.errors import OutthinkError
from outthink.lm.model import Model
from outthink.serve import batch_routes, openai_routes, other_routes, page_routes, responses_routes
from outthink.serve.batch_store import BatchStore
from outthink.serve.batches import Batches
from outthink.serve.config import ServeConfig
from outthink.serve.database import Database
from outthink.serve.document import document
from outthink.serve.failures import ApiError, as_api_error, invalid
from outthink.serve.gate import Gate
from outthink.serve.guard import Guard
from outthink.serve.jobs import Jobs
from outthink.serve.metrics import Metrics
from outthink.serve.service import Service
from outthink.serve.store import Store
from outthink.serve.stored import Stored
from outthink.serve.tracing import Tracing
from outthink.serve.watch import Watch
from outthink.show.page import ASSETS

PAGE = Path(__file__).parent / "page"
log = logging.getLogger("outthink.serve")


class _App(FastAPI):
    """FastAPI with a document of its own. ``keys``: whether requests need one."""

    keys = False

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            self.openapi_schema = document(self, self.keys)
        return self.openapi_schema


def make_app(model: Model, config: ServeConfig, tracing: Tracing | None = None) -> Guard:
    """The ASGI application that serves ``model``. It does not own the model: close that yourself afterwards.

    ``tracing``: where its spans go; by default nowhere.
    """
    gate, tracing = Gate(config.max_running, config.max_waiting), tracing or Tracing()
    metrics = Metrics(model.thread, gate, config.served_name or model.name)
    service = Service(model, config, gate, metrics, tracing)
    store, stored = Store(Database(config.database)), Stored()
    jobs = Jobs(service, store, stored)
    app = _App(title="Outthink", lifespan=lambda _: running(), docs_url=None, redoc_url=None)
    app.keys = bool(config.api_keys)
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
            service.tokenizing.shutdown(wait=False, cancel_futures=True)
            tracing.close()

    app.state.service, app.state.jobs, app.state.batches = service, jobs, batches
    app.include_router(openai_routes.router)
    app.include_router(responses_routes.router)
    app.include_router(other_routes.router)
    app.include_router(batch_routes.router)
    app.include_router(page_routes.router)
    app.mount("/show", StaticFiles(directory=ASSETS))
    app.mount("/", StaticFiles(directory=PAGE, html=True))
    _handle_errors(app)
    return Guard(app, config, Watch(metrics, tracing, config.log_prompts), store.secret)


def _takes_get(app: FastAPI, request: Request) -> bool:
    """Whether there is something for GET at the path, files of the page aside."""
    scope = {**request.scope, "method": "GET"}
    return any(route.matches(scope)[0] is Match.FULL for route in app.routes if not isinstance(route, Mount))


def _handle_errors(app: FastAPI) -> None:
    async def told(request: Request, error: Exception) -> Response:
        return as_api_error(error).response()

    for kind in (ApiError, OutthinkError, TimeoutError):
        app.add_exception_handler(kind, told)

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> Response:
        return invalid(error.errors()).response()

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        if error.status_code == 404 and request.method == "HEAD" and _takes_get(app, request):
            error = HTTPException(405, headers={"Allow": "GET"})
        kinds = {404: "There is nothing at this path.", 405: "This path does not take that method."}
        message = kinds.get(error.status_code, "The request could not be read.")
        return ApiError(error.status_code, message, headers=error.headers or {}).response()

    @app.exception_handler(ClientDisconnect)
    async def _gone(request: Request, error: ClientDisconnect) -> Response:
        return JSONResponse(None, 499)

    @app.exception_handler(Exception)
    async def _unexpected(request: Request, error: Exception) -> Response:
        log.error("the request failed", exc_info=error)
        return as_api_error(error).response()

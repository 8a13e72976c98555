"""``/v1/files`` and ``/v1/batches``, in the shapes of the OpenAI API."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Query, Request, UploadFile
from fastapi.responses import JSONResponse, Response

from outthink.serve.batch_store import StoredFile
from outthink.serve.batches import Batches, BatchRequest
from outthink.serve.body import JsonRoute
from outthink.serve.delivery import Download
from outthink.serve.failures import ApiError
from outthink.serve.openai_routes import service_of, tenant_of

router = APIRouter(prefix="/v1", route_class=JsonRoute)
Limit = Annotated[int, Query(ge=1, le=200)]
PIECE_BYTES = 1 << 20
After = Annotated[str | None, Query(max_length=64)]


def batches_of(request: Request) -> Batches:
    """The batches of the server behind a request."""
    return request.app.state.batches


# ---- files ---------------------------------------------------------------------------------------------------------


@router.post("/files")
async def create_file(
    request: Request, file: Annotated[UploadFile, File()], purpose: Annotated[str, Form()]
) -> JSONResponse:
    """Upload a file for a batch: JSON lines, a request each."""
    batches, tenant, config = batches_of(request), tenant_of(request), service_of(request).config
    unknown = sorted(set(await request.form()) - {"file", "purpose"})
    if unknown:
        raise ApiError(400, f"The form has the field {unknown[0][:100]!r}; it takes file and purpose.")
    if purpose != "batch":
        raise ApiError(400, f"purpose is {purpose[:100]!r}; files are for 'batch' here.", param="purpose")
    content = await file.read(config.max_file + 1)
    if not content:
        raise ApiError(400, "The file is empty.", param="file")
    if len(content) > config.max_file:
        raise ApiError(413, f"A file must be at most {config.max_file:,} bytes.", param="file", code="too_large")
    stored = await batches.stored.ask(batches.store.stored_bytes, tenant)
    if stored + len(content) > config.max_stored:
        raise ApiError(
            400,
            f"The files of one client may be {config.max_stored:,} bytes together; delete some first.",
            param="file",
            code="quota_exceeded",
        )
    name = "".join(c for c in file.filename or "" if c.isprintable())[:255] or "upload.jsonl"
    return JSONResponse((await batches.stored.ask(batches.store.add_file, tenant, name, purpose, content)).to_json())


@router.get("/files")
async def list_files(request: Request, limit: Limit = 100, after: After = None) -> JSONResponse:
    """The newest files of this client."""
    batches = batches_of(request)
    found = await batches.stored.ask(batches.store.files, tenant_of(request), limit + 1, after)
    return JSONResponse(_page([file.to_json() for file in found], limit))


@router.get("/files/{file_id}")
async def get_file(request: Request, file_id: str) -> JSONResponse:
    """What a file is called and how large it is."""
    return JSONResponse((await _file(request, file_id)).to_json())


@router.get("/files/{file_id}/content")
async def get_content(request: Request, file_id: str) -> Response:
    """What is in a file."""
    batches, tenant, file = batches_of(request), tenant_of(request), await _file(request, file_id)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, file.bytes, PIECE_BYTES):
            piece = await batches.stored.ask(batches.store.piece, file_id, tenant, start, PIECE_BYTES)
            if not piece:  # deleted meanwhile
                return
            yield piece

    return Download(pieces(), file.bytes)


@router.delete("/files/{file_id}")
async def delete_file(request: Request, file_id: str) -> JSONResponse:
    """Delete a file that no unfinished batch reads."""
    batches, tenant = batches_of(request), tenant_of(request)
    await _file(request, file_id)
    if not await batches.stored.ask(batches.store.delete_file, file_id, tenant):
        raise ApiError(409, "An unfinished batch reads this file; cancel that first.", code="file_in_use")
    return JSONResponse({"id": file_id, "object": "file", "deleted": True})


async def _file(request: Request, file_id: str) -> StoredFile:
    batches = batches_of(request)
    found = await batches.stored.ask(batches.store.file, file_id, tenant_of(request))
    if found is None:
        raise _no_file()
    return found


def _no_file() -> ApiError:
    return ApiError(404, "There is no such file.", code="not_found")


# ---- batches -------------------------------------------------------------------------------------------------------


@router.post("/batches")
async def create_batch(request: Request, body: BatchRequest) -> JSONResponse:
    """Begin to work off the requests in a file; it goes on whether or not the client stays."""
    return JSONResponse((await batches_of(request).create(tenant_of(request), body)).to_json())


@router.get("/batches")
async def list_batches(request: Request, limit: Limit = 20, after: After = None) -> JSONResponse:
    """The newest batches of this client."""
    batches = batches_of(request)
    found = await batches.stored.ask(batches.store.recent, tenant_of(request), limit + 1, after)
    return JSONResponse(_page([batch.to_json() for batch in found], limit))


@router.get("/batches/{batch_id}")
async def get_batch(request: Request, batch_id: str) -> JSONResponse:
    """Where a batch stands; at its end, the files with its answers and its errors."""
    return JSONResponse(await batches_of(request).get(batch_id, tenant_of(request)))


@router.post("/batches/{batch_id}/cancel")
async def cancel_batch(request: Request, batch_id: str) -> JSONResponse:
    """Stop a batch; what is finished of it can be read."""
    return JSONResponse(await batches_of(request).cancel(batch_id, tenant_of(request)))


def _page(found: list[dict[str, Any]], limit: int) -> dict[str, Any]:
    """``found``, asked for with one more than ``limit``, as a page of a list."""
    data = found[:limit]
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {"first_id": None, "last_id": None}
    return {"object": "list", "data": data, **ends, "has_more": len(found) > limit}

"""A model on a server: what `outthink.connect` returns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from outthink.core.budget import Ledger
from outthink.core.errors import CapabilityError, UserError
from outthink.core.sampling import Sampling
from outthink.lm.remote.capabilities import Capabilities
from outthink.lm.remote.client import Client
from outthink.lm.remote.connection import Connection
from outthink.lm.remote.lm import RemoteLM
from outthink.lm.remote.probe import probe
from outthink.lm.remote.server import Server
from outthink.lm.remote.thread import LoopThread


@dataclass(frozen=True)
class RemoteModel:
    """A served model and the connection to it. Any number of strategies, problems and users share it at once.

    Make one with `outthink.connect`; `close` it, or use it as a context manager, to drop its connections. ``chat``:
    problems are put to it as messages, by the server's own template.
    """

    server: Server
    thread: LoopThread
    chat: bool

    @property
    def name(self) -> str:
        return self.server.capabilities.model

    @property
    def capabilities(self) -> Capabilities:
        """What the server was found to offer."""
        return self.server.capabilities

    def session(self, ledger: Ledger | None = None, sampling: Sampling | None = None) -> RemoteLM:
        """This model as an `LM` bound to ``ledger`` (unlimited by default), with a tree of its own."""
        return RemoteLM(self.thread, self.server, ledger or Ledger(), sampling, chat=self.chat)

    def spell(self, token: int) -> str:
        """The text of a token id that came from this model; ``<id>`` for one that the server never spelled."""
        return self.server.vocabulary.spell(token) or f"<{token}>"

    def close(self) -> None:
        """Drop every connection; what is in flight is cancelled."""
        if not self.thread.closed:
            self.thread.close(self.server.client.close())

    def __enter__(self) -> RemoteModel:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def connect(
    base_url: str,
    model: str | None = None,
    *,
    api_key: str | None = None,
    chat: bool | None = None,
    reproducible: bool | None = None,
    context: int | None = None,
    parameters: float | None = None,
    **patience: Any,
) -> RemoteModel:
    """Connect to an OpenAI-compatible server and find out what it offers, by a handful of requests of a few tokens.

    ``model`` is the name that it serves (by default the only one). ``chat``: put problems to it as messages; by default
    where the server can go on from a partly written message, or knows nothing else. ``reproducible``: ask for each
    child of a branch in a request of its own, with a seed of its own, so that a child does not depend on its siblings;
    by default where the server honours seeds and reports a cache, so that the prompt costs no more for it. Whether
    equal seeds give equal texts in unequal company is up to the server. ``context``: positions that fit, where the
    server does not say. ``parameters``: the number of weights, 2 FLOPs each and token; without it, FLOPs are unknown
    and billed as 0. ``patience``: see `Connection` (concurrency, timeouts, retries).

    Raises UserError for options out of range, KeyRefusedError, UnknownModelError, and RemoteError where the server
    cannot be reached or used.
    """
    for name, value in (("context", context), ("parameters", parameters)):
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise UserError(f"{name}={value!r} must be a number above 0.")
    connection = _connection(base_url, model, api_key, patience)
    thread = LoopThread("outthink-remote")
    try:
        server = thread.wait(_open(connection, reproducible, context, parameters))
        return RemoteModel(server, thread, _chat(server, chat))
    except BaseException:
        thread.close()
        raise


def _connection(base_url: str, model: str | None, api_key: str | None, patience: dict[str, Any]) -> Connection:
    known = set(Connection.__dataclass_fields__) - {"base_url", "model", "api_key"}
    if unknown := sorted(patience.keys() - known):
        raise UserError(f"connect has no option {', '.join(unknown)}; it has: {', '.join(sorted(known))}.")
    return Connection(base_url, model, api_key, **patience)


async def _open(
    connection: Connection, reproducible: bool | None, context: int | None, parameters: float | None
) -> Server:
    client = Client(connection)
    try:
        found = await probe(client)
    except BaseException:
        await client.close()
        raise
    route = found.completions or found.chat
    assert route is not None
    if reproducible and not route.seeds:
        await client.close()
        raise CapabilityError(
            f"{found.model} at {connection.base_url} does not honour seeds, and so reproduces nothing."
        )
    alone = route.seeds and route.caches if reproducible is None else reproducible
    if context is not None:
        found = Capabilities(found.model, found.completions, found.chat, context, found.tokenizer)
    return Server(client, found, together=not alone, flops=round(2 * (parameters or 0)))


def _chat(server: Server, wanted: bool | None) -> bool:
    found = server.capabilities
    if wanted is None:
        return found.chat is not None and (found.chat.continues or found.completions is None)
    if (found.chat if wanted else found.completions) is None:
        what = "chat messages" if wanted else "raw text"
        raise CapabilityError(f"{server.name} takes no {what}.")
    return wanted

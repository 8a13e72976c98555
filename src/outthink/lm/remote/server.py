"""One server with everything that its branches share. All of it lives on the connection's own event loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from outthink.core.errors import CapabilityError
from outthink.lm.remote.capabilities import Capabilities, Route
from outthink.lm.remote.client import Client
from outthink.lm.remote.errors import UnusableResponseError
from outthink.lm.remote.prefix import Prefix
from outthink.lm.remote.purse import Bank
from outthink.lm.remote.vocabulary import Vocabulary


class Server:
    """``together``: children of one extension are asked for in one request, where the route knows how. ``flops``: of
    one position; 0 where nobody said.
    """

    def __init__(self, client: Client, capabilities: Capabilities, together: bool, flops: int) -> None:
        self.client, self.capabilities, self.together, self.flops = client, capabilities, together, flops
        self.bank = Bank()
        exact = capabilities.completions is not None and capabilities.completions.token_ids
        self.vocabulary = Vocabulary(foreign=exact)
        self.ignores_n = False

    @property
    def name(self) -> str:
        return f"{self.capabilities.model} at {self.client.connection.base_url}"

    def route(self, prefix: Prefix) -> Route:
        """The route that a prefix takes: a chat goes the one of chats, all else that of completions."""
        route = self.capabilities.chat if prefix.messages else self.capabilities.completions
        assert route is not None  # `RemoteLM.root` refuses prompts that have no route
        return route

    async def learn(self, prefix: Prefix) -> None:
        """Have the server's tokenizer count a prefix whose length is not known, where it has one."""
        if prefix.count is None and prefix.ids is None and prefix.text is not None and not prefix.messages:
            ids = await self.encode(prefix.text, special=True)
            if ids is not None:
                prefix.learn(tuple(ids) if self.vocabulary.foreign else None, len(ids))

    async def encode(self, text: str, special: bool) -> list[int] | None:
        """The ids of a text by the server's own tokenizer; None where it has no route for that."""
        path = self.capabilities.tokenizer
        if path is None:
            return None
        return await tokenize(self.client, path, self.capabilities.model, text, special)

    async def ids_of(self, text: str) -> tuple[int, ...]:
        """The ids of a text that goes on from a prefix. Raises CapabilityError where the server does not tell them."""
        ids = await self.encode(text, special=False)
        if ids is None:
            raise CapabilityError(f"{self.name} has no tokenizer route: give token ids after a prompt of token ids.")
        return tuple(ids)


async def tokenize(client: Client, path: str, model: str, text: str, special: bool) -> list[int]:
    """Token ids by any of the usual tokenizer routes: each reads the field that it knows."""
    body: dict[str, Any] = {
        "model": model,
        "prompt": text,
        "content": text,
        "input": text,
        "add_special_tokens": special,
        "add_special": special,
    }
    answer = await client.post(path, body)
    tokens = answer.get("tokens")
    if not isinstance(tokens, Sequence) or not all(isinstance(token, int) for token in tokens):
        raise UnusableResponseError(f"{client.connection.url(path)} gave no token ids but {tokens!r:.80}.")
    return list(tokens)

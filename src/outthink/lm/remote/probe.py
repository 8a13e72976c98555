"""Finding out what a server offers: a handful of requests of a few tokens each, once for every connection.

What can be seen is believed, and nothing else: many servers pass over options that they do not know in silence.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from itertools import takewhile
from typing import Any

from outthink.core.errors import CapabilityError, OutthinkError, UserError
from outthink.lm.remote.capabilities import CHAT, COMPLETIONS, Capabilities, Route
from outthink.lm.remote.client import Client
from outthink.lm.remote.errors import (
    KeyRefusedError,
    NoSuchRouteError,
    RequestRefusedError,
    ServerFailedError,
    UnknownModelError,
    UnreachableError,
    UnusableResponseError,
)
from outthink.lm.remote.server import tokenize
from outthink.lm.remote.wire import Drawn, Reading, read

TEXT = " ".join(map(str, range(1, 31)))  # long enough to fill a page of anyone's cache
LENGTH = 8
ECHO_TOLERANCE = 0.25  # nats; other kernels compute a prompt than compute a drawn token
TOKENIZERS = ("//tokenize", "//extras/tokenize")
Body = dict[str, Any]


async def probe(client: Client) -> Capabilities:
    """What the server offers. Raises KeyRefusedError, UnknownModelError, and CapabilityError where it has no route at
    all to write text by.
    """
    model, context = await _model(client)
    client.model = model
    completions = await _Probe(client, model, COMPLETIONS).route()
    chat = await _Probe(client, model, CHAT).route()
    if completions is None and chat is None:
        raise CapabilityError(
            f"{client.connection.base_url} serves neither {COMPLETIONS} nor {CHAT}. Is the base URL right? It usually "
            "ends in /v1."
        )
    return Capabilities(model, completions, chat, context, await _tokenizer(client, model))


async def _model(client: Client) -> tuple[str, int | None]:
    """The name of the model to use, and its context where the server says that."""
    wanted = client.connection.model
    try:
        listed = (await client.get("/models", (UnreachableError,))).get("data")
    except NoSuchRouteError:
        listed = None
    models = (
        [m for m in listed if isinstance(m, dict) and isinstance(m.get("id"), str)] if isinstance(listed, list) else []
    )
    names = [model["id"] for model in models]
    if wanted is None:
        if len(names) != 1:
            serves = f"serves {', '.join(names)}" if names else "does not say what it serves"
            raise UserError(f"{client.connection.base_url} {serves}: name a model with --model.")
        wanted = names[0]
    found = next((model for model in models if model["id"] == wanted), {})
    meta = found.get("meta") if isinstance(found.get("meta"), dict) else {}
    known = [found.get("max_model_len"), found.get("context_length"), (meta or {}).get("n_ctx")]
    return wanted, next((size for size in known if isinstance(size, int) and size > 0), None)


async def _tokenizer(client: Client, model: str) -> str | None:
    for path in TOKENIZERS:
        try:
            if await tokenize(client, path, model, TEXT, special=False):
                return path
        except (RequestRefusedError, UnusableResponseError):
            continue
    return None


class _Probe:
    """The questions put to one route."""

    def __init__(self, client: Client, model: str, path: str) -> None:
        self.client, self.path, self.chat = client, path, path == CHAT
        self.base: Body = {"model": model, "max_tokens": LENGTH, "temperature": 0.0}
        content = f"Go on: {TEXT}"
        self.base |= {"messages": [{"role": "user", "content": content}]} if self.chat else {"prompt": TEXT}
        self.greedy = ""

    async def route(self) -> Route | None:
        """What the route offers; None where there is none."""
        try:
            first = read(await self.client.post(self.path, self.base))
        except NoSuchRouteError:
            return None
        except (RequestRefusedError, ServerFailedError) as error:
            if self.chat and not isinstance(error, KeyRefusedError | UnknownModelError):
                return None  # a model without a chat template, say
            raise
        if not first.deltas:
            raise UnusableResponseError(f"{self.client.connection.url(self.path)} answered without any choice.")
        self.greedy = first.deltas[0].text
        neutral, many, seeds, top = await asyncio.gather(self.neutral(), self.many(), self.seeds(), self.top())
        stream, echoes, stops, continues = await asyncio.gather(
            self.stream(top), self.echoes(), self.stops(), self.continues()
        )
        token_ids = not self.chat and await self.token_ids(top)
        last = await self.ask({})
        caches = last is not None and last.usage is not None and bool(last.usage.cached)
        return Route(self.path, neutral, stream, many, seeds, top, token_ids, echoes, stops, continues, caches)

    async def ask(self, extra: Body) -> Reading | None:
        """The answer to the question with ``extra``; None where the server refuses or fails."""
        try:
            return read(await self.client.post(self.path, self.base | extra, (ServerFailedError,)))
        except KeyRefusedError:
            raise
        except (RequestRefusedError, ServerFailedError, UnusableResponseError):
            return None

    async def text(self, extra: Body) -> str | None:
        """The text of `ask`'s answer."""
        reading = await self.ask(extra)
        return reading.deltas[0].text if reading is not None and reading.deltas else None

    async def neutral(self) -> Body:
        """Options beyond OpenAI's that are honoured, with the values that switch them off.

        Taking only the likeliest token at a high temperature is greedy; a heavy penalty on what was read is not.
        """
        hot: Body = {"temperature": 1.9, "seed": 1}
        found: Body = {}
        if not self.greedy:
            return found
        if await self.text(hot | {"top_k": 1}) == self.greedy != await self.text(hot):
            found["top_k"] = -1 if await self.text({"top_k": -1}) is not None else 0
        if await self.text(hot | {"min_p": 1.0}) == self.greedy != await self.text(hot):
            found["min_p"] = 0.0
        for name in ("repetition_penalty", "repeat_penalty"):
            if await self.text({name: 1.9}) not in (None, self.greedy):
                found[name] = 1.0
        return found

    async def stream(self, top: int) -> Body | None:
        """What to send for a stream that says as much of the usage as the server will; None where there is none with
        the log-probabilities that come without.
        """
        usage = {"include_usage": True}
        log_probs: Body = {} if top < 0 else {"logprobs": True} if self.chat else {"logprobs": 1}
        for options in ({"stream_options": usage | {"continuous_usage_stats": True}}, {"stream_options": usage}, {}):
            body: Body = {"stream": True, **options}
            try:
                async with aclosing(self.client.stream(self.path, self.base | log_probs | body)) as events:
                    deltas = [delta async for event in events for delta in read(event).deltas]
            except KeyRefusedError:
                raise
            except OutthinkError:
                continue
            told = top < 0 or any(delta.drawn for delta in deltas)
            return body if len(deltas) > 1 and told else None
        return None

    async def many(self) -> bool:
        reading = await self.ask({"n": 2})
        return reading is not None and {delta.index for delta in reading.deltas} == {0, 1}

    async def seeds(self) -> bool:
        """Whether equal seeds give equal texts, and another seed another."""
        hot: Body = {"temperature": 1.5, "top_p": 1.0}
        first, again, *others = [await self.text(hot | {"seed": seed}) for seed in (7, 7, 8, 9, 10)]
        return first is not None and first == again and any(other != first for other in others)

    async def top(self) -> int:
        """How many likeliest tokens the server gives beside each drawn one; -1 for no log-probabilities at all."""
        for count in (20, 5, 1, 0):
            asked: Body = {"logprobs": True, "top_logprobs": count} if self.chat else {"logprobs": count}
            reading = await self.ask(asked)
            drawn = reading.deltas[0].drawn if reading is not None and reading.deltas else ()
            if drawn and all(token.log_prob is not None for token in drawn):
                given = min(len(token.top) for token in drawn)
                if given >= count or count == 0:
                    return count
                if count == 20 and given > 0:
                    return given
        return -1

    async def echoes(self) -> bool:
        """Whether the prompt comes back with log-probabilities, and with the right ones.

        What the server wrote is given back to it: each of its tokens must be as likely as when it was drawn. Some
        servers give each token of a prompt what belongs to the next.
        """
        if self.chat:
            return False
        echo: Body = {"echo": True, "logprobs": 1, "max_tokens": 1}
        prompt = await self.drawn(echo)
        if len(prompt) <= LENGTH or any(token.log_prob is None for token in prompt[1:]):
            return False
        written: list[Drawn] = []
        for how in ({}, *({"temperature": 1.0, "top_p": 1.0, "seed": seed} for seed in range(1, 5))):
            # A token that spells nothing would be missing from what is given back.
            written = list(takewhile(lambda token: token.piece, await self.drawn({"logprobs": 1, **how})))
            if written:
                break
        again = await self.drawn(echo | {"prompt": TEXT + "".join(token.piece or "" for token in written)})
        for given in (again[-len(written) :], again[-len(written) - 1 : -1]):  # one more was drawn, and may be told of
            if [token.piece for token in given] == [token.piece for token in written]:
                pairs = zip(given, written, strict=True)
                return all(abs((a.log_prob or 0) - (b.log_prob or 0)) < ECHO_TOLERANCE for a, b in pairs)
        return True  # cut into other tokens, or nothing was written: it cannot be told

    async def drawn(self, extra: Body) -> tuple[Drawn, ...]:
        """The tokens of `ask`'s answer; none where there is no answer or it does not name them."""
        reading = await self.ask(extra)
        return reading.deltas[0].drawn if reading is not None and reading.deltas else ()

    async def stops(self) -> bool:
        """Whether a stop string is kept at the end of the text that it ends."""
        if len(self.greedy) < 2:
            return False
        stop = self.greedy[(len(self.greedy) - 1) // 2]
        text = await self.text({"stop": [stop], "include_stop_str_in_output": True})
        through = self.greedy[: self.greedy.index(stop) + 1]  # perhaps with the rest of the token that ends there
        return text is not None and text.startswith(through) and self.greedy.startswith(text) and text != self.greedy

    async def continues(self) -> bool:
        """Whether a partial text is gone on with. In a chat the end of a turn and the beginning of the next are tokens
        that a continued one has not.
        """
        if not self.chat:
            return True
        messages = [*self.base["messages"], {"role": "assistant", "content": "31 32 33"}]
        flags: Body = {"continue_final_message": True, "add_generation_prompt": False}
        plain = await self.ask({"messages": messages})
        going_on = await self.ask({"messages": messages, **flags})
        if plain is None or going_on is None or plain.usage is None or going_on.usage is None:
            return False
        return going_on.usage.prompt < plain.usage.prompt

    async def token_ids(self, top: int) -> bool:
        """Whether ids go both ways: given for prompt and text, taken as a prompt, and biased."""
        asked: Body = {"return_token_ids": True, "return_tokens_as_token_ids": True}
        if top >= 0:
            asked["logprobs"] = max(1, top)
        reading = await self.ask(asked)
        if reading is None or not reading.deltas or not reading.prompt_ids:
            return False
        drawn = reading.deltas[0].drawn
        named = all(isinstance(name, int) for token in drawn for name, _ in token.top)
        if not drawn or any(token.id is None for token in drawn) or not named:
            return False
        if await self.text({"prompt": list(reading.prompt_ids)}) != self.greedy:
            return False
        other = next((token.id for token in drawn if token.id != drawn[0].id), drawn[0].id)
        biased = await self.ask(asked | {"logit_bias": {str(other): 100.0}, "max_tokens": 1})
        return biased is not None and bool(biased.deltas) and [t.id for t in biased.deltas[0].drawn] == [other]

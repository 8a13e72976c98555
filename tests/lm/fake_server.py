"""An OpenAI-compatible server in this process, over a toy law, that offers as much or as little as it is told to, and
fails in whatever way it is told to."""

from __future__ import annotations

import asyncio
import itertools
import json
from codecs import getincrementaldecoder
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from outthink.core.rng import mix, uniforms
from outthink.core.sampling import Sampling
from outthink.engine.sampler import Row, log_softmax, sample
from outthink.lm.remote.thread import LoopThread

PIECES = (*(c.encode() for c in " 0123456789abcdefgh.\n"), b"ab", b" a", b"ba\n")
KNOWN = {
    "model", "prompt", "messages", "max_tokens", "temperature", "top_p", "n", "stream", "stream_options", "logprobs",
    "top_logprobs", "echo", "seed", "stop", "presence_penalty", "frequency_penalty", "logit_bias",
}  # fmt: skip


@dataclass
class Offer:
    """What the server offers. ``usage``: continuous, final or none; ``strict``: options beyond OpenAI's are refused."""

    completions: bool = True
    chat: bool = True
    ids: bool = True
    many: bool = True
    seeds: bool = True
    logprobs: int = 20
    echo: bool = True
    echoes_the_next: bool = False
    stop: bool = True
    includes_stop: bool = True
    stream: bool = True
    usage: str = "continuous"
    cached: bool = True
    extras: bool = True
    tokenizer: bool = True
    continues: bool = True
    strict: bool = False
    key: str | None = None
    models: tuple[str, ...] = ("fake",)
    context: int | None = 400
    max_tokens: bool = True
    streams_log_probs: bool = True


@dataclass
class Fault:
    """One bad response. Counts are of chunks sent before it strikes; ``strip`` names fields that are left out."""

    status: int | None = None
    body: bytes = b""
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    wait_s: float = 0.0
    gap_s: float = 0.0
    drop_after: int | None = None
    done_after: int | None = None
    raw_after: tuple[int, bytes] | None = None
    strip: tuple[str, ...] = ()


class FakeServer:
    """Serves on a port of localhost until closed. ``requests`` are the bodies that came, ``connections`` counts the
    clients' connections, ``dropped`` those that went away in the midst of a response, ``open`` the requests now being
    served, ``most_open`` the most at once.
    """

    def __init__(self, offer=None, pieces=PIECES, law=None, seed=5):
        self.offer, self.pieces = offer or Offer(), pieces
        self.end, self.begin, self.unknown = len(pieces), len(pieces) + 1, 1
        self.size = len(pieces) + 2
        self.law = lru_cache(maxsize=None)(_padded(law or chained_law(seed, len(pieces) + 1), self.size))
        self.requests, self.faults, self.paths = [], deque(), []
        self.dropped = self.open = self.most_open = self.connections = 0
        self.gap_s = 0.0
        self.seen = set()
        self._fresh = itertools.count(1)
        self._thread = LoopThread("fake-server")
        self._server = self._thread.wait(self._start())
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"

    async def _start(self):
        return await asyncio.start_server(self._serve, "127.0.0.1", 0)

    def close(self):
        async def stop():
            self._server.close()

        self._thread.close(stop())

    # ---- tokens ----------------------------------------------------------------------------------------------------

    def encode(self, text):
        data, ids = text.encode(), []
        longest = sorted(range(len(self.pieces)), key=lambda i: -len(self.pieces[i]))
        while data:
            token = next((i for i in longest if data.startswith(self.pieces[i])), self.unknown)
            ids.append(token)
            data = data[len(self.pieces[token]) if data.startswith(self.pieces[token]) else 1 :]
        return ids

    def spell(self, ids):
        return b"".join(self.pieces[i] for i in ids if i < self.end)

    def name(self, token, by_id):
        if by_id:
            return f"token_id:{token}"
        if token >= self.end:
            return "</s>" if token == self.end else "<s>"
        return self.pieces[token].decode(errors="replace")

    # ---- HTTP ------------------------------------------------------------------------------------------------------

    async def _serve(self, reader, writer):
        self.connections += 1
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while request := await _read_request(reader):
                if not await self._answer(*request, reader, writer):
                    break
        writer.close()

    async def _answer(self, method, path, headers, body, reader, writer):
        self.paths.append(path)
        offer = self.offer
        if offer.key is not None and headers.get("authorization") != f"Bearer {offer.key}":
            said = f"Incorrect API key provided: {headers.get('authorization', '')[7:]}."
            return await _send(writer, 401, {"error": {"message": said, "code": "invalid_api_key"}})
        if path == "/v1/models":
            data = [{"id": name, "max_model_len": offer.context} for name in offer.models]
            return await _send(writer, 200, {"data": data})
        if path == "/tokenize" and offer.tokenizer:
            special = [self.begin] if body.get("add_special_tokens") else []
            return await _send(writer, 200, {"tokens": special + self.encode(body["prompt"])})
        route = {"/v1/completions": offer.completions, "/v1/chat/completions": offer.chat}
        if not route.get(path):
            return await _send(writer, 404, {"detail": "Not Found"})
        self.requests.append(body)
        fault = self.faults.popleft() if self.faults else Fault(gap_s=self.gap_s)
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            await _pause(fault.wait_s, reader)
            if fault.status is not None:
                return await _send(writer, fault.status, fault.body, fault.headers, fault.content_type)
            if refusal := self._refusal(body):
                return await _send(writer, *refusal)
            return await self._generate(_Job(self, body, path.endswith("/chat/completions")), fault, reader, writer)
        finally:
            self.open -= 1

    def _refusal(self, body):
        offer = self.offer
        if body["model"] not in offer.models:
            said = f"The model `{body['model']}` does not exist."
            return 404, {"error": {"message": said, "code": "model_not_found"}}
        if body.get("stream") and body.get("logprobs") and not offer.streams_log_probs:
            return 400, {"error": {"message": "logprobs are answered whole: ask without stream"}}
        unknown = body.keys() - KNOWN
        if offer.strict and unknown:
            return 400, {"error": {"message": f"Unrecognized request argument: {sorted(unknown)[0]}"}}
        if body.get("logprobs") is not None and offer.logprobs < 0:
            return 400, {"error": {"message": "logprobs is not supported"}}
        if max(body.get("top_logprobs") or 0, int(body.get("logprobs") or 0)) > max(offer.logprobs, 1):
            return 400, {"error": {"message": "too many logprobs"}}
        if isinstance(body.get("prompt"), list):
            if not offer.ids:
                return 422, {"detail": "prompt must be a string"}
            if any(not 0 <= i < self.size for i in body["prompt"]):
                return 400, {"error": {"message": "token id outside the vocabulary"}}
        if any(int(token) >= self.size for token in body.get("logit_bias", ())):
            return 400, {"error": {"message": "logit_bias outside the vocabulary"}}
        if body.get("top_k") == -1 and offer.strict:
            return 400, {"error": {"message": "top_k"}}
        return None

    async def _generate(self, job, fault, reader, writer):
        if not (self.offer.stream and job.body.get("stream")):
            response = job.whole()
            for name in fault.strip:
                _strip(response, name)
            data = json.dumps(response).encode()
            if fault.drop_after is not None:
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(data)
                )
                writer.write(data[: len(data) // 2])
                await writer.drain()
                return False
            return await _send(writer, 200, data)
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for count, event in enumerate(job.events()):
            if fault.drop_after == count:
                writer.transport.abort()
                return False
            if fault.done_after == count:
                break
            if fault.raw_after is not None and fault.raw_after[0] == count:
                _chunk(writer, fault.raw_after[1])
                await writer.drain()
                return False
            for name in fault.strip:
                _strip(event, name)
            _chunk(writer, b"data: " + json.dumps(event).encode() + b"\n\n")
            await writer.drain()
            await _pause(fault.gap_s, reader)
            if reader.at_eof() or writer.is_closing():
                self.dropped += 1
                return False
        _chunk(writer, b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True


class _Job:
    """One request being answered."""

    def __init__(self, server, body, chat):
        self.server, self.body, self.chat, self.offer = server, body, chat, server.offer
        self.prompt = self._prompt()
        self.n = body.get("n", 1) if self.offer.many else 1
        cached = next((k for k in range(len(self.prompt), 0, -1) if tuple(self.prompt[:k]) in server.seen), 0)
        self.cached = cached
        server.seen.update(tuple(self.prompt[:k]) for k in range(1, len(self.prompt) + 1))
        self.completion = 0
        self.by_id = bool(self.offer.ids and body.get("return_tokens_as_token_ids"))
        self.tops = body.get("top_logprobs", 0) if chat else body.get("logprobs")
        self.wants_logprobs = bool(body.get("logprobs")) if chat else body.get("logprobs") is not None
        self.wants_logprobs &= self.offer.logprobs >= 0

    def _prompt(self):
        server, body = self.server, self.body
        if not self.chat:
            prompt = body["prompt"]
            return list(prompt) if isinstance(prompt, list) else [server.begin, *server.encode(prompt)]
        going_on = self.offer.continues and body.get("continue_final_message")
        ids = [server.begin]
        for message in body["messages"]:
            ids += [server.end, *server.encode(message["content"])]
        if going_on:
            return ids
        return [*ids, server.end, server.begin, server.end]

    def sampling(self):
        body = self.body
        extras = {}
        if self.offer.extras:
            extras = {
                "top_k": k if (k := body.get("top_k", -1)) > 0 else None,
                "min_p": body.get("min_p", 0.0),
                "repetition_penalty": body.get("repetition_penalty", 1.0),
            }
        return Sampling(
            body.get("temperature", 1.0),
            top_p=body.get("top_p", 1.0),
            presence_penalty=body.get("presence_penalty", 0.0),
            frequency_penalty=body.get("frequency_penalty", 0.0),
            logit_bias={int(t): b for t, b in body.get("logit_bias", {}).items()},
            **extras,
        )

    def choices(self):
        """For each choice an iterator of its (token, log-probability, likeliest, finish)."""
        seed = self.body.get("seed") if self.offer.seeds else None
        for index in range(self.n):
            yield index, self._tokens(mix(next(self.server._fresh) + (1 << 40) if seed is None else seed, index))

    def _tokens(self, key):
        server, body, sampling = self.server, self.body, self.sampling()
        drawn, most = [], body.get("max_tokens") if self.offer.max_tokens else 40
        most = 16 if most is None else most
        stops = body.get("stop", ()) if self.offer.stop else ()
        while True:
            prefix = [*self.prompt, *drawn]
            if len(prefix) >= (self.offer.context or 400):
                yield None, None, (), "length"
                return
            logits = server.law(tuple(prefix))
            if self.offer.extras and body.get("ignore_eos"):
                logits = np.where(np.arange(len(logits)) == server.end, -1e9, logits)
            row = Row(sampling, key, len(prefix), self.prompt, drawn)
            token = int(sample([logits.astype(np.float32)], [row]).tokens[0])
            drawn.append(token)
            server.seen.add((*self.prompt, *drawn))
            self.completion += 1
            law = log_softmax(server.law(tuple(prefix)).astype(np.float32).astype(np.float64))
            order = np.argsort(-law, kind="stable")[: self.tops or 0]
            text = server.spell(drawn).decode(errors="replace")
            ended = token == server.end and not (self.offer.extras and body.get("ignore_eos"))
            stopped = any(stop in text for stop in stops) or token in body.get("stop_token_ids", ())
            finish = "stop" if ended or stopped else "length" if len(drawn) == most else None
            yield token, float(law[token]), [(int(t), float(law[t])) for t in order], finish
            if finish:
                return

    def usage(self):
        found = {"prompt_tokens": len(self.prompt), "completion_tokens": self.completion}
        if self.offer.cached:
            found["prompt_tokens_details"] = {"cached_tokens": self.cached}
        return found

    def logprobs(self, entries, offset=0):
        server, by_id = self.server, self.by_id
        if self.chat:
            return {
                "content": [
                    {
                        "token": server.name(t, by_id),
                        "logprob": p,
                        "top_logprobs": [{"token": server.name(i, by_id), "logprob": q} for i, q in top],
                    }
                    for t, p, top in entries
                ]
            }
        names = [server.name(t, by_id) for t, _, _ in entries]
        lengths = [len(server.name(t, False)) for t, _, _ in entries]
        return {
            "tokens": names,
            "token_logprobs": [p for _, p, _ in entries],
            "top_logprobs": [{server.name(i, by_id): q for i, q in top} if top else None for _, _, top in entries],
            "text_offset": [offset + sum(lengths[:i]) for i in range(len(lengths))],
        }

    def choice(self, index, text, entries, finish, *, stream, first):
        made = {"index": index, "finish_reason": finish}
        if self.chat:
            made["delta" if stream else "message"] = {"content": text}
        else:
            made["text"] = text
        if self.wants_logprobs:
            made["logprobs"] = self.logprobs(entries)
        if self.offer.ids and self.body.get("return_token_ids"):
            made["token_ids"] = [t for t, _, _ in entries]
            if first:
                made["prompt_token_ids"] = self.prompt
        return made

    def trimmed(self, text):
        """What a server that strips stop strings shows of a text."""
        if self.offer.includes_stop and self.body.get("include_stop_str_in_output"):
            return text
        found = [at for stop in self.body.get("stop", ()) if self.offer.stop and (at := text.find(stop)) >= 0]
        return text[: min(found)] if found else text

    def whole(self):
        choices = []
        for index, tokens in self.choices():
            drawn = list(tokens)
            entries, finish = [entry[:3] for entry in drawn if entry[0] is not None], drawn[-1][3]
            text = self.trimmed(self.server.spell([t for t, _, _ in entries]).decode(errors="replace"))
            made = self.choice(index, text, entries, finish, stream=False, first=True)
            if self.body.get("echo") and self.offer.echo:
                echoed = [(self.prompt[0], None, ()), *self._prompt_log_probs()]
                made["text"] = self.server.spell(self.prompt).decode(errors="replace") + text
                if self.wants_logprobs:
                    made["logprobs"] = self.logprobs([*echoed, *entries])
            choices.append(made)
        return {"choices": choices} | ({} if self.offer.usage == "none" else {"usage": self.usage()})

    def _prompt_log_probs(self):
        for at in range(1, len(self.prompt)):
            before = self.prompt[: at + self.offer.echoes_the_next]
            law = log_softmax(self.server.law(tuple(before)).astype(np.float32).astype(np.float64))
            yield self.prompt[at], float(law[self.prompt[at]]), ()

    def events(self):
        options = self.body.get("stream_options", {})
        usage, continuous = options.get("include_usage"), options.get("continuous_usage_stats")
        decoders = [getincrementaldecoder("utf-8")("replace") for _ in range(self.n)]
        running = dict(self.choices())
        first = set(running)
        while running:
            for index, tokens in list(running.items()):
                token, log_prob, top, finish = next(tokens)
                data = b"" if token is None else self.server.spell([token])
                text = decoders[index].decode(data, final=finish is not None)
                entries = [] if token is None else [(token, log_prob, top)]
                made = self.choice(index, text, entries, finish, stream=True, first=index in first)
                first.discard(index)
                event = {"choices": [made]}
                if usage and continuous and self.offer.usage == "continuous":
                    event["usage"] = self.usage()
                yield event
                if finish is not None:
                    del running[index]
        if usage and self.offer.usage != "none":
            yield {"choices": [], "usage": self.usage()}


def chained_law(seed, size, sharpness=1.5):
    """Like `outthink.lm.toy.random_law`, a function of the whole prefix, but quick for prefixes of prefixes."""
    keys, counters = {(): seed}, np.arange(size, dtype=np.uint64)

    def key_of(prefix):
        if prefix not in keys:
            keys[prefix] = mix(key_of(prefix[:-1]), prefix[-1])
        return keys[prefix]

    def law(prefix):
        draw = uniforms(np.full(size, key_of(prefix), dtype=np.uint64), counters)
        return -sharpness * np.log(-np.log(draw))

    return law


def _padded(law, size):
    """``law`` over pieces and the end token, and a begin token that is never drawn."""
    return lambda prefix: np.append(logits := law(prefix), [-1e9] * (size - len(logits)))


async def _pause(seconds, reader):
    """Sleep, but for no longer than the client is there."""
    end = asyncio.get_running_loop().time() + seconds
    await asyncio.sleep(min(seconds, 0.005))
    while not reader.at_eof() and (left := end - asyncio.get_running_loop().time()) > 0:
        await asyncio.sleep(min(left, 0.01))


def _strip(event, name):
    for part in (event, *event.get("choices", ())):
        part.pop(name, None)


def _chunk(writer, data):
    writer.write(b"%x\r\n%s\r\n" % (len(data), data))


async def _read_request(reader):
    line = await reader.readline()
    if not line:
        return None
    method, path, _ = line.decode().split()
    headers = {}
    while header := (await reader.readline()).decode().strip():
        name, _, value = header.partition(":")
        headers[name.lower()] = value.strip()
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return method, path, headers, json.loads(body) if body else {}


async def _send(writer, status, body, headers=(), content_type="application/json"):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    extra = "".join(f"{name}: {value}\r\n" for name, value in dict(headers).items())
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {content_type}\r\nContent-Length: {len(data)}\r\n{extra}\r\n"
    writer.write(head.encode() + data)
    await writer.drain()
    return True

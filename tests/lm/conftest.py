"""Servers of our own making, and connections to them."""

import asyncio
from dataclasses import replace

import pytest

from lm.fake_server import FakeServer, Offer
from outthink.lm.remote import connect

QUICK = {"backoff_s": 0.01, "max_backoff_s": 0.02, "retries": 2, "read_timeout_s": 20.0}
IMPATIENT = {"read_timeout_s": 0.4}


class Served:
    """A server and a model connected to it."""

    def __init__(self, offer=None, pieces=None, law=None, **options):
        self.fake = FakeServer(offer, **({"pieces": pieces} if pieces else {}), law=law)
        self.offer = replace(self.fake.offer)
        self.model = connect(self.fake.url, **{**QUICK, **options})

    def reset(self):
        """As it was when it was connected to; nothing may be left over."""
        self.fake.offer = replace(self.offer)
        self.fake.faults.clear()
        self.fake.requests.clear()
        self.fake.gap_s, self.fake.dropped, self.fake.most_open = 0.0, 0, 0
        return self

    async def settled(self):
        """Wait until nothing is under way on either side; fails where something stays."""
        for _ in range(400):
            if not asyncio.all_tasks(self.model.thread._loop) and not self.fake.open:
                break
            await asyncio.sleep(0.005)
        assert not asyncio.all_tasks(self.model.thread._loop), "a task of the client is left over"
        assert not self.fake.open, "a request is still being served"
        assert self.model.server.bank.empty, "tokens are still set aside"

    def close(self):
        self.model.close()
        self.fake.close()


OFFERS = {
    "all": Offer(),
    "text": Offer(ids=False, tokenizer=False, cached=False, includes_stop=False, many=False, chat=False, usage="final"),
    "bare": Offer(
        ids=False, tokenizer=False, cached=False, includes_stop=False, logprobs=-1, echo=False, chat=False,
        usage="none", extras=False, seeds=False, context=None,
    ),
    "chat": Offer(completions=False, ids=False, tokenizer=False),
    "whole lines": Offer(
        completions=False, continues=False, ids=False, extras=False, logprobs=-1, cached=False, stream=False,
        strict=True, tokenizer=False,
    ),
}  # fmt: skip


@pytest.fixture(scope="session")
def every_served():
    """One server for each kind of offer, made when first asked for."""
    made = {}

    def get(name, **options):
        key = (name, *options)
        if key not in made:
            made[key] = Served(OFFERS[name], parameters=10, chat=not OFFERS[name].completions, **options)
        return made[key].reset()

    yield get
    for served in made.values():
        served.close()


@pytest.fixture
async def served(every_served):
    """The server that offers everything; at the end nothing may be under way or set aside."""
    found = every_served("all")
    yield found
    await found.settled()


@pytest.fixture
async def serving(every_served):
    """A function from the name of an offer, and the client's options, to such a server; at the end nothing may be under
    way or set aside.
    """
    used = []

    def get(name, **options):
        used.append(every_served(name, **options))
        return used[-1]

    yield get
    for found in used:
        await found.settled()

"""A server behind the `LM` protocol keeps its laws: all of them where it offers enough, else those that apply."""

import pytest

from lm.fake_server import FakeServer, Offer
from outthink.lm import laws
from outthink.lm.laws import check_lm
from outthink.lm.remote import connect


@pytest.fixture
def serve():
    """A function that starts a server which offers what is said, and connects to it."""
    opened = []

    def start(offer=None, **options):
        server = FakeServer(offer)
        opened.append(server)
        opened.append(connect(server.url, backoff_s=0.01, **options))
        return server, opened[-1]

    yield start
    for each in reversed(opened):
        each.close()


async def test_a_server_that_offers_everything_keeps_every_law(serve):
    server, model = serve(parameters=10)
    await check_lm(lambda ledger, sampling: model.session(ledger, sampling), "1 2 3 ab")
    assert model.server.bank.empty, "tokens are still set aside"
    assert server.open == 0, "a request is still being served"

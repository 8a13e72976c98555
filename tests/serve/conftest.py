import pytest

import outthink
from cli.tiny_model import make_model
from serve_world import served


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A model that draws whole steps of reasoning at random, and soon ends."""
    with outthink.load(make_model(tmp_path_factory.mktemp("served") / "tiny")) as loaded:
        yield loaded


@pytest.fixture(scope="session")
def endless(tmp_path_factory):
    """A model whose lines end only with its long context, so that whoever asks it is still waiting."""
    directory = make_model(tmp_path_factory.mktemp("served") / "endless", ends=False, context=200_000)
    with outthink.load(directory) as loaded:
        yield loaded


@pytest.fixture
def waiting(endless):
    with served(endless) as client:
        yield client
    assert not endless.thread.call(endless.engine.scheduler.leases), "a request left pages behind"


@pytest.fixture
def client(model):
    with served(model) as client:
        yield client
    assert not model.thread.call(model.engine.scheduler.leases), "a request left pages behind"
    model.thread.call(model.engine.check_integrity)

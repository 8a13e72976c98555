"""A server that fails: every fault ends in a typed error that says what to do, or in a text that is whole."""

import asyncio
import json
from dataclasses import replace

import pytest

from lm.conftest import IMPATIENT
from lm.fake_server import Fault
from outthink.core.budget import Budget, Ledger
from outthink.core.errors import CapabilityError
from outthink.core.sampling import Sampling, Until
from outthink.lm.remote.errors import (
    BusyError,
    GarbledError,
    InterruptedResponseError,
    KeyRefusedError,
    NoSuchRouteError,
    RequestRefusedError,
    ServerFailedError,
    StalledError,
    UnknownModelError,
    UnusableResponseError,
)

PROMPT = "1 2 3 ab"
FAILED = json.dumps({"error": {"message": "out of memory"}}).encode()
LINE = Until(8, ignore_eos=True)


async def grow(served, until=LINE, n=1, budget=None, on_token=None, seed=3):
    """The children, with the ledger that paid for them."""
    lm = served.model.session(Ledger(budget), Sampling(seed=seed))
    return await (await lm.root(PROMPT)).extend(n, until, on_token=on_token), lm.ledger


def failing(status, headers=None):
    return Fault(status=status, body=FAILED, headers=headers or {})


BEFORE = {
    "fails twice": [failing(500), failing(503)],
    "has no room for a while": [failing(429, {"Retry-After": "0.02"}), failing(429)],
    "sends nothing": [Fault(wait_s=30.0)],
    "drops the connection at once": [Fault(drop_after=0)],
    "sends a garbled body": [Fault(status=200, body=b'{"choices": [{"te')],
}


@pytest.mark.parametrize("name", BEFORE)
async def test_what_fails_before_a_token_came_is_sent_again(serving, name):
    served = serving("all", **(IMPATIENT if name == "sends nothing" else {}))
    [[expected], _] = await grow(served)
    asked = len(served.fake.requests)
    served.fake.faults.extend(BEFORE[name])
    [[line], ledger] = await grow(served)
    assert (line.tokens, line.text, line.finish) == (expected.tokens, expected.text, "length")
    assert line.log_probs == pytest.approx(expected.log_probs)
    assert len(served.fake.requests) == asked + len(BEFORE[name]) + 1
    assert ledger.bill.decoded == 8


MIDWAY = {
    "drops the connection": Fault(drop_after=3),
    "goes silent": Fault(gap_s=30.0),
    "ends without a finish": Fault(done_after=3),
    "sends garbled events": Fault(raw_after=(3, b'data: {"choices": [{"inde\n\n')),
    "sends no event stream": Fault(raw_after=(3, b"<html>\n\n")),
    "reports an error": Fault(raw_after=(3, b'data: {"error": {"message": "cuda", "code": 500}}\n\n')),
}


@pytest.mark.parametrize("kind", ["all", "text", "chat"])
@pytest.mark.parametrize("name", MIDWAY)
async def test_what_fails_midway_is_resumed(serving, name, kind):
    served = serving(kind, **(IMPATIENT if name == "goes silent" else {}))
    shown = []
    served.fake.faults.append(MIDWAY[name])
    other = asyncio.create_task(grow(served, seed=4))
    [[line], ledger] = await grow(served, on_token=lambda _, text: shown.append(text))
    [[untouched], _] = await other
    assert len(untouched.tokens) == 8, "another branch suffered"
    assert "".join(shown) == line.text, "what was shown is not the text"
    assert len(line.tokens) == 8 and line.finish == "length"
    assert ledger.bill.decoded >= 8, "drawn tokens were not charged"
    if kind == "all":
        again = await (await served.model.session().root(PROMPT)).score(list(line.tokens))
        assert line.log_probs == pytest.approx(again, abs=1e-4), "the tokens do not follow on the prompt"
    if kind == "text":
        sent = [body["prompt"] for body in served.fake.requests if body["prompt"] != PROMPT]
        assert all(prompt.startswith(PROMPT) and line.text.startswith(prompt[len(PROMPT) :]) for prompt in sent) or sent


async def test_several_texts_of_one_request_are_resumed_one_by_one(serving):
    served = serving("bare")
    served.fake.faults.append(Fault(drop_after=4))
    [lines, _] = await grow(served, n=3)
    assert [len(line.text) > 0 for line in lines] == [True] * 3
    assert all(line.finish in ("length", "stop") for line in lines)
    resumed = [body["prompt"] for body in served.fake.requests[1:]]
    assert all(prompt.startswith(PROMPT) for prompt in resumed) and 1 <= len(resumed) <= 3


async def test_a_text_that_cannot_be_continued_is_written_anew_unless_it_was_shown(serving):
    served = serving("whole lines")
    served.fake.offer.stream = True
    route = served.model.capabilities.chat
    object.__setattr__(route, "stream", {"stream": True})
    try:
        served.fake.faults.append(Fault(drop_after=3))
        [[line], ledger] = await grow(served)
        assert line.finish in ("length", "stop")
        assert ledger.bill.decoded >= len(line.tokens) + 3, "tokens that were lost were not charged"
        served.fake.faults.append(Fault(drop_after=3))
        with pytest.raises(InterruptedResponseError, match="cannot be continued"):
            await grow(served, on_token=lambda *_: None)
    finally:
        object.__setattr__(route, "stream", None)


SEVENTH = b'data: {"choices": [{"index": 7, "text": "x"}]}\n\n'
TOO_LONG = b'data: {"error": {"message": "too long", "code": 400}}\n\n'
HOPELESS = {
    "always fails": ([failing(500)] * 3, ServerFailedError, r"HTTP 500\): out of memory. Look at .* Gave up after 3"),
    "never has room": ([failing(429)] * 3, BusyError, "lower the concurrency"),
    "asks to wait too long": ([failing(429, {"Retry-After": "1e9"})], BusyError, "429"),
    "always drops": ([Fault(drop_after=0)] * 3, InterruptedResponseError, "broke off"),
    "is always garbled": ([Fault(status=200, body=b"\xff\x00")] * 3, GarbledError, "no valid JSON"),
    "sends another type": ([Fault(status=200, body=b"<html>", content_type="text/html")], UnusableResponseError, "/v1"),
    "sends no choices": ([Fault(strip=("choices",))], UnusableResponseError, "no choices, but usage"),
    "sends no text": ([Fault(strip=("text",))], UnusableResponseError, "neither text"),
    "sends an array": ([Fault(status=200, body=b"[1]")] * 3, GarbledError, "where an object was to come"),
    "sends a huge line": ([Fault(raw_after=(1, b"data: " + b"x" * 20_000))], UnusableResponseError, "more than"),
    "sends a huge body": ([Fault(status=200, body=b" " * 20_000)], UnusableResponseError, "more than"),
    "sends text 7 of 1": ([Fault(raw_after=(1, SEVENTH))], UnusableResponseError, "text 7 of 1"),
    "redirects": ([Fault(status=302, headers={"Location": "http://a/v1"})], UnusableResponseError, "http://a/v1"),
    "refuses the request": ([failing(400)], RequestRefusedError, "out of memory"),
    "has lost the route": ([failing(404)], NoSuchRouteError, "base URL"),
    "refuses midway": ([Fault(raw_after=(1, TOO_LONG))], RequestRefusedError, "too long"),
}  # fmt: skip


@pytest.fixture
def strict(every_served):
    """A server that offers everything, read with little room."""
    served = every_served("all")
    connection = served.model.server.client.connection
    object.__setattr__(connection, "max_bytes", 10_000)
    yield served
    object.__setattr__(connection, "max_bytes", 16 << 20)


async def test_a_server_that_stays_silent_is_a_typed_error(serving):
    served = serving("all", **IMPATIENT)
    served.fake.faults.extend([Fault(wait_s=30.0)] * 3)
    with pytest.raises(StalledError, match=r"No answer from .* Gave up after 3 attempts"):
        await grow(served)


@pytest.mark.parametrize("name", HOPELESS)
async def test_what_cannot_be_cured_is_a_typed_error(strict, name):
    faults, error, message = HOPELESS[name]
    strict.fake.faults.extend(faults)
    budget = Budget(tokens=60)
    lm = strict.model.session(Ledger(budget), Sampling(seed=3))
    root = await lm.root(PROMPT)
    with pytest.raises(error, match=message):
        await root.extend(1, LINE)
    assert not strict.fake.faults, "not every attempt was made"
    assert lm.tree.children[0].children[0].finish == "cancelled"
    assert lm.ledger.bill.tokens <= 60
    [line] = await root.extend(1, LINE)
    assert len(line.tokens) == 8, "the branch is of no use after an error"
    await strict.settled()


async def test_a_failing_text_takes_its_siblings_along_and_no_other(served):
    served.fake.faults.extend([failing(400), Fault(gap_s=0.02), Fault(gap_s=0.02)])
    lm = served.model.session()
    root = await lm.root(PROMPT)
    extending = asyncio.create_task(root.extend(3, LINE))
    await asyncio.sleep(0)
    results = await asyncio.gather(extending, root.extend(1, LINE), return_exceptions=True)
    assert isinstance(results[0], RequestRefusedError)
    assert len(results[1][0].tokens) == 8


async def test_a_wrong_key_is_refused_and_never_shown(served):
    served.fake.offer.key = "sk-another"
    client = served.model.server.client
    with pytest.raises(KeyRefusedError, match="--api-key-env"):
        await grow(served)
    secret = "sk-very-secret"
    connection = replace(client.connection, api_key=secret)
    assert secret not in repr(connection) and secret not in repr(served.model)
    client._http.headers["Authorization"], client.connection = f"Bearer {secret}", connection
    try:
        with pytest.raises(KeyRefusedError, match=r"Incorrect API key provided: \*\*\*") as raised:
            await grow(served)
        assert secret not in str(raised.value)
    finally:
        del client._http.headers["Authorization"]


async def test_an_unknown_model_is_named(served):
    served.fake.offer.models = ("another",)
    with pytest.raises(UnknownModelError, match=r"serves no model 'fake'.*--model"):
        await grow(served)


async def test_a_server_that_ignores_n_is_asked_again(serving):
    served = serving("bare")
    assert served.model.capabilities.completions.many
    served.fake.offer.many = False
    [lines, _] = await grow(served, n=4)
    assert len(lines) == 4 and all(line.finish in ("length", "stop") and line.text for line in lines)
    assert [body.get("n", 1) for body in served.fake.requests] == [4, 1, 1, 1]
    served.model.server.ignores_n = False


@pytest.mark.parametrize("kind", ["all", "text"])
async def test_a_server_that_ignores_stop_is_cut(serving, kind):
    served = serving(kind)
    served.fake.offer.stop = False
    for seed in range(6):
        [[free], _] = await grow(served, Until(12, ignore_eos=True), seed=seed)
        stop = free.text[2:4]
        [[line], ledger] = await grow(served, Until(12, stop=(stop,), ignore_eos=True), seed=seed)
        assert line.finish == "stop" and stop not in line.completion and line.text.startswith(line.completion + stop)
        assert free.text.startswith(line.text), "the text was changed"
        assert ledger.bill.decoded >= len(line.tokens)


async def test_a_server_that_ignores_max_tokens_is_cut(served):
    served.fake.offer.max_tokens = False
    served.fake.gap_s = 0.002
    [[line], _] = await grow(served, Until(5, ignore_eos=True))
    assert len(line.tokens) == 5 and line.finish == "length"
    await served.settled()
    assert served.fake.dropped == 1, "the connection was not dropped"


async def test_without_log_probabilities_the_text_is_there_and_reading_them_is_an_error(served):
    served.fake.faults.append(Fault(strip=("logprobs",)))
    [[line], _] = await grow(served)
    assert len(line.tokens) == 8 and line.text
    for name in ("log_probs", "sample_log_probs"):
        with pytest.raises(CapabilityError, match="gave no log-probabilities"):
            sum(getattr(line, name))


async def test_without_usage_tokens_are_counted_and_marked(served):
    served.fake.faults.append(Fault(strip=("usage",)))
    [[line], ledger] = await grow(served)
    bill = ledger.bill
    assert bill.decoded == len(line.tokens) == 8
    assert bill.prefilled > 0 and bill.estimated == bill.tokens
    assert "estimated" in str(bill)
    [_, reported] = await grow(served)
    assert reported.bill.estimated == 0


@pytest.mark.parametrize("tokens", [3, 11, 12, 20, 40])
async def test_faults_do_not_overspend(served, tokens):
    served.fake.faults.extend([failing(500), Fault(drop_after=2)])
    [lines, ledger] = await grow(served, n=3, budget=Budget(tokens=tokens))
    assert len(lines) == 3
    assert ledger.bill.tokens <= tokens
    assert all(line.finish in ("length", "budget") for line in lines)

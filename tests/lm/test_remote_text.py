"""The text of a branch is whole and is sent as it is, whatever tokens it falls into; what is missing is refused."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from lm.conftest import Served
from lm.fake_server import Fault, Offer, chained_law
from outthink.core.budget import Budget, Ledger
from outthink.core.errors import BranchClosedError, CapabilityError, PromptError, UserError
from outthink.core.question import Question, parse_answer
from outthink.core.sampling import Sampling, Until
from outthink.lm.remote import connect
from outthink.lm.remote.connection import Connection, Patience
from outthink.lm.remote.errors import BusyError, ServerFailedError, UnreachableError
from outthink.posterior.twist import LinearTwist
from outthink.reason.solve import solve, think

TEXT_ONLY = Offer(ids=False, tokenizer=False, cached=False, includes_stop=False, many=False, chat=False)
BYTES = (*(bytes([c]) for c in b" 0123456789\nab"), b"\xc3", b"\xa9", b"ab", b"b 1")
QUESTION = Question("1 2 3 ab", parse_answer)


@pytest.fixture(scope="module")
def split_characters():
    """A server of text alone, half of whose tokens are halves of a character."""

    base, (first, second, a, b) = chained_law(5, len(BYTES) + 1), map(BYTES.index, (b"\xc3", b"\xa9", b"a", b"b"))

    def law(prefix):
        logits = base(prefix).copy()
        logits[-1] = -1e9  # lines end with the budget alone
        logits[second] = -1e9
        logits[[first, a]] += 4.0
        if prefix and prefix[-1] == first:
            logits[:] = -1e9
            logits[second] = 0.0
        elif prefix and prefix[-1] == a:
            logits[b] = logits.max() + 2.0
        return logits

    served = Served(TEXT_ONLY, pieces=BYTES, law=law)
    yield served
    served.close()


@pytest.mark.parametrize("length", [1, 2, 3, 5])
async def test_a_branch_never_ends_within_a_character(split_characters, length):
    served = split_characters.reset()
    lm = served.model.session(sampling=Sampling(seed=length))
    tip, text = await lm.root("1 2 "), ""
    for _ in range(6):
        [tip] = await tip.extend(1, Until(length))
        text += tip.text
        assert "\ufffd" not in tip.text and len(tip.log_probs) == len(tip.tokens) <= length
        assert served.model.server.vocabulary.text(tip.tokens) == tip.text
    assert tip.full_text == text
    sent = [body["prompt"] for body in served.fake.requests]
    assert all(("1 2 " + text).startswith(prompt) for prompt in sent), "a prefix was sent that is none"
    assert lm.ledger.bill.decoded >= 6, "tokens that were dropped were not charged"
    assert length == 1 or "é" in text, "the case was meant to hold split characters"


async def test_a_text_is_sent_as_it_was_written_though_it_falls_into_other_tokens(split_characters):
    served = split_characters.reset()
    fake, merged = served.fake, 0
    root = await served.model.session(sampling=Sampling(seed=2)).root("1 2 ")
    for child in await root.extend(6, Until(8)):
        [line] = await child.extend(1, Until(3))
        assert fake.requests[-1]["prompt"] == "1 2 " + child.text
        assert line.full_text == child.text + line.text
        merged += len(fake.encode("1 2 " + child.text)) != len(fake.encode("1 2 ")) + len(child.tokens)
    assert merged, "no text fell into other tokens: the case was meant to have some"


async def test_text_is_scored_from_where_the_branch_ends(serving):
    served = serving("text")
    root = await served.model.session().root("1 2 3")
    fake = served.fake
    for text in (" 4 5", "ab.", "a", "ba\nab"):
        ids = fake.encode("1 2 3" + text)
        first = next(k for k in range(len(ids)) if len(fake.spell(ids[: k + 1])) > len("1 2 3"))
        expected = []
        for k in range(first, len(ids)):
            law = fake.law((fake.begin, *ids[:k]))
            expected.append(law[ids[k]] - np.logaddexp.reduce(law))
        assert await root.score(text) == pytest.approx(expected, abs=1e-4)


async def test_fed_text_is_sent(serving):
    for kind in ("all", "text", "chat"):
        served = serving(kind)
        root = await served.model.session().root("1 2 3")
        fed = await root.feed(" 4 5")
        assert fed.text == fed.full_text == " 4 5" and fed.finish is None and not served.fake.requests
        [line] = await fed.extend(1, Until(2, ignore_eos=True))
        assert line.full_text == " 4 5" + line.text
        body = served.fake.requests[-1]
        assert (body["messages"][-1]["content"] if kind == "chat" else body["prompt"]) in (" 4 5", "1 2 3 4 5")


async def test_ids_of_nobody_are_refused(serving):
    root = await serving("text").model.session().root("1")
    with pytest.raises(PromptError, match="Give text"):
        await root.score([10**6])
    with pytest.raises(CapabilityError, match="takes no token ids"):
        await serving("text").model.session().root([1, 2])
    root = await serving("all").model.session().root([10**6])
    with pytest.raises(UserError, match="outside the vocabulary"):
        await root.extend(1, Until(2))


UNMET = {
    "token-beam": ("text", "names tokens by id"),
    "confident-vote": ("bare", "likeliest tokens"),
    "probability-vote": ("bare", "log-probabilities"),
    "step-beam": ("bare", "The verifier 'likelihood' weighs the log-probabilities"),
    "particle-filter": ("whole lines", "extends lines that are partly written"),
    "mcts": ("whole lines", "extends lines that are partly written"),
    "best-of-n": ("bare", "The verifier 'likelihood'"),
}


@pytest.mark.parametrize("strategy", UNMET)
async def test_what_is_missing_is_refused_before_anything_is_spent(serving, strategy):
    kind, because = UNMET[strategy]
    served = serving(kind)
    lm = served.model.session()
    with pytest.raises(CapabilityError, match=because):
        await think(QUESTION, lm, strategy)
    assert not served.fake.requests and lm.ledger.bill.tokens == 0


async def test_twists_ask_for_what_they_use_and_no_more(serving):
    """A twist that proposes needs biases, one that reads ids needs ids; without either, text will do."""
    for kind, propose, because in (("all", True, "biases of its own"), ("text", False, "names tokens by id")):
        served = serving(kind)
        lm = served.model.session()
        with pytest.raises(CapabilityError, match=because):
            await think(QUESTION, lm, "twisted-smc", twist=LinearTwist({}, 1, propose=propose))
        assert not served.fake.requests and lm.ledger.bill.tokens == 0
    found = await think(QUESTION, serving("text").model.session(), "twisted-smc", n=2, islands=1, max_tokens=2)
    assert found.attempts == 2
    bare = serving("bare").model.session(sampling=Sampling(temperature=0.5))
    with pytest.raises(CapabilityError, match="the model's own"):
        await think(QUESTION, bare, "twisted-smc", potential="brief:1")


async def test_options_that_the_server_would_pass_over_are_refused(serving):
    served = serving("bare")
    root = await served.model.session().root("1")
    refused = [
        Sampling(top_k=3), Sampling(min_p=0.1), Sampling(repetition_penalty=1.2), Sampling(top_logprobs=1),
        Sampling(logit_bias={1: 1.0}),
    ]  # fmt: skip
    for sampling in refused:
        with pytest.raises(CapabilityError):
            await root.extend(1, Until(2), sampling)
    with pytest.raises(CapabilityError, match="stop_tokens"):
        await root.extend(1, Until(2, stop_tokens=(1,)))
    assert not served.fake.requests
    mixed = Sampling(temperature=0.5, top_k=3, min_p=0.1, top_logprobs=2, logit_bias={1: 1.0, 2: float("-inf")}, seed=4)
    [line] = await (await serving("all").model.session().root("1")).extend(1, Until(3), mixed)
    with pytest.raises(CapabilityError, match="under the model's own law"):
        len(line.sample_log_probs)
    assert [len(top) for top in line.top_log_probs] == [2] * len(line.tokens)


async def test_flops_need_the_number_of_parameters():
    served = Served(TEXT_ONLY)
    try:
        root = await served.model.session(Ledger(Budget(flops=1e6))).root("1")
        with pytest.raises(CapabilityError, match="parameters"):
            await root.extend(1, Until(2))
    finally:
        served.close()


async def test_a_cancelled_extension_drops_its_connection(served):
    served.fake.gap_s = 0.02
    lm = served.model.session()
    root = await lm.root("1 2 3 ab")
    task = asyncio.create_task(root.extend(1, Until(200, ignore_eos=True)))
    while not lm.ledger.bill.decoded:
        await asyncio.sleep(0.002)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await served.settled()
    assert served.fake.dropped == 1
    assert root.thought.children[0].finish == "cancelled"


async def test_a_cancelled_ledger_brings_back_what_there_is(served):
    served.fake.gap_s = 0.02
    lm = served.model.session()
    root = await lm.root("1 2 3 ab")
    [line] = await root.extend(1, Until(200, ignore_eos=True), on_token=lambda *_: lm.ledger.cancel())
    assert line.finish == "budget" and 0 < len(line.tokens) < 200
    await served.settled()
    assert served.fake.dropped == 1


async def test_a_slow_server_is_cut_when_time_is_over(served):
    served.fake.faults.append(Fault(wait_s=60.0))
    lm = served.model.session(Ledger(Budget(seconds=0.2)))
    [line] = await (await lm.root("1 2 3 ab")).extend(1, Until(5))
    assert line.finish == "budget" and not line.tokens
    assert lm.ledger.bill.estimated > 0, "a prompt that was sent was not charged"


async def test_closing_a_branch_ends_what_grows_from_it(served):
    served.fake.gap_s = 0.02
    root = await served.model.session().root("1 2 3 ab")
    task = asyncio.create_task(root.extend(1, Until(200, ignore_eos=True)))
    while not served.fake.open:
        await asyncio.sleep(0.002)
    await root.close()
    with pytest.raises(BranchClosedError):
        await task


async def test_no_more_requests_are_in_flight_than_allowed_and_connections_are_used_again():
    served = Served(concurrency=3)
    try:
        served.fake.gap_s = 0.001
        before = served.fake.connections
        served.fake.most_open = 0
        root = await served.model.session().root("1 2 3")
        for _ in range(2):
            await asyncio.gather(*(root.extend(1, Until(4, ignore_eos=True)) for _ in range(12)))
        assert served.fake.most_open == 3
        assert served.fake.connections - before <= 3
        await served.settled()
    finally:
        served.close()


@pytest.mark.parametrize("tokens", [0, 5, 9, 13, 30, 160])
async def test_concurrent_extensions_share_a_budget(serving, tokens):
    served = serving("all")
    lm = served.model.session(Ledger(Budget(tokens=tokens)))
    root = await lm.root("1 2 3 ab")
    found = await asyncio.gather(*(root.extend(2, Until(5, ignore_eos=True)) for _ in range(6)))
    assert lm.ledger.bill.tokens <= tokens
    lines = [line for children in found for line in children]
    assert len(lines) == 12 and all(line.finish in ("length", "budget") for line in lines)
    assert tokens < 160 or all(line.finish == "length" for line in lines)


async def test_prefixes_that_are_computed_again_are_billed_again(serving):
    served = serving("text")
    lm = served.model.session()
    root = await lm.root("1 2 3 ab")
    prompt = 1 + len(served.fake.encode("1 2 3 ab"))
    [child] = await root.extend(1, Until(4, ignore_eos=True))
    first = lm.ledger.bill
    await child.extend(2, Until(4, ignore_eos=True))
    again = 1 + len(served.fake.encode("1 2 3 ab" + child.text))
    assert first.prefilled == prompt and first.estimated == 0
    assert lm.ledger.bill.prefilled == prompt + 2 * again


def test_patience_doubles_jitters_and_honours_the_server():
    import random

    connection = Connection("http://x/v1", retries=4, backoff_s=1.0, max_backoff_s=3.0)
    patience = Patience(connection, random.Random(0))
    waits = [patience.wait_s(ServerFailedError("no")) for _ in range(4)]
    for wait, most in zip(waits, (1.0, 2.0, 3.0, 3.0), strict=True):
        assert most / 2 <= wait <= most
    with pytest.raises(ServerFailedError, match="Gave up after 5 attempts"):
        patience.wait_s(ServerFailedError("no"))
    busy = BusyError("busy")
    busy.retry_after_s = 9.0
    assert Patience(connection, random.Random(0)).wait_s(busy) == 9.0


def test_connections_are_checked():
    for url in ("localhost:8000", "ftp://x/v1", "http://user:pass@x/v1", ""):
        with pytest.raises(UserError, match="base_url"):
            connect(url)
    with pytest.raises(UserError, match="concurrency"):
        connect("http://127.0.0.1:9/v1", concurrency=0)
    with pytest.raises(UserError, match="no option patience"):
        connect("http://127.0.0.1:9/v1", patience=3)
    with pytest.raises(UnreachableError, match="Is the server running"):
        connect("http://127.0.0.1:9/v1")


def test_probing_finds_what_is_offered(every_served):
    found = {name: every_served(name).model.capabilities for name in ("all", "text", "bare", "chat", "whole lines")}
    all_of_it, text, bare = (found[name].completions for name in ("all", "text", "bare"))
    assert all_of_it.token_ids and all_of_it.caches and all_of_it.stops and all_of_it.many and all_of_it.seeds
    assert all_of_it.neutral == {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0} and all_of_it.top == 20
    assert (text.token_ids, text.caches, text.stops, text.many, text.echoes) == (False, False, False, False, True)
    assert (bare.top, bare.echoes, bare.seeds, bare.neutral) == (-1, False, False, {})
    assert found["chat"].completions is None and found["chat"].chat.continues
    whole = found["whole lines"].chat
    assert (whole.continues, whole.stream, whole.top, whole.many) == (False, None, -1, True)
    assert found["all"].context == 400 and found["bare"].context is None


def test_log_probabilities_of_the_wrong_tokens_are_found_out():
    for shifted in (False, True):
        served = Served(replace(TEXT_ONLY, echoes_the_next=shifted))
        try:
            assert served.model.capabilities.completions.echoes is not shifted
        finally:
            served.close()


def test_streams_without_log_probabilities_are_not_asked_for():
    served = Served(replace(TEXT_ONLY, streams_log_probs=False))
    try:
        route = served.model.capabilities.completions
        assert route.stream is None and route.top == 20
        posterior = solve(QUESTION, model=served.model, strategy="probability-vote", n=3, max_tokens=4)
        assert posterior.attempts == 3
    finally:
        served.close()


def test_a_model_must_be_named_where_there_are_several():
    served = Served(replace(TEXT_ONLY, models=("one", "two")), model="two")
    try:
        assert served.model.name == "two"
        with pytest.raises(UserError, match="serves one, two: name a model with --model"):
            connect(served.fake.url)
    finally:
        served.close()


def test_problems_are_solved_through_a_server(every_served):
    model = every_served("all").model
    for strategy in ("majority-vote", "step-beam", "particle-filter", "mcts", "token-beam"):
        first, again = (
            solve(QUESTION, model=model, strategy=strategy, budget="60 tokens", max_tokens=4, n=2) for _ in range(2)
        )
        assert first.cost.tokens <= 60 and first.attempts > 0
        assert [t.text for t in first.tree.walk()] == [t.text for t in again.tree.walk()]

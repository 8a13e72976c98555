"""Strategies combined in one word, and second models by name: the same as in Python, on one bill."""

import pytest

import outthink
from outthink.core.budget import Budget, Ledger
from outthink.core.errors import UnknownNameError, UserError
from outthink.core.question import Question
from outthink.core.sampling import Sampling
from outthink.lm.toy import ToyLM, random_law
from outthink.reason import STRATEGIES
from outthink.reason.combine import bind, ensemble, retry, split, then, within
from outthink.reason.expression import read_strategy
from outthink.reason.solve import think

VOTE, GREEDY = STRATEGIES.get("majority-vote"), STRATEGIES.get("greedy")
ASKED = Question("ab", lambda text: text[-1] if len(text) >= 2 else None, lambda answer: answer == "b")


def toy(budget=None, seed=0):
    return ToyLM(random_law(seed, 4), "abc", Ledger(budget), Sampling(seed=2), context=9)


@pytest.mark.parametrize(
    ("text", "method"),
    [
        ("majority-vote", VOTE),
        ("majority-vote(n=5)", bind(VOTE, n=5)),
        (
            "then(greedy, majority-vote(n=7), below=0.9, share=0.25)",
            then(GREEDY, bind(VOTE, n=7), below=0.9, share=0.25),
        ),
        ("retry(majority-vote(n=2),times=2)", retry(bind(VOTE, n=2), 2)),
        ("ensemble(greedy, majority-vote, majority-vote(n=3))", ensemble(GREEDY, VOTE, bind(VOTE, n=3))),
        ("split(greedy, 0.2, majority-vote, 0.8)", split((GREEDY, 0.2), (VOTE, 0.8))),
        ("within(majority-vote, share=0.5)", within(VOTE, share=0.5)),
        ("within(majority-vote, budget=30)", within(VOTE, budget=Budget(tokens=30))),
        (
            "hint-marginalization(n=4, hint='ab{answer}')",
            bind(STRATEGIES.get("hint-marginalization"), n=4, hint="ab{answer}"),
        ),
        (" then( retry(greedy) , ensemble(majority-vote,greedy) ) ", then(retry(GREEDY), ensemble(VOTE, GREEDY))),
    ],
)
async def test_what_is_written_is_what_is_made(text, method):
    read, made = [await think(ASKED, toy(Budget(tokens=120)), each) for each in (text, method)]
    assert (read.weights, read.attempts, read.method) == (made.weights, made.attempts, made.method)
    assert read.cost.tokens == made.cost.tokens <= 120


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("then(greedy)", "ways to combine"),
        ("then(greedy, greedy, above=0.5)", "ways to combine"),
        ("split(greedy, majority-vote)", "ways to combine"),
        ("retry(greedy, times=0)", "at least 1"),
        ("ensemble(greedy", "not closed"),
        ("ensemble(greedy))", "left over"),
        ("ensemble(, greedy)", "a name was expected"),
        ("majority-vote(n=)", "no value"),
        ("majority-vote(8)", "by name"),
        ("majority-vote(k=8)", "no option k"),
        ("within(greedy, share=2)", "between 0 and 1"),
        ("speculative-steps(draft=small)", "outthink.solve"),
        ("", "a name was expected before its end"),
    ],
)
async def test_mistakes_say_what_is_wrong(text, says):
    with pytest.raises(UserError, match=says):
        await think(ASKED, toy(), text)


async def test_unknown_members_are_named():
    with pytest.raises(UnknownNameError, match="Did you mean 'greedy'"):
        await think(ASKED, toy(), "ensemble(gredy, majority-vote)")


@pytest.mark.parametrize(
    "text", ["speculative-steps(draft=other, n=2, accept=0)", "ensemble(two-models(second=other))"]
)
async def test_members_open_their_second_models_on_the_shared_bill(text):
    opened = []

    def open_model(name):
        opened.append((name, toy(seed=5)))
        return opened[-1][1]

    lm = toy(Budget(tokens=60))
    found = await think(ASKED, lm, read_strategy(text, open_model))
    [(name, other)] = opened
    assert name == "other"
    assert other.ledger.bill.tokens == 0 < found.cost.tokens <= 60


def test_solve_opens_models_by_name_or_takes_them(make_tiny_model, monkeypatch):
    """By name, open, and inside a combination: one bill, drawn by both, and what solve opened it closes."""
    opened, main = [], make_tiny_model()

    def load(source):
        opened.append((source, make_tiny_model()))
        return opened[-1][1]

    monkeypatch.setattr("outthink.reason.solve.load", load)
    question = Question("say it", lambda text: text[:1] or None)
    options = {"n": 2, "max_tokens": 8, "steps": "tokens:2"}
    by_name = outthink.solve(question, model=main, strategy="speculative-steps", draft="small", **options)
    taken = outthink.solve(question, model=main, strategy="speculative-steps", draft=make_tiny_model(), **options)
    assert by_name.weights == taken.weights
    combined = "ensemble(speculative-steps(draft=small, n=2, max_tokens=8, steps=tokens:2))"
    assert outthink.solve(question, model=main, strategy=combined).weights == by_name.weights
    assert [source for source, _ in opened] == ["small", "small"]
    for _, model in opened:
        assert model.engine.stats.drawn > 0
        assert by_name.cost.decoded >= model.engine.stats.drawn
        assert not model.thread._thread.is_alive()

"""The step oracle on the task families' own problems."""

import math

import numpy as np
import pytest

from outthink.core.budget import Ledger
from outthink.core.errors import CapabilityError
from outthink.core.question import Question, parse_answer
from outthink.core.rng import mix
from outthink.lm.toy import ToyLM
from outthink.reason.solve import ask, think
from outthink.tasks.families import family_names, get_family
from outthink.verify import VERIFIERS
from outthink.verify.oracle import ON_THE_WAY, StepOracle


class Line:
    def __init__(self, text, ended=False):
        self.full_text, self.ended, self.finish = text, ended, "stop"


async def score(problem, *lines):
    ledger = Ledger()
    scores = await StepOracle().score(ask(problem), list(lines), ledger)
    assert ledger.bill.verifier_calls == len(lines)
    return scores


@pytest.mark.parametrize("name", family_names())
@pytest.mark.parametrize("seed", range(3))
async def test_the_gold_solution_is_right_at_every_point_and_accepted_at_its_end(name, seed):
    problem = get_family(name).generate(seed, 0.3)
    solution = problem.solution
    cuts = [solution[:end] for end in range(0, len(solution), max(1, len(solution) // 12))]
    assert await score(problem, *(Line(cut) for cut in cuts)) == [ON_THE_WAY] * len(cuts)
    steps = [solution[: i + 1] for i, c in enumerate(solution) if c == "\n"]
    assert await score(problem, *(Line(step) for step in steps)) == [ON_THE_WAY] * len(steps)
    done, open_end, ended = await score(problem, Line(solution + "\n"), Line(solution), Line(solution, ended=True))
    assert (done, open_end, ended) == (0.0, ON_THE_WAY, 0.0)
    oracle = StepOracle()
    assert oracle.accepts(done) and not oracle.accepts(open_end)
    assert await score(problem, Line("nonsense\n"), Line(solution + "x\n"), Line("", ended=True)) == [-math.inf] * 3
    assert await score(problem, Line(solution + "\nmore")) == [0.0], "what follows the answer is not read"
    stopped_early = await score(problem, *(Line(step, ended=True) for step in steps))
    assert stopped_early == [-math.inf] * len(steps), "a line that ended without an answer is not on its way"


async def test_the_beginning_of_the_answer_is_no_answer():
    """``answer: 5`` may become ``answer: 52``; ended, it is wrong."""
    problem = next(p for seed in range(99) if len((p := get_family("arithmetic").generate(seed, 0.5)).answer) > 1)
    cut = problem.solution[:-1]
    going_on, ended, in_a_line = await score(problem, Line(cut), Line(cut, ended=True), Line(cut + "\n"))
    assert going_on == ON_THE_WAY
    assert ended == in_a_line == -math.inf


async def test_a_problem_without_an_oracle_is_refused_before_anything_is_spent():
    lm = ToyLM(lambda prefix: np.zeros(3), "ab")
    with pytest.raises(CapabilityError, match="no task family recognises it"):
        await think(Question("ab", parse_answer), lm, "step-beam", "step-oracle")
    assert lm.ledger.bill.tokens == 0
    assert VERIFIERS.get("step-oracle") is StepOracle


@pytest.mark.parametrize(
    "name", ["step-beam", "guided-beam", "mcts", "a-star", "levin", "rebase", "dvts", "ab-mcts", "step-greedy"]
)
async def test_searches_solve_by_the_oracle_what_the_model_alone_hardly_can(name):
    """A model that writes the gold solution's next character with probability 0.5, else a random one: with the oracle
    every search gets there, step by step of four tokens."""
    problem = get_family("arithmetic").generate(1, 0.0)
    gold = problem.solution + "\n"
    alphabet = "".join(sorted(set(gold)))
    prompt = alphabet[0]

    def law(prefix):
        text = "".join(alphabet[t] for t in prefix[1:] if t < len(alphabet))
        logits = [0.0] * len(alphabet) + [-1e9]
        if gold.startswith(text) and len(text) < len(gold):
            key = 0
            for token in prefix:
                key = mix(key, token)
            logits[alphabet.index(gold[len(text)])] = math.log(len(alphabet)) if key % 3 else 3.0
        return np.array(logits)

    lm = ToyLM(law, alphabet, context=2 * len(gold))
    question = Question(prompt, parse_answer, problem.check, problem)
    options = {"n": 400} if name in ("step-greedy", "a-star", "levin", "mcts", "ab-mcts") else {"n": 48}
    posterior = await think(question, lm, name, "step-oracle", steps="tokens:4", **options)
    assert posterior.best == problem.answer
    assert posterior.stopped == "verified"
    assert posterior.best_line.text.startswith(gold)

"""Evolution of whole lines: selection by the verifier, mutation, crossing over (Lee et al. 2025, Mind Evolution)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from outthink.core.budget import Ledger
from outthink.core.errors import PromptError
from outthink.core.posterior import Posterior
from outthink.core.question import Question
from outthink.core.registry import method
from outthink.lm.protocol import LM
from outthink.reason.holding import Holding, together
from outthink.reason.search.options import at_least
from outthink.reason.segment import Segmenter
from outthink.reason.sequential.traces import Trace, accepted, asked_again, conclude, judge_all, write_on
from outthink.reason.waves import affordable
from outthink.verify import Verifier
from outthink.verify.compose import for_steps
from outthink.verify.needs import check_verifier


@method(
    "evolve",
    family="sequential",
    summary="A population of whole lines: the fitter are gone back into, or crossed with one that shares a step.",
    guarantee="heuristic",
    promise="as good as the verifier's scores; with a sound one, an accepted answer is right",
    paper="Lee et al. 2025, Evolving Deeper LLM Thinking, arXiv:2501.09891; here lines are recombined by their steps, "
    "for any model, or with `combine` in words, as there",
    needs=("continuation",),
)
async def evolve(
    question: Question,
    lm: LM,
    verifier: Verifier | None,
    ledger: Ledger,
    *,
    n: int = 64,
    population: int = 8,
    crossing: float = 0.5,
    temperature: float = 0.5,
    bad: float = 0.5,
    combine: str | None = None,
    steps: str | Segmenter = "newline",
    max_tokens: int | None = None,
) -> Posterior:
    """``n`` lines in generations of ``population``, of which the best distinct ones live on.

    Parents are drawn by exp(score / ``temperature``). A child follows one parent up to its first step with exp(score)
    below ``bad``, or where there is none up to any step; or, with probability ``crossing``, up to a step that another
    parent has too, and then that one for a while. The model writes the rest. With ``combine``, a text with places for
    {first} and {second}, an instruction model is shown two parents and asked for a better line instead.
    """
    at_least(1, n=n, population=population)
    at_least(0, crossing=crossing, temperature=temperature)
    if combine is not None:
        asked_again(question.prompt, combine)
    judge, segmenter, rng = for_steps(verifier), Segmenter.of(steps), np.random.default_rng(lm.sampling.seed % 2**63)
    check_verifier(lm, judge)
    longest, lines, alive = math.inf if max_tokens is None else max_tokens, list[Trace](), list[Trace]()
    async with Holding() as held:
        [root] = held.add([await lm.root(question.prompt)])
        while len(lines) < n and not ledger.exhausted:
            starts = list[Trace]()
            for _ in range(min(population, _affordable(ledger, lines, n - len(lines), combine is not None))):
                if not (parents := draw_parents(alive, temperature, rng)):
                    starts.append(Trace(root))
                elif combine is not None:
                    starts.append(await _asked(question, lm, combine, parents, held))
                elif rng.random() < crossing and (places := meetings(*parents)):
                    starts.append(await cross(*parents, places[rng.integers(len(places))], rng, held))
                else:
                    starts.append(mutate(parents[0], bad, rng))
            read = sum(len(tip.tokens) for start in starts for tip in start.tips if tip.finish is None)
            share = max(1.0, (ledger.tokens_left - read) / len(starts))  # a child reads what was crossed in
            written = await together(write_on(question, s, segmenter, longest, share, held) for s in starts)
            lines += written
            await judge_all(question, judge, written, ledger)
            if any(accepted(question, judge, line) for line in written) or not any(line.length for line in written):
                break
            alive = survivors([*alive, *written], population)
            await held.keep([root, *(branch for line in alive for branch in (line.root, *line.tips))])
    return conclude(question, judge, lines, "finished")


def draw_parents(alive: Sequence[Trace], temperature: float, rng: np.random.Generator) -> tuple[Trace, Trace] | None:
    """Two lines drawn by exp(score / ``temperature``), different ones where there are; None where none is alive."""
    if len(alive) < 2:
        return (alive[0], alive[0]) if alive else None
    scores = np.array([line.score for line in alive])
    best = np.isclose(scores, scores.max()) if temperature == 0 or scores.max() == -math.inf else None
    weights = np.exp((scores - scores.max()) / temperature) if best is None else best.astype(float)
    weights = np.maximum(weights, 1e-12)  # so that there are two to draw
    one, two = rng.choice(len(alive), 2, replace=False, p=weights / weights.sum())
    return alive[one], alive[two]


def mutate(parent: Trace, bad: float, rng: np.random.Generator) -> Trace:
    """The beginning of ``parent`` up to a step that is drawn among all of them, or those to its first wrong one."""
    wrong = parent.first_wrong(bad)
    return parent.upto(int(rng.integers(len(parent.tips) if wrong is None else wrong + 1)))


def meetings(one: Trace, two: Trace) -> list[tuple[int, int]]:
    """Places (i, j) where step i of ``one`` is step j of ``two`` after other beginnings, and ``two`` goes on for two
    steps or more.
    """
    return [
        (i, j)
        for i, mine in enumerate(one.tips[:-1])
        for j, theirs in enumerate(two.tips[:-2])
        if mine.text == theirs.text and mine.full_text != theirs.full_text
    ]


async def cross(one: Trace, two: Trace, place: tuple[int, int], rng: np.random.Generator, held: Holding) -> Trace:
    """``one`` up to step i, then steps of ``two`` after its step j: one of them at least, and not the last."""
    i, j = place
    child = one.upto(i + 1)
    for step in two.tips[j + 1 : int(rng.integers(j + 2, len(two.tips)))]:
        try:
            child.tips += held.add([await child.end.feed(step.text)])
        except PromptError:
            break  # the context has no room for more
    return child


def survivors(lines: Sequence[Trace], population: int) -> list[Trace]:
    """The best of ``lines``, each text once, those found first among equals; none that the budget cut."""
    texts = dict[str, Trace]()
    for line in lines:
        if line.tips and line.end.finish != "budget":
            texts.setdefault(line.end.full_text, line)
    return sorted(texts.values(), key=lambda line: -line.score)[:population]


async def _asked(question: Question, lm: LM, combine: str, parents: Sequence[Trace], held: Holding) -> Trace:
    first, second = (line.end.full_text for line in parents)
    try:
        return Trace(held.add([await lm.root(asked_again(question.prompt, combine, first=first, second=second))])[0])
    except PromptError:  # no room to show both: the better one is gone back into
        return parents[0].upto(0)


def _affordable(ledger: Ledger, lines: Sequence[Trace], most: int, prompts: bool) -> int:
    """How many of ``most`` lines may be begun now: under a budget the first alone, and each that has its own prompt."""
    if not ledger.limited:
        return most
    return 1 if prompts else min(most, affordable(ledger, len(lines), max((line.length for line in lines), default=0)))

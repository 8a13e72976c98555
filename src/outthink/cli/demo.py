"""``outthink demo``: the main job, for real, in under a minute."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from outthink.cli.console import err, out, output_file, table, write_text
from outthink.cli.options import ModelOption, SeedOption, open_model
from outthink.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from outthink.core.estimate import Estimate
    from outthink.core.posterior import Posterior
    from outthink.lm.model import Model
    from outthink.tasks.problem import Problem

LINES, BUDGET = 16, "2k tokens"
EASIEST, HARDEST = 0.1, 0.5
IN_FLIGHT = 8


@dataclass(frozen=True)
class Trial:
    """One fresh problem, answered in one line, by a vote, and by sampling until the exact checker accepts a line."""

    problem: Problem
    greedy: Posterior
    vote: Posterior
    checked: Posterior

    def right(self, posterior: Posterior) -> bool:
        return posterior.best is not None and self.problem.check(posterior.best)

    def helped(self, posterior: Posterior) -> bool:
        """Whether greedy is wrong and ``posterior`` right."""
        return self.right(posterior) and not self.right(self.greedy)

    @property
    def telling(self) -> tuple[bool, bool, float]:
        """How well this shows what thinking longer does, the larger the better: whether the vote mended a wrong answer,
        by a line without a wrong step; whether checking did; how sure the vote is.
        """
        line = self.vote.best_line
        sound = line is not None and self.problem.extendable(line.text)
        return sound and self.helped(self.vote), self.helped(self.checked), self.vote.confidence


def demo(
    model: ModelOption = None,
    suite: Annotated[
        str | None, typer.Option(help="A suite of families, or one family [default: what the model was trained on]")
    ] = None,
    problems: Annotated[int, typer.Option("--problems", help="How many fresh problems to try.")] = 40,
    seed: SeedOption = 0,
    tree: Annotated[Path, typer.Option(help="Where to write the tree of reasoning.")] = Path("outthink-demo.html"),
) -> None:
    """Watch a small model think about fresh problems: greedily, by vote, and checked; one of them is told in full.

    It is one where thinking longer turned a wrong greedy answer into a right one, if there is any; the table at the end
    says how often that happened, and how often the reverse did.
    """
    from rich.progress import track

    from outthink.cli.report import print_report
    from outthink.reason.solve import ask
    from outthink.show import tree_page
    from outthink.tasks.suites import get_suite

    if problems < 1:
        raise UserError(f"--problems {problems} must be at least 1.")
    console, page = out(), output_file(tree)
    chosen = None if suite is None else get_suite(suite)
    with open_model(model, "cpu", "auto") as loaded:
        chosen = replace(chosen or get_suite(suite_of(loaded.name)), easiest=EASIEST, hardest=HARDEST)
        drawn = chosen.sample("test", problems, seed)
        console.print(
            f"{loaded.name} ({loaded.engine.backend.name} kernels) on {len(drawn)} problems of {chosen.name} that it "
            f"was never trained on, difficulty {EASIEST:g} to {HARDEST:g}\n",
            soft_wrap=True,
            markup=False,
        )
        bar = iter(track(range(len(drawn)), "thinking", console=err(), transient=True))
        next(bar)
        trials = asyncio.run(_try_all(loaded, drawn, seed, lambda: next(bar, None)))
        shown = max(trials, key=lambda t: t.telling)
        question = ask(shown.problem, chat=loaded.loaded.tokenizer.chat_template is not None)
        _heading(f"{shown.problem.prompt}")
        _heading(f"{shown.problem.family}, difficulty {shown.problem.difficulty:g}\n", style="dim")
        _heading("one greedy line", style="dim")
        print_report(console, shown.greedy, question)
        _heading(f"\n{LINES} sampled lines, and their vote", style="dim")
        print_report(console, shown.vote, question)
        _heading(f"\nsampling until the exact checker accepts a line, on a budget of {BUDGET}", style="dim")
        print_report(console, shown.checked, question)
        write_text(page, tree_page(shown.vote, question, {"model": loaded.name, "strategy": "majority-vote"}))
    console.print(Text(f"\nthe tree of reasoning behind the vote: {tree}"), soft_wrap=True)
    _summary(trials)
    console.print(Text(_verdict(trials, shown)), soft_wrap=True)


def suite_of(name: str) -> str:
    """What a bundled model was trained on: the family that its name begins with, else all of them."""
    from outthink.tasks.families import family_names

    stem = name.rpartition("-")[0]
    return stem if stem in family_names() else "outthink-core"


async def _try_all(model: Model, drawn: Sequence[Problem], seed: int, done: Callable[[], object]) -> list[Trial]:
    from outthink.core.budget import Budget, Ledger
    from outthink.core.sampling import Sampling
    from outthink.reason.solve import ask, think

    gate = asyncio.Semaphore(IN_FLIGHT)

    async def one(problem: Problem) -> Trial:
        async with gate:
            question = ask(problem, chat=model.loaded.tokenizer.chat_template is not None)
            sampling = Sampling(seed=seed)
            greedy = await think(question, model.session(sampling=sampling), "greedy")
            vote = await think(question, model.session(sampling=sampling), "majority-vote", n=LINES)
            session = model.session(Ledger(Budget(BUDGET)), sampling)
            checked = await think(question, session, "sample-until-verified", "exact")
            done()
            return Trial(problem, greedy, vote, checked)

    return list(await asyncio.gather(*map(one, drawn)))


def _summary(trials: Sequence[Trial]) -> None:
    """How often thinking longer helped and hurt, over all problems that were tried."""
    from outthink.core.estimate import paired_difference, proportion

    made = table("", "right", "tokens", "helped", "hurt", "gain over greedy")
    greedy = [t.right(t.greedy) for t in trials]
    for name, posteriors in (
        ("greedy", [t.greedy for t in trials]),
        (f"vote of {LINES}", [t.vote for t in trials]),
        (f"checked, {BUDGET}", [t.checked for t in trials]),
    ):
        right = [t.right(p) for t, p in zip(trials, posteriors, strict=True)]
        tokens = sum(p.cost.tokens for p in posteriors) / len(trials)
        row = [name, _interval(proportion(right), ".0%"), f"{tokens:,.0f}"]
        if name != "greedy":
            helped = sum(map(Trial.helped, trials, posteriors))
            hurt = sum(before and not now for now, before in zip(right, greedy, strict=True))
            row += [str(helped), str(hurt), _interval(paired_difference(right, greedy), "+.0%")]
        made.add_row(*row)
    out().print(Text(f"\nover all {len(trials)} problems, with 95% intervals (helped: wrong to right)", style="bold"))
    out().print(made)


def _verdict(trials: Sequence[Trial], shown: Trial) -> str:
    """What the problem told in full stands for, and how often its like came up."""
    wrong = sum(not trial.right(trial.greedy) for trial in trials)
    mended, checked = (sum(t.helped(p) for t, p in zip(trials, found, strict=True)) for found in _longer(trials))
    spoiled = sum(t.right(t.greedy) and not t.right(t.vote) for t in trials)
    counts = (
        f"\nOf {wrong} wrong greedy answers the vote mended {mended} and checking {checked}; of "
        f"{len(trials) - wrong} right ones the vote spoiled {spoiled}."
    )
    if shown.telling[0]:
        return counts + " The problem above is one that it mended, the one where it is surest."
    if shown.telling[1]:
        return counts + " The problem above is one that checking mended; the vote mended none by right steps."
    return counts + " The problem above was not mended: with this seed there is none to show; try --seed."


def _longer(trials: Sequence[Trial]) -> tuple[list[Posterior], list[Posterior]]:
    return [trial.vote for trial in trials], [trial.checked for trial in trials]


def _interval(estimate: Estimate, form: str) -> str:
    return f"{estimate.value:{form}} [{estimate.low:{form}}, {estimate.high:{form}}]"


def _heading(text: str, style: str = "bold") -> None:
    out().print(Text(text, style=style))

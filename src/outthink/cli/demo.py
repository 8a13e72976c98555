"""``outthink demo``: the main job, for real, in under a minute."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from outthink.cli.console import err, out, output_file, table, write_text
from outthink.cli.options import ModelOption, SeedOption, open_model

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from outthink.core.estimate import Estimate
    from outthink.core.posterior import Posterior
    from outthink.lm.model import Model
    from outthink.tasks.problem import Problem

FAMILY, DIFFICULTY, LINES, BUDGET = "arithmetic", 0.4, 16, "2k tokens"


@dataclass(frozen=True)
class Trial:
    """One fresh problem, answered in one line, by a vote, and by sampling until the exact checker accepts a line."""

    problem: Problem
    greedy: Posterior
    vote: Posterior
    checked: Posterior

    def right(self, posterior: Posterior) -> bool:
        return posterior.best is not None and self.problem.check(posterior.best)

    @property
    def telling(self) -> bool:
        """Whether greedy is wrong and the vote right, by a line without a wrong step."""
        line = self.vote.best_line
        sound = line is not None and self.problem.extendable(line.text)
        return sound and self.right(self.vote) and not self.right(self.greedy)


def demo(
    model: ModelOption = None,
    problems: Annotated[int, typer.Option("--problems", help="How many fresh problems to try.")] = 40,
    seed: SeedOption = 0,
    tree: Annotated[Path, typer.Option(help="Where to write the tree of reasoning.")] = Path("outthink-demo.html"),
) -> None:
    """Watch a small model think about fresh problems: greedily, by vote, and checked; one of them is told in full."""
    from rich.progress import track

    from outthink.cli.report import print_report
    from outthink.cli.tree import tree_page
    from outthink.reason.solve import ask
    from outthink.tasks.suites import draw_problems

    console, page = out(), output_file(tree)
    drawn = draw_problems(FAMILY, DIFFICULTY, "test", problems, seed)
    with open_model(model, "cpu", "auto") as loaded:
        backend = loaded.engine.backend.name
        console.print(
            Text(f"{loaded.name} ({backend} kernels) on {len(drawn)} {FAMILY} problems that it was never trained on\n")
        )
        bar = iter(track(range(len(drawn)), "thinking", console=err(), transient=True))
        next(bar)
        trials = asyncio.run(_try_all(loaded, drawn, seed, lambda: next(bar, None)))
        shown = max(trials, key=lambda t: (t.telling, t.vote.confidence))
        question = ask(shown.problem, chat=loaded.loaded.tokenizer.chat_template is not None)
        _heading(f"{shown.problem.prompt}")
        _heading("one greedy line", style="dim")
        print_report(console, shown.greedy, question)
        _heading(f"\n{LINES} sampled lines, and their vote", style="dim")
        print_report(console, shown.vote, question)
        _heading(f"\nsampling until the exact checker accepts a line, on a budget of {BUDGET}", style="dim")
        print_report(console, shown.checked, question)
        write_text(page, tree_page(shown.vote, question, {"model": loaded.name, "strategy": "majority-vote"}))
    console.print(Text(f"\nthe tree of reasoning behind the vote: {tree}"), soft_wrap=True)
    _summary(trials)


async def _try_all(model: Model, drawn: Sequence[Problem], seed: int, done: Callable[[], object]) -> list[Trial]:
    from outthink.core.budget import Budget, Ledger
    from outthink.core.sampling import Sampling
    from outthink.reason.solve import ask, think

    gate = asyncio.Semaphore(4)

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
        tokens = sum(p.cost.tokens + p.cost.cached for p in posteriors) / len(trials)
        row = [name, _interval(proportion(right), ".0%"), f"{tokens:,.0f}"]
        if name != "greedy":
            helped = sum(now and not before for now, before in zip(right, greedy, strict=True))
            hurt = sum(before and not now for now, before in zip(right, greedy, strict=True))
            row += [str(helped), str(hurt), _interval(paired_difference(right, greedy), "+.0%")]
        made.add_row(*row)
    out().print(Text(f"\nover all {len(trials)} problems, with 95% intervals (helped: wrong to right)", style="bold"))
    out().print(made)


def _interval(estimate: Estimate, form: str) -> str:
    return f"{estimate.value:{form}} [{estimate.low:{form}}, {estimate.high:{form}}]"


def _heading(text: str, style: str = "bold") -> None:
    out().print(Text(text, style=style))

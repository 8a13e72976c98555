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

    from outthink.core.posterior import Posterior
    from outthink.lm.model import Model
    from outthink.tasks.problem import Problem

FAMILY, DIFFICULTY, LINES = "arithmetic", 0.5, 16


@dataclass(frozen=True)
class Trial:
    """One fresh problem, answered in one line and answered by a vote."""

    problem: Problem
    greedy: Posterior
    vote: Posterior

    def right(self, posterior: Posterior) -> bool:
        return posterior.best is not None and self.problem.check(posterior.best)

    @property
    def turned(self) -> tuple[bool, bool]:
        """Whether greedy is right, and whether the vote is."""
        return self.right(self.greedy), self.right(self.vote)


def demo(
    model: ModelOption = None,
    problems: Annotated[int, typer.Option("--problems", help="How many fresh problems to try.")] = 40,
    seed: SeedOption = 0,
    tree: Annotated[Path, typer.Option(help="Where to write the tree of reasoning.")] = Path("outthink-demo.html"),
) -> None:
    """Watch a small model think: greedy against a vote on fresh problems, one of them told in full."""
    from rich.progress import track

    from outthink.cli.report import print_report
    from outthink.cli.tree import tree_page
    from outthink.reason.solve import ask, solve
    from outthink.tasks.suites import draw_problems

    console, page = out(), output_file(tree)
    drawn = draw_problems(FAMILY, DIFFICULTY, "test", problems, seed)
    with open_model(model, "cpu", "auto") as loaded:
        backend = loaded.engine.backend.name
        console.print(
            Text(f"{loaded.name} ({backend} kernels) on {len(drawn)} {FAMILY} problems that it was never trained on\n")
        )
        with err().status("thinking"):
            bar = iter(track(range(len(drawn)), "problems", console=err(), transient=True))
            trials = asyncio.run(_try_all(loaded, drawn, seed, lambda: next(bar, None)))
        shown = next((t for t in trials if t.turned == (False, True)), trials[0])
        question = ask(shown.problem, chat=loaded.loaded.tokenizer.chat_template is not None)
        _heading(f"{shown.problem.prompt}")
        _heading("one greedy line", style="dim")
        print_report(console, shown.greedy, question)
        _heading(f"\n{LINES} sampled lines, and their vote", style="dim")
        print_report(console, shown.vote, question)
        _heading("\nsampling until the exact checker accepts a line, on a budget of 2k tokens", style="dim")
        checked = solve(shown.problem, model=loaded, strategy="sample-until-verified", verifier="exact", budget="2k")
        print_report(console, checked, question)
        write_text(page, tree_page(shown.vote, question, {"model": loaded.name, "strategy": "majority-vote"}))
    console.print(Text(f"\nthe tree of reasoning behind the vote: {tree}"), soft_wrap=True)
    _summary(trials)


async def _try_all(model: Model, drawn: Sequence[Problem], seed: int, done: Callable[[], object]) -> list[Trial]:
    from outthink.core.sampling import Sampling
    from outthink.reason.solve import ask, think

    gate = asyncio.Semaphore(4)

    async def one(problem: Problem) -> Trial:
        async with gate:
            question = ask(problem, chat=model.loaded.tokenizer.chat_template is not None)
            sampling = Sampling(seed=seed)
            greedy = await think(question, model.session(sampling=sampling), "greedy")
            vote = await think(question, model.session(sampling=sampling), "majority-vote", n=LINES)
            done()
            return Trial(problem, greedy, vote)

    return list(await asyncio.gather(*map(one, drawn)))


def _summary(trials: Sequence[Trial]) -> None:
    """How often thinking longer helped and hurt, over all problems that were tried."""
    from outthink.core.estimate import paired_difference, proportion

    greedy, vote = ([t.turned[i] for t in trials] for i in (0, 1))
    made = table("", "right", "tokens each")
    for name, outcomes, spent in (
        ("one greedy line", greedy, [t.greedy.cost for t in trials]),
        (f"vote of {LINES}", vote, [t.vote.cost for t in trials]),
    ):
        tokens = sum(bill.tokens + bill.cached for bill in spent) / len(spent)
        made.add_row(name, f"{proportion(outcomes):.0%}", f"{tokens:,.0f}")
    out().print(made)
    helped = sum(t.turned == (False, True) for t in trials)
    hurt = sum(t.turned == (True, False) for t in trials)
    out().print(
        Text(
            f"of {len(trials)} problems the vote turned {helped} from wrong to right and {hurt} from right to wrong: "
            f"{paired_difference(vote, greedy):+.0%} (95% intervals)"
        )
    )


def _heading(text: str, style: str = "bold") -> None:
    out().print(Text(text, style=style))

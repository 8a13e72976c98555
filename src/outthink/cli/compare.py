"""``outthink compare``: one problem, several strategies, the same budget, side by side."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

import outthink
from outthink.cli.bench_reason import StrategiesOption, split
from outthink.cli.console import err, out, print_json, printable, read_text, table, write_text
from outthink.cli.interrupt import first_interrupt
from outthink.cli.options import (
    BackendOption,
    BaseUrlOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    KeyOption,
    KvOption,
    ModelOption,
    SeedOption,
    ServerOption,
    ThreadsOption,
    VerifierOption,
    WeightsOption,
    open_anywhere,
)
from outthink.core.budget import Budget
from outthink.core.errors import OutthinkError, UserError
from outthink.core.sampling import Sampling

if TYPE_CHECKING:
    from outthink.core.budget import Ledger
    from outthink.core.posterior import Posterior
    from outthink.core.question import Question
    from outthink.lm.protocol import LM
    from outthink.lm.source import LanguageModel

FAILURE, INTERRUPTED = 1, 130


@dataclass(frozen=True)
class Outcome:
    """What one strategy came to: a posterior, or the ``error`` that kept it from one; neither where it was not run."""

    strategy: str
    verifier: str | None
    options: dict[str, Any]
    posterior: Posterior | None = None
    error: str | None = None
    tree: Path | None = None

    def to_json(self, question: Question) -> dict[str, Any]:
        """All but the tree of thought as plain JSON values."""
        from outthink.show.words import confidence_words, verdict

        told: dict[str, Any] = {"strategy": self.strategy, "verifier": self.verifier, "options": self.options}
        if (found := self.posterior) is not None:
            told |= {name: value for name, value in found.to_json().items() if name not in ("tree", "method")}
            told |= {"right": verdict(question, found.best), "confidence_means": confidence_words(found)}
        return told | {"error": self.error, "tree": None if self.tree is None else str(self.tree)}


def compare(
    problem: Annotated[str, typer.Argument(help="What is to be solved; '-' reads it from stdin.")],
    model: ModelOption = None,
    strategies: StrategiesOption = "greedy,majority-vote,particle-filter,mcts",
    budget: Annotated[
        str | None, typer.Option("--budget", "-b", help="What each of them may spend: '4k tokens', '2.5 s'.")
    ] = None,
    verifier: VerifierOption = None,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token; 1 samples the model's own law.")] = 1,
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = "auto",
    backend: BackendOption = "auto",
    weights: WeightsOption = "auto",
    kv: KvOption = "auto",
    threads: ThreadsOption = None,
    base_url: BaseUrlOption = None,
    api_key_env: KeyOption = None,
    server: ServerOption = None,
    tree: Annotated[
        Path | None, typer.Option(help="A directory to write each strategy's tree of reasoning into, as a page.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Think about PROBLEM in several ways, each on the same budget and random numbers, and show them side by side.

    They run one after another, so that the seconds are their own; none finds what another left in the cache, but for
    that of a server. A strategy that fails says so in its row, and the exit code is 1. Ctrl-C ends the one at work with
    its best so far, and skips the rest.
    """
    from outthink.reason.scale import strategies_named
    from outthink.verify import check_spec

    text, limits, sampling = read_text(problem, "problem"), Budget(budget), Sampling(temperature=temperature, seed=seed)
    names = strategies_named(split(strategies, "--strategies"))
    if verifier is not None:
        check_spec(verifier)
    if tree is not None and tree.exists() and not tree.is_dir():
        raise UserError(f"--tree {tree} is a file; name a directory.")
    with open_anywhere(model, device, dtype, backend, base_url, api_key_env, weights, kv, threads, server) as loaded:
        from outthink.reason.solve import ask

        question = ask(text, chat=loaded.chat)
        facts = {"model": loaded.name, "budget": str(limits), "temperature": temperature, "seed": seed}
        outcomes, stopped = _run_all(loaded, question, names, limits, verifier, sampling, tree, facts)
    if json:
        told = {"prompt": question.prompt, **facts, "version": outthink.__version__, "interrupted": stopped}
        print_json(told | {"results": [outcome.to_json(question) for outcome in outcomes]})
    else:
        _print(outcomes, question, limits)
    if stopped:
        raise typer.Exit(INTERRUPTED)
    if any(outcome.error is not None for outcome in outcomes):
        raise typer.Exit(FAILURE)


def _run_all(
    model: LanguageModel,
    question: Question,
    names: list[str],
    budget: Budget,
    verifier: str | None,
    sampling: Sampling,
    tree: Path | None,
    facts: dict[str, Any],
) -> tuple[list[Outcome], bool]:
    """What every strategy came to, in their order, and whether ctrl-C cut that short."""
    from outthink.cli.progress import watched
    from outthink.reason.scale import Room, scale_of

    outcomes: list[Outcome] = []
    stopped = False
    for number, name in enumerate(names):
        scale = scale_of(name)
        judge = verifier if scale.verifier else None
        options = {} if budget == Budget() else scale.options(Room.before(model, question, budget))
        if stopped:
            outcomes.append(Outcome(name, judge, options))
            continue
        title = f"{number + 1} of {len(names)}: {name}, {model.name}"
        with watched(title, show=True) as progress, first_interrupt(progress.stop):
            outcome = _run_one(model, question, name, budget, judge, sampling, options, progress.start)
        stopped = progress.stopped
        outcomes.append(_with_page(outcome, question, tree, facts))
    return outcomes, stopped


def _session(model: LanguageModel, ledger: Ledger, sampling: Sampling, namespace: str) -> LM:
    from outthink.bench.reason.run import apart
    from outthink.lm.model import Model

    return apart(model, ledger, sampling, namespace) if isinstance(model, Model) else model.session(ledger, sampling)


def _run_one(
    model: LanguageModel,
    question: Question,
    strategy: str,
    budget: Budget,
    verifier: str | None,
    sampling: Sampling,
    options: dict[str, Any],
    on_start: Any,
) -> Outcome:
    from outthink.core.budget import Ledger
    from outthink.reason.solve import think

    lm = _session(model, Ledger(budget), sampling, f"compare/{strategy}")
    on_start(lm)
    try:
        posterior = asyncio.run(think(question, lm, strategy, verifier, **options))
    except OutthinkError as error:
        return Outcome(strategy, verifier, options, error=str(error))
    return Outcome(strategy, verifier, options, posterior)


def _with_page(outcome: Outcome, question: Question, directory: Path | None, facts: dict[str, Any]) -> Outcome:
    """The same; its tree of reasoning is a page in ``directory``, where there are both."""
    from dataclasses import replace

    from outthink.show import tree_page

    if directory is None or outcome.posterior is None:
        return outcome
    directory.mkdir(parents=True, exist_ok=True)
    page = directory / (re.sub(r"[^\w.+-]+", "-", outcome.strategy).strip("-") + ".html")
    own = {"strategy": outcome.strategy, "verifier": outcome.verifier, "options": outcome.options}
    write_text(page, tree_page(outcome.posterior, question, {**facts, **own}))
    return replace(outcome, tree=page)


def _gflops(found: Posterior) -> str:
    """The FLOPs in billions; none where tokens were computed by a server, which does not say how many they took."""
    return f"{found.cost.flops / 1e9:.3g}" if found.cost.flops or not found.cost.tokens else "-"


def _print(outcomes: list[Outcome], question: Question, budget: Budget) -> None:
    from outthink.show.words import stop_words, verdict

    made = table("strategy", "answer", "", "confidence", "tokens", "GFLOPs", "s", "calls", "lines", "")
    for column in made.columns[3:9]:
        column.justify = "right"
    marks = {True: ("✓ right", "green"), False: ("✗ wrong", "red"), None: ("", "")}
    for outcome in outcomes:
        name = outcome.strategy + (f" ({outcome.verifier})" if outcome.verifier else "")
        if (found := outcome.posterior) is None:
            why = Text("failed", style="red") if outcome.error else Text("not run", style="yellow")
            made.add_row(Text(name, "bold"), "", "", "", "", "", "", "", "", why)
            continue
        answer = Text("none", style="yellow") if found.best is None else Text(printable(found.best), style="bold cyan")
        made.add_row(
            Text(name, "bold"),
            answer,
            Text(*marks[verdict(question, found.best)]),
            f"{found.confidence:.3g}" if found.best is not None else "",
            f"{found.cost.tokens:,}",
            _gflops(found),
            f"{found.cost.seconds:.2f}",
            f"{found.cost.verifier_calls:,}",
            f"{found.attempts:,}",
            Text(stop_words(found.stopped) or "", style="dim"),
        )
    out().print(made)
    out().print(Text(f"each on {budget}, with the same random numbers", style="dim"))
    for outcome in (outcome for outcome in outcomes if outcome.error):
        told = Text.assemble((f"{outcome.strategy} failed: ", "red"), printable(outcome.error or ""))
        out().print(told, soft_wrap=True)
    for outcome in (outcome for outcome in outcomes if outcome.tree is not None):
        err().print(Text(f"tree of reasoning: {outcome.tree}", style="dim"), soft_wrap=True)

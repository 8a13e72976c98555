"""``outthink twist`` and ``outthink evidence``: learn to forecast a potential, and bound its mean from both sides."""

from __future__ import annotations

import asyncio
import json as writer
import math
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from outthink.cli.console import err, out, output_file, print_json, read_text, write_text
from outthink.cli.interrupt import first_interrupt
from outthink.cli.options import (
    BackendOption,
    BaseUrlOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    KeyOption,
    ModelOption,
    SeedOption,
    ServerOption,
    WeightsOption,
    open_anywhere,
)
from outthink.core.budget import Bill, Budget, Ledger
from outthink.core.errors import UserError
from outthink.core.sampling import Sampling

if TYPE_CHECKING:
    from outthink.core.question import Question
    from outthink.lm.protocol import LM
    from outthink.lm.source import LanguageModel

T = TypeVar("T")

ProblemArgument = Annotated[str, typer.Argument(help="The problem; '-' reads it from stdin.")]
PotentialOption = Annotated[
    str | None,
    typer.Option(
        help="What a line weighs: matches:REGEX (lines with it, and no others), avoids:REGEX, brief:NATS (every token "
        "costs that); plugins have more."
    ),
]
JudgeOption = Annotated[
    str | None, typer.Option("--verifier", help="The potential is a verifier's score: exact, prm, likelihood, ...")
]
BudgetOption = Annotated[str | None, typer.Option("--budget", "-b", help="What may be spent: '40k tokens', '10 s'.")]
MaxTokensOption = Annotated[int | None, typer.Option(min=1, help="The most tokens of a line.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]


def twist(
    problem: ProblemArgument,
    output: Annotated[Path, typer.Option("--out", "-o", help="The file of the twist, .json.")],
    model: ModelOption = None,
    potential: PotentialOption = None,
    verifier: JudgeOption = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="From how many lines of the model.")] = 256,
    order: Annotated[int, typer.Option(min=0, help="How many of a prefix's last tokens it looks at.")] = 3,
    propose: Annotated[bool, typer.Option(help="Whether it leads the choice of tokens as well.")] = True,
    budget: BudgetOption = None,
    max_tokens: MaxTokensOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = "auto",
    backend: BackendOption = "auto",
    weights: WeightsOption = "auto",
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Learn a twist for PROBLEM: what lines that begin in some way will weigh by a potential.

    `outthink solve -s twisted-smc -o twist=FILE` is guided by it, and stays right however wrong it is. For "the answer
    is right" the bundled process reward model is one already: -o twist=prm.
    """
    if output.suffix != ".json":
        raise UserError(f"The file of the twist {output} must end in .json.")
    file, limits = output_file(output), _checked(potential, verifier, budget)
    text = read_text(problem, "problem")
    with open_anywhere(model, device, dtype, backend, None, None, weights) as loaded:
        from outthink.learn.twist import learn_twist

        def learn(question: Question, lm: LM) -> Coroutine[Any, Any, Any]:
            chosen: dict[str, Any] = {"verifier": verifier, "lines": lines, "order": order, "propose": propose}
            return learn_twist(question, lm, potential, lm.ledger, **chosen, max_tokens=max_tokens)

        fit, bill = _run(learn, text, loaded, limits, seed, "learning a twist", quiet)
    write_text(file, writer.dumps(fit.twist.to_json()) + "\n")
    figures = {key: value for key, value in vars(fit).items() if key != "twist"}
    if json:
        goal = {"potential": potential, "verifier": verifier}
        print_json({"file": str(output), **goal, **figures, "features": len(fit.twist.weights), "cost": bill.to_json()})
        return
    losses = f"{fit.heldout_loss:.3f} nats a prefix, a constant has {fit.constant_loss:.3f}"
    out().print(f"{output}: from {fit.lines:,} lines, whose mean potential is {math.exp(fit.log_mean):.3g}")
    out().print(f"on lines kept out: {losses}")
    if fit.heldout_loss >= fit.constant_loss:
        err().print("It forecasts no better than a constant: it will save no particles.", style="yellow")
    out().print(f"cost  {bill}", style="dim", soft_wrap=True)


def evidence(
    problem: ProblemArgument,
    model: ModelOption = None,
    potential: PotentialOption = None,
    verifier: JudgeOption = None,
    twist: Annotated[
        str | None, typer.Option(help="What guides particles: FILE.json of `outthink twist`, or a verifier of steps.")
    ] = None,
    n: Annotated[int, typer.Option("--n", "-n", min=1, help="Particles of a run.")] = 16,
    runs: Annotated[int, typer.Option(min=1, help="Runs on either side.")] = 16,
    draws: Annotated[int, typer.Option(min=1, help="At most so many lines to find exact draws among.")] = 1024,
    budget: BudgetOption = None,
    max_tokens: MaxTokensOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = "auto",
    backend: BackendOption = "auto",
    weights: WeightsOption = "auto",
    base_url: BaseUrlOption = None,
    api_key_env: KeyOption = None,
    server: ServerOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Bound the evidence: log Z, the log of the mean weight of the model's lines of PROBLEM by a potential.

    From below by particle filters, from above by particle filters around lines drawn exactly. The gap also bounds how
    far what the filter draws is from its target.
    """
    limits, text = _checked(potential, verifier, budget), read_text(problem, "problem")
    with open_anywhere(model, device, dtype, backend, base_url, api_key_env, weights, server=server) as loaded:
        from outthink.reason.particles.bounds import evidence_bounds

        def bound(question: Question, lm: LM) -> Coroutine[Any, Any, Any]:
            chosen: dict[str, Any] = {"verifier": verifier, "twist": twist, "n": n, "runs": runs, "most_draws": draws}
            return evidence_bounds(question, lm, potential, lm.ledger, **chosen, max_tokens=max_tokens)

        found, bill = _run(bound, text, loaded, limits, seed, "bounding the evidence", quiet)
    if json:
        config = {"potential": potential, "verifier": verifier, "twist": twist, "n": n, "seed": seed}
        print_json({**asdict(found), "gap": found.gap, "config": config, "cost": bill.to_json()})
        return
    told = out()
    told.print(f"log Z at least  {_figure(found.lower, found.lower_se)}  from {found.runs} runs of {n} particles")
    told.print(f"log Z at most   {_figure(found.upper, found.upper_se)}  from {found.exact} exact draws")
    if found.lower == -math.inf:
        err().print("In some run no particle was left: use more particles (-n) or a twist.", style="yellow")
    if found.upper == math.inf:
        err().print("No line was drawn exactly: allow more draws (--draws), or a larger budget.", style="yellow")
    if math.isfinite(found.gap):
        told.print(f"gap             {found.gap:.4g} nats")
    told.print(f"cost  {bill}", style="dim", soft_wrap=True)


def _checked(potential: str | None, verifier: str | None, budget: str | None) -> Budget:
    """The budget; raises UserError for one that cannot be read, and unless one thing that is known weighs lines."""
    from outthink.posterior.named import open_potential
    from outthink.verify import check_spec

    if (potential is None) == (verifier is None):
        raise UserError("Say what weighs the lines: --potential or --verifier, one of the two.")
    if potential is not None:
        open_potential(potential)
    if verifier is not None:
        check_spec(verifier)
    return Budget(budget)


def _run(
    work: Callable[[Question, LM], Coroutine[Any, Any, T]],
    text: str,
    model: LanguageModel,
    limits: Budget,
    seed: int,
    title: str,
    quiet: bool,
) -> tuple[T, Bill]:
    """What ``work`` finds, and what it cost. Ctrl-C cuts it, and it makes the most of what it has."""
    from outthink.cli.progress import watched
    from outthink.reason.solve import ask

    lm = model.session(Ledger().slice(limits), Sampling(seed=seed))
    with watched(f"{title}, {model.name}", show=not quiet) as progress, first_interrupt(progress.stop):
        progress.start(lm)
        return asyncio.run(work(ask(text, chat=model.chat), lm)), lm.ledger.bill


def _figure(value: float, se: float | None) -> str:
    return f"{value:8.4f}" + ("" if se is None else f" ± {se:.4f}")

"""``outthink solve``: think about a problem within a budget."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import outthink
from outthink.cli.console import err, out, output_file, print_json, read_text, write_text
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
    read_settings,
)
from outthink.core.budget import Budget
from outthink.core.sampling import Sampling

if TYPE_CHECKING:
    from outthink.core.posterior import Posterior
    from outthink.core.question import Question
    from outthink.lm.source import LanguageModel


def solve(
    problem: Annotated[str, typer.Argument(help="What is to be solved; '-' reads it from stdin.")],
    model: ModelOption = None,
    strategy: Annotated[
        str, typer.Option("--strategy", "-s", help="How to think: one of `outthink methods`, or several combined.")
    ] = "majority-vote",
    budget: Annotated[
        str | None, typer.Option("--budget", "-b", help="What may be spent: '4k tokens', '2.5 s', '8k, 10 s'.")
    ] = None,
    verifier: VerifierOption = None,
    n: Annotated[int | None, typer.Option("--n", "-n", help="How many lines, for strategies that sample many.")] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", "-o", help="NAME=VALUE, an option of the strategy; repeatable.")
    ] = None,
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
        Path | None, typer.Option(help="Write the tree of reasoning to this file, as a page that stands alone.")
    ] = None,
    json: JsonOption = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, and only the best answer.")] = False,
) -> None:
    """Think about PROBLEM within a budget: the best answer, how sure to be of it, and what it cost.

    Ctrl-C cuts the work and answers with the best so far; a second ctrl-C ends the program.
    """
    # Everything that needs no model is checked before one is loaded.
    from outthink.reason.expression import is_expression, read_strategy
    from outthink.verify import check_spec

    text, limits = read_text(problem, "problem"), Budget(budget)
    method, sampling = read_strategy(strategy), Sampling(temperature=temperature, seed=seed)
    options: dict[str, Any] = read_settings(option or [], method.options) | ({} if n is None else {"n": n})
    method.check_options(options)
    if verifier is not None:
        check_spec(verifier)
    page = None if tree is None else output_file(tree)

    with ExitStack() as models:

        def opened(source: str | None) -> LanguageModel:
            return models.enter_context(
                open_anywhere(source, device, dtype, backend, base_url, api_key_env, weights, kv, threads, server)
            )

        loaded = opened(model)
        seconds: dict[str, Any] = {
            name: opened(str(options[name])) for name in method.models if options.get(name) is not None
        }
        if is_expression(strategy):
            method = read_strategy(strategy, lambda source: opened(source).session())
        from outthink.cli.progress import watched
        from outthink.reason.scale import spending
        from outthink.reason.solve import ask
        from outthink.reason.solve import solve as think_about

        question = ask(text, chat=loaded.chat)
        options = spending(method, loaded, question, limits) | options
        with watched(f"{strategy}, {loaded.name}", show=not quiet) as progress, first_interrupt(progress.stop):
            posterior = think_about(
                question,
                model=loaded,
                strategy=method,
                budget=limits,
                verifier=verifier,
                sampling=sampling,
                on_start=progress.start,
                **(options | seconds),
            )
        facts = {
            "model": loaded.name,
            "strategy": strategy,
            "verifier": verifier,
            "budget": str(limits),
            "options": {**method.options, **options},
            "sampling": asdict(sampling),
            "interrupted": progress.stopped,
            "version": outthink.__version__,
        }
    _print(posterior, question, facts, json=json, quiet=quiet, interrupted=progress.stopped)
    if page is not None:
        from outthink.show import tree_page

        write_text(page, tree_page(posterior, question, facts))
        if not quiet:
            err().print(f"tree of reasoning: {page}", style="dim", soft_wrap=True)


def _print(
    posterior: Posterior, question: Question, facts: dict[str, Any], *, json: bool, quiet: bool, interrupted: bool
) -> None:
    from outthink.cli.report import print_report
    from outthink.show.words import confidence_words, verdict

    if json:
        told = {
            "prompt": question.prompt,
            "right": verdict(question, posterior.best),
            **posterior.to_json(),
            "confidence_means": confidence_words(posterior),
            "config": facts,
        }
        print_json(told)
    elif quiet:
        typer.echo("" if posterior.best is None else posterior.best)
    else:
        print_report(out(), posterior, question, interrupted)

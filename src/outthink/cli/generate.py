"""``outthink generate``: plain completion or chat, streamed as it is written."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from outthink.cli.console import err, print_json, printable, read_text
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
    WeightsOption,
    open_anywhere,
)
from outthink.cli.stream import TextStream, to_stdout
from outthink.core.budget import Ledger
from outthink.core.errors import UserError
from outthink.core.question import Prompt
from outthink.core.sampling import Sampling, Until

if TYPE_CHECKING:
    from outthink.lm.protocol import Branch
    from outthink.lm.source import LanguageModel


def generate(
    text: Annotated[str, typer.Argument(help="The prompt; '-' reads it from stdin.")],
    model: ModelOption = None,
    chat: Annotated[bool, typer.Option("--chat", help="Send it as a user's message, by the model's template.")] = False,
    system: Annotated[str | None, typer.Option(help="A system message before it; implies --chat.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="At most so many new tokens [default: context]")] = None,
    n: Annotated[int, typer.Option("--n", "-n", help="How many continuations.")] = 1,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 1.0,
    top_k: Annotated[int | None, typer.Option(help="Only the k likeliest tokens.")] = None,
    top_p: Annotated[float, typer.Option(help="Only the likeliest tokens that make up this probability.")] = 1.0,
    min_p: Annotated[float, typer.Option(help="Only tokens at least this fraction as likely as the likeliest.")] = 0.0,
    repetition_penalty: Annotated[float, typer.Option(help="Divides the logits of tokens seen; 1 is none.")] = 1.0,
    presence_penalty: Annotated[float, typer.Option(help="Subtracted from the logits of tokens written.")] = 0.0,
    frequency_penalty: Annotated[float, typer.Option(help="The same, once per occurrence.")] = 0.0,
    stop: Annotated[list[str] | None, typer.Option(help="Stop at this text; repeatable.")] = None,
    seed: SeedOption = 0,
    logprobs: Annotated[
        int | None, typer.Option(help="Log-probabilities of each token, and of so many likeliest ones beside it.")
    ] = None,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = "auto",
    backend: BackendOption = "auto",
    weights: WeightsOption = "auto",
    kv: KvOption = "auto",
    threads: ThreadsOption = None,
    base_url: BaseUrlOption = None,
    api_key_env: KeyOption = None,
    server: ServerOption = None,
    json: JsonOption = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="The text alone.")] = False,
) -> None:
    """Continue TEXT, or answer it as a chat message. Ctrl-C stops the writing."""
    if n < 1:
        raise UserError(f"--n {n} must be at least 1.")
    content = read_text(text, "prompt")
    sampling = Sampling(
        temperature, top_k, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty,
        seed=seed, top_logprobs=logprobs or 0,
    )  # fmt: skip
    until = Until(max_tokens, tuple(stop or ()))
    prompt: Prompt = content
    if chat or system is not None:
        turns = ([] if system is None else [("system", system)]) + [("user", content)]
        prompt = [{"role": role, "content": words} for role, words in turns]
    with open_anywhere(model, device, dtype, backend, base_url, api_key_env, weights, kv, threads, server) as loaded:
        ledger = Ledger()
        stream = n == 1 and not json and logprobs is None
        with first_interrupt(ledger.cancel):
            branches = asyncio.run(_write(loaded, prompt, n, until, sampling, ledger, stream))
        if json:
            print_json(
                {
                    "model": loaded.name,
                    "prompt": prompt,
                    "choices": [_choice(loaded, branch, logprobs) for branch in branches],
                    "cost": ledger.bill.to_json(),
                }
            )
            return
        if not stream:
            _print_choices(loaded, branches, logprobs)
    if not quiet:
        finish = branches[0].finish if n == 1 else f"{n} continuations"
        bill = ledger.bill
        err().print(Text(f"[{finish}] {bill}, {bill.tokens / bill.seconds:,.0f} tokens/s", "dim"), soft_wrap=True)


async def _write(
    model: LanguageModel, prompt: Prompt, n: int, until: Until, sampling: Sampling, ledger: Ledger, stream: bool
) -> list[Branch]:
    """Grow ``n`` branches; with ``stream`` the one is shown while it grows."""
    lm = model.session(ledger, sampling)
    shown = TextStream(until.stop, ledger.cancel, to_stdout) if stream else None
    async with await lm.root(prompt) as root:
        branches = await root.extend(n, until, on_token=shown.on_token if shown else None)
        for branch in branches:
            await branch.close()
    if shown is not None:
        await shown.finish(branches[0].completion)
    return branches


def _choice(model: LanguageModel, branch: Branch, logprobs: int | None) -> dict[str, Any]:
    choice: dict[str, Any] = {"text": branch.completion, "tokens": len(branch.tokens), "finish": branch.finish}
    if logprobs is not None:
        choice["logprobs"] = _log_probs(model, branch)
    return choice


def _log_probs(model: LanguageModel, branch: Branch) -> list[dict[str, Any]]:
    """For each token its text, log-probability (nats), and the likeliest tokens that were asked for."""
    tops = branch.top_log_probs or [()] * len(branch.tokens)
    return [
        {
            "token": model.spell(token),
            "id": token,
            "log_prob": log_prob,
            "top": [{"token": model.spell(i), "id": i, "log_prob": value} for i, value in top],
        }
        for token, log_prob, top in zip(branch.tokens, branch.log_probs, tops, strict=True)
    ]


def _print_choices(model: LanguageModel, branches: list[Branch], logprobs: int | None) -> None:
    for number, branch in enumerate(branches, 1):
        if len(branches) > 1:
            sys.stdout.write(f"--- {number} of {len(branches)} ({branch.finish})\n")
        text = branch.completion.rstrip("\n")
        sys.stdout.write((printable(text) if sys.stdout.isatty() else text) + "\n")
        for record in [] if logprobs is None else _log_probs(model, branch):
            top = "  ".join(f"{t['token']!r} {t['log_prob']:.3f}" for t in record["top"])
            sys.stdout.write(f"{record['log_prob']:9.4f}  {record['token']!r:16}  {top}".rstrip() + "\n")

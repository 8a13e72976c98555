"""Token-level sequential Monte Carlo beside genlm-control's, on the same weights."""

from __future__ import annotations

import asyncio
import json
import math
import shutil
from collections import Counter, defaultdict
from pathlib import Path
from time import perf_counter

from outthink.bench.reason.run import apart
from outthink.bench.search.plan import OURS, Ground, Json, Part, Way
from outthink.bench.search.positions import Work, check_each_once, stats_of
from outthink.bench.search.scorer import cell_of, log_potential
from outthink.bench.search.trees import draw_problems
from outthink.core.budget import Ledger
from outthink.core.errors import UserError
from outthink.core.question import Question
from outthink.core.rng import mix
from outthink.core.sampling import Sampling
from outthink.kernels.cpu.extension import usable_cores
from outthink.lm.local import LocalLM
from outthink.lm.model import Model, load, resolve
from outthink.posterior.potential import Prefix
from outthink.reason.holding import Holding
from outthink.reason.particles.filters import plan_of
from outthink.reason.particles.sweep import Sweep, sweep
from outthink.reason.particles.target import Weighted, prefix_of

PARTICLES, PROMPT = 16, 128
TOKENS, TOY_TOKENS, TOY_ALPHABET = 64, 3, 24
TOY_RUNS = 25  # populations a round
BEGUN = "compute "  # a problem that has only begun: much can follow
DOCUMENTS = 64  # of them prompts are made, and counted which tokens are common
GENLM, GENLM_CACHED, EXACT = "genlm-control", "genlm-control, prompt cached", "enumeration"


class Odd:
    """`scorer.log_potential` as a potential."""

    def __init__(self, allowed: list[int] | None = None) -> None:
        self.allowed = allowed

    def log_potential(self, prefix: Prefix) -> float:
        """See `Potential.log_potential`."""
        return log_potential(prefix.tokens, self.allowed)


def open_ways(ground: Ground) -> list[Way]:
    """Ours, genlm-control's with and without its prompt cache, and the exact law."""
    quick = ground.config.quick
    tokens, alphabet, runs = (8, 4, 2) if quick else (TOKENS, TOY_ALPHABET, TOY_RUNS)
    long, toy = f"{PARTICLES} particles, {tokens} tokens, prompt {PROMPT}", f"{TOY_TOKENS} tokens out of {alphabet}"
    source, end = endless(Path(resolve(ground.config.model)), ground.directory / "models")
    ground.say("loading the model")
    model = ground.stack.enter_context(load(source, dtype="float32"))
    prompts, begun, allowed = _texts(model, ground.config.rounds + 1, alphabet)

    def ours(work: str, seed: int) -> Json:
        if work == long:
            return in_engine(model, prompts[seed], tokens, 1, None, seed)
        return in_engine(model, begun, TOY_TOKENS, runs, allowed, seed)

    ways, threads = [Way(OURS, (long, toy), ours)], usable_cores()
    theirs = ground.driver(GENLM, "drive_genlm.py", "genlm-control", model=str(source), end=end, threads=threads)
    if theirs is None:
        return ways

    def sample(cached: bool, work: str, seed: int) -> Json:
        short = {"tokens": TOY_TOKENS, "runs": runs, "allowed": allowed, "prompt": begun}
        wanted = {"tokens": tokens, "runs": 1, "allowed": None, "prompt": prompts[seed]} if work == long else short
        return theirs.ask(op="sample", particles=PARTICLES, cached=cached, **wanted)

    def enumerate_all(work: str, seed: int) -> Json:
        start = perf_counter()
        found = theirs.ask(op="enumerate", prompt=begun, tokens=TOY_TOKENS, allowed=allowed)
        return {"seconds": perf_counter() - start, **found}

    return [
        *ways,
        Way(GENLM, (long, toy), lambda work, seed: sample(False, work, seed)),
        Way(GENLM_CACHED, (long, toy), lambda work, seed: sample(True, work, seed)),
        Way(EXACT, (toy,), enumerate_all, once=True),
    ]


def in_engine(model: Model, prompt: list[int], tokens: int, runs: int, allowed: list[int] | None, seed: int) -> Json:
    """``runs`` populations, one after the other, of lines of just ``tokens`` tokens; see `drive_genlm.GenLM.sample`."""
    masses, total = defaultdict[str, float](float), Work(0, 0, 0)
    seconds = 0.0
    for run in range(runs):
        lm = apart(model, Ledger(), Sampling(seed=mix(seed, run)), f"{tokens}/{seed}/{run}/{perf_counter()}")
        before, start = stats_of(model), perf_counter()
        population = asyncio.run(_sample(lm, prompt, tokens, Odd(allowed), mix(seed, run)))
        seconds += perf_counter() - start
        work = Work.between(before, stats_of(model))
        check_each_once(work, lm.tree, len(prompt))
        total = Work(total.positions + work.positions, 0, total.drawn + work.drawn)
        for particle in population.particles if allowed is not None else ():
            if particle.log_weight > -math.inf:
                cell = cell_of(prefix_of(particle.tip, True).tokens, allowed or [])
                masses[cell] += math.exp(particle.log_weight) / PARTICLES
    return {"seconds": seconds, "positions": total.positions, "drawn": total.drawn, "masses": dict(masses)}


async def _sample(lm: LocalLM, prompt: list[int], tokens: int, potential: Odd, key: int) -> Sweep:
    question, plan = Question(prompt, lambda text: None), plan_of("tokens:1", tokens)
    async with await lm.root(prompt) as root, Holding() as held:
        return await sweep(question, root, Weighted(potential), plan, PARTICLES, held, key)


def endless(source: Path, directory: Path) -> tuple[Path, str]:
    """A copy of a checkpoint whose end token is its pad token, which it never writes; and what that one spells.

    So every line has just as many tokens as were asked for. Raises UserError for a model without a pad token.
    """
    copy = directory / f"{source.name}-endless"
    config = json.loads((source / "config.json").read_text())
    pad = json.loads((source / "tokenizer_config.json").read_text()).get("pad_token")
    if config.get("pad_token_id") is None or not isinstance(pad, str):
        raise UserError(f"{source} has no pad token: this comparison needs one, to have lines that do not end.")
    copy.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        if file.is_file():
            shutil.copyfile(file, copy / file.name)
    changes = {"config.json": {"eos_token_id": config["pad_token_id"]}, "tokenizer_config.json": {"eos_token": pad}}
    changes["generation_config.json"] = {"eos_token_id": config["pad_token_id"]}
    for name, change in changes.items():
        if (copy / name).is_file():
            content = json.loads((copy / name).read_text()) | change
            (copy / name).write_text(json.dumps(content, indent=1) + "\n")
    return copy, pad


def _texts(model: Model, count: int, alphabet: int) -> tuple[list[list[int]], list[int], list[int]]:
    """Prompts of `PROMPT` tokens, problems with their solutions one after the other; one that ends in a problem that
    has only begun; and the commonest tokens.
    """
    documents = [_chat(model, each.prompt, each.solution) for each in draw_problems(0.5, DOCUMENTS)]
    prompts = []
    for at in range(count):
        flow = [token for turn in range(DOCUMENTS) for token in documents[(at + turn) % DOCUMENTS]]
        prompts.append(flow[:PROMPT])
    counts = Counter(token for document in documents for token in document)
    begun = (prompts[0] + _chat(model, BEGUN))[-PROMPT:]
    return prompts, begun, [token for token, _ in counts.most_common(alphabet)]


def _chat(model: Model, *turns: str) -> list[int]:
    tokenizer, roles = model.loaded.tokenizer, ("user", "assistant")
    messages = [{"role": role, "content": turn} for role, turn in zip(roles, turns, strict=False)]
    return tokenizer.encode(tokenizer.render_chat(messages, add_generation_prompt=False))


SMC = Part("tokens", "Token-level sequential Monte Carlo", open_ways)

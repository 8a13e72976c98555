"""How well a small model drafts for a large one: what speculative sampling with that pair accepts, per family.

Exact given lines of the target, without speculating: speculative sampling returns lines of the target, and of a token x
that it returned at a drafted position, the chance that it was the draft's own is min(1, q(x) / p(x)), whatever else it
returned (p the target's law there, q the draft's; Leviathan et al. 2023, Chen et al. 2023, arXiv:2302.01318).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from outthink.bench.coverage_report import INTERVALS, interval, table
from outthink.bench.provenance import provenance
from outthink.core.errors import UserError
from outthink.core.estimate import Estimate, mean
from outthink.core.sampling import Sampling
from outthink.kernels.reference.dense import dense_attend
from outthink.lm.model import Model
from outthink.models.checkpoint import LoadedModel, load_model
from outthink.models.flops import head_flops, position_flops
from outthink.models.tokenizer import Tokenizer
from outthink.reason.solve import ask
from outthink.tasks.problem import Problem
from outthink.tasks.suites import draw_problems, get_suite

Progress = Callable[[int, int, str], None]
Floats = NDArray[np.float64]

CONTEXT = 128  # keys that a token attends to, where the price of a draft is told


@dataclass(frozen=True)
class DraftsConfig:
    """``num_lines`` lines of the target for each of ``num_problems`` test problems of each family and difficulty;
    ``num_drafts`` tokens are drafted at a time.
    """

    suite: str = "outthink-core"
    difficulties: tuple[float, ...] = (0.1, 0.3, 0.5)
    num_problems: int = 10
    num_lines: int = 4
    num_drafts: int = 4
    temperature: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Pairing:
    """What one problem says of a pair of models: means over the tokens of its lines, and tokens for each pass of the
    target, in samples and on the greedy line.
    """

    family: str
    difficulty: float
    key: str
    num_tokens: int
    acceptance: float
    tokens_per_pass: float
    agreement: float
    greedy_tokens_per_pass: float


def acceptance(target: Floats, draft: Floats) -> Floats:
    """The chance [T] that one drafted token is accepted, of the laws [T, V]: sum over x of min(p(x), q(x))."""
    return np.minimum(target, draft).sum(axis=-1)


def expected_passes(kept: Sequence[float], num_drafts: int) -> float:
    """How many passes of the target it takes to write a line, ``num_drafts`` tokens drafted before each.

    ``kept[i]`` is the chance that token i, where it was drafted, was the draft's own. A pass yields the drafts up to
    the first that is refused, and then one token of the target; what is drafted beyond the end of the line is lost.
    """
    end = len(kept)
    left = [0.0] * (end + 1)  # passes from each position on
    for start in reversed(range(end)):
        passes, chance = 1.0, 1.0
        for at in range(start, min(start + num_drafts, end)):
            passes += chance * (1 - kept[at]) * left[at + 1]
            chance *= kept[at]
        if start + num_drafts < end:  # all accepted, and the target's own token after them
            passes += chance * left[start + num_drafts + 1]
        left[start] = passes
    return left[0]


@torch.inference_mode()
def laws(
    loaded: LoadedModel, prompt: Sequence[int], lines: Sequence[Sequence[int]], temperature: float
) -> list[Floats]:
    """The model's next-token law at each token of each of ``lines`` after ``prompt``, [len(line), V] of float64."""
    device = next(loaded.model.parameters()).device
    longest = max(map(len, lines))
    # The last token is not fed. What pads shorter lines comes after all that is read of them.
    fed = torch.tensor([[*prompt, *line, *[0] * (longest - len(line))][:-1] for line in lines], device=device)
    rows, length = fed.shape
    positions = torch.arange(length, device=device).repeat(rows)
    attend = dense_attend(rows, length, loaded.config.sliding_windows)
    hidden = loaded.model(fed.flatten(), positions, attend).view(rows, length, -1)[:, len(prompt) - 1 :]
    scores = loaded.model.logits(hidden).double() / temperature
    probabilities = torch.softmax(scores, dim=-1).cpu().numpy()
    return [row[: len(line)] for row, line in zip(probabilities, lines, strict=True)]


async def draw_lines(target: Model, problem: Problem, config: DraftsConfig) -> tuple[list[int], list[list[int]]]:
    """The tokens of the prompt, and of the target's lines: the greedy one first, then the sampled ones."""
    lm = target.session(sampling=Sampling(temperature=config.temperature, seed=config.seed))
    prompt = lm.encode(ask(problem, chat=target.loaded.tokenizer.chat_template is not None).prompt)
    async with await lm.root(prompt) as root:
        sampled, [greedy] = await asyncio.gather(
            root.extend(config.num_lines), root.extend(1, sampling=replace(lm.sampling, temperature=0.0))
        )
        for line in (greedy, *sampled):
            await line.close()
    return prompt, [list(line.tokens) for line in (greedy, *sampled)]


def judge(
    target: LoadedModel,
    draft: LoadedModel,
    problem: Problem,
    prompt: Sequence[int],
    lines: Sequence[Sequence[int]],
    config: DraftsConfig,
) -> Pairing:
    """Both models read the target's ``lines``, the greedy one first, and what the draft would have done is counted."""
    both = [laws(model, prompt, lines, config.temperature) for model in (target, draft)]
    accepted, num_tokens, passes = 0.0, 0, 0.0
    for line, p, q in list(zip(lines, *both, strict=True))[1:]:
        at = np.arange(len(line)), np.array(line)
        kept = np.minimum(1.0, q[at] / p[at])
        accepted += float(acceptance(p, q).sum())
        num_tokens += len(line)
        passes += expected_passes(kept.tolist(), config.num_drafts)
    agreed = (both[1][0].argmax(axis=-1) == np.array(lines[0])).astype(float)
    return Pairing(
        problem.family,
        problem.difficulty,
        problem.key,
        num_tokens,
        min(1.0, accepted / num_tokens),
        num_tokens / passes,
        float(agreed.mean()),
        len(lines[0]) / expected_passes(agreed.tolist(), config.num_drafts),
    )


def check_vocabularies(target: Tokenizer, draft: Tokenizer) -> None:
    """Raise UserError unless the two models spell the same tokens by the same numbers."""
    if target.vocab_size != draft.vocab_size:
        raise UserError(
            f"The target has {target.vocab_size:,} tokens and the draft {draft.vocab_size:,}: a draft must share the "
            "target's tokenizer."
        )
    for token in range(target.vocab_size):
        if (ours := target.token_bytes(token)) != (theirs := draft.token_bytes(token)):
            raise UserError(
                f"Token {token} is {ours!r} to the target and {theirs!r} to the draft: they must share one tokenizer."
            )


def run(
    target: Model, draft_source: str | Path, config: DraftsConfig, out: Path, progress: Progress = lambda *_: None
) -> dict[str, Any]:
    """Draw lines of ``target``, judge the model at ``draft_source`` on them, write ``out`` (.json); the result.

    Both are read in float32. Raises UserError where they do not share a tokenizer.
    """
    reader, drafter = (load_model(source, dtype="float32") for source in (target.loaded.source, draft_source))
    check_vocabularies(reader.tokenizer, drafter.tokenizer)
    suite = get_suite(config.suite)
    places = [(family, difficulty) for family, _ in suite.shares for difficulty in config.difficulties]
    pairings, total = [], len(places) * config.num_problems
    for family, difficulty in places:
        progress(len(pairings), total, f"{family} {difficulty:g}")
        problems = draw_problems(family, difficulty, "test", config.num_problems, config.seed)
        if suite.rerendered:
            problems = [problem.rerender(problem.seed) for problem in problems]
        drawn = asyncio.run(_draw_all(target, problems, config))
        for problem, (prompt, lines) in zip(problems, drawn, strict=True):
            pairings.append(judge(reader, drafter, problem, prompt, lines, config))
            progress(len(pairings), total, f"{family} {difficulty:g}")
    result = {
        "what": "acceptance of drafts",
        **provenance(target),
        "draft": {"name": drafter.source.name, "parameters": sum(w.numel() for w in drafter.model.parameters())},
        "relative_cost": _price(drafter) / _price(reader),
        "config": asdict(config),
        "rows": rows(pairings, config.num_drafts),
        "problems": [asdict(pairing) for pairing in pairings],
    }
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def rows(pairings: Sequence[Pairing], num_drafts: int) -> list[dict[str, Any]]:
    """Estimates over the problems of each family, then over all."""
    families = list(dict.fromkeys(pairing.family for pairing in pairings))
    groups = [(family, [p for p in pairings if p.family == family]) for family in families]
    return [_row(name, members, num_drafts) for name, members in [*groups, ("all", list(pairings))]]


def _row(name: str, members: Iterable[Pairing], num_drafts: int) -> dict[str, Any]:
    found = list(members)

    def over(values: Iterable[float], bounds: tuple[float, float]) -> dict[str, Any]:
        # Rounding may carry a mean past its bounds.
        estimate: Estimate = mean(np.clip(list(values), *bounds).tolist(), bounds)
        return estimate.to_json()

    share, yielded = (0.0, 1.0), (1.0, num_drafts + 1.0)
    return {
        "family": name,
        "n": len(found),
        "acceptance": over((p.acceptance for p in found), share),
        "tokens_per_pass": over((p.tokens_per_pass for p in found), yielded),
        "agreement": over((p.agreement for p in found), share),
        "greedy_tokens_per_pass": over((p.greedy_tokens_per_pass for p in found), yielded),
    }


def markdown(result: dict[str, Any]) -> str:
    """What was measured and how, and a row for each family."""
    config, target, draft = result["config"], result["models"][0], result["draft"]
    count = config["num_drafts"]
    head = ["family", "problems", "acceptance", f"tokens for a pass, {count} drafts", "greedy agreement"]
    made = [[*head, f"tokens for a pass, {count} drafts, greedy"], ["---"] * (len(head) + 1)]
    for row in result["rows"]:
        figures = [row[name] for name in ("acceptance", "tokens_per_pass", "agreement", "greedy_tokens_per_pass")]
        made.append([row["family"], str(row["n"]), *map(interval, figures)])
    return (
        f"`{draft['name']}` ({draft['parameters']:,} parameters, {result['relative_cost']:.2f} of the target's FLOPs a "
        f"token) drafts for `{target['name']}` ({target['parameters']:,}), judged on {config['num_lines']} sampled "
        f"lines of the target for each test problem, at temperature {config['temperature']:g}. Acceptance: the chance "
        f"that speculative sampling takes one drafted token. {INTERVALS}\n\n{table(made)}\n"
        f"Made by `{result['command']}`.\n"
    )


async def _draw_all(
    target: Model, problems: Sequence[Problem], config: DraftsConfig
) -> list[tuple[list[int], list[list[int]]]]:
    return list(await asyncio.gather(*(draw_lines(target, problem, config) for problem in problems)))


def _price(loaded: LoadedModel) -> int:
    """FLOPs of one token of a model, its logits included."""
    return position_flops(loaded.config, CONTEXT) + head_flops(loaded.config)

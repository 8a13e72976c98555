"""What number formats cost in quality: perplexity of solutions and greedy accuracy, each paired with bfloat16.

Every format goes the whole way: written as a checkpoint, loaded, and computed by the engine's compiled kernels.
"""

from __future__ import annotations

import asyncio
import json
import math
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from outthink.bench.journal import Journal, Json
from outthink.bench.provenance import provenance, weights_sha256
from outthink.core.estimate import Estimate, mean, paired_difference, proportion
from outthink.core.sampling import Sampling
from outthink.learn.calibrate import suite_documents
from outthink.learn.quantize import METHODS, Quantization, quantize, weight_bytes
from outthink.lm.model import Model, load
from outthink.models.checkpoint import load_model
from outthink.reason.solve import ask
from outthink.tasks.problem import Problem, parse_answer
from outthink.tasks.suites import get_suite

Progress = Callable[[int, int, str], None]
# Log-probabilities of a token, averaged over a solution, do not differ by more nats between two formats of one model;
# where they do they are cut to this and counted.
WIDEST = 0.2
GOALS = {8: 0.01, 4: 0.05}  # relative perplexity, by bits
_CONCURRENCY = 64


@dataclass(frozen=True)
class Format:
    """Weights rounded as ``how`` says (None: bfloat16), keys and values kept as ``kv``."""

    name: str
    how: Quantization | None = None
    kv: str = "bfloat16"


BASE = Format("bf16")
FORMATS = (
    BASE,
    Format("bf16, KV int8", None, "int8"),
    Format("int8 nearest", Quantization(8, None, "nearest")),
    Format("int8 gptq", Quantization(8, None, "gptq")),
    Format("int8 nearest, KV int8", Quantization(8, None, "nearest"), "int8"),
    *(Format(f"int4 g{g} {m}", Quantization(4, g, m)) for g in (32, 128) for m in METHODS),
    Format("int4 g32 gptq, KV int8", Quantization(4, 32, "gptq"), "int8"),
)


@dataclass(frozen=True)
class QualityConfig:
    """``num_problems`` of ``suite``'s validation split; ``num_documents`` of its training split calibrate."""

    suite: str = "outthink-core"
    num_problems: int = 400
    num_documents: int = 128
    seed: int = 0


@dataclass(frozen=True)
class Record:
    """One problem under one format: minus the log-probability of its solution, end token included, over how many
    tokens, and whether the greedy line's answer is right."""

    format: str
    problem: int
    loss: float
    tokens: int
    right: bool


async def measure(model: Model, name: str, problems: Sequence[Problem], progress: Progress) -> list[Record]:
    """Score the gold solution of every problem, and grow its greedy line."""
    tokenizer, gate, finished = model.loaded.tokenizer, asyncio.Semaphore(_CONCURRENCY), 0
    ends = tokenizer.eos_ids[:1]

    async def one(index: int, problem: Problem) -> Record:
        nonlocal finished
        solution = [*tokenizer.encode(problem.solution), *ends]
        async with gate:
            lm = model.session(sampling=Sampling(temperature=0.0))
            async with await lm.root(ask(problem, chat=tokenizer.chat_template is not None).prompt) as root:
                log_probs = await root.score(solution)
                [line] = await root.extend(1)
                await line.close()
        answer = parse_answer(line.completion)
        finished += 1
        progress(finished, len(problems), name)
        right = answer is not None and problem.check(answer)
        return Record(name, index, -sum(log_probs), len(solution), right)

    return list(await asyncio.gather(*(one(index, problem) for index, problem in enumerate(problems))))


def summarize(records: Sequence[Record], base: Sequence[Record]) -> Json:
    """Figures of one format against bfloat16 on the same problems, in the same order."""
    perplexity, reference = (math.exp(sum(r.loss for r in rs) / sum(r.tokens for r in rs)) for rs in (records, base))
    differences = np.array([(r.loss - b.loss) / b.tokens for r, b in zip(records, base, strict=True)])
    cut = np.clip(differences, -WIDEST, WIDEST)
    loss = mean(cut.tolist(), (-WIDEST, WIDEST))
    right, before = [r.right for r in records], [b.right for b in base]
    return {
        "perplexity": perplexity,
        "relative_perplexity": perplexity / reference - 1,
        "relative_perplexity_per_problem": _as_ratio(loss).to_json(),
        "differences_cut": int((np.abs(differences) > WIDEST).sum()),
        "accuracy": proportion(right).to_json(),
        "accuracy_gain": paired_difference(right, before).to_json(),
        "answers_changed": sum(a != b for a, b in zip(right, before, strict=True)),
    }


def run(source: str | Path, config: QualityConfig, out: Path, progress: Progress = lambda *_: None) -> Json:
    """Measure every format, write ``out`` (.json), its records (.records.jsonl.gz) and its picture (.png)."""
    problems = get_suite(config.suite).sample(
        "validation", config.num_problems, config.seed, lambda n: progress(n, config.num_problems, "drawing problems")
    )
    with load(source, backend="cpu", dtype="bfloat16") as base:
        made_of = provenance(base)
        problems = [p for p in problems if _fits(base, p)]
        header = {"what": "quality of formats", "model": weights_sha256(base), "config": asdict(config)}
    journal = Journal(out, header)
    records = [Record(**record) for record in journal.read()]
    sizes: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        for index, chosen in enumerate(FORMATS):
            done = [r for r in records if r.format == chosen.name]
            step = _labelled(progress, f"{index + 1}/{len(FORMATS)}")
            directory = _write(source, chosen, config, Path(folder), step)
            sizes[chosen.name] = weight_bytes(directory)
            if len(done) == len(problems):
                continue
            with ExitStack() as stack:
                dtype = "bfloat16" if chosen.how is None else "auto"
                model = stack.enter_context(load(directory, backend="cpu", dtype=dtype, kv=chosen.kv))
                new = asyncio.run(measure(model, chosen.name, problems, step))
            records = [r for r in records if r.format != chosen.name] + new
            for record in new:
                journal.append(asdict(record))
    journal.pack(asdict(record) for record in records)
    by_format = {f.name: [r for r in records if r.format == f.name] for f in FORMATS}
    rows = [
        {
            "name": chosen.name,
            "weights": asdict(chosen.how) if chosen.how else None,
            "kv": chosen.kv,
            "bytes": sizes[chosen.name],
            "goal": GOALS.get(chosen.how.bits) if chosen.how else None,
            **summarize(by_format[chosen.name], by_format[BASE.name]),
        }
        for chosen in FORMATS
    ]
    result = {**header, **made_of, "num_problems": len(problems), "formats": rows}
    out.write_text(json.dumps(result, indent=1) + "\n")
    draw(result, out.with_suffix(".png"))
    return result


def draw(result: Json, path: Path) -> None:
    """Relative perplexity and change of accuracy of every format, with their intervals."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = result["formats"][1:]
    figure, axes = plt.subplots(1, 2, figsize=(11, 0.45 * len(rows) + 1.6), sharey=True, layout="constrained")
    panels = (
        ("relative_perplexity_per_problem", "perplexity against bf16"),
        ("accuracy_gain", "greedy accuracy minus that of bf16"),
    )
    for axis, (key, label) in zip(axes, panels, strict=True):
        for place, row in enumerate(rows):
            figure_of = row[key]
            value = figure_of["value"]
            axis.errorbar(
                100 * value,
                place,
                xerr=[[100 * (value - figure_of["low"])], [100 * (figure_of["high"] - value)]],
                fmt="o",
                ms=4,
                capsize=3,
                color="C0",
            )
        axis.axvline(0, color="0.6", lw=0.8)
        axis.set_xlabel(f"{label}, %")
        axis.grid(axis="x", alpha=0.25)
    axes[0].set_yticks(range(len(rows)), [row["name"] for row in rows])
    axes[0].invert_yaxis()
    name = result["models"][0]["name"]
    figure.suptitle(f"{name}: {result['num_problems']} problems of the validation split; 95% intervals", fontsize=11)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _write(source: str | Path, chosen: Format, config: QualityConfig, folder: Path, progress: Progress) -> Path:
    """The directory of ``source`` in this format, written into ``folder`` where it is not there yet."""
    loaded = load_model(source, expand=False)
    if chosen.how is None:
        return loaded.source
    target = folder / f"{chosen.how.bits}-{chosen.how.group}-{chosen.how.method}"
    if not target.exists():
        longest, texts = loaded.config.max_positions, []
        if chosen.how.method != "nearest":
            # Another seed than the problems': the splits are apart in any case.
            texts = suite_documents(loaded.tokenizer, config.suite, config.num_documents, longest, config.seed + 1)
        quantize(source, target, chosen.how, texts, progress)
    return target


def _fits(model: Model, problem: Problem) -> bool:
    """Whether prompt and solution fit into the context."""
    tokenizer = model.loaded.tokenizer
    length = len(tokenizer.encode(problem.prompt)) + len(tokenizer.encode(problem.solution))
    return length + 16 <= model.loaded.config.max_positions


def _as_ratio(loss: Estimate) -> Estimate:
    """exp(x) - 1 of a difference of losses."""
    return replace(loss, value=math.expm1(loss.value), low=math.expm1(loss.low), high=math.expm1(loss.high))


def _labelled(progress: Progress, label: str) -> Progress:
    def show(done: int, total: int, what: str) -> None:
        progress(done, total, f"{label} {what}")

    return show

"""Judging a reward model on fresh problems, against the exact step oracle."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import tokenizers

from outthink.core.errors import UserError
from outthink.learn.rewards.auc import auc, calibration
from outthink.learn.rewards.documents import Encoder, RewardDocument
from outthink.learn.rewards.records import LabelledProblem
from outthink.learn.rewards.rollouts import LabelConfig, OnProgress, label
from outthink.learn.rewards.scoring import load_reward, mean_log_probs, score_documents
from outthink.learn.rewards.store import SUFFIX, read_labels
from outthink.learn.rewards.truth import ended_right, still_right
from outthink.lm.model import Model
from outthink.models.checkpoint import LoadedModel, load_model

RECORDS = ".records.jsonl.gz"


@dataclass(frozen=True)
class Reading:
    """One place where a reward was read: its logit, the oracle's truth, and whether that very line ended right.

    ``problem`` is the place of the problem in its stream; ``end`` counts characters of the line; ``final`` readings are
    of lines that were ended, the others of prefixes up to a line feed. ``likelihood`` is the policy's own mean
    log-probability (nats) of the tokens read: what a verifier without training would go by.
    """

    family: str
    problem: int
    difficulty: float
    line: int
    end: int
    final: bool
    logit: float
    likelihood: float
    truth: bool
    outcome: bool

    @property
    def probability(self) -> float:
        """The logit as a probability."""
        return 1 / (1 + math.exp(-self.logit)) if self.logit > -700 else 0.0


def judge(
    reward: Path,
    policy: Model,
    config: LabelConfig,
    out: Path,
    progress: OnProgress = lambda *_: None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Sample lines of ``policy`` for fresh test problems, read ``reward`` at every step, and compare with the oracle.

    Writes the readings beside ``out`` (.records.jsonl.gz); the lines are kept there too (.lines.jsonl.gz), so that an
    interrupted judging continues. Returns the result as JSON values. Raises UserError for what is no reward model.
    """
    loaded = load_reward(reward, device)
    lines = out.with_suffix(".lines" + SUFFIX)
    fresh = replace(config, labels="outcomes", split="test")
    label(policy, fresh, lines, progress)
    _, found = read_labels(lines)
    own = load_model(policy.loaded.source, "float32", device)
    readings = read_rewards(loaded, own, found[: config.num_problems], progress)
    with gzip.open(out.with_suffix(RECORDS), "wt") as file:
        file.writelines(json.dumps(asdict(reading)) + "\n" for reading in readings)
    return {
        "what": "reward model against the exact step oracle",
        "reward": {"name": reward.name, "kind": loaded.config.reward},
        "config": asdict(fresh),
        **summarize(readings),
    }


def read_rewards(
    loaded: LoadedModel, policy: LoadedModel, found: Sequence[LabelledProblem], progress: OnProgress
) -> list[Reading]:
    """The rewards of all lines of ``found``: after each step and of the whole, or only of the whole for an outcome."""
    encoder = Encoder(tokenizers.Tokenizer.from_file(str(loaded.source / "tokenizer.json")))
    documents: list[RewardDocument] = []
    places: list[list[Reading]] = []
    for done, record in enumerate(found):
        question = encoder.question(record.problem.prompt)
        for number, line in enumerate(record.lines):
            ends = line.step_ends() if loaded.config.reward == "process" else []
            ids, positions = encoder.read_at(question, line, ends)
            if line.ended:
                positions.append(len(ids) - 1)
            if positions and len(ids) <= loaded.config.max_positions:
                documents.append(RewardDocument(ids, len(question), tuple((place, 0.0) for place in positions)))
                places.append(_unread(record, number, ends))
        progress(done + 1, len(found), "asking the oracle")
    if not documents:
        raise UserError("No line has a place where this reward is read: every line was cut. Raise --max-tokens.")
    logits = score_documents(loaded.model, documents, lambda done, total: progress(done, total, "reading rewards"))
    likelihoods = mean_log_probs(policy.model, documents, lambda done, n: progress(done, n, "reading likelihoods"))
    return [
        replace(reading, logit=logit, likelihood=likelihood)
        for read, *values in zip(places, logits, likelihoods, strict=True)
        for reading, logit, likelihood in zip(read, *values, strict=True)
    ]


def _unread(record: LabelledProblem, number: int, ends: Sequence[int]) -> list[Reading]:
    """The readings of a line of ``record`` after each of its step ``ends`` and at its end, without their rewards."""
    problem, line = record.problem, record.lines[number]
    truths = [(end, False, still_right(problem, line.text[:end])) for end in ends]
    if line.ended:
        truths.append((len(line.text), True, ended_right(problem, line)))
    return [
        Reading(
            problem.family, record.index, problem.difficulty, number, end, final, math.nan, math.nan, truth, line.right
        )
        for end, final, truth in truths
    ]


def summarize(readings: Sequence[Reading]) -> dict[str, Any]:
    """The AUC per family and over all, for steps and for finished lines, and calibration, as JSON values.

    ``truth`` is the oracle's; ``outcome`` is whether the very line ended right, of which a calibrated process reward
    is the probability; ``auc_likelihood`` is that of the policy's own likelihood against the oracle.
    """
    steps, finals = [r for r in readings if not r.final], [r for r in readings if r.final]
    families = sorted({r.family for r in readings})
    rows = []
    for family in (*families, None):
        for what, part in (("steps", steps), ("finished lines", finals)):
            own = [r for r in part if family in (None, r.family)]
            if own:
                rows.append({"family": family or "all", "what": what, **_row(own)})
    calibrated = {}
    for name, truth in (("truth", lambda r: r.truth), ("outcome", lambda r: r.outcome)):
        stated = [r.probability for r in readings]
        calibrated[name] = calibration(stated, list(map(truth, readings)), [r.problem for r in readings]).to_json()
    return {"auc": rows, "calibration": calibrated}


def _row(readings: Sequence[Reading]) -> dict[str, Any]:
    problems = [r.problem for r in readings]

    def area(scores: Sequence[float], truths: Sequence[bool]) -> dict[str, Any] | None:
        found = auc(scores, truths, problems)
        return None if found is None else found.to_json()

    logits, truths, outcomes = [r.logit for r in readings], [r.truth for r in readings], [r.outcome for r in readings]
    return {
        "readings": len(readings),
        "problems": len(set(problems)),
        "true": sum(truths),
        "ended_right": sum(outcomes),
        "auc_truth": area(logits, truths),
        "auc_outcome": area(logits, outcomes),
        "auc_likelihood": area([r.likelihood for r in readings], truths),
        "within_problem": _within(readings),
    }


def _within(readings: Sequence[Reading]) -> float | None:
    """The share of pairs of a true and a false reading of one problem that are in order, ties counted half.

    It tells steps apart where the difficulty of the problem, which moves all its rewards, cannot help.
    """
    by_problem: dict[int, list[Reading]] = {}
    for reading in readings:
        by_problem.setdefault(reading.problem, []).append(reading)
    wins, pairs = 0.0, 0
    for own in by_problem.values():
        good, bad = [r.logit for r in own if r.truth], [r.logit for r in own if not r.truth]
        wins += sum((a > b) + (a == b) / 2 for a in good for b in bad)
        pairs += len(good) * len(bad)
    return wins / pairs if pairs else None

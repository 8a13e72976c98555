"""AUC, its interval and calibration are what their definitions say; judging asks the oracle at every step."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outthink.core.errors import UserError
from outthink.learn.rewards.auc import auc, calibration
from outthink.learn.rewards.compare import compare
from outthink.learn.rewards.judge import Reading, summarize
from outthink.learn.rewards.records import LabelledLine, LabelledProblem, StepLabel
from outthink.learn.rewards.store import LabelFile
from outthink.learn.rewards.truth import ended_right, still_right
from outthink.tasks.suites import draw_problems, get_suite

READINGS = st.lists(st.tuples(st.integers(-3, 3), st.booleans(), st.integers(0, 6)), min_size=1, max_size=30)


@settings(deadline=None)
@given(READINGS)
def test_auc_is_the_share_of_pairs_in_order(readings) -> None:
    scores, truths, problems = zip(*readings, strict=True)
    found = auc(scores, truths, problems)
    good, bad = ([s for s, t, _ in readings if t is kind] for kind in (True, False))
    if not good or not bad:
        assert found is None
        return
    assert found.value == pytest.approx(sum((a > b) + (a == b) / 2 for a in good for b in bad) / len(good) / len(bad))
    assert 0 <= found.low <= found.value <= found.high <= 1 and found.n == len(set(problems))
    flipped = auc([-s for s in scores], truths, problems)
    assert flipped.value == pytest.approx(1 - found.value) and flipped.low == pytest.approx(1 - found.high)


def test_ungrouped_intervals_are_those_of_delong() -> None:
    rng = np.random.default_rng(0)
    truth, score = rng.random(60) < 0.4, rng.normal(size=60)
    score = score + truth
    found = auc(score.tolist(), truth.tolist(), range(60))
    wins = (score[truth][:, None] > score[~truth][None, :]).astype(float)
    by_good, by_bad = wins.mean(axis=1), wins.mean(axis=0)
    # With one reading a problem the sums never meet, and the variance is DeLong's.
    variance = by_good.var(ddof=1) / len(by_good) + by_bad.var(ddof=1) / len(by_bad)
    from scipy.stats import t

    reach = t.ppf(0.975, min(len(by_good), len(by_bad)) - 1) * math.sqrt(variance)
    area = wins.mean()
    slope, middle = 1 / (area * (1 - area)), math.log(area / (1 - area))
    assert found.high == pytest.approx(1 / (1 + math.exp(-(middle + reach * slope))), abs=1e-9)


def simulated(rng: np.random.Generator, num_problems: int = 40, size: int = 12):
    """Readings of problems whose level moves all their scores; the share of true ones differs between them too."""
    level = rng.normal(size=(num_problems, 1))
    truth = rng.random((num_problems, size)) < 1 / (1 + np.exp(-1.5 * level - rng.normal(size=(num_problems, 1))))
    score = 0.7 * truth + level + 0.5 * rng.normal(size=(num_problems, size))
    problem = np.repeat(np.arange(num_problems), size)
    return score.ravel(), truth.ravel(), problem


def coverage(grouped: bool, true: float, runs: int = 400) -> float:
    rng, inside = np.random.default_rng(1), 0
    for _ in range(runs):
        score, truth, problem = simulated(rng)
        found = auc(score, truth, problem if grouped else np.arange(len(problem)))
        inside += found.low <= true <= found.high
    return inside / runs


def test_intervals_cover_where_readings_of_a_problem_depend_and_would_not_without_grouping() -> None:
    score, truth, problem = simulated(np.random.default_rng(2), num_problems=40_000)
    true = auc(score, truth, problem).value
    # 0.95 less what 400 runs may miss by chance once in 10,000 (a binomial tail), and less 0.01 of honest error.
    assert coverage(True, true) >= 0.893
    assert coverage(False, true) < 0.893


def test_a_perfect_order_has_an_honest_interval() -> None:
    found = auc([0, 1, 2, 3, 4, 5], [False] * 3 + [True] * 3, range(6))
    assert found.value == 1 and found.low == pytest.approx(0.025 ** (1 / 3)) and "No wrong order" in found.validity
    assert auc([0, 1], [False, True], [0, 1]).low == 0.0
    with pytest.raises(UserError, match="no number"):
        auc([math.nan, 1.0], [True, False], [0, 1])
    with pytest.raises(UserError, match="as many are needed"):
        auc([1.0], [True, False], [0, 1])


def test_calibration_of_probabilities_that_are_true_and_of_some_that_are_not() -> None:
    rng = np.random.default_rng(3)
    stated = rng.random(20_000)
    truth = rng.random(20_000) < stated
    honest = calibration(stated, truth, np.arange(20_000) // 4, num_draws=100)
    # Ten bins of 2,000: the mean distance of each is below 0.009 on average, and five standard errors above 0.02.
    assert honest.ece < 0.02 and honest.brier == pytest.approx(1 / 6, abs=0.01)
    assert honest.constant_brier == pytest.approx(0.25, abs=0.01) and sum(b.n for b in honest.bins) == 20_000
    assert sum(b.low <= b.predicted <= b.high for b in honest.bins) >= 7
    bold = calibration(np.where(stated > 0.5, 0.99, 0.01), truth, np.arange(20_000) // 4, num_draws=100)
    assert bold.ece == pytest.approx(0.24, abs=0.02) and len(bold.bins) == 2
    with pytest.raises(UserError, match="no readings"):
        calibration([], [], [])


def reading(problem: int, logit: float, truth: bool, final: bool = False, family: str = "paths") -> Reading:
    return Reading(family, problem, 0.1, 0, 3, final, logit, -logit, truth, truth)


def test_a_reward_that_knows_only_how_hard_a_problem_is_is_seen_through() -> None:
    rows = [reading(p, float(p), i < (3 if p > 4 else 1)) for p in range(10) for i in range(4)]
    summary = summarize(rows)["auc"]
    everything = next(row for row in summary if row["family"] == "all")
    assert everything["auc_truth"]["value"] > 0.7 and everything["within_problem"] == 0.5
    assert everything["auc_likelihood"]["value"] == pytest.approx(1 - everything["auc_truth"]["value"])
    knows = [replace(r, logit=float(r.truth)) for r in rows] + [reading(0, 1.0, True, True)]
    finals = summarize(knows)["auc"]
    assert [row["within_problem"] for row in finals if row["what"] == "steps"] == [1.0, 1.0]
    assert [row["auc_truth"] for row in finals if row["what"] == "finished lines"] == [None, None]


@pytest.mark.parametrize("family", ["arithmetic", "countdown", "paths", "procedures", "recall"])
def test_truth_is_the_oracles_at_every_step(family: str) -> None:
    for problem in draw_problems(family, 0.3, "test", 5, 0):
        line = LabelledLine(problem.solution, True, True)
        assert all(still_right(problem, line.text[:end]) for end in line.step_ends()) and ended_right(problem, line)
        assert not still_right(problem, "no such step\n")
        spoiled = replace(line, text="no such step\n" + line.text)
        assert not ended_right(problem, spoiled), "a right answer after a wrong step is no right solution"
        assert not ended_right(problem, replace(line, right=False))


SETTINGS = {
    "suite": "arithmetic", "hardest": 0.3, "split": "train", "seed": 0, "weights": "w", "temperature": 1.0,
    "model": "m", "lines": 1, "rollouts": 4,
}  # fmt: skip


def write(path: Path, wrong_every: int, cost: int, **settings) -> Path:
    """Labels of gold lines and of spoiled ones, right but for every ``wrong_every``-th."""
    count = 0
    with LabelFile(path, SETTINGS | {"labels": path.name.split(".")[0]} | settings) as file:
        for index, problem in enumerate(get_suite("arithmetic").sample("train", 40, 5)):
            lines = []
            for text, true in ((problem.solution, 1.0), ("0 + 0 = 1\n" + problem.solution, 0.0)):
                steps = []
                for end in LabelledLine(text, True, True).step_ends():
                    count += 1
                    steps.append(StepLabel(end, 1 - true if count % wrong_every == 0 else true, 4))
                lines.append(LabelledLine(text, True, bool(true), tuple(steps)))
            file.append(LabelledProblem(index, problem, tuple(lines), 0, cost))
    return path


def test_labels_are_compared_at_equal_tokens(tmp_path: Path) -> None:
    dear, cheap = write(tmp_path / "dear.jsonl.gz", 1000, 100), write(tmp_path / "cheap.jsonl.gz", 5, 40)
    result = compare([dear, cheap])
    first, second = result["results"]
    assert result["tokens"] == 40 * 40
    assert first["problems"] == 16 and second["problems"] == 40
    assert first["accuracy"]["value"] == 1.0 == first["auc"]["value"] == first["bad_called_bad"]
    assert second["accuracy"]["value"] == pytest.approx(0.8, abs=0.05) and second["auc"]["value"] < 0.95
    assert second["labels_per_1000_tokens"] == pytest.approx(2.5 * first["labels_per_1000_tokens"], rel=0.2)
    assert [p["tokens"] for p in second["points"]] == [round(1600 * k / 12) for k in range(1, 13)]
    with pytest.raises(UserError, match="cannot be compared: hardest"):
        compare([dear, write(tmp_path / "other.jsonl.gz", 5, 40, hardest=0.5)])

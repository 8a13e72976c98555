"""The law over answers, against sums done by hand and properties that any such law has."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outthink.core.posterior import Candidate, Posterior
from outthink.core.thought import Thought

LOG_WEIGHTS = st.floats(-30, 30) | st.just(-math.inf)
CANDIDATES = st.lists(st.builds(Candidate, st.sampled_from("abcd"), LOG_WEIGHTS), max_size=12).map(tuple)
POSTERIORS = st.builds(Posterior, CANDIDATES, LOG_WEIGHTS)


def posterior(*pairs: tuple[str, float], unassigned: float = 0.0) -> Posterior:
    """A posterior of (answer, weight) with the weight of what reached no answer."""
    log = lambda w: math.log(w) if w else -math.inf  # noqa: E731
    return Posterior(tuple(Candidate(answer, log(w)) for answer, w in pairs), log(unassigned))


def test_equal_answers_pool_their_weights() -> None:
    p = posterior(("4", 1), ("5", 3), ("4", 4), ("6", 2))
    assert p.weights == pytest.approx({"4": 0.5, "5": 0.3, "6": 0.2})
    assert list(p.weights) == ["4", "5", "6"]
    assert (p.best, p.confidence) == ("4", pytest.approx(0.5))
    assert p.entropy == pytest.approx(-(0.5 * math.log(0.5) + 0.3 * math.log(0.3) + 0.2 * math.log(0.2)))


def test_what_reached_no_answer_lowers_every_share() -> None:
    p = posterior(("a", 3), ("b", 1), unassigned=4)
    assert p.weights == pytest.approx({"a": 3 / 8, "b": 1 / 8})
    assert p.confidence == pytest.approx(3 / 8)
    assert p.entropy == pytest.approx(-sum(w * math.log(w) for w in (3 / 8, 1 / 8, 1 / 2)))
    assert p.to_json()["unassigned"] == pytest.approx(0.5)
    assert p.credible_set(0.9) == ["a", "b"]


def test_votes_are_counted() -> None:
    p = Posterior(tuple(Candidate(answer) for answer in "xyxzxy"))
    assert p.weights == pytest.approx({"x": 1 / 2, "y": 1 / 3, "z": 1 / 6})


def test_ties_go_to_the_answer_found_first() -> None:
    assert posterior(("b", 1), ("a", 1)).best == "b"
    assert posterior(("b", 1), ("a", 2), ("b", 1)).best == "b"


def test_the_best_line_is_the_heaviest_that_gives_the_best_answer() -> None:
    lines = (Candidate("a", 1.0, "first"), Candidate("b", 1.5, "alone"), Candidate("a", 1.2, "heaviest"))
    lines += (Candidate("a", 1.2, "as heavy"),)
    assert Posterior(lines).best_line is lines[2]
    assert Posterior().best_line is None


@pytest.mark.parametrize(
    ("mass", "answers"), [(0.0, []), (0.3, ["a"]), (0.5, ["a"]), (0.51, ["a", "b"]), (0.8, ["a", "b"]), (1.0, [*"abc"])]
)
def test_the_credible_set_is_the_smallest_that_reaches_the_mass(mass: float, answers: list[str]) -> None:
    assert posterior(("a", 5), ("b", 3), ("c", 2)).credible_set(mass) == answers


@pytest.mark.parametrize(
    "empty", [Posterior(), posterior(("a", 0), ("b", 0)), posterior(("a", 0), unassigned=3), posterior(unassigned=1)]
)
def test_no_answer_is_no_confidence(empty: Posterior) -> None:
    assert (empty.best, empty.confidence, empty.weights, empty.credible_set()) == (None, 0, {}, [])
    assert empty.entropy == 0
    assert empty.to_json()["best"] is None


def test_weights_far_below_one_keep_their_ratios() -> None:
    p = Posterior((Candidate("a", -5000.0), Candidate("b", -5000.0 + math.log(3))))
    assert p.weights == pytest.approx({"b": 0.75, "a": 0.25})
    far = Posterior((Candidate("a", 5000.0),), log_unassigned=-5000.0)
    assert far.confidence == 1


@given(POSTERIORS)
def test_shares_and_the_unassigned_one_sum_to_one(p: Posterior) -> None:
    shares = list(p.weights.values())
    assert all(0 <= w <= 1 for w in shares)
    assert shares == sorted(shares, reverse=True)
    if shares and p.log_unassigned == -math.inf:
        assert math.fsum(shares) == pytest.approx(1)
    assert math.fsum(shares) <= 1 + 1e-12
    assert -1e-12 <= p.entropy <= math.log(len(shares) + 1) + 1e-12
    assert p.confidence == (shares[0] if shares else 0)
    assert set(p.weights) <= {c.answer for c in p.candidates}


@given(POSTERIORS, st.floats(-20, 20))
def test_a_common_factor_changes_nothing(p: Posterior, shift: float) -> None:
    moved = Posterior(tuple(Candidate(c.answer, c.log_weight + shift) for c in p.candidates), p.log_unassigned + shift)
    assert moved.weights == pytest.approx(p.weights)


@given(POSTERIORS)
def test_splitting_a_candidate_in_two_changes_nothing(p: Posterior) -> None:
    halves = tuple(Candidate(c.answer, c.log_weight - math.log(2)) for c in p.candidates for _ in range(2))
    assert Posterior(halves, p.log_unassigned).weights == pytest.approx(p.weights)


@given(POSTERIORS, st.floats(0.01, 1))
def test_credible_sets_reach_their_mass_and_no_smaller_set_does(p: Posterior, mass: float) -> None:
    weights, chosen = p.weights, p.credible_set(mass)
    assert chosen == list(weights)[: len(chosen)]
    reached = math.fsum(weights[answer] for answer in chosen)
    assert reached >= mass - 1e-9 or len(chosen) == len(weights)
    if chosen:
        assert reached - weights[chosen[-1]] < mass


@given(POSTERIORS)
def test_json_is_plain(p: Posterior) -> None:
    assert json.loads(json.dumps(p.to_json(), allow_nan=False))["confidence"] == p.confidence


def test_thoughts_walk_from_parents_to_children_and_say_whose_they_are() -> None:
    root = Thought("root")
    a, b = root.child(), root.child()
    a.text, b.text = "a", "b"
    deep = a.child()
    deep.text = "deep"
    assert [t.text for t in root.walk()] == ["root", "a", "deep", "b"]
    assert [t.text for t in deep.line()] == ["root", "a", "deep"]
    nodes = root.to_json()["nodes"]
    assert [(n["id"], n["parent"], n["text"]) for n in nodes] == [
        (0, None, "root"),
        (1, 0, "a"),
        (2, 1, "deep"),
        (3, 0, "b"),
    ]
    assert [n["parent"] for n in a.to_json()["nodes"]] == [None, 0]

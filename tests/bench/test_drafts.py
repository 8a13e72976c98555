"""Passes and acceptance against speculative sampling itself, enumerated in every outcome."""

import itertools
import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from outthink.bench.drafts import (
    DraftsConfig,
    Pairing,
    acceptance,
    check_vocabularies,
    expected_passes,
    judge,
    laws,
    markdown,
    rows,
    run,
)
from outthink.core.errors import UserError
from outthink.core.sampling import Sampling
from outthink.lm.model import BUNDLED, load
from outthink.models.checkpoint import load_model
from outthink.tasks.suites import draw_problems

VOCABULARY, LENGTH = 3, 5
CONFIG = DraftsConfig(suite="arithmetic", difficulties=(0.2,), num_problems=2, num_lines=3)


@cache
def law(prefix, of):
    """The next-token law after ``prefix`` of one of two models whose laws have nothing in common."""
    seed = [{"target": 1, "draft": 2}[of], *prefix]
    return np.random.default_rng(seed).dirichlet(np.full(VOCABULARY, 0.7))


def passes_of_speculative_sampling(prefix, num_drafts):
    """Expected passes from ``prefix`` to a line of LENGTH: the algorithm itself, every draw of it enumerated."""
    if len(prefix) == LENGTH:
        return 0.0
    return 1.0 + after_drafts(prefix, num_drafts, num_drafts)


def after_drafts(prefix, left, num_drafts):
    """Expected passes after this one, ``left`` more tokens being drafted in it."""
    if len(prefix) == LENGTH:
        return 0.0
    p, q = law(prefix, "target"), law(prefix, "draft")
    if left == 0:  # all were accepted: one token of the target
        return sum(p[x] * passes_of_speculative_sampling((*prefix, x), num_drafts) for x in range(VOCABULARY))
    expected = 0.0
    residual = np.maximum(p - q, 0) / np.maximum(p - q, 0).sum()
    for drafted in range(VOCABULARY):
        accept = min(1.0, p[drafted] / q[drafted])
        expected += q[drafted] * accept * after_drafts((*prefix, drafted), left - 1, num_drafts)
        for x in range(VOCABULARY):
            refused = q[drafted] * (1 - accept) * residual[x]
            expected += refused * passes_of_speculative_sampling((*prefix, x), num_drafts)
    return expected


def over_lines_of_the_target(kept_of, num_drafts):
    total = 0.0
    for line in itertools.product(range(VOCABULARY), repeat=LENGTH):
        prefixes = [line[:i] for i in range(LENGTH)]
        chance = np.prod([law(prefix, "target")[x] for prefix, x in zip(prefixes, line, strict=True)])
        kept = [kept_of(prefix, x) for prefix, x in zip(prefixes, line, strict=True)]
        total += chance * expected_passes(kept, num_drafts)
    return total


@pytest.mark.parametrize("num_drafts", [1, 2, 4])
def test_expected_passes_are_those_of_speculative_sampling(num_drafts):
    exact = passes_of_speculative_sampling((), num_drafts)

    def ratio(prefix, x):
        return min(1.0, law(prefix, "draft")[x] / law(prefix, "target")[x])

    def without_the_token(prefix, _x):
        """Broken: the chance of acceptance at a position, whatever token came of it."""
        return float(acceptance(law(prefix, "target"), law(prefix, "draft")))

    assert over_lines_of_the_target(ratio, num_drafts) == pytest.approx(exact, abs=1e-12)
    if num_drafts == 2:  # with drafts to the end of the line, passes are one more than refusals, and only means count
        assert abs(over_lines_of_the_target(without_the_token, num_drafts) - exact) > 1e-3


@pytest.mark.parametrize(
    ("kept", "num_drafts", "passes"),
    [
        ([1.0] * 10, 4, 2.0),  # five tokens a pass
        ([1.0] * 11, 4, 3.0),
        ([0.0] * 7, 4, 7.0),
        ([1.0], 4, 1.0),
        ([0.5, 0.0], 1, 1.5),  # the first kept: the target's own token ends the line in the same pass
        ([1.0, 1.0, 0.0, 1.0, 1.0], 2, 2.0),  # a token of the target's own is no draft, so nothing refuses it
    ],
)
def test_passes_by_hand(kept, num_drafts, passes):
    assert expected_passes(kept, num_drafts) == pytest.approx(passes)


def test_acceptance_is_one_minus_total_variation():
    p, q = np.array([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]]), np.array([[0.0, 0.5, 0.5], [0.2, 0.3, 0.5]])
    assert acceptance(p, q) == pytest.approx([0.5, 1.0])


@pytest.fixture(scope="module")
def reader():
    return load_model(BUNDLED / "outthink-s", dtype="float32")


def test_laws_are_those_that_the_engine_draws_from(reader):
    """Read beside a longer line, each line has the law that it has alone: that of the engine's scores."""
    prompt, lines = [2, 40, 41, 3], [[50, 51], [60, 61, 62, 63, 64]]
    both = laws(reader, prompt, lines, 1.0)
    assert [law.shape for law in both] == [(2, reader.config.vocab_size), (5, reader.config.vocab_size)]
    with load("outthink-s", dtype="float32", backend="reference") as model:

        async def scores(line):
            root = await model.session(sampling=Sampling()).root(prompt)
            return await root.score(line)

        import asyncio

        for line, law in zip(lines, both, strict=True):
            assert np.log(law[np.arange(len(line)), line]) == pytest.approx(asyncio.run(scores(line)), abs=1e-4)
    [warm] = laws(reader, prompt, [lines[0]], 2.0)
    expected = np.sqrt(both[0]) / np.sqrt(both[0]).sum(axis=-1, keepdims=True)
    assert warm == pytest.approx(expected, abs=1e-6)


def test_a_model_drafts_perfectly_for_itself(reader):
    [problem] = draw_problems("arithmetic", 0.2, "test", 1, 0)
    found = judge(reader, reader, problem, [2, 40, 3], [[50, 51, 52, 53, 54, 55], [50, 51, 52, 53, 54]], CONFIG)
    assert found.acceptance == pytest.approx(1.0)
    assert found.tokens_per_pass == pytest.approx(5.0)
    greedy_line = laws(reader, [2, 40, 3], [[50, 51, 52, 53, 54, 55]], 1.0)[0].argmax(axis=-1)
    assert found.agreement == pytest.approx(np.mean(greedy_line == [50, 51, 52, 53, 54, 55]))


def test_run_measures_every_family_and_all(tmp_path):
    with load("outthink-s", dtype="float32") as target:
        result = run(target, BUNDLED / "outthink-s", CONFIG, tmp_path / "drafts.json")
    assert json.loads((tmp_path / "drafts.json").read_text()) == json.loads(json.dumps(result))
    assert [(row["family"], row["n"]) for row in result["rows"]] == [("arithmetic", 2), ("all", 2)]
    assert result["rows"][0]["acceptance"]["value"] == pytest.approx(1.0)
    assert result["rows"][0]["agreement"]["value"] == 1.0
    assert result["relative_cost"] == 1.0
    assert "| arithmetic | 2 | 1.00 [" in markdown(result)


def test_rows_average_over_problems():
    def pairing(family, value):
        return Pairing(family, 0.5, "key", 10, value, 1 + 4 * value, value, 5.0)

    first, second, both = rows([pairing("a", 0.2), pairing("b", 0.8), pairing("a", 0.6)], 4)
    assert (first["n"], first["acceptance"]["value"]) == (2, pytest.approx(0.4))
    assert (second["n"], second["tokens_per_pass"]["value"]) == (1, pytest.approx(4.2))
    assert (both["family"], both["n"], both["acceptance"]["value"]) == ("all", 3, pytest.approx(1.6 / 3))
    assert (both["tokens_per_pass"]["low"], both["tokens_per_pass"]["high"]) >= (1.0, 1.0)


class Spelled:
    """A tokenizer of given tokens."""

    def __init__(self, *tokens):
        self.tokens, self.vocab_size = tokens, len(tokens)

    def token_bytes(self, token):
        return self.tokens[token]


def test_models_of_different_tokens_are_refused():
    ours = Spelled(b"a", b"b")
    check_vocabularies(ours, Spelled(b"a", b"b"))
    with pytest.raises(UserError, match="2 tokens and the draft 1"):
        check_vocabularies(ours, Spelled(b"a"))
    with pytest.raises(UserError, match=r"Token 1 is b'b' to the target and b'c' to the draft"):
        check_vocabularies(ours, Spelled(b"a", b"c"))
    assert replace(CONFIG, num_drafts=2).num_drafts == 2

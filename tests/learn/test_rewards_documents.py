"""What a reward model reads while a line grows is what it was trained on, at the same tokens."""

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers

from outthink.core.errors import CheckpointError
from outthink.learn.rewards.documents import Encoder, RewardDocument, documents_of, pack_rewards
from outthink.learn.rewards.plan import Plan
from outthink.learn.rewards.records import LabelledLine, LabelledProblem, StepLabel
from outthink.learn.tokenizer import END_ID, encode_example
from outthink.lm.model import BUNDLED, bundled_models
from outthink.tasks.suites import get_suite

TOKENIZERS = {name: tokenizers.Tokenizer.from_file(str(BUNDLED / name / "tokenizer.json")) for name in bundled_models()}
TEXTS = st.text(st.sampled_from("ab 12+-=:<>()\n\n\n\téß→😀\u2028\r") | st.characters(codec="utf-8"), max_size=40)
PROBLEMS = get_suite("outthink-core").sample("train", 40, 1)


@settings(deadline=None)
@given(TEXTS, st.booleans())
def test_the_tokens_of_a_prefix_of_steps_begin_every_longer_text(text: str, ended: bool) -> None:
    line = LabelledLine(text, ended, False)
    for tokenizer in TOKENIZERS.values():
        encoder, [line_feed] = Encoder(tokenizer), tokenizer.encode("\n").ids
        question = encoder.question("how many?")
        ids, positions = encoder.read_at(question, line, line.step_ends())
        for end, position in zip(line.step_ends(), positions, strict=True):
            alone = [*question, *tokenizer.encode(text[:end], add_special_tokens=False).ids]
            assert ids[: position + 1] == alone and ids[position] == line_feed
        assert (ids[-1] == END_ID) == ended or END_ID in tokenizer.encode(text).ids


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.family)
def test_a_document_is_what_the_policy_was_trained_on(problem) -> None:
    for tokenizer in TOKENIZERS.values():
        encoder = Encoder(tokenizer)
        ids, _ = encoder.read_at(encoder.question(problem.prompt), LabelledLine(problem.solution, True, True), ())
        assert ids == encode_example(tokenizer, problem.prompt, problem.solution)[0]


def test_a_tokenizer_that_joins_line_feeds_is_refused() -> None:
    vocabulary = {"<|pad|>": 0, "<|end|>": 1, "<|user|>": 2, "<|assistant|>": 3, "a": 4, "Ċ": 5, "Ċa": 6}
    joining = tokenizers.Tokenizer(models.BPE(vocabulary, [("Ċ", "a")]))
    joining.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    line = LabelledLine("a\naa", True, True, (StepLabel(2, 1.0, 1),))
    with pytest.raises(CheckpointError, match="joins a line feed"):
        Encoder(joining).process([2, 3], line)
    assert len(Encoder(joining).outcome([2, 3], line).marks) == 1


def line_of(problem, value: float, right: bool = True, ended: bool = True) -> LabelledLine:
    line = LabelledLine(problem.solution, ended, right)
    steps = tuple(StepLabel(end, value, 4) for end in line.step_ends())
    return LabelledLine(problem.solution, ended, right, steps)


def test_labels_sit_on_line_feeds_and_end_tokens() -> None:
    tokenizer = next(iter(TOKENIZERS.values()))
    [line_feed] = tokenizer.encode("\n").ids
    found = [LabelledProblem(i, p, (line_of(p, i / 64, bool(i % 2)),), 1, 1) for i, p in enumerate(PROBLEMS)]
    documents = documents_of(found, Encoder(tokenizer), "process")
    assert len(documents) == len(found)
    seen = []
    for packed, rows in pack_rewards(documents, (64, 256, 1024), 1024):
        at = packed.weights > 0
        assert set(packed.tokens[at].tolist()) <= {line_feed, END_ID} and packed.targets.dtype == np.float32
        # One token later, nothing of it would be true.
        shifted = np.roll(at, 1, axis=1)
        assert not set(packed.tokens[shifted].tolist()) <= {line_feed, END_ID}
        finals = packed.targets[at & (packed.tokens == END_ID)]
        assert set(finals.tolist()) <= {0.0, 1.0}
        seen += [float(value) for value in packed.targets[at & (packed.tokens == line_feed)]]
        assert sum(len(d.marks) for row in rows for d in row) == packed.weights.sum()
        assert len(packed.tokens) == len(rows)
    even = pack_rewards(documents, (64, 256, 1024), 1024, even=True)
    assert {packed.tokens.size for packed, _ in even} == {1024}
    expected = [i / 64 for i, p in enumerate(PROBLEMS) for _ in p.steps]
    assert sorted(seen) == sorted(expected)


def test_what_is_labelled_depends_on_how_a_line_ended() -> None:
    tokenizer, problem = next(iter(TOKENIZERS.values())), PROBLEMS[0]
    encoder = Encoder(tokenizer)
    question = encoder.question(problem.prompt)
    text = "one\ntwo\nanswer: 3"
    steps = (StepLabel(4, 0.75, 4), StepLabel(8, 0.5, 4))
    ended = encoder.process(question, LabelledLine(text, True, False, steps))
    assert [label for _, label in ended.marks] == [0.75, 0.5, 0.0] and ended.ids[-1] == END_ID
    cut = encoder.process(question, LabelledLine(text, False, False, steps))
    assert [label for _, label in cut.marks] == [0.75, 0.5]
    by_line_feed = encoder.process(question, LabelledLine(text + "\n", False, True, steps))
    assert [label for _, label in by_line_feed.marks] == [0.75, 0.5, 1.0]
    assert by_line_feed.marks[-1][0] == len(by_line_feed.ids) - 1
    assert encoder.outcome(question, LabelledLine(text, True, True, steps)).marks == ((len(ended.ids) - 1, 1.0),)
    assert encoder.outcome(question, LabelledLine(text, False, False, steps)).marks == ()


@settings(deadline=None)
@given(st.integers(0, 5), st.integers(1, 3), st.integers(16, 400))
def test_every_epoch_holds_every_line_once(seed: int, epochs: int, batch_tokens: int) -> None:
    documents = [RewardDocument([7 + i] * (5 + i), 2, ((4 + i, 0.5),)) for i in range(9)]
    plan = Plan(documents, seed, epochs, batch_tokens, (16, 32), 64)
    first = [int(token) for step in range(len(plan)) for rows in plan.step(step).batches
             for token in rows.tokens[rows.weights > 0]]  # fmt: skip
    assert sorted(first) == sorted([7 + i for i in range(9)] * epochs)
    again = Plan(documents, seed, epochs, batch_tokens, (16, 32), 64)
    assert all(plan.step(k).tokens == again.step(k).tokens for k in range(len(plan)))
    assert sum(plan.step(k).weight for k in range(len(plan))) == len(documents) * epochs

"""Where a generation ends, and what is text and completion then; also inside characters and across tokens."""

from collections.abc import Sequence as Tokens

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from engine.fakes import END, MARK, PIECES, VOCAB_SIZE, FakeVocabulary, HashBackend
from engine.world import COSTS
from outthink.core.budget import Budget, Ledger
from outthink.core.sampling import Sampling, Until
from outthink.engine.engine import Engine
from outthink.engine.sequence import Extend, Generation, Prompt, Sequence
from outthink.kernels.step import StepBatch

A, B, C, AB, BC, SPACE, C3, A9, NE, NEWLINE = range(10)


class Script(HashBackend):
    """Wants to say one thing: after n positions beyond the prompt, the n-th token of ``line``."""

    def __init__(self, line: Tokens[int], prompt_length: int) -> None:
        super().__init__(32, 4)
        self.line, self.prompt_length = line, prompt_length

    def run(self, batch: StepBatch) -> NDArray[np.float32]:
        logits = np.zeros((len(batch.logit_rows), VOCAB_SIZE), np.float32)
        for r, row in enumerate(batch.logit_rows):
            logits[r, self.line[(batch.positions[row] + 1 - self.prompt_length) % len(self.line)]] = 100.0
        return logits


def say(
    line: Tokens[int], until: Until, budget: Budget | None = None, max_positions: int = 60
) -> tuple[Generation, str]:
    """The generation of a model that says ``line`` over and over, and what was streamed of it."""
    engine = Engine(Script(line, 3), FakeVocabulary(), COSTS, max_positions)
    shown: list[str] = []
    task = Extend(
        engine.open_root([A, A, A]),
        Ledger(budget),
        lambda _: None,
        pytest.fail,
        Prompt(3, 3),
        keys=[1],
        until=until,
        sampling=Sampling(temperature=0),
        limit=engine.max_positions,
        on_token=lambda _, text: shown.append(text),
    )
    engine.start(task)
    for _ in range(200):
        engine.step()
    assert task.over
    generation = task.children[0].generation
    assert generation is not None
    return generation, "".join(shown)


@pytest.mark.parametrize(
    ("line", "stops", "text", "completion"),
    [
        ([A, C, B, A], ("b",), "acb", "ac"),
        ([A, B, C, A], ("abc",), "abc", ""),
        ([C, A, BC, A], ("ab",), "cabc", "c"),
        ([A, AB, C], ("aab",), "aab", ""),
        ([C, AB], ("b", "ab"), "cab", "c"),
        ([C, AB], ("ab", "b"), "cab", "c"),
        ([C, A, BC], ("c", "bc", "abc"), "c", ""),
        ([A, A, BC], ("c", "bc", "abc"), "aabc", "a"),
        ([SPACE, A, B, A], ("ba", "ab"), " ab", " "),
        ([AB, AB, BC], ("bab",), "abab", "a"),
        ([A, C3, A9, B], ("é",), "aé", "a"),
        ([A, C3, C3, A9, B], ("é",), "a\ufffdé", "a\ufffd"),
        ([NE, C], ("é",), "né", "n"),
        ([A, NE, C], ("né",), "ané", "a"),
        ([A, NEWLINE, NEWLINE, B], ("\n\n",), "a\n\n", "a"),
        ([A, MARK, B, C], ("ab",), "ab", ""),
    ],
)
def test_stop_strings(line: list[int], stops: tuple[str, ...], text: str, completion: str) -> None:
    generation, shown = say([*line, C, C, C, C], Until(stop=stops))
    assert (generation.finish, generation.text.decode(errors="replace")) == ("stop", text)
    assert generation.completion == completion
    assert generation.stop in stops
    assert shown == text


def test_the_first_of_two_equal_stops_in_one_token_ends_the_completion() -> None:
    extend = Extend(
        Sequence([0], 0), Ledger(), print, print, Prompt(1, 0), keys=[0], until=Until(stop=("--",)), limit=9
    )
    generation = Generation(extend, 0, 1, 0)
    assert generation.accept(0, b"x--y--z", frozenset(), 2) == "stop"
    assert (bytes(generation.text), generation.completion) == (b"x--y--z", "x")


def test_a_stop_string_in_the_prompt_stops_nothing() -> None:
    generation, _ = say([B, C], Until(max_tokens=4, stop=("a", "ab")))
    assert (generation.finish, generation.completion) == ("length", "bcbc")


def test_the_end_token_ends_unless_it_is_ignored() -> None:
    generation, shown = say([A, B, END, C], Until())
    assert (generation.finish, generation.stop, generation.completion, shown) == ("stop", END, "ab", "ab")
    generation, shown = say([A, B, END, C], Until(max_tokens=6, ignore_eos=True))
    assert (generation.finish, generation.stop, generation.completion, shown) == ("length", None, "abcab", "abcab")


@pytest.mark.parametrize("ignore_eos", [True, False])
def test_stop_tokens_are_no_part_of_the_completion(ignore_eos: bool) -> None:
    generation, shown = say([A, B, BC, A], Until(stop_tokens=(BC, MARK), ignore_eos=ignore_eos))
    assert (generation.finish, generation.stop, generation.completion, shown) == ("stop", BC, "ab", "abbc")
    generation, _ = say([A, MARK, B], Until(stop_tokens=(BC, MARK), ignore_eos=ignore_eos))
    assert (generation.finish, generation.stop, generation.completion) == ("stop", MARK, "a")
    generation, _ = say([A, END, B], Until(stop_tokens=(END,), ignore_eos=True))
    assert (generation.finish, generation.stop) == ("stop", END)


@pytest.mark.parametrize("max_tokens", [1, 2, 17])
def test_max_tokens(max_tokens: int) -> None:
    generation, _ = say([A, B], Until(max_tokens))
    assert (generation.finish, len(generation.log_probs)) == ("length", max_tokens)


def test_a_stop_at_the_last_token_is_a_stop() -> None:
    assert say([A, B, C], Until(3, stop=("c",)))[0].finish == "stop"
    assert say([A, B, END], Until(3))[0].finish == "stop"


@pytest.mark.parametrize("max_tokens", [None, 10**6])
def test_the_context_is_filled_to_its_end_and_not_beyond(max_tokens: int | None) -> None:
    generation, _ = say([A, B], Until(max_tokens), max_positions=20)
    assert (generation.finish, len(generation.log_probs)) == ("length", 17)


def test_a_text_that_ends_inside_a_character_is_streamed_to_its_end() -> None:
    for until, budget in ((Until(2), None), (Until(), Budget(tokens=3 + 2))):
        generation, shown = say([A, C3], until, budget)
        assert generation.completion == shown == "a\ufffd"


def by_characters(line: Tokens[int], stops: tuple[str, ...], max_tokens: int) -> tuple[int, str]:
    """How many tokens are drawn and what the completion is, by looking at every prefix of the bytes afresh."""
    for count in range(1, max_tokens + 1):
        spelled = b"".join(PIECES[t] for t in line[:count])
        begins = [spelled.find(stop.encode()) for stop in stops if stop.encode() in spelled]
        if begins:
            return count, spelled[: min(begins)].decode(errors="replace")
    return max_tokens, b"".join(PIECES[t] for t in line[:max_tokens]).decode(errors="replace")


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([A, B, C, AB, BC, C3, A9, NE, NEWLINE, MARK]), min_size=12, max_size=12),
    st.lists(st.text("abcé\n", min_size=1, max_size=4), max_size=3).map(tuple),
)
def test_any_stop_strings_end_any_text_where_they_first_appear(line: list[int], stops: tuple[str, ...]) -> None:
    generation, shown = say(line, Until(12, stop=stops))
    assert (len(generation.log_probs), generation.completion) == by_characters(line, stops, 12)
    assert shown == generation.text.decode(errors="replace")

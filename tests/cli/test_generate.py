"""``outthink generate``: the same text however it is shown."""

from __future__ import annotations

import asyncio
import math
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outthink.cli.stream import TextStream, held_back


def test_the_stream_is_the_text(run, model):
    told = run("generate", "17", "-m", model, "--seed", 5, "--json").json
    shown = run("generate", "17", "-m", model, "--seed", 5, "-q")
    assert (shown.code, shown.err) == (0, "")
    [choice] = told["choices"]
    assert shown.out == choice["text"]
    assert (choice["finish"], told["prompt"], told["cost"]["prefilled"]) == ("stop", "17", 2)


def test_a_stop_string_is_never_shown(run, model):
    whole = run("generate", "17", "-m", model, "--seed", 5, "--json").json["choices"][0]["text"]
    stop = whole[len(whole) // 2 : len(whole) // 2 + 5]
    shown = run("generate", "17", "-m", model, "--seed", 5, "--stop", stop, "--stop", "never", "-q")
    assert shown.out == whole[: whole.index(stop)].rstrip("\n") + "\n"


def test_chat_goes_through_the_template(run, model):
    told = run("generate", "17", "--system", "think", "-m", model, "--max-tokens", 1, "--json").json
    assert [m["role"] for m in told["prompt"]] == ["system", "user"]
    assert told["cost"]["prefilled"] == len("system: think\nuser: 17\n")


def test_several_continuations(run, model):
    told = run("generate", "17", "-m", model, "--seed", 4, "-n", 3, "--json").json
    assert len({choice["text"] for choice in told["choices"]}) > 1
    shown = run("generate", "17", "-m", model, "--seed", 4, "-n", 3, "-q").out
    for number, choice in enumerate(told["choices"], 1):
        assert f"--- {number} of 3 ({choice['finish']})\n{choice['text']}" in shown


def test_log_probabilities(run, model):
    command = ["generate", "17", "-m", model, "--logprobs", 2, "--temperature", 0, "--max-tokens", 3]
    records = run(*command, "--json").json["choices"][0]["logprobs"]
    assert 1 <= len(records) <= 3
    for record in records:
        assert len(record["top"]) == 2
        assert record["log_prob"] == pytest.approx(record["top"][0]["log_prob"])  # greedy takes the likeliest
        assert record["id"] == record["top"][0]["id"]
        assert sum(math.exp(t["log_prob"]) for t in record["top"]) < 1
    assert f"{records[0]['log_prob']:9.4f}  {records[0]['token']!r}" in run(*command, "-q").out


def test_sampling_options_reach_the_sampler(run, model):
    def text(*options):
        return run("generate", "17", "-m", model, "--seed", 2, *options, "--json").json["choices"][0]["text"]

    greedy = text("--temperature", 0)
    for options in (["--top-k", 1], ["--top-p", 1e-6], ["--min-p", 1]):
        assert text(*options) == greedy
    for options in (["--repetition-penalty", 100], ["--presence-penalty", 50], ["--frequency-penalty", 50]):
        lines = text("--temperature", 0, *options).splitlines()
        assert len(set(lines)) == len(lines)


@given(st.text("abc", max_size=12), st.lists(st.text("abc", min_size=1, max_size=4), max_size=3))
def test_held_back_text_is_exactly_what_may_still_be_cut(text, stop):
    """By brute force: a prefix is safe where no continuation can make a stop string begin inside it."""
    safe = held_back(text, stop)
    found = [text.index(needle) for needle in stop if needle in text]
    may_begin = [at for at in range(len(text)) if any(needle.startswith(text[at:]) for needle in stop)]
    assert safe == min([*found] or [*may_begin, len(text)])


@given(st.lists(st.text("ab\n", max_size=5), max_size=8), st.lists(st.text("ab", min_size=1, max_size=3), max_size=2))
def test_a_stream_shows_the_completion_and_nothing_else(pieces, stop):
    pieces = until_a_stop(pieces, stop)
    text = "".join(pieces)
    completion = text[: min([text.index(s) for s in stop if s in text], default=len(text))]
    shown: list[str] = []

    async def stream() -> None:
        made = TextStream(stop, give_up=lambda: None, write=shown.append)
        feeder = threading.Thread(target=lambda: [made.on_token(0, piece) for piece in pieces])
        feeder.start()
        await asyncio.to_thread(feeder.join)
        await made.finish(completion)

    asyncio.run(stream())
    assert "".join(shown) == (completion if completion.endswith("\n") else completion + "\n")


def until_a_stop(pieces: list[str], stop: list[str]) -> list[str]:
    """The pieces that an engine would send: none after the one that completes a stop string."""
    for number in range(len(pieces)):
        if any(needle in "".join(pieces[: number + 1]) for needle in stop):
            return pieces[: number + 1]
    return pieces


def test_a_reader_that_goes_away_ends_the_writing():
    given_up: list[bool] = []

    def write(text: str) -> None:
        raise BrokenPipeError

    async def stream() -> None:
        made = TextStream((), give_up=lambda: given_up.append(True), write=write)
        made.on_token(0, "a")
        made.on_token(0, "b")
        await asyncio.sleep(0)
        with pytest.raises(BrokenPipeError):
            await made.finish("ab")

    asyncio.run(stream())
    assert given_up == [True]

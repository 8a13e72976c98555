"""Sampling and stopping options: what is accepted, and what is refused by name."""

import math

import pytest

from outthink.core.errors import SamplingError
from outthink.core.sampling import Sampling, Until


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_k", 0),
        ("top_k", -3),
        ("top_p", 0.0),
        ("top_p", 1.0001),
        ("top_p", math.nan),
        ("min_p", -0.01),
        ("min_p", 1.01),
        ("min_p", math.nan),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", -1.0),
        ("repetition_penalty", math.inf),
        ("repetition_penalty", math.nan),
        ("presence_penalty", math.inf),
        ("frequency_penalty", math.nan),
        ("logit_bias", {-1: 0.5}),
        ("logit_bias", {3: math.nan}),
        ("top_logprobs", -1),
        ("top_logprobs", 101),
    ],
)
def test_what_is_out_of_range_is_refused_by_name_and_value(option: str, value: object) -> None:
    with pytest.raises(SamplingError, match=option):
        Sampling(**{option: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("temperature", 0.0),
        ("temperature", 100.0),
        ("top_k", 1),
        ("top_k", None),
        ("top_p", 1.0),
        ("top_p", 1e-9),
        ("min_p", 0.0),
        ("min_p", 1.0),
        ("repetition_penalty", 0.5),
        ("presence_penalty", -2.0),
        ("frequency_penalty", 3.0),
        ("logit_bias", {0: -math.inf, 5: 1.0}),
        ("top_logprobs", 0),
        ("top_logprobs", 100),
        ("seed", -5),
        ("seed", 2**80),
    ],
)
def test_the_ends_of_every_range_are_accepted(option: str, value: object) -> None:
    assert getattr(Sampling(**{option: value}), option) == value  # type: ignore[arg-type]


def test_only_penalties_need_to_know_what_came_before() -> None:
    assert not Sampling(temperature=0.3, top_k=3, top_p=0.5, min_p=0.1, logit_bias={1: 1.0}).needs_history
    for penalty in ({"repetition_penalty": 1.1}, {"presence_penalty": 0.1}, {"frequency_penalty": -0.1}):
        assert Sampling(**penalty).needs_history


def test_greedy_is_temperature_zero() -> None:
    assert Sampling(temperature=0).greedy
    assert not Sampling(temperature=1e-9).greedy


@pytest.mark.parametrize("bad", [{"max_tokens": 0}, {"max_tokens": -1}, {"stop": ("a", "")}, {"stop": ""}])
def test_a_stop_that_could_never_be_meant_is_refused(bad: dict) -> None:
    with pytest.raises(SamplingError, match=next(iter(bad))):
        Until(**bad)


def test_one_stop_string_is_a_tuple_of_one_and_not_of_its_characters() -> None:
    assert Until(stop="end").stop == ("end",)  # type: ignore[arg-type]
    assert Until(stop=("a", "b")).stop == ("a", "b")

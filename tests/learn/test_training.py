"""What a run trains on, how it computes, and what it refuses."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learn_runs import tiny
from outthink.core.errors import TaskError, UserError
from outthink.learn.data import make_step, problems, step_seed
from outthink.learn.feed import StepFeed
from outthink.learn.optimizer import learning_rate
from outthink.learn.parallel import Gradients, split_evenly
from outthink.learn.train import Run, train
from outthink.tasks.arithmetic import Arithmetic
from outthink.tasks.problem import Problem, Split
from outthink.tasks.suites import Suite


def test_only_problems_of_the_training_split_are_drawn(tmp_path: Path) -> None:
    seen = 0
    for seed in range(5):
        for _, problem in zip(range(400), problems("arithmetic", "train", step_seed(seed, 7)), strict=False):
            assert problem.split == "train"
            seen += 1
    assert seen == 2000
    splits = {Arithmetic().generate(seed, 0.5).split for seed in range(200)}
    assert splits == {"train", "validation", "test"}  # so that the filter has something to filter


def test_no_problem_is_harder_than_asked_for() -> None:
    drawn = [p.difficulty for _, p in zip(range(300), problems("arithmetic", "train", 3, hardest=0.4), strict=False)]
    assert 0.35 < max(drawn) <= 0.4


def test_a_suite_that_leaks_test_problems_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Leaky(Suite):
        def stream(self, split: Split, seed: int) -> Iterator[Problem]:
            return (Arithmetic().generate(s, 0.5) for s in range(seed % 1000, 10**9))

    monkeypatch.setattr("outthink.learn.data.get_suite", lambda name: Leaky(name, (("arithmetic", 1.0),)))
    with pytest.raises(TaskError, match="where a train problem was asked for"):
        list(zip(range(200), problems("arithmetic", "train", 0), strict=False))


@pytest.mark.parametrize("num_processes", [1, 3])
def test_the_data_of_a_step_depends_on_nothing_but_seed_and_step(tmp_path: Path, num_processes: int) -> None:
    run = Run(tiny(tmp_path / "run").resolve())
    with StepFeed(run.data_config, 5, num_processes) as feed:
        fed = [next(feed) for _ in range(5)]
    for step, data in enumerate(fed, 5):
        made = make_step(run.data_config, run.tokenizer, step)
        assert (data.step, data.tokens, data.problems) == (step, made.tokens, made.problems)
        assert all((one.tokens == other.tokens).all() for one, other in zip(data.batches, made.batches, strict=True))
    other_seed = make_step(replace(run.data_config, seed=1), run.tokenizer, 5)
    assert (other_seed.batches[0].tokens != fed[0].batches[0].tokens).any()


def test_an_error_of_the_data_process_reaches_the_trainer(tmp_path: Path) -> None:
    run = Run(tiny(tmp_path / "run").resolve())
    narrow = replace(run.data_config, widths=(8,), micro_tokens=8)
    with StepFeed(narrow, 0) as feed, pytest.raises(TaskError, match="exceed 8 tokens"):
        next(feed)


@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_compute_the_gradient_of_one(tmp_path: Path, processes: int) -> None:
    run = Run(tiny(tmp_path / "run", batch_tokens=1024).resolve())
    data = make_step(run.data_config, run.tokenizer, 0)
    with run.gradients as alone:
        loss = alone.compute(data.batches, data.weight)
    expected = {name: p.grad.clone() for name, p in run.model.named_parameters()}
    run.model.zero_grad()
    with Gradients(run.model, run.gradients.config, processes) as together:
        for _ in range(3):  # alone, then together; a step must not see what the one before left behind
            run.model.zero_grad()
            assert together.compute(data.batches, data.weight) == pytest.approx(loss, rel=1e-5)
    for name, parameter in run.model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-6)


def test_work_is_split_evenly(tmp_path: Path) -> None:
    run = Run(tiny(tmp_path / "run", batch_tokens=4096).resolve())
    batches = make_step(run.data_config, run.tokenizer, 0).batches
    parts = split_evenly(batches, 3)
    assert sorted(map(id, batches)) == sorted(id(b) for part in parts for b in part)
    assert max(map(len, parts)) - min(map(len, parts)) <= 2


def test_a_tiny_model_learns(tmp_path: Path) -> None:
    run = Run(tiny(tmp_path / "run", steps=60, learning_rate=1e-2).resolve())
    data = make_step(run.data_config, run.tokenizer, 0)
    with run.gradients:
        losses = [run.step(replace(data, step=step)) for step in range(60)]
    assert losses[-1] < 0.5 * losses[0]


@given(st.integers(0, 999))
def test_the_learning_rate_warms_up_holds_and_falls_to_nothing(step: int) -> None:
    config = tiny(Path("x"), steps=1000, warmup_steps=10, learning_rate=1.0, decay_fraction=0.4).resolve()
    rate = learning_rate(config, step, step / 1000)
    if step < 10:
        assert rate == pytest.approx((step + 1) / 10)
    elif step <= 600:
        assert rate == pytest.approx(1.0)
    else:
        assert rate == pytest.approx((1000 - step) / 400)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": "XL"}, "Unknown model size 'XL'"),
        ({"minutes": 1.0}, "in minutes or in steps, not both"),
        ({"steps": -3}, "steps is -3"),
        ({"optimizer": "sgd"}, "optimizer is 'sgd'"),
        ({"precision": "fp8"}, "precision is 'fp8'"),
        ({"widths": (512,), "context": 1024}, "between 8 and micro_tokens"),
        ({"hardest": 0.0}, "hardest is 0"),
        ({"suite": "arithmetics"}, "Unknown suite 'arithmetics'"),
        ({"tokenizer": Path("nowhere.json")}, "no tokenizer file"),
        ({"device": "cuda:99"}, "cuda"),
    ],
)
def test_settings_that_cannot_be_used_are_refused_before_anything_is_written(tmp_path: Path, changes, message) -> None:
    with pytest.raises(UserError, match=message):
        train(tiny(tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()

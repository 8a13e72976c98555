"""The measurement: every runner does every workload in every round, one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from outthink.bench.engine.driver import Driver, RunnerError
from outthink.bench.engine.machine import Limits, measure_limits
from outthink.bench.engine.profile import Profile
from outthink.bench.engine.runners import DRIVERS, OURS, Runner, python_of
from outthink.bench.engine.weights import Subject, weights_of
from outthink.bench.engine.workloads import BITS, Bits, Workload, request, workloads
from outthink.core.errors import CapabilityError

Progress = Callable[[int, int, str], None]
AGREEMENT_PROMPTS, AGREEMENT_TOKENS, AGREEMENT_SEED = 8, 16, 1_000_000
OVERHEAD_TOKENS = 256
SETTLE_S = 0.3  # before every timed part: threads of the runner before may go on looking for work for so long


@dataclass(frozen=True)
class EngineConfig:
    """``rounds`` over every workload and runner, after one that is not counted; ``quick``: a few steps of each."""

    threads: int = 2
    rounds: int = 5
    bits: tuple[Bits, ...] = BITS
    quick: bool = False


Key = tuple[str, str, str, str]  # model, workload, bits, runner


@dataclass
class Measured:
    """What has been measured so far.

    ``rates``: tokens per second of every round, by model, workload, bits and runner. ``missing``: why a runner has no
    figure, by the same or by model, bits and runner. ``told``: what runners say of themselves. ``limits``: of the
    machine, once a round. ``profiles``: of our own rates. ``agreement``: of our tokens in bf16 and another's, how many
    there are and how many agree before the first that does not. ``overhead``: seconds of steps, and of those outside
    the backend.
    """

    rates: dict[Key, list[float]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    told: dict[str, dict[str, Any]] = field(default_factory=dict)
    limits: list[Limits] = field(default_factory=list)
    profiles: dict[Key, Profile] = field(default_factory=dict)
    agreement: list[dict[str, Any]] = field(default_factory=list)
    overhead: list[dict[str, Any]] = field(default_factory=list)
    rounds: int = 0
    interrupted: bool = False


@dataclass(frozen=True)
class Running:
    """A runner that has a model loaded."""

    runner: Runner
    bits: Bits
    driver: Driver


def measure(
    subjects: Sequence[Subject],
    runners: Sequence[Runner],
    config: EngineConfig,
    directory: Path,
    progress: Progress = lambda *_: None,
) -> Measured:
    """Run everything, one model after the other. Ctrl-C ends it early; what was finished is in the result.

    A runner that cannot do something is left out of it, with its reason in the result. Raises RunnerError where ours
    cannot.
    """
    measured = Measured()
    try:
        for number, subject in enumerate(subjects):
            _measure_subject(subject, runners, config, directory, measured, _part(progress, number, len(subjects)))
    except KeyboardInterrupt:
        measured.interrupted = True
    return measured


def _part(progress: Progress, number: int, count: int) -> Progress:
    return lambda done, total, what: progress(number * total + done, count * total, what)


def _measure_subject(
    subject: Subject,
    runners: Sequence[Runner],
    config: EngineConfig,
    directory: Path,
    measured: Measured,
    progress: Progress,
) -> None:
    jobs = workloads(subject.small, config.quick)
    with ExitStack() as stack:
        running = []
        for runner in runners:
            common: list[Bits] = [bits for bits in config.bits if runner.bits.count(bits)]
            for bits in common:
                progress(0, 1, f"{subject.name}: {runner.name} {bits} loads")
                loaded = _load(subject, runner, bits, config, directory, measured, stack, progress)
                running += [] if loaded is None else [loaded]
        total = (config.rounds + 1) * len(jobs) * len(running)
        done = 0
        for round_number in range(config.rounds + 1):  # the first warms up: compilers, caches, pages of files
            limits = measure_limits(config.threads)
            for job in jobs:
                for at in _turned(running, round_number):
                    progress(done, total, f"{subject.name}: {job.name}, {at.runner.name} {at.bits}")
                    _do(subject, job, at, round_number, measured)
                    done += 1
            if round_number > 0:
                measured.rounds += 1
                measured.limits += [] if limits is None else [limits]
        progress(total, total, f"{subject.name}: agreement and overhead")
        measured.agreement += _agreement(subject, running)
        measured.overhead += _overhead(subject, running, config)


def _load(
    subject: Subject,
    runner: Runner,
    bits: Bits,
    config: EngineConfig,
    directory: Path,
    measured: Measured,
    stack: ExitStack,
    progress: Progress,
) -> Running | None:
    name = f"{subject.name}, {runner.name} {bits}"
    try:
        python = python_of(runner, directory)
        weights = weights_of(subject, runner, bits, directory, lambda line: progress(0, 1, f"{name}: {line}"))
        log = directory / f"run-{runner.name}-{bits}.log".replace(" ", "-")
        log.parent.mkdir(parents=True, exist_ok=True)
        driver = stack.enter_context(Driver(python, DRIVERS / runner.script, log, config.threads))
        request_ = {"model": str(weights), "bits": bits, "threads": config.threads, **dict(runner.options)}
        measured.told[name] = driver.ask(op="load", **request_)
    except (CapabilityError, RunnerError) as error:
        if runner.name == OURS:
            raise
        measured.missing[name] = str(error)
        return None
    return Running(runner, bits, driver)


def _turned(running: list[Running], by: int) -> list[Running]:
    """Another one first in every round, so that none always comes after the same."""
    by %= max(len(running), 1)
    return running[by:] + running[:by]


def _do(subject: Subject, job: Workload, at: Running, round_number: int, measured: Measured) -> None:
    """A workload as often as a round has it. Its rate counts, but for that of round 0."""
    key = (subject.name, job.name, at.bits, at.runner.name)
    name = f"{subject.name}, {job.name}, {at.runner.name} {at.bits}"
    if name in measured.missing:
        return
    seconds = 0.0
    time.sleep(SETTLE_S)
    for repeat in range(job.repeats):
        try:
            took = at.driver.ask(**request(job, subject.vocab_size, round_number * job.repeats + repeat))["seconds"]
        except RunnerError as error:
            if at.runner.name == OURS:
                raise
            measured.missing[name] = str(error)
            return
        seconds += took
        if round_number > 0 and at.runner.name == OURS:
            told = measured.told[f"{subject.name}, {OURS} {at.bits}"]
            profile = measured.profiles.setdefault(key, Profile(subject.name, job, at.bits, told["weight_bytes"]))
            profile.add(took, at.driver.ask(op="spent"))
    if round_number > 0:
        measured.rates.setdefault(key, []).append(job.repeats * job.rated_tokens / seconds)


def _agreement(subject: Subject, running: Sequence[Running]) -> list[dict[str, Any]]:
    """Of the likeliest tokens in bf16, those of each runner that equal ours up to the first that does not."""
    asked = [at for at in running if at.bits == "bf16"]
    if not asked or asked[0].runner.name != OURS:
        return []
    job = Workload("agreement", "decode", 1, 32, AGREEMENT_TOKENS - 1)
    lines: dict[str, list[list[int]]] = {}
    for at in asked:
        requests = [request(job, subject.vocab_size, AGREEMENT_SEED + i) for i in range(AGREEMENT_PROMPTS)]
        try:
            lines[at.runner.name] = [at.driver.ask(**each)["tokens"][0] for each in requests]
        except RunnerError:
            continue  # why is among what is missing already
    ours = lines.pop(OURS)
    return [
        {
            "model": subject.name,
            "runner": name,
            "tokens": sum(map(len, ours)),
            "agree": sum(common_prefix(a, b) for a, b in zip(ours, theirs, strict=True)),
        }
        for name, theirs in lines.items()
    ]


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two lines share from their beginning."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _overhead(subject: Subject, running: Sequence[Running], config: EngineConfig) -> list[dict[str, Any]]:
    """What our engine spends beside its kernels, one branch and 64 at a time."""
    ours = next((at for at in running if at.runner.name == OURS), None)
    if ours is None:
        return []
    found = []
    for branches in (1, 64):
        steps = 4 if config.quick else OVERHEAD_TOKENS // (4 if branches > 1 else 1)
        prompt = request(Workload("", "prefill", 1, 32, 0), subject.vocab_size, branches)["prompt"]
        shares = []
        for _ in range(max(config.rounds, 1)):
            answer = ours.driver.ask(op="overhead", prompt=prompt, branches=branches, new_tokens=steps)
            shares.append(1 - answer["backend_seconds"] / answer["seconds"])
        found.append({"model": subject.name, "bits": ours.bits, "branches": branches, "shares": shares})
    return found

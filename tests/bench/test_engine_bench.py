"""Rates become medians, ratios and goals as they should; runners are spoken to, fail and are interrupted cleanly."""

import json
import os
import sys
from pathlib import Path
from statistics import median

import numpy as np
import pytest

from outthink.bench.engine import rounds
from outthink.bench.engine.checkpoint import SPECIAL, write_random_llama
from outthink.bench.engine.driver import Driver, RunnerError
from outthink.bench.engine.machine import Limits, describe, is_busy, measure_limits
from outthink.bench.engine.profile import Profile, report_profile
from outthink.bench.engine.report import bandwidth_share, compare, report
from outthink.bench.engine.rounds import EngineConfig, Measured, common_prefix, measure
from outthink.bench.engine.runners import DRIVERS, INSTALLS, OURS, RUNNERS, Runner, find_runners, python_of
from outthink.bench.engine.weights import Subject
from outthink.bench.engine.workloads import BITS, Workload, goal, request, workloads
from outthink.core.errors import CapabilityError, UnknownNameError
from outthink.core.sampling import Sampling, Until
from outthink.models.checkpoint import load_model

TINY = {"vocab_size": 400, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
# A stand-in for another program: half a second for every step of decoding, an error and an end for the rest.
STAND_IN = """
import sys
from protocol import serve
class Runner:
    told = {"settings": "none"}
    def decode(self, prompts, new_tokens):
        print("noise on stdout")
        return 0.5, [[8] * (new_tokens + 1) for _ in prompts]
    def prefill(self, prompt):
        raise ValueError("no room")
    def branches(self, prompt, firsts, new_tokens):
        if len(firsts) == 1:
            sys.exit(3)
        raise NotImplementedError("no such thing")
serve(lambda asked: Runner(), ())
"""


@pytest.fixture(scope="module")
def subject(tmp_path_factory) -> Subject:
    return Subject("tiny", write_random_llama(tmp_path_factory.mktemp("random") / "tiny", TINY))


@pytest.fixture
def stand_in(tmp_path) -> Path:
    script = tmp_path / "stand_in.py"
    script.write_text(f"import sys; sys.path.insert(0, {str(DRIVERS)!r})\n" + STAND_IN)
    return script


def drive(script: Path, tmp_path: Path) -> Driver:
    return Driver(Path(sys.executable), script, tmp_path / "log", threads=1)


def test_requests_differ_by_round_and_are_the_same_for_all():
    for job in workloads(small=True):
        first, again, other = (request(job, 400, seed) for seed in (1, 1, 2))
        assert first == again and first != other
        flat = [token for prompt in first.get("prompts", [first.get("prompt")]) for token in prompt]
        assert len(flat) == job.prompt * (job.batch if job.kind == "decode" else 1)
        assert min(flat) >= 8 and max(flat) < 400
        if job.kind == "branches":
            assert len(set(first["firsts"])) == job.batch


@pytest.mark.parametrize(
    ("job", "small", "expected"),
    [
        (Workload("", "decode", 1, 1, 1), False, 1.3),
        (Workload("", "decode", 1, 1, 1), True, 2.0),
        (Workload("", "decode", 32, 1, 1), False, 2.0),
        (Workload("", "prefill", 1, 512, 0), False, 1.5),
        (Workload("", "branches", 32, 512, 32), True, 3.0),
    ],
)
def test_goals(job, small, expected):
    assert goal(job, small) == expected


def test_our_median_is_compared_with_the_best_peer_of_the_same_bits():
    config = EngineConfig(bits=("bf16", "int8"), rounds=3)
    rates = {
        ("m", "decode 1", "bf16", OURS): [30.0, 10.0, 20.0],
        ("m", "decode 1", "bf16", "slow"): [9.0, 1.0, 2.0],
        ("m", "decode 1", "bf16", "fast"): [8.0, 10.0, 16.0],  # the higher median, though not the highest rate
        ("m", "decode 1", "int8", OURS): [50.0],
        ("m", "decode 8", "bf16", "fast"): [1.0],  # nothing of ours to compare
        ("other", "decode 1", "int8", "fast"): [1.0],
    }
    with_peer, alone = compare(rates, "m", False, config)
    assert (with_peer.peer, with_peer.ratio, with_peer.low, with_peer.high) == ("fast", 2.0, 1.0, 3.75)
    assert with_peer.met and (alone.rate, alone.peer, alone.met) == (50.0, None, None)
    assert not compare({**rates, ("m", "decode 1", "bf16", "faster"): [16.0]}, "m", False, config)[0].met


def test_the_share_of_the_bandwidth_is_bytes_of_weights_by_steps():
    limits = [Limits(read, {}) for read in (1e9, 4e9, 2e9)]
    measured = Measured(limits=limits, rates={("m", "decode 1", "int8", OURS): [15.0, 17.0, 16.0]})
    measured.told[f"m, {OURS} int8"] = {"weight_bytes": 100_000_000}
    share = bandwidth_share(measured, "m")
    assert share is not None and share["share"] == pytest.approx(0.8) and share["met"]
    assert bandwidth_share(measured, "other") is None


def test_what_a_runner_does_reaches_the_report(subject, stand_in, tmp_path, monkeypatch):
    """Its rates where it answers; where it fails or ends, the reason, and the run goes on. Rounds are interleaved."""
    asked: list[tuple[str, str]] = []
    real = Driver.ask

    def watched(self, **request_):
        if request_["op"] != "load":
            asked.append((request_["op"], self._log.name))
        return real(self, **request_)

    monkeypatch.setattr(Driver, "ask", watched)
    other = Runner("other", str(stand_in), None, "hf", ("int8",))  # an absolute path goes before the folder of drivers
    absent = Runner("absent", "drive_llama_cpp.py", "nowhere", "hf", ("int8",))
    config = EngineConfig(threads=1, rounds=2, bits=("int8",), quick=True)
    measured = measure([subject], [RUNNERS[0], other, absent], config, tmp_path)
    result = report(measured, [subject], config, {"cores_in_use": 0.1, "cores": 2}, [(1.0, 0.5)], "command")
    json.dumps(result)
    rates = {(r["workload"], r["runner"]): r["rates"] for r in result["rates"]}
    assert rates["decode 8", "other"] == [64.0, 64.0]
    assert {runner for job, runner in rates if job in ("prefill 64", "branches 4")} == {OURS}
    assert "no room" in measured.missing["tiny, prefill 64, other int8"]
    assert "no such thing" in measured.missing["tiny, branches 4, other int8"]
    assert "--set-up" in measured.missing["tiny, absent int8"]
    assert [each["branches"] for each in result["overhead"]] == [1, 64]
    assert [each["workload"] for each in result["profile"]] == [job.name for job in workloads(True, quick=True)]
    for each in result["profile"]:
        assert 0 < sum(each["stages"].values()) < 1 and 0 < each["arithmetic"] < 1 and 0 < each["memory"] < 1
    assert all(0 < share < 1 for each in result["overhead"] for share in each["shares"])
    order = [log for op, log in asked if op == "decode"]
    assert order[:4] == ["run-outthink-int8.log", "run-other-int8.log"] * 2
    assert order[4:8] == ["run-other-int8.log", "run-outthink-int8.log"] * 2


def test_what_is_short_is_done_several_times_in_a_round(subject, stand_in, tmp_path, monkeypatch):
    asked: list[str] = []
    real = Driver.ask

    def watched(self, **request_):
        if "other" in self._log.name and request_["op"] == "decode" and len(request_["prompts"]) == 8:
            asked.append(str(request_["prompts"]))
        return real(self, **request_)

    monkeypatch.setattr(Driver, "ask", watched)
    monkeypatch.setattr(rounds, "workloads", lambda *_: (Workload("decode 8", "decode", 8, 8, 4, repeats=3),))
    other = Runner("other", str(stand_in), None, "hf", ("int8",))
    measured = measure([subject], [RUNNERS[0], other], EngineConfig(1, 1, ("int8",), quick=True), tmp_path)
    assert len(asked) == len(set(asked)) == 2 * 3  # no prompts come again, nor those of the round that does not count
    assert measured.rates["tiny", "decode 8", "int8", "other"] == [64.0]
    assert len(measured.profiles["tiny", "decode 8", "int8", OURS].seconds) == 3


def test_finished_rounds_outlast_an_interrupt(subject, tmp_path, monkeypatch):
    original, calls = rounds._do, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 10:  # four jobs in the round that is not counted, four in the first, one of the second
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(rounds, "_do", interrupted)
    measured = measure([subject], [RUNNERS[0]], EngineConfig(1, 3, ("int8",), quick=True), tmp_path)
    assert measured.interrupted and measured.rounds == 1
    assert [len(rates) for rates in measured.rates.values()] == [2, 1, 1, 1]


def test_our_driver_draws_what_the_engine_draws(subject, tmp_path, tiny_lines):
    with drive(DRIVERS / "drive_ours.py", tmp_path) as driver:
        told = driver.ask(op="load", model=str(subject.directory), bits="bf16", threads=1)
        assert told["weight_bytes"] >= 2 * sum(
            parameter.numel() for parameter in load_model(subject.directory).model.parameters() if parameter.dim() == 2
        )
        prompts = [[20, 21, 22], [30, 31, 32]]
        decoded = driver.ask(op="decode", prompts=prompts, new_tokens=5)
        assert decoded["tokens"] == [tiny_lines(prompt, 6) for prompt in prompts]
        assert driver.ask(op="prefill", prompt=prompts[0])["tokens"] == [tiny_lines(prompts[0], 1)]
        branches = driver.ask(op="branches", prompt=prompts[0], firsts=[40, 41], new_tokens=4)
        assert branches["tokens"] == [tiny_lines([*prompts[0], first], 4) for first in (40, 41)]


@pytest.fixture(scope="module")
def tiny_lines(subject):
    """A function: the likeliest tokens after a prompt, by the engine with its plain-torch backend."""
    import asyncio

    import outthink

    model = outthink.load(subject.directory, backend="reference", dtype="float32", kv_gib=0.01)

    def lines(prompt: list[int], count: int) -> list[int]:
        async def write() -> list[int]:
            async with await model.session(sampling=Sampling(temperature=0.0)).root(prompt) as root:
                return list((await root.extend(1, Until(count, ignore_eos=True)))[0].tokens)

        return asyncio.run(write())

    yield lines
    model.close()


def test_the_random_model_draws_many_different_tokens(subject, tiny_lines):
    """A tied head with large embeddings would repeat the last token, and agreement would say nothing."""
    tokens = [token for start in range(8) for token in tiny_lines([50 + start, 60, 70], 6)]
    assert len(set(tokens)) > 24
    tokenizer = load_model(subject.directory).tokenizer
    assert tokenizer.vocab_size == TINY["vocab_size"]
    assert tokenizer.decode(tokenizer.encode("any text")) == "any text"
    assert tokenizer.is_special(0) and len(SPECIAL) < 8


def test_common_prefix():
    assert common_prefix([1, 2, 3], [1, 2, 4]) == 2
    assert common_prefix([1, 2], [1, 2]) == 2
    assert common_prefix([5], [6]) == 0


def test_a_runner_that_ends_is_told_of(stand_in, tmp_path):
    with drive(stand_in, tmp_path) as driver:
        assert driver.ask(op="load")["settings"] == "none"
        with pytest.raises(RunnerError, match="no room"):
            driver.ask(op="prefill", prompt=[1])
        assert driver.ask(op="decode", prompts=[[1]], new_tokens=1)["tokens"] == [[8, 8]]
        for _ in range(2):
            with pytest.raises(RunnerError, match="code 3"):
                driver.ask(op="branches", prompt=[1], firsts=[1], new_tokens=1)


def test_a_silent_runner_is_given_up(stand_in, tmp_path):
    slow = tmp_path / "slow.py"
    slow.write_text("import time; time.sleep(60)")
    with (
        Driver(Path(sys.executable), slow, tmp_path / "log", 1, timeout_s=0.2) as driver,
        pytest.raises(RunnerError, match=r"within 0 s"),
    ):
        driver.ask(op="load")


def test_names_and_environments(tmp_path):
    assert [runner.name for runner in find_runners(["llama.cpp"])] == [OURS, "llama.cpp"]
    assert find_runners([]) == RUNNERS
    with pytest.raises(UnknownNameError, match=r"Did you mean 'llama\.cpp'"):
        find_runners(["lama.cpp"])
    with pytest.raises(CapabilityError, match="--set-up"):
        python_of(find_runners(["llama.cpp"])[1], tmp_path)
    # torch first, and within our range: a newer one comes with gigabytes of CUDA. These ask for no torch at all:
    bare = {"llama.cpp", "its-hub", "dspy", "treequest"}
    assert bare < INSTALLS.keys()
    for name in INSTALLS.keys() - bare:
        steps = [step for step in INSTALLS[name] if step[0] != "--no-deps"]
        assert steps[0][0].startswith("torch>=") and steps[0][0] in steps[-1], name


def test_a_busy_machine_is_told():
    assert is_busy({"cores_in_use": 1.0, "cores": 2}) and not is_busy({"cores_in_use": 0.3, "cores": 2})


def test_a_machine_uses_no_more_cores_than_it_has():
    assert 0 <= describe(1)["cores_in_use"] <= (os.cpu_count() or 1)


def test_limits_are_of_this_world():
    """Faster than a disk, slower than a register; multiplications that the compiler dropped would be far above."""
    found = measure_limits(1, mib=64)
    assert found is not None and 1e8 < found.read_bytes_per_s < 1e12
    assert set(found.multiplications_per_s) == set(BITS)
    assert all(1e7 < rate < 1e13 for rate in found.multiplications_per_s.values())


def test_a_profile_tells_stages_and_the_least_time_that_the_machine_allows():
    profile = Profile("m", Workload("decode 2", "decode", 2, 8, 10), "int8", weight_bytes=1000)
    profile.add(4.0, {"flops": 800, "stages": {"qkv": 1.0, "head": 2.0}})
    profile.add(6.0, {"flops": 800, "stages": {"qkv": 1.0, "head": 3.0}})
    limits = [Limits(read, {"int8": rate}) for read, rate in ((4000.0, 100.0), (9000.0, 1.0), (1.0, 200.0))]
    found = report_profile(profile, limits)
    assert found["seconds"] == 5.0 and found["stages"] == {"qkv": 0.2, "head": 0.5}
    assert found["elsewhere"] == pytest.approx(0.3)
    assert found["memory"] == pytest.approx(10 * 1000 / 4000 / 5)  # every step reads all weights
    assert found["arithmetic"] == pytest.approx(400 / 100 / 5)  # a multiplication is two FLOPs
    assert "memory" not in report_profile(profile, [])


def test_the_median_is_that_of_the_rounds(subject):
    measured = Measured(rates={("tiny", "decode 1", "int8", OURS): [3.0, 1.0, 2.0]}, rounds=3)
    result = report(measured, [subject], EngineConfig(bits=("int8",)), {"cores_in_use": 9.0, "cores": 2}, [], "x")
    assert result["rates"][0]["median"] == median([3.0, 1.0, 2.0]) == 2.0
    assert result["machine"]["busy"] and result["startup"] is None
    assert np.isclose(result["comparisons"][0]["rate"], 2.0)

"""A branch's tokens depend on its seed, prefix and position: not on company, cache, chunks or preemption."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

import outthink.engine.growth
from conftest import ByteTokenizer
from engine.fakes import expected_child
from engine.world import COSTS, World, make_engine
from outthink.core.budget import Ledger
from outthink.core.rng import mix
from outthink.core.sampling import Sampling, Until
from outthink.engine.engine import Engine
from outthink.engine.sampler import Draws, Row, sample
from outthink.engine.sequence import Extend, Prompt
from outthink.kernels.cpu.backend import CpuBackend
from outthink.kernels.reference.paged import TorchBackend
from outthink.models.transformer import Transformer
from outthink.scheduling import Limits

PROMPT = list(b"the same branch, with the same seed, gives the same tokens whoever else is there")
UNTIL = Until(max_tokens=14, ignore_eos=True)
SAMPLINGS = [
    Sampling(seed=1),
    Sampling(seed=2, temperature=0.6, top_k=20),
    Sampling(seed=3, temperature=1.3, top_p=0.9, min_p=0.01),
    Sampling(seed=4, repetition_penalty=1.2, presence_penalty=0.3, frequency_penalty=0.2),
    Sampling(seed=5, logit_bias={101: 3.0, 32: -2.0}),
    Sampling(temperature=0.0),
]
# Threads and formats of the compiled kernels.
COMPILED = {
    "cpu": {"threads": 2},
    "cpu, int8": {"threads": 1, "weight_format": "int8", "kv_format": "int8"},
}
BACKENDS = ["reference", *COMPILED]


class Runner:
    """Grows children on an engine over the tiny transformer, without a thread."""

    def __init__(
        self, model: Transformer, name: str = "reference", num_pages: int = 600, page_size: int = 16, **limits: int
    ) -> None:
        if name == "reference":
            backend = TorchBackend(model, num_pages, page_size)
        else:
            backend = CpuBackend(model, num_pages, **COMPILED[name])
        self.engine = Engine(backend, ByteTokenizer(), COSTS, 512, Limits(**limits))

    def start(self, prompt: Sequence[int], keys: Sequence[int], sampling: Sampling) -> Extend:
        tokens = list(prompt)
        root = self.engine.open_root(tokens)
        account = Prompt(len(tokens), len(tokens))
        task = Extend(
            root, Ledger(), lambda _: None, pytest.fail, account, keys=keys, until=UNTIL, sampling=sampling, limit=512
        )
        self.engine.start(task)
        return task

    def finish(self, *tasks: Extend) -> list[tuple[int, ...]]:
        for _ in range(20_000):
            if all(task.over for task in tasks):
                return [tuple(child.tokens[-UNTIL.max_tokens :]) for task in tasks for child in task.children]
            self.engine.step()
            self.engine.check_integrity()
        raise AssertionError("it never ends")


def alone(model: Transformer, sampling: Sampling, name: str) -> tuple[int, ...]:
    runner = Runner(model, name)
    [tokens] = runner.finish(runner.start(PROMPT, [mix(0, 7)], sampling))
    return tokens


def others(runner: Runner) -> list[Extend]:
    """31 branches of eight prompts, most of which share a part of ours."""
    tasks = []
    for i in range(8):
        prompt = [*PROMPT[: 10 * i + 1], *b"and others"[i:]]
        tasks.append(runner.start(prompt, [mix(i, j) for j in range(4 if i else 3)], SAMPLINGS[i % len(SAMPLINGS)]))
    return tasks


def in_company(model: Transformer, sampling: Sampling, name: str = "reference") -> dict[str, tuple[int, ...]]:
    """The tokens of one branch among 31 others, by circumstance."""
    runners = {
        "among 31 others": Runner(model, name),
        "in chunks": Runner(model, name, max_batch_tokens=37),
        "few at a time": Runner(model, name, max_sequences=3),
        "with few pages": Runner(model, name, num_pages=17, max_batch_tokens=50),
    }
    if name == "reference":
        runners["with odd pages"] = Runner(model, name, num_pages=60, page_size=7)
    seen = {}
    for circumstance, runner in runners.items():
        company = others(runner)
        ours = runner.start(PROMPT, [mix(0, 7)], sampling)
        runner.finish(*company, ours)
        seen[circumstance] = runner.finish(ours)[0]
        seen[circumstance + ", cached"] = runner.finish(runner.start(PROMPT, [mix(0, 7)], sampling))[0]
        if circumstance == "with few pages":
            assert runner.engine.scheduler.num_preemptions > 0, "it was meant to run out of pages"
    return seen


def in_both_orders(model: Transformer, name: str = "reference") -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    keys = [mix(0, i) for i in range(12)]
    forwards, backwards = Runner(model, name), Runner(model, name)
    a = forwards.finish(forwards.start(PROMPT, keys, SAMPLINGS[0]))
    return a, backwards.finish(backwards.start(PROMPT, keys[::-1], SAMPLINGS[0]))[::-1]


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_company_chunks_caches_and_preemption_change_nothing(
    tiny_transformer: Transformer, sampling: Sampling, name: str
) -> None:
    seen = in_company(tiny_transformer, sampling, name)
    assert seen == dict.fromkeys(seen, alone(tiny_transformer, sampling, name))


@pytest.mark.parametrize("name", BACKENDS)
def test_the_same_child_is_the_same_at_any_place_among_its_siblings(tiny_transformer: Transformer, name: str) -> None:
    a, b = in_both_orders(tiny_transformer, name)
    assert a == b
    assert len(set(a)) == 12, "siblings with different keys draw differently"


@pytest.mark.parametrize("name", BACKENDS)
def test_other_seeds_and_keys_give_other_tokens(tiny_transformer: Transformer, name: str) -> None:
    runner = Runner(tiny_transformer, name)
    tasks = [runner.start(PROMPT, [mix(0, k)], Sampling(seed=s)) for s in range(4) for k in range(4)]
    assert len(set(runner.finish(*tasks))) == 16


def by_row(logits: np.ndarray, rows: Sequence[Row]) -> Draws:
    """A sampler whose random numbers are keyed by the place in the batch."""
    return sample(logits, [Row(r.sampling, i, r.position, r.prompt, r.generated) for i, r in enumerate(rows)])


def by_call(logits: np.ndarray, rows: Sequence[Row]) -> Draws:
    """A sampler with a stream of random numbers: each depends on how many were drawn before."""
    by_call.count += len(rows)
    return sample(logits, [Row(r.sampling, r.key, by_call.count + i) for i, r in enumerate(rows)])


by_call.count = 0


@pytest.mark.parametrize("broken", [by_row, by_call])
def test_a_sampler_that_looks_at_the_batch_is_noticed(
    tiny_transformer: Transformer, broken, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outthink.engine.growth, "sample", broken)
    a, b = in_both_orders(tiny_transformer)
    assert a != b
    seen = in_company(tiny_transformer, SAMPLINGS[0])
    assert len(set(seen.values())) > 1


def test_a_sampler_that_forgets_the_key_is_noticed(
    tiny_transformer: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgets = lambda logits, rows: sample(logits, [Row(r.sampling, 0, r.position) for r in rows])  # noqa: E731
    monkeypatch.setattr(outthink.engine.growth, "sample", forgets)
    with pytest.raises(AssertionError):
        test_other_seeds_and_keys_give_other_tokens(tiny_transformer, "reference")


@pytest.mark.parametrize("name", COMPILED)
def test_a_compiled_sampler_that_looks_at_the_batch_is_noticed(
    tiny_transformer: Transformer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = CpuBackend._laws
    by_place = lambda self, laws: true(self, replace(laws, keys=np.arange(len(laws.keys), dtype=np.uint64)))  # noqa: E731
    monkeypatch.setattr(CpuBackend, "_laws", by_place)
    a, b = in_both_orders(tiny_transformer, name)
    assert a != b
    assert len(set(in_company(tiny_transformer, SAMPLINGS[0], name).values())) > 1


def test_stale_pages_of_others_cannot_spoil_a_branch(tiny_transformer: Transformer) -> None:
    grown = []
    for garbage in (0.0, torch.nan):
        runner = Runner(tiny_transformer)
        runner.engine.backend.keys.fill_(garbage)
        runner.engine.backend.values.fill_(garbage)
        grown.append(runner.finish(*others(runner)))
    assert grown[0] == grown[1]


def test_exactly_what_one_branch_alone_would_draw_in_any_engine() -> None:
    for page_size, batch in ((1, 3), (4, 1), (5, 64)):
        world = World(make_engine(120, page_size, Limits(max_batch_tokens=batch)))
        root = world.root([0, 1, 2, 3, 4])
        world.extend(root, 12, Until(30))
        world.run()
        drawn = {node.key: node.tokens[5:] for node in world.nodes if node is not root}
        for key, tokens in drawn.items():
            assert tokens == expected_child(root.tokens, key, Until(30), Sampling(), 5, 10_000).tokens

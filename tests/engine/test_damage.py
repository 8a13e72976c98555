"""Logits that are not finite end the request that they belong to, say why, and cost nobody else anything."""

import asyncio
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from cpu_cases import make_config, make_model
from engine.fakes import FakeVocabulary, HashBackend
from engine.world import World, make_engine
from outthink.core.budget import Ledger
from outthink.core.errors import EngineError
from outthink.core.rng import mix
from outthink.core.sampling import Sampling, Until
from outthink.engine.billing import Costs
from outthink.engine.engine import Engine
from outthink.engine.sequence import Task
from outthink.engine.thread import EngineThread
from outthink.kernels.cpu.backend import CpuBackend
from outthink.kernels.reference.paged import TorchBackend
from outthink.lm.local import LocalLM
from outthink.scheduling import Limits

BAD = (4, 4, 4)
GOOD = (1, 2, 3, 1, 2)
MANY = Until(12, ignore_eos=True)


class Damaged(HashBackend):
    """What comes after the tokens BAD at the beginning of a text is not a number, and neither is what it draws on."""

    def run(self, batch):
        logits = super().run(batch)
        poison = 0
        for token in BAD:
            poison = mix(poison, token)
        for r, row in enumerate(batch.logit_rows):
            s = int(np.searchsorted(batch.query_starts, row, side="right")) - 1
            page, slot = divmod(len(BAD) - 1, self.page_size)
            if batch.positions[row] >= len(BAD) - 1 and self.memory[batch.page_tables[s][page]][slot] == poison:
                logits[r, 3] = np.nan
        return logits


@dataclass(eq=False, repr=False)
class Hospital(World):
    """A world in which tasks may fail."""

    failures: dict[Task, BaseException] = field(default_factory=dict)

    def _start(self, node, task):
        def failed(error: BaseException) -> None:
            del self.live[task]
            self.failures[task] = error

        task.failed = failed
        return super()._start(node, task)


@pytest.mark.parametrize("page_size", [1, 3, 16])
@pytest.mark.parametrize("limits", [Limits(), Limits(max_batch_tokens=2)])
def test_only_the_damaged_request_ends(page_size: int, limits: Limits) -> None:
    world = Hospital(make_engine(120, page_size, limits, backend=Damaged(120, page_size)))
    good, ledger = world.root(GOOD), Ledger()
    fine = [world.extend(good, 3, MANY, ledger=ledger), world.score(good, [4, 4, 4, 1]), world.judge(good, [4, 4])]
    bad = world.root([*BAD, 1])
    doomed = [world.extend(bad, 2, MANY), world.score(bad, [1, 2, 3]), world.judge(bad, [1])]
    begin = world.root(BAD[:2])  # its own logits are sound, those of what follows are not
    doomed += [world.score(begin, [4, 1, 2]), world.judge(begin, [4, 4, 1])]
    fine.append(world.extend(begin, 1, MANY, Sampling(logit_bias=dict.fromkeys([4], -np.inf))))
    doomed.append(world.extend(begin, 3, MANY, Sampling(logit_bias={4: 50.0}), ledger=ledger))
    world.run()
    assert set(world.failures) == set(doomed)
    assert set(fine) <= set(world.finished)
    for error in world.failures.values():
        assert isinstance(error, EngineError)
        assert "after token 4" in str(error) or "after token 1" in str(error)
        assert "not finite" in str(error) and "Only this request" in str(error)
    world.extend(good, 2, MANY)  # the engine goes on
    world.run()
    again = world.extend(bad, 1, MANY)
    world.run()
    assert again in world.failures
    world.finish()


def test_an_engine_that_hands_damaged_logits_on_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "_fail_damaged", lambda *_: None)
    with pytest.raises(AssertionError):
        test_only_the_damaged_request_ends(3, Limits())


@pytest.mark.parametrize("kind", ["compiled", "reference"])
async def test_pages_that_held_damage_serve_others_as_well_as_new_ones(kind: str) -> None:
    """A real model one of whose embeddings is damaged, in so few pages that all are used again."""
    model = make_model(make_config(vocab_size=12, tie_embeddings=False))
    with torch.no_grad():
        model.model.embed_tokens.weight[7] = torch.nan
    prompts = [[1, 2, 3, user, 5] * 6 for user in range(4)]
    answers = []
    for damage in (False, True):
        backend = CpuBackend(model, 14, threads=1) if kind == "compiled" else TorchBackend(model, 14)
        thread = EngineThread(Engine(backend, FakeVocabulary(), Costs(lambda _, count: count, 1), 120, Limits()))
        lm = LocalLM(thread, FakeVocabulary(), Ledger(), Sampling(logit_bias={7: -1e9}))  # type: ignore[arg-type]
        found = []
        for prompt in prompts:
            if damage:
                for end, told in ((), "position 90, after token 7"), (prompt[:5], "not finite"):  # told by what follows
                    ill = await lm.root([*prompt * 3, 7, *end])
                    with pytest.raises(EngineError, match=rf"{told}.*weights are damaged"):
                        await ill.extend(2, MANY)
                    await ill.close()
            root = await lm.root(prompt)
            [child] = await root.extend(1, MANY)
            found.append((child.tokens, np.array(child.log_probs)))
            await asyncio.gather(child.close(), root.close())
        assert thread.call(lambda: thread.engine.cache.num_leased(thread.engine.scheduler.leases())) == 0  # noqa: B023
        thread.close()
        answers.append(found)
    for (tokens, log_probs), (same, near) in zip(*answers, strict=True):
        assert tokens == same
        assert np.isfinite(log_probs).all() and np.allclose(log_probs, near, atol=1e-4)

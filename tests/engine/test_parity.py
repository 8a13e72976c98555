"""The engine's logits and greedy tokens equal those of transformers, however the positions were computed."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from engine.world import COSTS
from hf_models import FAMILIES, ORIGINAL_LENGTH, WINDOW, make_hf_model
from outthink.core.budget import Ledger
from outthink.core.sampling import Sampling, Until
from outthink.engine.engine import Engine
from outthink.engine.thread import EngineThread
from outthink.kernels.reference.paged import TorchBackend
from outthink.kernels.step import Int32s, StepBatch
from outthink.lm.local import LocalLM
from outthink.models.checkpoint import LoadedModel, load_model
from outthink.scheduling import Limits

TOLERANCE = 1e-4
PROMPT_LENGTH, NUM_GREEDY = 75, 200
assert max(WINDOW, ORIGINAL_LENGTH) < PROMPT_LENGTH
CIRCUMSTANCES = {
    "whole prefill": ((64, 16), Limits()),
    "odd chunks": ((64, 16), Limits(max_batch_tokens=7)),
    "chunks and odd pages": ((64, 5), Limits(max_batch_tokens=23, max_sequences=2)),
    "one position a step": ((200, 1), Limits(max_batch_tokens=1)),
    "preemption": ((26, 5), Limits(max_batch_tokens=31)),
}


@dataclass(frozen=True)
class Family:
    """A model as transformers has it and as we have it, and a prompt."""

    hf: torch.nn.Module
    loaded: LoadedModel
    prompt: list[int]

    @torch.no_grad()
    def logits(self, tokens: list[int]) -> NDArray[np.float32]:
        """[len(tokens), vocab_size], by transformers."""
        return self.hf(torch.tensor([tokens])).logits[0].numpy()


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    directory: Path = tmp_path_factory.mktemp("model")
    hf = make_hf_model(request.param, directory)
    generator = torch.Generator().manual_seed(3)
    prompt = torch.randint(3, 300, (PROMPT_LENGTH,), generator=generator).tolist()
    return Family(hf, load_model(directory), prompt)


@dataclass
class Recorder:
    """Wants the logits of every position, and notes after which tokens they came: those in the pages that it reads."""

    backend: TorchBackend
    seen: list[tuple[tuple[int, ...], NDArray[np.float32]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.name, self.num_pages, self.page_size = "recorder", self.backend.num_pages, self.backend.page_size
        self.tokens = np.full((self.num_pages, self.page_size), -1)

    def run(self, batch: StepBatch) -> NDArray[np.float32]:
        sequences = np.repeat(np.arange(len(batch.context_lengths)), np.diff(batch.query_starts))
        size = self.page_size
        self.tokens[batch.page_tables[sequences, batch.positions // size], batch.positions % size] = batch.tokens
        logits = self.backend.run(replace(batch, logit_rows=np.arange(len(batch.tokens), dtype=np.int32)))
        for row, (s, position) in enumerate(zip(sequences, batch.positions, strict=True)):
            prefix = self.tokens[batch.page_tables[s]].ravel()[: position + 1]
            self.seen.append((tuple(prefix.tolist()), logits[row]))
        return logits[batch.logit_rows]

    def copy_pages(self, source: Int32s, target: Int32s) -> None:
        self.backend.copy_pages(source, target)
        self.tokens[target] = self.tokens[source]


@pytest.fixture
def session(request: pytest.FixtureRequest, family: Family) -> Iterator[tuple[LocalLM, Recorder]]:
    (num_pages, page_size), limits = CIRCUMSTANCES[request.param]
    recorder = Recorder(TorchBackend(family.loaded.model, num_pages, page_size))
    engine = Engine(recorder, family.loaded.tokenizer, COSTS, family.loaded.config.max_positions, limits)
    thread = EngineThread(engine)
    yield LocalLM(thread, family.loaded.tokenizer, Ledger(), Sampling(seed=5)), recorder
    thread.call(engine.check_integrity)
    thread.close()
    assert bool(engine.scheduler.num_preemptions) == (request.param == "preemption"), "not the circumstance meant"


@pytest.mark.parametrize("session", CIRCUMSTANCES, indirect=True)
async def test_logits_at_every_position(family: Family, session: tuple[LocalLM, Recorder]) -> None:
    lm, recorder = session
    root = await lm.root(family.prompt)
    children = await root.extend(3, Until(30, ignore_eos=True))
    text = list(family.prompt[40:70])
    scores = await root.score(text)
    expected = {}
    for line in [*(child.tokens for child in children), text]:
        tokens = [*family.prompt, *line]
        for position, logits in enumerate(family.logits(tokens)):
            expected[tuple(tokens[: position + 1])] = logits
    differences = [np.abs(logits - expected[prefix]).max() for prefix, logits in recorder.seen]
    assert max(differences) <= TOLERANCE
    assert set(expected) - {prefix for prefix, _ in recorder.seen} <= {
        (*family.prompt, *line) for line in [*(child.tokens for child in children), text]
    }, "only the very last tokens are not computed"
    for child in children:
        laws = [torch.log_softmax(torch.tensor(expected[(*family.prompt, *child.tokens[:i])]), 0) for i in range(30)]
        assert np.allclose(child.log_probs, [law[t] for law, t in zip(laws, child.tokens, strict=True)], atol=TOLERANCE)
    laws = [torch.log_softmax(torch.tensor(expected[(*family.prompt, *text[:i])]), 0) for i in range(len(text))]
    assert np.allclose(scores, [law[t] for law, t in zip(laws, text, strict=True)], atol=TOLERANCE)


@pytest.mark.parametrize("session", ["odd chunks"], indirect=True)
async def test_greedy_tokens_equal_those_of_generate(family: Family, session: tuple[LocalLM, Recorder]) -> None:
    lm, _ = session
    root = await lm.root(family.prompt)
    [child] = await root.extend(1, Until(NUM_GREEDY, ignore_eos=True), Sampling(temperature=0))
    theirs = family.hf.generate(
        torch.tensor([family.prompt]), max_new_tokens=NUM_GREEDY, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    assert list(child.tokens) == theirs[0, PROMPT_LENGTH:].tolist()
    assert len(child.tokens) == NUM_GREEDY


class CopiesNothing(TorchBackend):
    """Leaves the copies of shared pages to chance."""

    def copy_pages(self, source: Int32s, target: Int32s) -> None:
        pass


class OnePositionLate(TorchBackend):
    """Rotates and masks as if every position came one later than it does, but for the first."""

    def run(self, batch: StepBatch) -> NDArray[np.float32]:
        shifted = np.where(batch.positions > 0, np.maximum(batch.positions - 1, 1), 0).astype(np.int32)
        return super().run(replace(batch, positions=shifted))


@pytest.mark.parametrize("family", ["llama"], indirect=True)
@pytest.mark.parametrize("broken", [CopiesNothing, OnePositionLate])
async def test_a_broken_backend_is_noticed(family: Family, broken: type[TorchBackend]) -> None:
    recorder = Recorder(broken(family.loaded.model, 64, 16))
    engine = Engine(recorder, family.loaded.tokenizer, COSTS, 512)
    thread = EngineThread(engine)
    lm = LocalLM(thread, family.loaded.tokenizer, Ledger(), Sampling(seed=5))
    root = await lm.root(family.prompt)
    await root.extend(3, Until(5, ignore_eos=True))
    thread.close()
    differences = [np.abs(logits - family.logits(list(prefix))[-1]).max() for prefix, logits in recorder.seen[-6:]]
    assert max(differences) > 100 * TOLERANCE

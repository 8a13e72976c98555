"""Training batches, generated as they are needed.

The documents of step k are a pure function of (suite, seed, k): a run continues at any step at once, and nothing of
the data has to be stored. Only problems of the training split are ever drawn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import tokenizers

from outthink.core.errors import TaskError
from outthink.learn.packing import Document, PackedRows, pack
from outthink.learn.tokenizer import encode_example
from outthink.tasks.problem import Problem, Split
from outthink.tasks.suites import get_suite

# Documents for somewhat less than the tokens of a step: with the gaps at row ends they fill its micro-batches.
_FILL = 0.94


@dataclass(frozen=True)
class DataConfig:
    """What the data process needs to know; ``tokenizer`` is the text of a tokenizer.json."""

    suite: str
    hardest: float
    seed: int
    tokenizer: str
    batch_tokens: int
    micro_tokens: int
    widths: tuple[int, ...]
    question_weight: float


@dataclass(frozen=True)
class StepData:
    """Micro-batches of one optimizer step. ``tokens`` counts all but padding, ``weight`` sums the target weights.

    ``too_long`` problems were left out because they exceed the widest row.
    """

    step: int
    batches: tuple[PackedRows, ...]
    tokens: int
    weight: float
    problems: int
    too_long: int


def problems(suite: str, split: Split, seed: int, hardest: float = 1.0) -> Iterator[Problem]:
    """Endless problems of one split of a suite, or of a single family, at difficulties up to ``hardest``.

    Raises TaskError should one be of another split.
    """
    source = get_suite(suite)
    for problem in replace(source, hardest=min(source.hardest, hardest)).stream(split, seed):
        if problem.split != split:
            raise TaskError(f"Suite '{suite}' gave a {problem.split} problem where a {split} problem was asked for.")
        yield problem


def step_seed(seed: int, step: int) -> int:
    """The seed of the problems of one step, 63 bits."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{step}".encode(), digest_size=8).digest()) >> 1


def make_step(config: DataConfig, tokenizer: tokenizers.Tokenizer, step: int) -> StepData:
    """The data of one step: problems until they about fill ``batch_tokens`` positions, packed."""
    documents: list[Document] = []
    tokens = too_long = 0
    for problem in problems(config.suite, "train", step_seed(config.seed, step), config.hardest):
        document = Document(*encode_example(tokenizer, problem.prompt, problem.solution))
        if len(document.ids) > config.widths[-1]:
            too_long += 1
            if too_long > 100 + 10 * len(documents):
                raise TaskError(f"Nearly all problems of '{config.suite}' exceed {config.widths[-1]} tokens.")
            continue
        documents.append(document)
        tokens += len(document.ids)
        if tokens >= _FILL * config.batch_tokens:
            break
    batches = pack(documents, config.widths, config.micro_tokens, config.question_weight)
    weight = float(sum(batch.weights.sum() for batch in batches))
    return StepData(step, batches, tokens, weight, len(documents), too_long)

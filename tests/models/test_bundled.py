"""The bundled models in transformers: the same prompts, and the same greedy lines token for token.

Both sides compute in float32 from the weights as they are stored (bfloat16), so that they differ by the order of
summation alone.
"""

import asyncio
import json
import shutil
from dataclasses import replace

import pytest
import torch

from outthink.cli.demo import suite_of
from outthink.core.sampling import Sampling, Until
from outthink.lm.model import BUNDLED, bundled_models, load
from outthink.tasks.suites import get_suite

# Lines that a model spells right are shorter; those that go on without end tell nothing more.
MAX_TOKENS = 160
BATCH = 25


class Theirs:
    """A model directory as transformers reads it."""

    def __init__(self, directory):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(directory)
        self.model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()

    def encode(self, problem):
        message = [{"role": "user", "content": problem.prompt}]
        return self.tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=False)

    @torch.inference_mode()
    def greedy(self, prompts):
        """The greedy lines after ``prompts``, the end token included."""
        longest, pad, end = max(map(len, prompts)), self.tokenizer.pad_token_id, self.tokenizer.eos_token_id
        padded = torch.tensor([[pad] * (longest - len(p)) + p for p in prompts])
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
        rows = self.model.generate(padded, attention_mask=mask, do_sample=False, max_new_tokens=MAX_TOKENS)
        lines = [row[longest:].tolist() for row in rows]
        return [line[: line.index(end) + 1] if end in line else line for line in lines]

    @torch.inference_mode()
    def gap(self, prompt, line, at, token):
        """By how much their token at place ``at`` of a line beats ``token``, in logits."""
        scores = self.model(torch.tensor([[*prompt, *line[:at]]])).logits[0, -1]
        return float(scores[line[at]] - scores[token])


def our_greedy(source, problems, backend="auto"):
    """Prompts and greedy lines of ``problems`` on our engine, in float32."""

    async def one(model, problem):
        lm = model.session(sampling=Sampling(temperature=0.0))
        messages = [{"role": "user", "content": problem.prompt}]
        async with await lm.root(messages) as root:
            [line] = await root.extend(1, Until(MAX_TOKENS))
            return lm.encode(messages), list(line.tokens)

    async def everything(model):
        return await asyncio.gather(*(one(model, problem) for problem in problems))

    with load(source, dtype="float32", backend=backend) as model:
        return zip(*asyncio.run(everything(model)), strict=True)


def differences(source, problems, backend="auto", theirs_from=None):
    """What differs between transformers and us: the problem's prompt, the place, both tokens and the gap in logits."""
    theirs = Theirs(theirs_from or source)
    order = sorted(problems, key=lambda problem: len(problem.prompt))  # so that little is padded
    prompts, lines = our_greedy(source, order, backend)
    assert [theirs.encode(problem) for problem in order] == list(prompts)
    expected = [line for i in range(0, len(order), BATCH) for line in theirs.greedy(list(prompts[i : i + BATCH]))]
    found = []
    for problem, prompt, ours, hf in zip(order, prompts, lines, expected, strict=True):
        if ours != hf:
            at = next((i for i, (a, b) in enumerate(zip(ours, hf, strict=False)) if a != b), min(len(ours), len(hf)))
            ended = at >= len(ours) or at >= len(hf)
            gap = None if ended else theirs.gap(prompt, hf, at, ours[at])
            found.append((problem.prompt, at, ours[at : at + 1], hf[at : at + 1], gap))
    return found


def problems_of(model, num):
    """``num`` test problems of each family that a bundled model was trained on, over its range of difficulties."""
    suite = get_suite(suite_of(model))
    families = [replace(suite, shares=(share,), hardest=0.6) for share in suite.shares]
    return [problem for family in families for problem in family.sample("test", num, 11)]


@pytest.mark.parametrize("model", bundled_models())
def test_greedy_lines_are_those_of_transformers(model):
    assert differences(BUNDLED / model, problems_of(model, 2)) == []


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("model", bundled_models())
def test_greedy_lines_are_those_of_transformers_on_100_problems_of_each_family(model, backend):
    assert differences(BUNDLED / model, problems_of(model, 100), backend) == []


def test_a_checkpoint_that_computes_something_else_is_noticed(tmp_path):
    """Broken: transformers reads the same weights with another rotary base."""
    directory = tmp_path / "outthink-s"
    shutil.copytree(BUNDLED / "outthink-s", directory)
    config = json.loads((directory / "config.json").read_text())
    config["rope_theta"] *= 0.9
    if "rope_parameters" in config:
        config["rope_parameters"]["rope_theta"] *= 0.9
    (directory / "config.json").write_text(json.dumps(config))
    found = differences(BUNDLED / "outthink-s", problems_of("outthink-s", 8), theirs_from=directory)
    assert found
    assert all(gap is None or gap > 0 for *_, gap in found)

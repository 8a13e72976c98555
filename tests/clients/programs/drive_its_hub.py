"""its_hub's algorithms on a server, one problem after the other: ``drive_its_hub.py URL MODEL PROBLEMS.json``."""

import asyncio
import json
import re
import sys
from pathlib import Path

from its_hub import BetaSelfConsistency, OpenAICompatibleLanguageModel, SelfConsistency, StepGeneration
from its_hub.api import AbstractProcessRewardModel
from its_hub.core.algorithms.beam_search import BeamSearch
from its_hub.core.algorithms.particle_gibbs import ParticleFiltering

EQUATION = re.compile(r"^(-?\d+) ([-+*]) (-?\d+) = (-?\d+)$")
WAYS = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}


class Arithmetic(AbstractProcessRewardModel):
    """0.9 for lines whose equations all hold, 0.1 for others."""

    def score(self, prompt_or_messages, steps):
        return [0.9 if all(map(holds, step.strip().splitlines())) else 0.1 for step in steps]

    async def ascore(self, prompt_or_messages, steps):
        return self.score(prompt_or_messages, steps)


def holds(line):
    found = EQUATION.match(line)
    return found is None or WAYS[found[2]](int(found[1]), int(found[3])) == int(found[4])


def answer_of(text):
    found = re.search(r"answer: (.+)", text)
    return found[1].strip() if found else None


async def solve(lm, problem):
    steps = StepGeneration(max_steps=12, step_token="\n", stop_token="answer:", temperature=1.0)
    methods = {
        "particle filter": (ParticleFiltering(steps, Arithmetic()), 8),
        "beam": (BeamSearch(steps, Arithmetic(), beam_width=2), 8),
        "self-consistency": (SelfConsistency(answer_of), 32),
        "Beta posterior": (BetaSelfConsistency(0.95, answer_of), 32),
    }
    found = {}
    for name, (method, budget) in methods.items():
        result = await method.ainfer(lm, problem, budget, return_response_only=False)
        found[name] = {"answer": answer_of(result.the_one["content"]), "text": result.the_one["content"]}
        responses = getattr(result, "responses", None)
        found[name]["responses"] = None if responses is None else len(responses)
    return found


async def main(url, model, problems):
    async with OpenAICompatibleLanguageModel(url, "none", model, max_tries=1) as lm:
        found = [await solve(lm, problem) for problem in json.loads(Path(problems).read_text())]
    print(json.dumps(found))


asyncio.run(main(*sys.argv[1:]))

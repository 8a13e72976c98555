"""its_hub's own searches over a server."""

from __future__ import annotations

import asyncio
import sys
import warnings
from pathlib import Path
from time import perf_counter
from typing import Any

sys.path += [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "engine" / "drivers")]

from its_hub.api import AbstractProcessRewardModel  # pyright: ignore[reportMissingImports]
from its_hub.core.algorithms.beam_search import BeamSearch  # pyright: ignore[reportMissingImports]
from its_hub.core.algorithms.particle_gibbs import ParticleFiltering  # pyright: ignore[reportMissingImports]
from its_hub.core.lms.openai_lm import OpenAICompatibleLanguageModel  # pyright: ignore[reportMissingImports]
from its_hub.core.lms.step_generation import StepGeneration  # pyright: ignore[reportMissingImports]
from protocol import serve
from scorer import score

warnings.simplefilter("ignore")  # of what is deprecated within its_hub


class Scores(AbstractProcessRewardModel):
    """The same scores as all others are guided by."""

    def score(self, prompt: Any, response: Any) -> Any:
        """One score for a text, a list for a list."""
        return score(response) if isinstance(response, str) else [score(text) for text in response]

    async def ascore(self, prompt: Any, response: Any) -> Any:
        """See `score`."""
        return self.score(prompt, response)


class ItsHub:
    """Searches by the server at ``base_url``."""

    def __init__(self, base_url: str, model: str) -> None:
        self.base_url, self.model = base_url, model

    def search(
        self, strategy: str, prompt: str, branches: int, width: int, steps: int, step_tokens: int, answer: str
    ) -> dict[str, Any]:
        """Seconds of one search with ``branches`` lines, of at most ``steps`` steps of ``step_tokens`` tokens each.

        A line is over after a step that holds ``answer``.
        """
        ends: dict[str, Any] = {"step_token": "\n", "stop_token": answer}
        generation = StepGeneration(max_steps=steps, temperature=1.0, **ends)
        searcher = (
            ParticleFiltering(generation, Scores())
            if strategy == "particle-filter"
            else BeamSearch(generation, Scores(), beam_width=branches // width)
        )
        lm = OpenAICompatibleLanguageModel(
            endpoint=self.base_url,
            api_key="none",
            model_name=self.model,
            max_completion_tokens=step_tokens,
            max_concurrency=-1,
        )

        async def work() -> float:
            start = perf_counter()
            await searcher.ainfer(lm, prompt, branches, return_response_only=False)
            seconds = perf_counter() - start
            await lm.close()
            return seconds

        return {"seconds": asyncio.run(work())}


def load(asked: dict[str, Any]) -> ItsHub:
    """The runner of a ``load`` request."""
    return ItsHub(asked["base_url"], asked["model"])


if __name__ == "__main__":
    serve(load, ("its-hub",))

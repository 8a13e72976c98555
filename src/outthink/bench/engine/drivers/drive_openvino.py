"""OpenVINO GenAI as a runner: its pipeline of continuous batching with prefix caching, on the CPU."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import numpy as np
import openvino as ov  # pyright: ignore[reportMissingImports]
import openvino_genai as ovg  # pyright: ignore[reportMissingImports]
from protocol import serve


class OpenVino:
    """See `protocol.Runner`."""

    def __init__(self, model: str, threads: int, bits: str) -> None:
        scheduler = ovg.SchedulerConfig()
        scheduler.cache_size = 1
        scheduler.max_num_batched_tokens = 512
        scheduler.max_num_seqs = 64
        scheduler.enable_prefix_caching = True
        properties: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads}
        if bits == "bf16":
            properties["INFERENCE_PRECISION_HINT"] = "bf16"
        self.pipeline = ovg.ContinuousBatchingPipeline(model, scheduler, "CPU", properties)
        self.told = {"settings": {"prefix caching": True, **properties}}

    def _generate(self, prompts: list[list[int]], new_tokens: int) -> list[Any]:
        config = ovg.GenerationConfig(max_new_tokens=new_tokens, ignore_eos=True, do_sample=False)
        tensors = [ov.Tensor(np.array([prompt], dtype=np.int64)) for prompt in prompts]
        return self.pipeline.generate(tensors, [config] * len(prompts))

    def decode(self, prompts: list[list[int]], new_tokens: int) -> tuple[float, list[list[int]]]:
        """See `protocol.Runner`.

        Timed from when the last of the prompts has its first token: the pipeline computes prompts and steps in one go.
        A step that computes the others' prompts besides counts for those that it advances.
        """
        start = perf_counter()
        results = self._generate(prompts, new_tokens + 1)
        whole = perf_counter() - start
        times = [result.perf_metrics.raw_metrics.m_new_token_times for result in results]
        begun = max(stamps[0] for stamps in times)
        ended = max(stamps[-1] for stamps in times)
        inside = sum(stamp > begun for stamps in times for stamp in stamps)
        seconds = _seconds(ended - begun) * len(prompts) * new_tokens / inside
        if not seconds <= whole:
            raise RuntimeError(f"its time stamps span {seconds:g} s of the {whole:g} s that the call took")
        return seconds, [list(map(int, result.m_generation_ids[0])) for result in results]

    def prefill(self, prompt: list[int]) -> tuple[float, list[list[int]]]:
        """See `protocol.Runner`."""
        start = perf_counter()
        [result] = self._generate([prompt], 1)
        return perf_counter() - start, [list(map(int, result.m_generation_ids[0]))]

    def branches(self, prompt: list[int], firsts: list[int], new_tokens: int) -> tuple[float, list[list[int]]]:
        """See `protocol.Runner`. The branches find the prompt in the prefix cache."""
        start = perf_counter()
        self._generate([prompt], 1)
        results = self._generate([[*prompt, first] for first in firsts], new_tokens)
        seconds = perf_counter() - start
        return seconds, [list(map(int, result.m_generation_ids[0])) for result in results]


def _seconds(difference: Any) -> float:
    """Between two time stamps: milliseconds, or a difference of dates in some versions."""
    return difference.total_seconds() if hasattr(difference, "total_seconds") else float(difference) / 1000


def load(asked: dict[str, Any]) -> OpenVino:
    """The runner of a ``load`` request."""
    return OpenVino(asked["model"], asked["threads"], asked["bits"])


if __name__ == "__main__":
    serve(load, ("openvino", "openvino-genai"))

"""Load by guidellm, in an environment of its own; it needs no network."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from outthink.bench.serve.load import Shape
from outthink.bench.serve.servers import Server
from outthink.core.errors import CapabilityError

ENVIRONMENT = "guidellm"
SPARE_S = 900.0


def run_guidellm(
    python: Path,
    server: Server,
    tokenizer: Path,
    streams: int,
    seconds: float,
    shape: Shape,
    seed: int,
    directory: Path,
) -> dict[str, Any]:
    """What guidellm reports of ``streams`` at once for ``seconds``. Raises CapabilityError where it fails.

    Its inter-token latency is a mean of each request: (last token - first token) / (tokens - 1).
    """
    report = directory / "guidellm.json"
    report.unlink(missing_ok=True)
    command = [
        str(python.parent / "guidellm"), "run",
        "--backend", f"kind=openai_http,target={server.url},model={server.model},request_format=/v1/completions,"
        "validate_backend=false",  # by a route that not every server has
        "--tokenizer", f"kind=huggingface_auto,model={tokenizer}",
        "--data", f"kind=synthetic_text,prompt_tokens={shape.prompt_tokens},output_tokens={shape.output_tokens}",
        "--profile", f"kind=concurrent,streams={streams}",
        "--constraint", f"kind=max_duration,seconds={seconds:g}",
        "--seed", f"kind=static,value={seed}",
        "--output", f"kind=json,path={report}",
        "--disable-console-interactive",
    ]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, env=environment, cwd=directory, timeout=seconds + SPARE_S
        )
    except subprocess.TimeoutExpired as error:
        raise CapabilityError(f"guidellm did not end within {SPARE_S:.0f} s of its load.") from error
    if done.returncode != 0 or not report.is_file():
        end = " | ".join([line for line in (done.stderr + done.stdout).splitlines() if line.strip()][-3:])
        raise CapabilityError(f"guidellm failed ({done.returncode}): {end}")
    return read_report(json.loads(report.read_text()))


def read_report(report: dict[str, Any]) -> dict[str, Any]:
    """The figures of a report with one benchmark, under our names; times in seconds."""
    [benchmark] = report["benchmarks"]
    metrics = benchmark["metrics"]
    totals = metrics["request_totals"]

    def at(name: str, quantile: str) -> float | None:
        found = metrics[name]["successful"]
        return found["percentiles"][quantile] / 1000 if found["count"] else None

    return {
        "requests": totals["successful"],
        "errors": totals["errored"],
        "tokens_per_s": metrics["output_tokens_per_second"]["successful"]["mean"],
        "requests_per_s": metrics["requests_per_second"]["successful"]["mean"],
        "ttft_p50_s": at("time_to_first_token_ms", "p50"),
        "ttft_p99_s": at("time_to_first_token_ms", "p99"),
        "itl_p50_s": at("inter_token_latency_ms", "p50"),
        "itl_p99_s": at("inter_token_latency_ms", "p99"),
    }

"""The shares add up, and the time of the model's own steps is not counted as overhead."""

import json
import time

import pytest

from outthink.bench import overhead
from outthink.kernels.cpu.backend import CpuBackend


def test_shares_add_up_and_are_written(tmp_path) -> None:
    seen = []
    out = tmp_path / "overhead.json"
    cases = [("outthink-s", 1, 40), ("outthink-s", 3, 20)]
    result = overhead.run(out, 1, 3, lambda *step: seen.append(step[:2]), cases)
    assert json.loads(out.read_text()) == result
    assert seen == [(done, 8) for done in range(8)]
    for row, (_, branches, new_tokens) in zip(result["rows"], cases, strict=True):
        assert (row["branches"], row["steps"]) == (branches, new_tokens - 1)
        for clock in ("cpu", "wall"):
            shares = {name: estimate["value"] for name, estimate in row[clock].items()}
            assert 0 <= shares["drawing"] < 1 and 0 < shares["bookkeeping"] < 1
            assert max(shares["drawing"], shares["bookkeeping"]) <= shares["overhead"] < 1
            assert row[clock]["overhead"]["n"] == 3


@pytest.mark.parametrize("method", ["copy_pages", "sample", "decode"])
def test_work_that_is_not_the_models_own_counts(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that dawdles shows as overhead, though it is made of the backend."""

    def slow(self, *args):
        until = time.thread_time() + 0.02
        while time.thread_time() < until:
            pass
        return original(self, *args)

    case = overhead.Case("outthink-s", 4, 12, 1)
    before = overhead.measure(case, 1)["cpu"]["overhead"]["value"]
    original = getattr(CpuBackend, method)
    monkeypatch.setattr(CpuBackend, method, slow)
    after = overhead.measure(case, 1)["cpu"]
    assert after["drawing"]["value"] > max(0.8, before)

"""dspy: BestOfN over our server, by way of litellm."""

import json

import pytest

pytestmark = pytest.mark.clients
PROBLEMS = [["compute 12 + 7 * 5", "47"], ["compute 20 - 6 + 1", "15"], ["compute 41 - 9 * 3", "14"]]


def test_best_of_n_finds_the_right_answers(server, drive, tmp_path):
    problems = tmp_path / "problems.json"
    problems.write_text(json.dumps(PROBLEMS))
    before = server.metrics()
    found = drive("dspy", "drive_dspy.py", server.api, "outthink-m", str(problems))
    after = server.metrics()
    assert [one["answer"] for one in found] == [right for _, right in PROBLEMS]
    # It asks until an answer is right, and nothing was answered from a cache of its own.
    assert all(one["calls"][-1] == one["answer"] and len(one["calls"]) <= 6 for one in found)
    asked = after["request_success_total"] - before.get("request_success_total", 0)
    assert asked == sum(len(one["calls"]) for one in found)

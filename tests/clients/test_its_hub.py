"""its_hub: particle filter, beam and votes over our server, which it asks for whole steps and many equal samples."""

import json

import pytest

pytestmark = pytest.mark.clients
PROBLEMS = {"compute 12 + 7 * 5": "47", "compute 20 - 6 + 1": "15", "compute 3 * 4 - 5": "7"}


def test_its_algorithms_find_the_answers(server, drive, tmp_path):
    problems = tmp_path / "problems.json"
    problems.write_text(json.dumps(list(PROBLEMS)))
    before = server.metrics()
    found = drive("its-hub", "drive_its_hub.py", server.api, "outthink-m", str(problems))
    server.wait_idle()
    after = server.metrics()
    for right, methods in zip(PROBLEMS.values(), found, strict=True):
        assert {name: one["answer"] for name, one in methods.items()} == dict.fromkeys(methods, right), methods
        assert methods["self-consistency"]["responses"] == 32
        # It stops asking once the posterior is sure, and drops what it has asked for.
        assert 2 <= methods["Beta posterior"]["responses"] <= 32
    assert after.get("requests_failed_total", 0) == before.get("requests_failed_total", 0)

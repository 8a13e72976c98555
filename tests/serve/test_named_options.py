"""What a client may name in the options of a strategy: a verifier that it could name elsewhere, and nothing else."""

from __future__ import annotations

import pytest

from outthink.core.errors import UnknownNameError
from outthink.serve.failures import ApiError
from outthink.serve.schema import Thinking
from outthink.serve.thinking import plan_of


def plan(**options):
    return plan_of(Thinking(strategy="twisted-smc", options=options))


def test_a_verifier_may_be_the_twist():
    found = plan(twist="prm", n=8)
    assert found is not None
    assert found.options == {"twist": "prm", "n": 8}
    assert plan(potential=None) is not None


@pytest.mark.parametrize("twist", ["/etc/passwd.json", "twist.json", "../secret.json", "nobody"])
def test_files_of_the_server_are_no_twists(twist):
    with pytest.raises(UnknownNameError):
        plan(twist=twist)


@pytest.mark.parametrize(
    "options", [{"twist": "prm:/models"}, {"twist": "code"}, {"twist": "C:\\a.json"}, {"potential": "matches:(a+)+$"}]
)
def test_nothing_that_runs_or_opens_is_taken_from_a_client(options):
    with pytest.raises(ApiError) as refused:
        plan(**options)
    assert refused.value.status == 400

"""What is said of the evidence, and that a terminal says it."""

import math

import pytest
from rich.console import Console

from outthink.cli.report import print_report
from outthink.core.posterior import Candidate, Posterior
from outthink.core.question import Question
from outthink.show.words import evidence_words


@pytest.mark.parametrize(
    ("log_evidence", "se", "runs", "words"),
    [
        (None, None, 0, None),
        (-1.25, 0.031, 4, "log evidence -1.25 nats, standard error 0.031, of 4 independent runs"),
        (-1.25, None, 1, "log evidence -1.25 nats, of 1 independent run; one run alone does not tell its error"),
        (-1.25, None, 3, "log evidence -1.25 nats, of 3 independent runs; runs that all agree do not tell its error"),
        (-math.inf, None, 2, "log evidence: no line of 2 independent runs had any weight"),
    ],
)
def test_evidence_is_told_with_its_error(log_evidence, se, runs, words):
    found = Posterior((Candidate("a"),), log_evidence=log_evidence, log_evidence_se=se, evidence_runs=runs)
    assert evidence_words(found) == words
    console = Console(record=True, width=120)
    with console.capture() as told:
        print_report(console, found, Question("?", lambda text: None))
    assert ("evidence" in told.get()) == (words is not None)
    assert (words or "") in told.get()

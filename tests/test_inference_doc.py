"""What docs/inference.md shows in Python, run; and that what it names is there."""

import math
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "inference.md"
TEXT = PAGE.read_text()


def test_the_example_runs():
    [block] = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    scope = {}
    exec(compile(block, str(PAGE), "exec"), scope)
    assert all(math.isfinite(figure) and figure < 0 for figure in scope["figures"])


@pytest.mark.parametrize("name", sorted(set(re.findall(r"potential=([a-z]+):", TEXT))))
def test_named_potentials_are_there(name):
    from outthink.posterior.named import POTENTIALS

    assert name in POTENTIALS.names()


@pytest.mark.parametrize("path", re.findall(r"\]\(([^)#]+)\)", TEXT))
def test_links_lead_somewhere(path):
    assert (PAGE.parent / path).exists()

"""What README.md shows, run."""

import asyncio
import re
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_five_lines_of_python_run(capsys):
    exec(compile(BLOCKS[0], "README.md", "exec"), {})
    best, confidence, *_ = capsys.readouterr().out.split()
    assert best in ("1918", "2918")
    assert 0 < float(confidence) < 1


def test_strategy_snippet_runs():
    import outthink
    from outthink import Until

    body = "\n".join("    " + line for line in BLOCKS[1].splitlines())
    scope = {"Until": Until, "prompt": [{"role": "user", "content": "compute 6 + 7"}]}
    exec(compile(f"async def snippet(lm):\n{body}\n    return lines, more", "README.md", "exec"), scope)
    with outthink.load() as model:
        lines, more = asyncio.run(scope["snippet"](model.session()))
    assert len(lines) == 16
    assert len(more) == 4
    assert all(branch.parent in lines for branch in more)


@pytest.mark.parametrize("path", re.findall(r"\]\(([^)#]+)\)", README))
def test_links_lead_somewhere(path):
    assert (Path(__file__).parents[1] / path).exists()


def test_figures_are_those_of_the_measurement():
    import json

    result = json.loads((Path(__file__).parents[1] / "results/scaling-outthink-m.json").read_text())
    points = {(p["strategy"], p["verifier"], p["n"]): p for p in result["points"]}
    for name, verifier, n in (
        ("greedy", None, 1),
        ("majority-vote", None, 64),
        ("probability-vote", None, 64),
        ("best-of-n", "likelihood", 64),
        ("best-of-n", "exact", 64),
        ("sample-until-verified", "exact", 64),
    ):
        point = points[name, verifier, n]
        e = point["accuracy"]
        assert f"{e['value']:.1%} [{100 * e['low']:.1f}, {100 * e['high']:.1f}] | {point['tokens']:,.0f}" in README
    assert result["command"] in README

"""The demo, on the bundled model and few problems."""

import re

from typer.testing import CliRunner

from outthink.cli.app import app


def test_demo_tells_the_whole_story(tmp_path):
    page = tmp_path / "tree.html"
    result = CliRunner().invoke(app, ["demo", "--problems", "6", "--tree", str(page)])
    assert result.exit_code == 0, result.output
    text = result.stdout
    assert "one greedy line" in text
    assert "sampling until the exact checker accepts a line" in text
    assert re.search(r"checked, 2k tokens +\d+% \[", text)
    assert "over all 6 problems" in text
    assert len(re.findall(r"cost  [\d,]+ tokens", text)) == 3
    assert "<script" in page.read_text()


def test_demo_refuses_a_page_that_cannot_be_written(tmp_path):
    result = CliRunner().invoke(app, ["demo", "--problems", "6", "--tree", str(tmp_path / "no" / "tree.html")])
    assert result.exit_code == 2
    assert "Traceback" not in result.output

"""``outthink bench coverage``, ``sizes`` and ``drafts`` on tiny models, and what they refuse before any is loaded."""

from __future__ import annotations

import json

import pytest

SMALL = ("--suite", "arithmetic", "--difficulties", "0.3,0.1", "--problems", "2", "--samples", "4")


def test_coverage_then_sizes(run, model, tmp_path):
    out, card = tmp_path / "tiny.json", tmp_path / "tiny.md"
    ran = run("bench", "coverage", "-m", model, *SMALL, "-o", out, "--markdown", card)
    assert ran.code == 0
    assert [line.split()[:3] for line in ran.out.splitlines()[1:]] == [["arithmetic", d, "2"] for d in ("0.1", "0.3")]
    assert str(out) in ran.err.replace("\n", "")
    result = json.loads(out.read_text())
    assert result["models"][0]["name"] == "tiny" and result["complete"]
    assert "| arithmetic | 0.1 | 2 |" in card.read_text()
    for suffix in (".png", ".records.jsonl.gz"):
        assert out.with_suffix(suffix).stat().st_size > 0
    again = run("bench", "coverage", "-m", model, *SMALL, "-o", out, "--json").json
    assert again["this_sitting"]["problems"] == 0 and again["cells"] == result["cells"]

    copy = tmp_path / "twin.json"
    copy.write_text(out.read_text())
    ran = run("bench", "sizes", out, copy, "-o", tmp_path / "sizes.json", "--markdown", tmp_path / "sizes.md")
    assert ran.code == 0
    assert "twin: 0 of 1 families in the band" in ran.out
    assert json.loads((tmp_path / "sizes.json").read_text())["labels"] == ["tiny", "twin"]
    assert "twin minus tiny" in (tmp_path / "sizes.md").read_text()
    assert (tmp_path / "sizes.png").exists()


def test_a_measurement_cut_short_says_so(run, model, tmp_path):
    ran = run("bench", "coverage", "-m", model, *SMALL, "-o", tmp_path / "x.json", "--minutes", "1e-9")
    assert ran.code == 2
    assert "before the first problem" in ran.err


def test_drafts(run, model, tmp_path):
    out = tmp_path / "d.json"
    few = ("--suite", "arithmetic", "--difficulties", "0.1", "--problems", "2", "--lines", "2")
    ran = run("bench", "drafts", "--target", model, "--draft", model, *few, "-o", out, "--markdown", tmp_path / "d.md")
    assert ran.code == 0
    assert [line.split()[:3] for line in ran.out.splitlines()[1:]] == [
        ["arithmetic", "2", "1.00"],
        ["all", "2", "1.00"],
    ]
    assert json.loads(out.read_text())["rows"][0]["agreement"]["value"] == 1.0
    assert "| arithmetic | 2 | 1.00 [" in (tmp_path / "d.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["coverage", "-o", "{tmp}/x.json", "--samples", "48"], ["48", "power of two"]),
        (["coverage", "-o", "{tmp}/x.json", "--samples", "0"], ["0", "power of two"]),
        (["coverage", "-o", "{tmp}/x.json", "--problems", "0"], ["--problems 0"]),
        (["coverage", "-o", "{tmp}/x.json", "--minutes", "0"], ["--minutes 0"]),
        (["coverage", "-o", "{tmp}/x.json", "--difficulties", "0.1,hard"], ["0.1,hard", "0.1,0.3,0.5"]),
        (["coverage", "-o", "{tmp}/x.json", "--difficulties", "1.5"], ["1.5", "0..1"]),
        (["coverage", "-o", "{tmp}/x.json", "--suite", "nope"], ["'nope'", "outthink-core"]),
        (["coverage", "-o", "{tmp}/x.txt"], ["x.txt", ".json"]),
        (["coverage", "-o", "{tmp}/no/x.json"], ["no directory"]),
        (["coverage", "-o", "{tmp}/x.json", "--markdown", "{tmp}"], ["is a directory"]),
        (["sizes", "{tmp}/none.json", "-o", "{tmp}/x.json"], ["none.json", "bench coverage"]),
        (["drafts", "--target", "a", "--draft", "b", "-o", "{tmp}/x.json", "--lines", "0"], ["--lines 0"]),
        (["drafts", "--target", "a", "--draft", "b", "-o", "{tmp}/x.json", "--temperature", "0"], ["--temperature 0"]),
        (["drafts", "--target", "no-model", "--draft", "b", "-o", "{tmp}/x.json"], ["no-model"]),
        (["drafts", "-o", "{tmp}/x.json"], ["--target"]),
    ],
    ids=lambda value: " ".join(value)[:60],
)
def test_mistakes(run, tmp_path, arguments, named):
    ran = run("bench", *(argument.format(tmp=tmp_path) for argument in arguments))
    assert ran.code == 2
    assert all(name in ran.err.replace("\n", " ") for name in named), ran.err
    assert "Traceback" not in ran.err

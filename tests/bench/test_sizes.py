"""Models are compared on the same problems, and the band is where greedy is middling and samples cover more."""

import pytest

from outthink.bench.coverage import Outcome, cells
from outthink.bench.sizes import bands, compare, draw, in_band, markdown
from outthink.core.errors import UserError


def result(name, greedy, right, num_samples=64, family="paths", difficulty=0.5, keys=None):
    """A coverage result of one cell: problem i is right greedily where ``greedy[i]``, and in ``right[i]`` samples."""
    keys = keys or [f"key{i}" for i in range(len(greedy))]
    outcomes = [
        Outcome(family, difficulty, i, keys[i], 9, bool(g), "1" * r + "0" * (num_samples - r), 100, 0)
        for i, (g, r) in enumerate(zip(greedy, right, strict=True))
    ]
    counts = tuple(1 << power for power in range(num_samples.bit_length()))
    return {
        "what": "greedy accuracy and coverage",
        "models": [{"name": name}],
        "config": {"num_samples": num_samples},
        "cells": [cell.to_json() for cell in cells(outcomes, counts)],
    }


def test_steps_are_paired_by_problem():
    small = result("small", [1, 0, 0, 0], [9, 0, 3, 0])
    large = result("large", [1, 1, 1, 0], [9, 9, 9, 0], keys=["key0", "key2", "key1", "other"])
    compared = compare({"small": small, "large": large})
    [row] = compared["rows"]
    [step] = row["steps"]
    assert (step["n"], step["method"], step["value"]) == (3, "exact-paired", pytest.approx(2 / 3))
    assert [figures["greedy"]["value"] for figures in row["models"]] == [0.25, 0.75]
    assert compared["labels"] == ["small", "large"]


@pytest.mark.parametrize(
    ("greedy", "right", "expected"),
    [
        ([1, 1, 0, 0], [64, 64, 1, 1], True),  # 50%, and all covered
        ([1, 1, 0, 0], [64, 64, 0, 0], False),  # 50%, and nothing more covered
        ([1, 0, 0, 0], [64, 64, 64, 64], False),  # below 30%
        ([1, 1, 1, 0], [64, 64, 64, 64], False),  # above 70%
        ([1, 1, 0, 0], [0, 0, 64, 0], False),  # coverage below greedy
    ],
)
def test_the_band(greedy, right, expected):
    found = result("model", greedy, right)["cells"]
    assert in_band(found[0]) is expected
    assert bands(found) == {"paths": [0.5] if expected else []}


def test_coverage_counts_at_64_samples_of_256():
    """One right sample of 256 is among 64 of them with chance 1/4: too little for the band."""
    [cell] = result("model", [1, 1, 0, 0], [256, 256, 1, 1], num_samples=256)["cells"]
    assert cell["gain"]["value"] == pytest.approx(0.5 * 0.25)
    assert not in_band(cell)


def test_table_and_picture(tmp_path):
    results = {"small": result("a", [1, 0, 1, 0], [64, 64, 64, 1]), "large": result("b", [1, 1, 1, 1], [64] * 4)}
    text = markdown(compare(results))
    assert "| family | difficulty | greedy small | greedy large | large minus small |" in text
    gain = results["small"]["cells"][0]["gain"]
    assert f"| {gain['value']:+.2f} [{gain['low']:+.2f}, {gain['high']:+.2f}] * |" in text
    assert "small: 1 of 1 families are in the band" in text
    assert "large: 0 of 1 families are in the band" in text
    draw(results, tmp_path / "sizes.png")
    assert (tmp_path / "sizes.png").read_bytes()[:4] == b"\x89PNG"


def test_results_with_nothing_in_common_are_refused():
    small = result("small", [1], [1])
    with pytest.raises(UserError, match="no family and difficulty in common"):
        compare({"small": small, "large": result("large", [1], [1], difficulty=0.7)})
    with pytest.raises(UserError, match=r"share no problem of 'paths' at 0\.5: use the same --seed"):
        compare({"small": small, "large": result("large", [1], [1], keys=["other"])})

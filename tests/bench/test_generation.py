"""Rates are counts over seconds of processor time, of every family and difficulty."""

import json

from outthink.bench import generation


def test_rates_are_counted(monkeypatch, tmp_path):
    """With a clock that ticks at each look, a round takes as many problems as there are ticks in it."""
    ticks = iter(range(10**6))
    monkeypatch.setattr(generation.time, "process_time", lambda: next(ticks) * 1e-3)
    monkeypatch.setattr(generation, "ROUND_SECONDS", 0.0095)
    seen = []
    result = generation.run("paths", (0.0, 1.0), tmp_path / "rates.json", lambda *step: seen.append(step[:2]))
    assert json.loads((tmp_path / "rates.json").read_text()) == result
    assert [(row["family"], row["difficulty"]) for row in result["rows"]] == [("paths", 0.0), ("paths", 1.0)]
    for row in result["rows"]:
        # Looks after 1 to 10 ms: nine problems are made until the one at 10 ms ends the round.
        assert row["rate"]["n"] == generation.ROUNDS
        assert abs(row["rate"]["value"] - 900.0) < 1e-6
    assert seen == [(done, 20) for done in range(20)]


def test_the_command_prints_a_row_for_each_family(monkeypatch, tmp_path):
    from typer.testing import CliRunner

    from outthink.cli.app import app

    monkeypatch.setattr(generation, "ROUND_SECONDS", 1e-4)
    out = tmp_path / "rates.json"
    ran = CliRunner().invoke(app, ["bench", "generation", "--difficulties", "0,0.5", "-o", str(out)])
    assert ran.exit_code == 0
    families = [line.split()[0] for line in ran.stdout.splitlines()[2:]]
    assert families == list(dict.fromkeys(row["family"] for row in json.loads(out.read_text())["rows"]))
    assert len(families) == 10

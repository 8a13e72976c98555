"""What is wrong with installed plugins is told where their kind is listed, beside what works."""

from __future__ import annotations


def test_listings_tell_of_broken_plugins_on_stderr(run, tmp_path, monkeypatch):
    info = tmp_path / "bad-2.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bad\nVersion: 2.0\n")
    (info / "entry_points.txt").write_text("[outthink.strategies]\nx = no_such:x\n[outthink.tasks]\ny = no_such:y\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for command, name in (("methods", "x"), ("tasks", "y")):
        ran = run(command, "--json")
        assert ran.code == 0
        assert f"'{name}' of the plugin bad 2.0 (no_such:{name}) cannot be used: ModuleNotFoundError" in ran.err
        assert name not in {record["name"] for record in ran.json}
    ran = run("methods", "show", "x")
    assert ran.code == 2
    assert "bad 2.0" in ran.err

"""`outthink bench serve`: mistakes cost nothing, and a run on a tiny model writes what it tells."""

import json

import pytest

MISTAKES = [
    ([], ["--out", "--set-up"]),
    (["--out", "x.txt"], ["x.txt", ".json"]),
    (["--out", "x.json", "--streams", "1,many"], ["'1,many'", "1,4,16"]),
    (["--out", "x.json", "--streams", "0"], ["'0'", "1 to 512"]),
    (["--out", "x.json", "--rounds", "0"], ["--rounds 0"]),
    (["--out", "x.json", "--seconds", "0"], ["--seconds 0"]),
    (["--out", "x.json", "--soak", "-1"], ["--soak -1"]),
    (["--out", "x.json", "--streams", "", "--soak", "0"], ["--streams", "--soak"]),
    (["--out", "x.json", "--generator", "locust"], ["'locust'", "guidellm", "own"]),
    (["--out", "x.json", "--dir", "/nowhere"], ["/nowhere", "--set-up"]),
]


@pytest.mark.parametrize(("arguments", "named"), MISTAKES)
def test_mistakes_are_told_before_anything_runs(run, arguments, named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run("bench", "serve", *arguments)
    assert done.code != 0 and all(word in done.err for word in named), done.err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_our_server_alone_with_a_soak(run, model, tmp_path):
    out = tmp_path / "serve.json"
    arguments = ["--model", str(model), "--no-peer", "--generator", "own", "--streams", "2", "--rounds", "1"]
    arguments += ["--seconds", "0.2", "--soak", "0.01", "--prompt-tokens", "16", "--output-tokens", "4", "--json"]
    done = run("bench", "serve", "--out", str(out), *arguments)
    assert done.code == 0, done.err
    assert json.loads(out.read_text()) == done.json and out.with_suffix(".png").is_file()
    [point] = done.json["points"]
    assert point["errors"] == 0 and point["requests"] >= 2 and done.json["ratios"] == [{"streams": 2}]
    assert done.json["soak"]["errors"] == 0 and not any(done.json["soak"]["left"].values())

"""Bad input: one clear line on stderr, exit code 2, no traceback, and nothing loaded where it can be known before."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
import typer

from cli.tiny_model import PROBLEM
from outthink.cli.app import guard
from outthink.core.errors import EngineError, UserError

# Known before any model is loaded: a command line, and what the message must name.
CHEAP = [
    (["solve", ""], ["problem is empty"]),
    (["solve", "  \n"], ["problem is empty"]),
    (
        ["solve", "x", "-s", "majority-voat"],
        ["'majority-voat'", "Did you mean 'majority-vote'?", "greedy", "best-of-n"],
    ),
    (["solve", "x", "--verifier", "exakt"], ["'exakt'", "exact", "likelihood"]),
    (["solve", "x", "-b", "4k tokns"], ["'4k tokns'", "4k tokens"]),
    (["solve", "x", "-b", "-5"], ["'-5'"]),
    (["solve", "x", "--temperature", "-1"], ["temperature=-1"]),
    (["solve", "x", "--temperature", "warm"], ["--temperature", "number"]),
    (["solve", "x", "-o", "depth=3"], ["'majority-vote' has no option depth", "n, max_tokens"]),
    (["solve", "x", "-s", "greedy", "-n", "8"], ["'greedy' has no option n", "max_tokens"]),
    (["solve", "x", "-o", "n=many"], ["n='many'", "whole number"]),
    (["solve", "x", "-o", "n"], ["'n'", "NAME=VALUE"]),
    (["solve", "x", "--tree", "/nowhere/at/all.html"], ["/nowhere/at", "no directory"]),
    (["solve", "x", "--tree", "/"], ["/ is a directory"]),
    (["solve"], ["problem"]),
    (["solve", "x", "--stratgy", "greedy"], ["--stratgy", "--strategy", "outthink solve --help"]),
    (["sovle", "x"], ["sovle", "outthink --help"]),
    (["generate", ""], ["prompt is empty"]),
    (["generate", "x", "-n", "0"], ["--n 0"]),
    (["generate", "x", "--top-p", "1.5"], ["top_p=1.5"]),
    (["generate", "x", "--stop", ""], ["stop"]),
    (["generate", "x", "--max-tokens", "0"], ["max_tokens=0"]),
    (["generate", "x", "--logprobs", "-1"], ["top_logprobs=-1"]),
    (["methods", "--family", "magic"], ["'magic'", "aggregation", "decoding"]),
    (["methods", "show", "mayority-vote"], ["'mayority-vote'", "majority-vote"]),
    (["tasks", "show", "arithmatic"], ["'arithmatic'", "arithmetic"]),
    (["tasks", "show", "arithmetic", "-d", "1.5"], ["1.5", "0..1"]),
    (["tasks", "export", "{tmp}/x", "--family", "nope"], ["'nope'", "arithmetic"]),
    (["tasks", "export", "{tmp}/x", "--suite", "nope"], ["'nope'", "outthink-core"]),
    (["tasks", "export", "{tmp}/x", "--split", "exam"], ["'exam'", "validation"]),
    (["tasks", "export", "{tmp}/x", "-n", "0"], ["--num 0"]),
    (["tasks", "export", "{tmp}/x", "-d", "0.5"], ["--difficulty", "--family"]),
    (["bench", "scaling", "-o", "{tmp}/x.json", "--samples", "48"], ["48", "power of two"]),
    (["bench", "scaling", "-o", "{tmp}/x.txt"], ["x.txt", ".json"]),
    (["bench", "scaling", "-o", "{tmp}/x.json", "-f", "nope"], ["'nope'", "arithmetic"]),
]


@pytest.mark.parametrize(("arguments", "named"), CHEAP, ids=lambda value: " ".join(value)[:60])
def test_mistakes_without_a_model(run, tmp_path, arguments, named):
    ran = run(*(argument.replace("{tmp}", str(tmp_path)) for argument in arguments))
    assert (ran.code, ran.out) == (2, "")
    assert_one_line(ran.err, named)


def test_cheap_commands_and_mistakes_import_no_torch(tmp_path):
    commands = [["--help"], ["--version"], ["solve", "--help"], ["methods", "--json"], ["methods", "show", "greedy"]]
    commands += [["tasks"], ["tasks", "show", "arithmetic"], *(a for a, _ in CHEAP if a[0] in ("solve", "generate"))]
    program = f"""
import sys
from typer.testing import CliRunner
from outthink.cli.app import app
for command in {commands!r}:
    CliRunner().invoke(app, command)
    assert "torch" not in sys.modules, command
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_unknown_training_options(run, tmp_path):
    ran = run("train", "-o", tmp_path / "run", "--steps", 1, "--set", "depth=3")
    assert ran.code == 2
    assert_one_line(ran.err, ["depth", "learning_rate"])
    ran = run("train", "-o", tmp_path / "run", "--size", "XXL", "--steps", 1)
    assert ran.code == 2
    assert_one_line(ran.err, ["'XXL'", "XS"])
    assert not (tmp_path / "run").exists()


def test_prompt_longer_than_the_context(run, model):
    for command in ("solve", "generate"):
        ran = run(command, "9" * 300, "-m", model)
        assert ran.code == 2
        assert_one_line(ran.err, ["256"])


def test_exact_verifier_without_a_known_problem(run, model):
    ran = run("solve", "what is love?", "-m", model, "-s", "best-of-n", "--verifier", "exact")
    assert ran.code == 2
    assert_one_line(ran.err, ["exact", "likelihood"])


def test_strategy_that_needs_a_verifier(run, model):
    ran = run("solve", PROBLEM, "-m", model, "-s", "sample-until-verified")
    assert ran.code == 2
    assert_one_line(ran.err, ["verifier", "exact"])


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda m: shutil.rmtree(m), ["no directory"]),
        (lambda m: (m / "config.json").unlink(), ["config.json"]),
        (lambda m: (m / "config.json").write_text("{"), ["config.json"]),
        (lambda m: (m / "config.json").write_text(json.dumps({"model_type": "mamba"})), ["mamba", "llama"]),
        (lambda m: (m / "tokenizer.json").write_text("[]"), ["tokenizer.json"]),
        (lambda m: (m / "model.safetensors").write_bytes((m / "model.safetensors").read_bytes()[:-9]), ["safetensors"]),
        (lambda m: (m / "model.safetensors").rename(m / "pytorch_model.bin"), ["pytorch_model.bin"]),
    ],
    ids=["gone", "no config", "bad config", "unknown kind", "bad tokenizer", "truncated", "pickle"],
)
def test_corrupt_model_directory(run, model, tmp_path, damage, named):
    broken = tmp_path / "model"
    shutil.copytree(model, broken)
    damage(broken)
    ran = run("solve", PROBLEM, "-m", broken)
    assert (ran.code, ran.out) == (2, "")
    assert_one_line(ran.err, named)


def test_chat_without_a_template(run, model, tmp_path):
    plain = tmp_path / "plain"
    shutil.copytree(model, plain)
    (plain / "chat_template.jinja").unlink()
    ran = run("generate", "hello", "--chat", "-m", plain)
    assert ran.code == 2
    assert_one_line(ran.err, ["chat template"])


def test_codes_of_errors(capsys):
    def raises(error):
        def command():
            raise error

        return command

    assert guard(lambda: None) == 0
    assert guard(raises(UserError("mend\nthis"))) == 2
    assert guard(raises(EngineError("it broke"))) == 1
    assert guard(raises(KeyboardInterrupt())) == 130
    assert guard(raises(typer.BadParameter("bad"))) == 2
    assert capsys.readouterr().err.splitlines()[:2] == ["error: mend this", "error: it broke"]
    with pytest.raises(ZeroDivisionError):  # a bug is not hidden
        guard(raises(ZeroDivisionError()))


def test_text_of_a_message_cannot_drive_the_terminal(run):
    ran = run("solve", "x", "-s", "\x1b[2J\x07")
    assert ran.code == 2
    assert not {"\x1b", "\x07"} & set(ran.err)


def assert_one_line(message: str, named: list[str]) -> None:
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert message.endswith("\n")
    for text in named:
        assert text in message

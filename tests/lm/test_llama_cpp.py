"""llama-cpp-python's server behind the `LM` protocol, on a bundled model written as GGUF. `make test-clients` runs it.

It needs an environment of its own: ``python -m venv ~/.cache/outthink/peers/llama.cpp`` and in it
``pip install 'llama-cpp-python[server]'``; another place is named by OUTTHINK_LLAMA_CPP_PYTHON.
"""

import os
import socket
import subprocess
import time
from pathlib import Path

import pytest

from outthink.core.question import Question, parse_answer
from outthink.core.sampling import Sampling, Until

pytestmark = pytest.mark.clients
PYTHON = Path(os.environ.get("OUTTHINK_LLAMA_CPP_PYTHON", "~/.cache/outthink/peers/llama.cpp/bin/python")).expanduser()
PROBLEMS = ("compute 12 + 7 * 5", "compute 3 * 4 - 5", "compute 20 - 6 + 1")
START_S = 120.0


@pytest.fixture(scope="module")
def ours():
    """The bundled model in our own engine, in single precision."""
    import outthink

    with outthink.load(dtype="float32") as model:
        yield model


@pytest.fixture(scope="module")
def server(ours, tmp_path_factory):
    """The URL of the server, with the same weights."""
    from outthink.quant.gguf import write_gguf

    if not PYTHON.exists():
        pytest.fail(f"{PYTHON} is not there; {__doc__}")
    directory = tmp_path_factory.mktemp("gguf")
    weights = write_gguf(ours.loaded.source, directory / "model.gguf", "f32")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {
        "model": weights, "model_alias": "outthink", "host": "127.0.0.1", "port": port, "n_ctx": 512, "n_threads": 1,
        "logits_all": "true", "interrupt_requests": "false", "verbose": "false",
    }  # fmt: skip
    arguments = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen([PYTHON, "-m", "llama_cpp.server", *arguments], stdout=log, stderr=log)
    try:
        _wait(process, port, directory / "log")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(30)


def _wait(process, port, log):
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None:
            break
        time.sleep(0.2)
    pytest.fail(f"the server did not start:\n{log.read_text(errors='replace')[-2000:]}")


@pytest.fixture(scope="module")
def theirs(server):
    """The same model on the server; llama-cpp-python serves one request at a time."""
    import outthink

    with outthink.connect(server, concurrency=1, parameters=1e6, context=512) as model:
        yield model


def prompt_of(model, problem):
    """The problem as raw text, by the model's own template."""
    tokenizer = model.loaded.tokenizer
    return tokenizer.render_chat([{"role": "user", "content": problem}]) if tokenizer.chat_template else problem


def test_what_the_server_offers(theirs):
    route = theirs.capabilities.completions
    assert theirs.name == "outthink" and route is not None and route.continues
    assert route.top >= 0 and route.echoes and route.stream is not None
    assert not route.many and not route.token_ids and not route.stops


async def test_it_keeps_the_laws_that_apply(ours, theirs):
    from outthink.lm.laws import check_lm
    from outthink.lm.remote.laws import laws_of

    kept = laws_of(theirs)
    assert len(kept) >= 10, [law.__name__ for law in kept]
    await check_lm(theirs.session, prompt_of(ours, PROBLEMS[0]), max_tokens=4, laws=kept)


@pytest.mark.parametrize("problem", PROBLEMS)
async def test_greedy_lines_are_the_same_as_ours(ours, theirs, problem):
    prompt, greedy = prompt_of(ours, problem), Sampling(temperature=0.0)
    lines = []
    for model in (ours, theirs):
        [line] = await (await model.session().root(prompt)).extend(1, Until(48), greedy)
        lines.append(line)
    mine, other = lines
    assert mine.text == other.text and mine.text
    shared = len(other.log_probs)  # the server says nothing of the end token
    assert list(other.log_probs) == pytest.approx(list(mine.log_probs)[:shared], abs=2e-3)
    scored = await (await theirs.session().root(prompt)).score(other.text)
    assert sum(scored) == pytest.approx(sum(other.log_probs), abs=2e-3)


@pytest.mark.parametrize("strategy", ["majority-vote", "step-beam", "particle-filter"])
def test_problems_are_solved_through_it(ours, theirs, strategy):
    import outthink

    question = Question(prompt_of(ours, PROBLEMS[0]), parse_answer)
    posterior = outthink.solve(question, model=theirs, strategy=strategy, budget="2k tokens", n=4, max_tokens=48)
    assert posterior.attempts > 0 and posterior.candidates, "no line reached an answer"
    assert 0 < posterior.cost.tokens <= 2000

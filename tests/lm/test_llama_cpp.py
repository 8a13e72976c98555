"""llama-cpp-python's server behind the `LM` protocol, on a bundled model written as GGUF. `make test-clients` runs it.

It lives in an environment of its own, which is made, and compiled, where it is not there yet.
"""

import json
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager

import httpx
import pytest

import outthink
from outthink.bench.engine.runners import environment_python
from outthink.core.question import Question, parse_answer
from outthink.core.sampling import Sampling, Until
from outthink.lm.laws import check_lm
from outthink.lm.remote.laws import laws_of
from outthink.quant.gguf import write_gguf
from outthink.tasks.families import get_family

pytestmark = pytest.mark.clients
PROBLEMS = ("compute 12 + 7 * 5", "compute 3 * 4 - 5", "compute 20 - 6 + 1")
UNSURE = "compute "  # where the model has learned nothing, and every seed goes on in another way
BEGIN = 2
START_S = 120.0


@pytest.fixture(scope="module")
def ours():
    """The bundled model in our own engine, in single precision."""
    with outthink.load(dtype="float32") as model:
        yield model


@contextmanager
def serving(source, directory):
    """The URL of llama-cpp-python's server with the model in ``source``."""
    python = environment_python("llama.cpp", say=print)
    weights = write_gguf(source, directory / "model.gguf", "f32")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {
        "model": weights, "model_alias": "outthink", "host": "127.0.0.1", "port": port, "n_ctx": 512, "n_threads": 1,
        "logits_all": "true", "interrupt_requests": "false", "verbose": "false",
    }  # fmt: skip
    arguments = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen([python, "-m", "llama_cpp.server", *arguments], stdout=log, stderr=log)
    try:
        _wait(process, port, directory / "log")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def server(ours, tmp_path_factory):
    """The URL of a server with the same weights."""
    with serving(ours.loaded.source, tmp_path_factory.mktemp("gguf")) as url:
        yield url


@pytest.fixture
def beginning(ours, tmp_path):
    """The same model on a server of its own, with ``<|user|>`` said to be the token that begins every text."""
    copy = shutil.copytree(ours.loaded.source, tmp_path / "copy")
    config, tokenizer = copy / "config.json", copy / "tokenizer.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"bos_token_id": BEGIN}))
    template = {"single": [{"SpecialToken": {"id": "<|user|>", "type_id": 0}}]}
    tokenizer.write_text(json.dumps(json.loads(tokenizer.read_text()) | {"post_processor": template}))
    with serving(copy, tmp_path) as url, outthink.connect(url, concurrency=1, parameters=1e6, context=512) as model:
        yield model


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
    with outthink.connect(server, concurrency=1, parameters=1e6, context=512) as model:
        yield model


def prompt_of(model, problem):
    """The problem as raw text, by the model's own template."""
    tokenizer = model.loaded.tokenizer
    return tokenizer.render_chat([{"role": "user", "content": problem}]) if tokenizer.chat_template else problem


def test_what_the_server_offers(theirs):
    route = theirs.capabilities.completions
    assert theirs.name == "outthink" and route is not None and route.continues
    assert route.top >= 0 and route.stream is not None
    assert not route.many and not route.token_ids and not route.stops
    # Of a text that no special token begins, it gives each token what belongs to the next.
    assert not route.echoes


def test_text_is_cut_into_the_same_tokens(ours, server):
    tokenizer, ask = ours.loaded.tokenizer, f"{server.removesuffix('/v1')}/extras/tokenize"
    texts = [prompt_of(ours, problem) for problem in PROBLEMS]
    texts += [get_family("calculator").generate(seed, 0.5).solution for seed in range(8)]
    for text in texts:
        assert httpx.post(ask, json={"input": text}, timeout=60).json()["tokens"] == tokenizer.encode(text), text


async def test_it_keeps_the_laws_that_apply(ours, theirs):
    kept = laws_of(theirs)
    assert len(kept) >= 10, [law.__name__ for law in kept]
    await check_lm(theirs.session, UNSURE, max_tokens=4, laws=kept)


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


async def test_given_text_is_scored_as_it_was_drawn(ours, beginning):
    route = beginning.capabilities.completions
    assert route is not None and route.echoes
    whole = prompt_of(ours, PROBLEMS[0])
    root = await beginning.session().root(whole.removeprefix("<|user|>"))
    [line] = await (await ours.session().root(whole)).extend(1, Until(48), Sampling(temperature=0.0))
    scored = await root.score(line.text)
    assert scored == pytest.approx(list(line.log_probs)[: len(scored)], abs=2e-3) and len(scored) > 8


@pytest.mark.parametrize("strategy", ["majority-vote", "step-beam", "particle-filter"])
def test_problems_are_solved_through_it(ours, theirs, strategy):
    question = Question(prompt_of(ours, PROBLEMS[0]), parse_answer)
    posterior = outthink.solve(question, model=theirs, strategy=strategy, budget="2k tokens", n=4, max_tokens=48)
    assert posterior.attempts > 0 and posterior.candidates, "no line reached an answer"
    assert 0 < posterior.cost.tokens <= 2000

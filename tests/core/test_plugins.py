"""Plugins are found by entry point and used by name; broken ones say what is wrong, and break nothing else.

The sound one is the example of docs/plugins.md, word for word.
"""

import asyncio
import re
from pathlib import Path

import pytest

import outthink
from outthink.core.errors import PluginError, UnknownNameError
from outthink.core.question import Question
from outthink.core.registry import Registry
from outthink.lm.toy import ToyLM, random_law
from outthink.reason import STRATEGIES
from outthink.reason.solve import ask, think
from outthink.tasks.families import FAMILIES, get_family, read_problem
from outthink.verify import VERIFIERS, check_spec

GUIDE = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text()
SIGNATURE = "summary='', guarantee='heuristic', promise='', paper=''"


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)


def install(place, monkeypatch, name, module, entries):
    """A distribution in ``place``, as pip would leave it there: its module, and what it brings."""
    (place / f"{name}.py").write_text(module)
    info = place / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    groups = "".join(f"[outthink.{group}]\n" + "\n".join(lines) + "\n\n" for group, lines in entries.items())
    (info / "entry_points.txt").write_text(groups)
    monkeypatch.syspath_prepend(str(place))
    get_family.cache_clear()


@pytest.fixture
def example(tmp_path, monkeypatch):
    """The plugin of the guide, installed."""
    import tomllib

    [project] = blocks("toml")
    entries = {
        group.removeprefix("outthink."): [f"{name} = {value}" for name, value in named.items()]
        for group, named in tomllib.loads(project)["project"]["entry-points"].items()
    }
    install(tmp_path, monkeypatch, "outthink_example", "\n\n".join(blocks("python")), entries)
    yield
    get_family.cache_clear()


def toy():
    return ToyLM(random_law(3, 4), "abc", context=9)


async def test_strategy_verifier_and_family_are_found_by_name(example):
    assert "first-agreement" in STRATEGIES.names() and "first-agreement" in STRATEGIES.usable()
    question = Question("ab", lambda text: text[-1] if len(text) >= 2 else None)
    found = await think(question, toy(), "first-agreement", n=12)
    assert found.method == "first-agreement"
    assert sum(c.answer == found.best for c in found.candidates) == 2
    combined = await think(question, toy(), "ensemble(first-agreement(n=3), greedy)", "short")
    assert combined.attempts >= 2
    check_spec("short")
    guided = await think(question, toy(), "step-beam", "short", n=4, steps="tokens:2")
    assert guided.best is not None
    problem = get_family("doubling").generate(3, 0.5)
    assert read_problem(problem.prompt).answer == problem.answer
    asked = ask(problem.prompt, chat=False)
    assert asked.check(problem.answer) and not asked.check("0")
    assert not STRATEGIES.faults() and not VERIFIERS.faults() and not FAMILIES.faults()


def test_without_the_plugin_there_is_no_such_thing():
    for registry, name in ((STRATEGIES, "first-agreement"), (VERIFIERS, "short"), (FAMILIES, "doubling")):
        with pytest.raises(UnknownNameError):
            registry.get(name)


BROKEN = f"""
import outthink

@outthink.method("no-options", family="x", {SIGNATURE})
async def three(question, lm, verifier): pass

@outthink.method("sync", family="x", {SIGNATURE})
def plain(question, lm, verifier, ledger, *, n=1): pass

@outthink.method("no-default", family="x", {SIGNATURE})
async def bare(question, lm, verifier, ledger, *, n): pass

@outthink.method("other-name", family="x", {SIGNATURE})
async def named(question, lm, verifier, ledger): pass

@outthink.method("unsure", family="x", {SIGNATURE}, confidence="sure")
async def unsure(question, lm, verifier, ledger, *, n=1): pass

async def undecorated(question, lm, verifier, ledger): pass

class Empty:
    name = "empty"

class Needy:
    name, sound, partial = "needy", False, True
    def __init__(self, path): pass
    def require(self, question): pass
    async def score(self, question, branches, ledger): return []
    def accepts(self, score): return False

class Falls:
    name = summary = "falls"
    def __init__(self): raise RuntimeError("no disk")
"""

FAULTS = [
    ("strategies", "no-options", "broken_plugin:three", "its signature is three"),
    ("strategies", "sync", "broken_plugin:plain", "is an async function"),
    ("strategies", "no-default", "broken_plugin:bare", "with defaults"),
    ("strategies", "renamed", "broken_plugin:named", "calls it 'other-name'"),
    ("strategies", "unsure", "broken_plugin:unsure", "its confidence is called 'sure'"),
    ("strategies", "undecorated", "broken_plugin:undecorated", "decorate an async function with outthink.method"),
    ("strategies", "absent", "broken_plugin:nothing", "AttributeError"),
    ("strategies", "no-module", "no_such_module:x", "ModuleNotFoundError: No module named 'no_such_module'"),
    ("verifiers", "empty", "broken_plugin:Empty", "lacks sound, partial, require, score, accepts"),
    ("verifiers", "needy", "broken_plugin:Needy", "it needs path"),
    ("tasks", "falls", "broken_plugin:Falls", "RuntimeError: no disk"),
]
REGISTRIES = {"strategies": STRATEGIES, "verifiers": VERIFIERS, "tasks": FAMILIES}


@pytest.fixture
def broken(tmp_path, monkeypatch):
    (tmp_path / "broken").mkdir()
    entries = {}
    for group, name, value, _ in FAULTS:
        entries.setdefault(group, []).append(f"{name} = {value}")
    install(tmp_path / "broken", monkeypatch, "broken_plugin", BROKEN, entries)


@pytest.mark.parametrize(("group", "name", "value", "says"), FAULTS)
def test_a_broken_plugin_says_what_is_wrong_with_it(broken, group, name, value, says):
    registry = REGISTRIES[group]
    with pytest.raises(PluginError, match=re.escape(says)) as caught:
        registry.get(name)
    message = str(caught.value)
    assert f"'{name}'" in message and "broken_plugin 1.0" in message and value in message
    assert message in registry.faults()
    assert name in registry.names() and name not in registry.usable()


async def test_the_rest_goes_on_beside_a_broken_plugin(broken, example):
    """Listing, reading problems, and a sound plugin beside it."""
    assert {"greedy", "first-agreement"} <= {method.name for method in STRATEGIES}
    assert {kind.name for kind in VERIFIERS} >= {"exact", "short"}
    assert read_problem("compute 1 + 2").answer == "3"
    assert read_problem("double 4").answer == "8"
    found = await think(Question("ab", lambda text: text or None), toy(), "first-agreement", n=2)
    assert found.attempts == 2


def test_a_plugin_that_takes_a_name_is_left_out_and_told_so(tmp_path, monkeypatch):
    """One of Outthink's own goes first; of two plugins neither is taken."""
    module = (
        f"import outthink\n@outthink.method('greedy', family='x', {SIGNATURE})\nasync def f(q, lm, v, ledger): pass\n"
    )
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        module_name = f"taker_{name}"
        lines = [f"greedy = {module_name}:f", f"shared = {module_name}:f"]
        install(tmp_path / name, monkeypatch, module_name, module, {"strategies": lines})
    assert STRATEGIES.get("greedy").paper.startswith("the ordinary decoder")
    faults = STRATEGIES.faults()
    assert sum("is the name of a strategy of Outthink's own" in fault for fault in faults) == 2
    [clash] = [fault for fault in faults if "'shared' comes from" in fault]
    assert "taker_one 1.0" in clash and "taker_two 1.0" in clash
    assert "shared" not in STRATEGIES.usable()


def test_a_registry_that_lets_faults_through_is_caught(broken):
    """Without its check, the same plugin would be handed out."""
    careless = Registry("strategy", "outthink.strategies", {})
    assert careless.get("sync") is not None
    assert not asyncio.iscoroutinefunction(careless.get("sync").run)


def test_the_decorator_is_public():
    assert outthink.method is outthink.core.registry.method

"""Positions are counted rightly and computed once; particles follow the enumerated law; rounds resume."""

import itertools
import json
import math
from contextlib import ExitStack

import numpy as np
import pytest

from cli.tiny_model import make_model
from cpu_cases import dense_logits
from outthink.bench.engine.driver import RunnerError
from outthink.bench.journal import Journal
from outthink.bench.search import nodes, share, tokens, trees
from outthink.bench.search.plan import Ground, Part, SearchConfig, Way, environment_python, turned
from outthink.bench.search.positions import ComputedTwiceError, Work, check_each_once, tree_positions
from outthink.bench.search.report import distance, markdown, report, rows_of
from outthink.bench.search.rounds import find_parts, known_parts, measure
from outthink.bench.search.scorer import CELLS, LEAST, MOST, ODD, cell_of, log_potential, score
from outthink.core.errors import CapabilityError, UnknownNameError, UserError
from outthink.core.thought import Thought
from outthink.lm.model import load, resolve
from outthink.tasks.problem import Problem

MACHINE = {"cpu": "a processor", "cores_in_use": 0.0, "cores": 2}


def problem() -> Problem:
    return trees.draw_problems(0.2, 1)[0]


def test_scores_are_hashes_of_the_text():
    texts = [f"step {number}" for number in range(2000)]
    values = [score(text) for text in texts]
    assert all(LEAST <= value <= MOST for value in values)
    assert abs(sum(values) / len(values) - (LEAST + MOST) / 2) < 5 * (MOST - LEAST) / math.sqrt(12 * len(values))
    assert score(" step 1\n") == score("step 1") != score("step 2")


def test_the_potential_and_the_cells_of_tokens():
    assert log_potential([2, 3, 5]) == 2 * ODD == log_potential([2, 3, 5], [2, 3, 5])
    assert log_potential([2, 3], [2]) == -math.inf
    allowed = list(range(10, 10 + 2 * CELLS))
    assert {cell_of([a, 10, b], allowed) for a in allowed for b in allowed} == {
        f"{i},{j}" for i in range(CELLS) for j in range(CELLS)
    }


def tree_of(sizes):
    """A thought below a root for each list: its tokens, then the lists of what was written after it."""

    def grow(parent, entry):
        child = parent.child()
        child.tokens = entry[0]
        for below in entry[1:]:
            grow(child, below)

    tree = Thought()
    root = tree.child()
    for entry in sizes:
        grow(root, entry)
    return tree


def test_the_positions_of_a_tree_are_each_counted_once():
    assert tree_positions(tree_of([[5]]), 10) == 10 + 4  # nothing follows its last token
    assert tree_positions(tree_of([[5, [3], [2]]]), 10) == 10 + 5 + 2 + 1
    assert tree_positions(tree_of([[0], [1]]), 10) == 10
    tree = tree_of([[5, [3], [2]], [4]])
    right = 10 + 5 + 2 + 1 + 3
    assert check_each_once(Work(right, 0, 14), tree, 10) == right
    for broken in (Work(right + 1, 0, 14), Work(right - 1, 0, 14), Work(right, 1, 14)):
        with pytest.raises(ComputedTwiceError, match=f"{right}"):
            check_each_once(broken, tree, 10)


@pytest.mark.parametrize("strategy", trees.STRATEGIES)
def test_a_search_in_the_engine_computes_its_tree_once(strategy, tiny_model, monkeypatch):
    monkeypatch.setattr(trees, "LONGEST_LINE", 40)
    found = trees.in_engine(tiny_model, problem(), strategy, 8, 1)
    assert found["positions"] == found["tree"] > found["prompt"]
    assert found["drawn"] > 40


def test_positions_that_are_computed_again_are_noticed(make_tiny_model, monkeypatch):
    """With too few pages branches are thrown out and computed again: that must not pass."""
    monkeypatch.setattr(trees, "LONGEST_LINE", 60)
    with pytest.raises(ComputedTwiceError, match="again"):
        trees.in_engine(make_tiny_model(pages=24), problem(), "particle-filter", 16, 1)


def test_particles_follow_the_enumerated_law(tiny_model):
    """4,000 particles in populations of 16: the estimated mass of each kind of line within 5 standard errors.

    Populations are independent, so the standard error is that of their mean; 16 kinds fail by chance in 1 of 1e5.
    """
    prompt, allowed = [65, 66, 67], [40, 41, 43, 44, 46, 50, 51, 97]
    exact: dict[str, float] = {}
    laws = {}
    for length in range(2):
        for prefix in itertools.product(allowed, repeat=length):
            logits = dense_logits(tiny_model.loaded.model, [*prompt, *prefix])[-1].astype(float)
            laws[prefix] = logits - np.logaddexp.reduce(logits)
    for line in itertools.product(allowed, repeat=2):
        mass = math.exp(float(laws[()][line[0]] + laws[line[:1]][line[1]]) + log_potential(line, allowed))
        exact[cell_of(line, allowed)] = exact.get(cell_of(line, allowed), 0.0) + mass
    runs = [tokens.in_engine(tiny_model, prompt, 2, 1, allowed, seed)["masses"] for seed in range(250)]
    for cell, mass in exact.items():
        values = [run.get(cell, 0.0) for run in runs]
        mean = sum(values) / len(values)
        deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))
        assert abs(mean - mass) < 5 * deviation + 1e-4, cell
    assert distance(runs, exact) < 0.2
    assert distance(runs, dict.fromkeys(exact, 1.0)) > 0.2, "any law would pass"


def test_equal_particles_are_computed_once(tiny_model):
    """Sixteen lines of one token out of three are three tips at most, and what follows is computed for each once."""
    found = tokens.in_engine(tiny_model, [65, 66, 67], 2, 1, [40, 41, 43], 3)
    assert found["drawn"] <= 32
    assert found["positions"] <= 3 + 3


def test_a_copy_that_does_not_end(tmp_path):
    source = make_model(tmp_path / "model")
    with pytest.raises(UserError, match="pad token"):
        tokens.endless(source, tmp_path / "copies")
    for name, change in {
        "config.json": {"pad_token_id": 0},
        "tokenizer_config.json": {"pad_token": "<unk>"},
    }.items():
        content = json.loads((source / name).read_text()) if (source / name).is_file() else {}
        (source / name).write_text(json.dumps(content | change))
    copy, pad = tokens.endless(source, tmp_path / "copies")
    assert pad == "<unk>"
    assert json.loads((copy / "config.json").read_text())["eos_token_id"] == 0
    assert json.loads((source / "config.json").read_text())["eos_token_id"] != 0
    assert (copy / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()


def test_nodes_over_a_model_that_costs_nothing(tmp_path):
    with ExitStack() as stack:
        ground = Ground(SearchConfig(quick=True), tmp_path, stack, {}, {}, lambda line: None)
        ways = nodes.open_ways(ground)
        assert [way.name for way in ways] == ["outthink", "outthink, mcts"]
        assert "--set-up" in ground.missing["treequest"]
        for way in ways:
            found = way.run(way.works[0], 1)
            assert found["nodes"] >= 16
            assert found["microseconds"] == pytest.approx(1e6 * found["seconds"] / found["nodes"])


def test_time_outside_the_forward_pass(monkeypatch):
    monkeypatch.setattr(share, "LONGEST_LINE", 16)
    with load(resolve("outthink-s")) as model:
        stages = share.compiled_backend(model.engine.backend).stage_seconds
        found = share.under_the_clock(model, problem(), "majority-vote", 4, 1)
        after = share.compiled_backend(model.engine.backend).stage_seconds
        assert found["share"] == pytest.approx(1 - found["forward"] / found["seconds"])
        # All stages of all steps are inside, those too of which one call of the kernels computes many.
        assert sum(after.values()) - sum(stages.values()) <= found["forward"] < found["engine"] < found["seconds"]
        assert "step" not in vars(model.engine)


def test_the_share_needs_the_compiled_kernels(tiny_model):
    with pytest.raises(CapabilityError, match="compiled"):
        share.under_the_clock(tiny_model, problem(), "majority-vote", 4, 1)


def test_whole_completions_over_our_own_server(tmp_path):
    """The server counts what it computes, forgets between searches, and without a cache computes the prefix again."""
    source = make_model(tmp_path / "model")
    config = SearchConfig(str(source), rounds=1, branches=(8,), quick=True)
    with ExitStack() as stack:
        ground = Ground(config, tmp_path / "peers", stack, {}, {}, lambda line: None)
        ways = {way.name: way for way in trees.open_ways(ground)}
        assert list(ways) == [trees.OURS, trees.COMPLETIONS, trees.UNCACHED]
        assert "its-hub" in ground.missing[trees.ITS_HUB]
        ours, cached, uncached = (way.run("step-beam 8", 1) for way in ways.values())
    assert ours["positions"] == ours["tree"]
    assert cached["requests"] > 1
    assert cached["drawn"] > 0
    assert uncached["positions"] / uncached["drawn"] > cached["positions"] / cached["drawn"]


# ---- rounds ---------------------------------------------------------------------------------------------------------


def part_of(ways, name="made-up"):
    return Part(name, "Made up", lambda ground: ways)


def counted(log, name, works=("a", "b"), fails=lambda work, seed: None, once=False):
    def run(work, seed):
        log.append((seed, work, name))
        if (error := fails(work, seed)) is not None:
            raise error
        return {"seconds": 1.0 + seed}

    return Way(name, works, run, once)


def test_everybody_does_every_work_in_every_round_in_turns(tmp_path):
    log = []
    ways = [counted(log, "outthink"), counted(log, "x"), counted(log, "y", ("b",), once=True)]
    config = SearchConfig(rounds=2)
    measured = measure([part_of(ways)], config, tmp_path, Journal(tmp_path / "r.json", {}))
    assert [entry for entry in log if entry[0] == 1] == [
        *((1, "a", "x"), (1, "a", "outthink")),
        *((1, "b", "x"), (1, "b", "y"), (1, "b", "outthink")),
    ]
    assert [entry for entry in log if entry[1] == "a"] == [
        (number, "a", way) for number, names in enumerate(["outthink x", "x outthink", "outthink x"])
        for way in names.split()
    ]  # fmt: skip
    assert [entry[0] for entry in log if entry[2] == "y"] == [1], "what is always the same is done once"
    assert {record["round"] for record in measured.records} == {1, 2}, "the first round is not counted"


def test_what_was_finished_is_not_done_again(tmp_path):
    log, journal = [], Journal(tmp_path / "r.json", {"what": "x"})

    def stop(work, seed):
        return KeyboardInterrupt() if (work, seed) == ("b", 2) else None

    first = measure([part_of([counted(log, "outthink", fails=stop)])], SearchConfig(rounds=2), tmp_path, journal)
    assert first.interrupted
    assert len(first.records) == 3
    log.clear()
    again = measure([part_of([counted(log, "outthink")])], SearchConfig(rounds=3), tmp_path, journal)
    assert [entry for entry in log if entry[0]] == [(2, "b", "outthink"), (3, "a", "outthink"), (3, "b", "outthink")]
    assert len(again.records) == 6 == len(journal.read())
    log.clear()
    measure([part_of([counted(log, "outthink")])], SearchConfig(rounds=3), tmp_path, journal)
    assert log == [], "nothing to do, nothing to warm up"


def test_one_that_fails_is_left_out_with_its_reason_and_ours_must_not(tmp_path):
    def fail(work, seed):
        return RunnerError("out of order") if work == "b" else None

    log, journal = [], Journal(tmp_path / "r.json", {})
    ways = [counted(log, "outthink"), counted(log, "x", fails=fail)]
    measured = measure([part_of(ways)], SearchConfig(rounds=2), tmp_path, journal)
    assert measured.missing == {"made-up, b, x": "out of order"}
    assert sum(entry[1:] == ("b", "x") for entry in log) == 1
    with pytest.raises(RunnerError):
        measure(
            [part_of([counted(log, "outthink", fails=fail)])], SearchConfig(), tmp_path, Journal(tmp_path / "s", {})
        )


# ---- reports --------------------------------------------------------------------------------------------------------


def records():
    def one(way, number, **found):
        return {"part": "trees", "work": "beam 8", "way": way, "round": number, **found}

    return [
        *(one("x", n, seconds=s, positions=30, drawn=10, requests=4) for n, s in ((1, 4.0), (2, 6.0), (3, 8.0))),
        *(one("outthink", n, seconds=s, positions=12, drawn=20) for n, s in ((1, 2.0), (2, 2.0), (3, 4.0))),
    ]


def test_rows_are_medians_and_ratios_of_the_same_rounds():
    ours, theirs = rows_of("trees", records())
    assert (ours["way"], theirs["way"]) == ("outthink", "x")
    assert (ours["seconds"], theirs["seconds"]) == (2.0, 6.0)
    assert theirs["slower"] == {"median": 2.0, "low": 2.0, "high": 3.0}
    assert theirs["slower_per_token"] == pytest.approx({"median": 4.0, "low": 4.0, "high": 6.0})
    assert (ours["per_token"], theirs["per_token"]) == (0.6, 3.0)


def test_distances_are_of_laws_not_of_masses():
    exact = {"a": 3.0, "b": 1.0}
    assert distance([{"a": 0.3, "b": 0.1}], exact) == pytest.approx(0.0)
    assert distance([{"a": 0.3}, {"b": 0.3}], exact) == pytest.approx(0.25)
    assert distance([{"c": 1.0}], exact) == 1.0
    assert distance([{}], exact) is None


def test_the_report_tells_every_part_and_who_is_missing(tmp_path):
    parts = find_parts(["trees"])
    measured = measure([], SearchConfig(), tmp_path, Journal(tmp_path / "r.json", {}))
    measured.records, measured.missing = records(), {"its_hub": "not here"}
    result = json.loads(
        json.dumps(report(measured, parts, SearchConfig(), "a model", MACHINE, "outthink bench search"))
    )
    text = markdown(result, parts)
    assert "| beam 8 | x | 3 | 6.000 | 30 | 10 | 3.00 | 4.00 (4.00 to 6.00) | 4 |" in text
    assert "its_hub: not here" in text
    assert text.count("## ") == 1


def test_mistakes_are_told(tmp_path):
    with pytest.raises(UserError, match="multiple of 8"):
        SearchConfig(branches=(12,))
    with pytest.raises(UserError, match="at least 1"):
        SearchConfig(rounds=0)
    with pytest.raises(UnknownNameError, match="trees"):
        find_parts(["forests"])
    with pytest.raises(CapabilityError, match="--set-up"):
        environment_python("treequest", tmp_path)
    assert find_parts([]) == known_parts()
    assert turned([], 3) == []

"""The equal-budget ground on a tiny model: every answer counted once, whatever stops it and whatever runs beside it."""

import asyncio
import gzip
import json
from dataclasses import asdict

import pytest

from cli.tiny_model import make_model
from outthink.bench.reason import ground, run, versus
from outthink.bench.reason.journal import Answers
from outthink.bench.reason.pages import PageMeter
from outthink.bench.reason.plan import Cell, GroundConfig, ModelSource, cells_of, draw_groups
from outthink.bench.reason.run import Ground, Stop, StoppedError, jobs_of
from outthink.bench.reason.versus import VersusConfig
from outthink.core.budget import Budget, Ledger
from outthink.core.errors import CapabilityError, UserError
from outthink.core.question import Question
from outthink.core.sampling import Sampling, Until
from outthink.lm.model import load
from outthink.verify.reward import ProcessReward
from reward_world import make_reward

STRATEGIES = ("greedy", "majority-vote", "best-of-n", "particle-filter", "mcts")
CONFIG = GroundConfig(
    models=(ModelSource("T", "tiny"),),
    strategies=STRATEGIES,
    budgets=(Budget("80"), Budget("240")),
    verifiers=("step-oracle",),
    suites=("arithmetic",),
    difficulties=(0.1,),
    num_problems=3,
    seed=5,
)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("bench") / "tiny")


@pytest.fixture
def drawing(source):
    """What opens the tiny model."""
    return lambda _: load(source, backend="reference")


@pytest.fixture
def opened(drawing, monkeypatch):
    """The same, where no pictures are drawn: they take most of the time of a small run."""
    monkeypatch.setattr("outthink.bench.reason.ground.draw", lambda result, out: [])
    monkeypatch.setattr("outthink.bench.reason.versus.draw", lambda result, path: path)
    return drawing


def records(out):
    """The records behind a complete result, without what a clock says."""
    with gzip.open(out.with_suffix(".records.jsonl.gz"), "rt") as file:
        rows = [json.loads(line) for line in file][1:]
    for row in rows:
        del row["bill"]["seconds"]
    return sorted(rows, key=lambda row: json.dumps(row, sort_keys=True))


def test_a_stopped_run_goes_on_and_ends_as_if_it_had_not_been(opened, tmp_path):
    whole = ground.run(CONFIG, tmp_path / "whole.json", opened, concurrency=4)
    assert whole["complete"]
    stop, seen = Stop(), []

    def stop_soon(done, total, what):
        seen.append(what)
        if what.startswith("T, 12"):
            stop()

    part = ground.run(CONFIG, tmp_path / "part.json", opened, concurrency=1, stop=stop, progress=stop_soon)
    assert not part["complete"]
    assert {point["accuracy"]["n"] for point in part["points"]} == {1}  # 10 answers a problem
    assert len((tmp_path / "part.records.jsonl").read_text().splitlines()) == 1 + 12
    rest = []
    again = ground.run(CONFIG, tmp_path / "part.json", opened, concurrency=3, progress=lambda *step: rest.append(step))
    assert again["complete"]
    assert sum(what.startswith("T, ") for *_, what in rest) == 3 * 10 - 12  # nothing was done twice
    assert records(tmp_path / "part.json") == records(tmp_path / "whole.json")
    for one, other in zip(again["points"], whole["points"], strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}
    # Complete: the same command only draws again, and asks the model for nothing.
    final = ground.run(CONFIG, tmp_path / "part.json", opened, progress=lambda *step: seen.append(step[2]))
    assert final["points"] == again["points"]
    assert seen.count("T, 30 answered") == 0


def test_without_a_cache_of_its_own_each_answer_would_cost_what_others_left_it(opened, tmp_path, monkeypatch):
    """The check above would catch it: bills then depend on the order of the work."""
    honest = ground.run(CONFIG, tmp_path / "honest.json", opened, concurrency=1)
    monkeypatch.setattr(run, "apart", lambda model, ledger, sampling, namespace: model.session(ledger, sampling))
    ground.run(CONFIG, tmp_path / "shared.json", opened, concurrency=1)
    assert honest["complete"]
    assert records(tmp_path / "shared.json") != records(tmp_path / "honest.json")
    assert any(row["bill"]["cached"] for row in records(tmp_path / "shared.json"))
    assert not any(row["bill"]["cached"] for row in records(tmp_path / "honest.json"))


def test_a_result_says_what_was_measured_and_nothing_exceeds_its_budget(drawing, tmp_path):
    out = tmp_path / "sub" / "result.json"
    result = ground.run(CONFIG, out, drawing)
    assert json.loads(out.read_text()) == json.loads(json.dumps(result))
    points = [point for point in result["points"] if point["scope"] == "overall"]
    assert len(points) == len(STRATEGIES) * 2
    rows = records(out)
    for point in points:
        own = [r for r in rows if (r["strategy"], r["budget"]) == (point["strategy"], point["budget"])]
        assert point["accuracy"]["value"] == sum(r["right"] for r in own) / 3
        assert point["tokens"] == pytest.approx(sum(r["bill"]["tokens"] for r in own) / 3)
        limit = Budget(point["budget"]).tokens
        assert limit is not None
        assert all(r["bill"]["tokens"] <= limit and r["over"] == 0 for r in own)
        asks = point["strategy"] not in ("greedy", "majority-vote")
        assert point["verifier"] == ("step-oracle" if asks else None)
        assert (point["verifier_calls"] > 0) == asks
    assert {row["problem"] for row in rows} == {p.canonical_key for g in draw_groups(CONFIG) for p in g.problems}
    assert out.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"


def test_a_bill_over_its_budget_is_told(opened, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "Ledger", lambda budget: Spender(budget))
    config = GroundConfig(**{**vars(CONFIG), "strategies": ("greedy",), "num_problems": 1, "budgets": (Budget("8"),)})
    [point, *_] = ground.run(config, tmp_path / "over.json", opened)["points"]
    assert point["most_over"] > 0


class Spender(Ledger):
    """A ledger that lets everybody spend more than its budget."""

    @property
    def tokens_left(self):
        return super().tokens_left + 30


def test_stopped_before_the_first_problem_is_done(opened, tmp_path):
    stop = Stop()
    stop()
    with pytest.raises(StoppedError, match="the same command goes on"):
        ground.run(CONFIG, tmp_path / "none.json", opened, stop=stop)
    assert not (tmp_path / "none.json").exists()


def test_another_model_under_the_same_name_is_refused(opened, source, tmp_path):
    config = GroundConfig(**{**vars(CONFIG), "strategies": ("greedy",), "num_problems": 1})
    ground.run(config, tmp_path / "result.json", opened)
    other = make_model(tmp_path / "other", ends=False)
    with pytest.raises(UserError, match=r"weights\.T\.model was \w{16} and is \w{16}"):
        ground.run(config, tmp_path / "result.json", lambda _: load(other, backend="reference"))


def test_what_a_strategy_lacks_is_told_before_anything_is_spent(opened, tmp_path):
    config = GroundConfig(**{**vars(CONFIG), "strategies": ("greedy", "sample-until-verified"), "verifiers": ()})
    with pytest.raises(UserError, match="sample-until-verified needs a verifier that can accept a line"):
        ground.run(config, tmp_path / "result.json", opened)
    assert not (tmp_path / "result.records.jsonl").exists()


def test_an_error_of_a_strategy_ends_the_run_and_keeps_what_is_done(opened, tmp_path, monkeypatch):
    think, count = run.think, []

    async def fails_at_last(*args, **options):
        count.append(1)
        if len(count) > 7:
            raise CapabilityError("no more")
        return await think(*args, **options)

    monkeypatch.setattr(run, "think", fails_at_last)
    with pytest.raises(CapabilityError, match="no more"):
        ground.run(CONFIG, tmp_path / "result.json", opened, concurrency=1)
    assert len((tmp_path / "result.records.jsonl").read_text().splitlines()) == 1 + 7


def test_a_problem_that_the_model_cannot_read_is_one_that_it_gets_wrong(tmp_path):
    short = make_model(tmp_path / "short", context=24)
    config = GroundConfig(**{**vars(CONFIG), "strategies": ("greedy",), "num_problems": 2})
    result = ground.run(config, tmp_path / "result.json", lambda _: load(short, backend="reference"))
    rows = records(tmp_path / "result.json")
    assert [(row["prompt_fits"], row["right"], row["answer"]) for row in rows] == 4 * [(False, False, None)]
    assert result["points"][0]["accuracy"]["n"] == 2


def test_problems_of_a_longer_run_begin_with_those_of_a_shorter_one():
    longer = GroundConfig(**{**vars(CONFIG), "num_problems": 6, "difficulties": (0.1, 0.3)})
    seen = []
    groups = draw_groups(longer, lambda *step: seen.append(step))
    assert groups[0].problems[:3] == draw_groups(CONFIG)[0].problems
    assert seen[-1] == (12, 12, "drawing problems")
    first = [(job.number, job.group.difficulty) for job in jobs_of([Cell("T", "greedy", None, Budget("80"))], groups)]
    assert first[:4] == [(0, 0.1), (0, 0.3), (1, 0.1), (1, 0.3)]  # whatever part is done compares all cells


@pytest.mark.parametrize("backend", ["reference", "cpu"])
async def test_peak_pages_are_those_of_the_tree(source, backend):
    """A prompt of two pages and four lines of one page each: six at the peak, shared ones once, closed ones not.

    The compiled kernels draw many tokens in one call, in which pages come and are gone before the next step.
    """
    with load(source, backend=backend) as model:
        meter = PageMeter(model.engine)
        lm = run.apart(model, Ledger(), Sampling(seed=1), "mine")
        other = run.apart(model, Ledger(), Sampling(seed=1), "other")
        async with await lm.root([5] * 32) as root, await other.root([5] * 32) as neighbour:
            for _ in range(3):  # one after another: never more than three pages at once
                [line] = await root.extend(1, Until(16, ignore_eos=True))
                await line.close()
            assert meter.take("mine") == 3
            lines = await root.extend(4, Until(16, ignore_eos=True))
            [beside] = await neighbour.extend(1, Until(16, ignore_eos=True))
            for line in [*lines, beside]:
                await line.close()
        assert (meter.take("mine"), meter.take("other"), meter.take("mine")) == (6, 3, 0)


async def test_pages_of_what_judges_count_too(make_tiny_model):
    """A prompt of 20 bytes and three lines of 20 more, on pages of 16; their twins hold as many pages as they do."""
    model = make_tiny_model()
    judge = ProcessReward(make_reward(model.thread, model.loaded.tokenizer))
    groups = draw_groups(CONFIG)
    apart_from, with_judge = Ground(model, "T", groups, CONFIG, {}), Ground(model, "T", groups, CONFIG, {"prm": judge})
    question, namespace = Question("a\nfour line problem\n", lambda text: None), "mine"
    lm = run.apart(model, Ledger(), Sampling(seed=1), namespace)
    async with await lm.root(question.prompt) as root:
        lines = await root.extend(3, Until(20, ignore_eos=True))
        await judge.score(question, lines, lm.ledger)
        for line in lines:
            await line.close()
    alone, both = apart_from._meter.take(namespace), with_judge._meter.take(namespace)
    assert alone == 2 + 3 * 2
    assert both == 2 * alone


TWO = ("two-models(second=tiny, n=4)", "ensemble(greedy, speculative-steps(draft=tiny, n=3))")


def test_strategies_that_name_a_second_model_are_measured_like_any(opened, tmp_path):
    config = GroundConfig(**{**vars(CONFIG), "strategies": TWO, "num_problems": 2})
    out = tmp_path / "two.json"
    assert ground.run(config, out, opened, concurrency=1)["complete"]
    rows = records(out)
    assert len(rows) == 2 * 2 * 2
    for row in rows:
        assert row["bill"]["tokens"] <= Budget(row["budget"]).tokens
        assert row["over"] == 0
        if row["strategy"] == TWO[0]:  # the same prompts at two budgets: neither finds what the other left
            assert row["bill"]["cached"] == 0
    assert any(row["answer"] is not None for row in rows)


@pytest.mark.parametrize(
    ("strategy", "verifiers", "told"),
    [
        ("two-models", (), "needs another model"),
        ("then(greedy, speculative-steps)", (), "needs another model"),
        ("then(greedy, sample-until-verified)", (), "verifier that can accept a line"),
        ("mcts", ("pairwise",), "best-of-n or weighted-vote"),
    ],
)
def test_what_no_job_could_do_is_told_before_the_first(opened, tmp_path, strategy, verifiers, told):
    config = GroundConfig(**{**vars(CONFIG), "strategies": (strategy,), "verifiers": verifiers, "num_problems": 1})
    with pytest.raises(UserError, match=told):
        ground.run(config, tmp_path / "result.json", opened)
    assert not (tmp_path / "result.records.jsonl").exists()


@pytest.mark.parametrize(("second", "shared"), [("other", False), ("mine", True)])
async def test_a_reward_model_finds_what_it_read_for_the_same_work_alone(make_tiny_model, second, shared):
    """Two pieces of work on the same lines: each pays all of the judging, unless they share a namespace."""
    model = make_tiny_model()
    judge = ProcessReward(make_reward(model.thread, model.loaded.tokenizer))
    question, bills = Question("a\nfour line problem\n", lambda text: None), []
    for namespace in ("mine", second):
        lm = run.apart(model, Ledger(), Sampling(seed=1), namespace)
        async with await lm.root(question.prompt) as root:
            lines = await root.extend(2, Until(20))
            await judge.score(question, lines, lm.ledger)
            for line in lines:
                await line.close()
        bills.append(lm.ledger.bill)
    first, again = (bill.verifier_flops for bill in bills)
    assert first > 0
    assert (again < first) if shared else (again == first)


# ---- small against large --------------------------------------------------------------------------------------------

VERSUS = VersusConfig(
    small=(ModelSource("A", "a"),),
    large=ModelSource("B", "b"),
    strategies=("majority-vote", "mcts"),
    verifiers=("step-oracle",),
    multiples=(1.0, 4.0),
    suites=("arithmetic",),
    difficulties=(0.1, 0.3),
    num_problems=3,
)


def test_small_models_get_the_flops_of_the_large_ones_greedy_line(drawing, tmp_path):
    out = tmp_path / "versus.json"
    result = versus.run(VERSUS, out, drawing)
    assert result["complete"]
    rows = {(r["difficulty"], r["model"], r["strategy"], r["multiple"]): r for r in result["rows"]}
    assert len(rows) == 2 * (2 + 2 * 2)
    kept = [r for r in records(out) if r["model"] == "A"]
    for difficulty in (0.1, 0.3):
        large = rows[difficulty, "B", "greedy", None]
        assert (large["share"], large["gain"]) == (1.0, None)
        # The two are the same model here: equal greedy lines, and no difference between them.
        assert rows[difficulty, "A", "greedy", None]["flops"] == large["flops"]
        assert rows[difficulty, "A", "greedy", None]["gain"]["value"] == 0
        for multiple in (1.0, 4.0):
            budget = str(Budget(flops=float(round(multiple * large["flops"]))))
            own = [r for r in kept if r["difficulty"] == difficulty and r["budget"] == budget]
            assert len(own) == 2 * 3
            step = 64 * large["flops"] / large["tokens"]
            assert all(row["over"] <= step for row in own)
            vote = rows[difficulty, "A", "majority-vote", multiple]
            assert vote["share"] == pytest.approx(multiple, rel=0.5)
            gain = vote["accuracy"]["value"] - large["accuracy"]["value"]
            assert vote["gain"]["value"] == pytest.approx(gain)
    assert out.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"
    assert json.loads(out.read_text()) == json.loads(json.dumps(result))


def test_a_model_may_think_against_its_own_greedy_line(opened, tmp_path):
    config = VersusConfig(**{**vars(VERSUS), "small": (VERSUS.large,), "difficulties": (0.1,), "strategies": ("mcts",)})
    result = versus.run(config, tmp_path / "self.json", opened)
    assert [(r["model"], r["strategy"], r["multiple"]) for r in result["rows"]] == [
        ("B", "greedy", None),
        ("B", "mcts", 1.0),
        ("B", "mcts", 4.0),
    ]


def test_a_stopped_comparison_goes_on(opened, tmp_path):
    config = VersusConfig(**{**vars(VERSUS), "difficulties": (0.1,)})
    stop = Stop()
    with pytest.raises(StoppedError, match="budgets"):
        versus.run(config, tmp_path / "part.json", opened, stop=stop, progress=lambda d, t, w: "2 ans" in w and stop())
    assert versus.run(config, tmp_path / "part.json", opened)["complete"]
    assert versus.run(config, tmp_path / "whole.json", opened)["complete"]
    assert len(records(tmp_path / "part.json")) == len(records(tmp_path / "whole.json")) == 3 * (2 + 4)


def test_cells_ask_a_verifier_only_where_the_strategy_does():
    cells = cells_of("T", ["greedy", "mcts"], ["exact", "likelihood"], [Budget("80")])
    assert [(cell.strategy, cell.verifier) for cell in cells] == [
        ("greedy", None),
        ("mcts", "exact"),
        ("mcts", "likelihood"),
    ]
    assert [c.verifier for c in cells_of("T", ["mcts"], [], [Budget("80")])] == [None]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"budgets": ()}, "one unit"),
        ({"budgets": (Budget("80"), Budget("1 s"))}, "one unit"),
        ({"budgets": (Budget("80"), Budget("80"))}, "different ones"),
        ({"budgets": (Budget("0 tokens"),)}, "above 0"),
        ({"budgets": (Budget("80, 1 s"),)}, "one unit"),
        ({"num_problems": 0}, "0 problems"),
        ({"suites": ("nope",)}, "nope"),
        ({"difficulties": (1.5,)}, "1.5"),
        ({"difficulties": (0.5, 0.5)}, "twice"),
        ({"models": ()}, "one model"),
        ({"models": (ModelSource("S", "a"), ModelSource("S", "b"))}, "label of its own"),
        ({"temperature": -1.0}, "temperature=-1.0"),
    ],
)
def test_a_ground_that_cannot_be_measured_is_refused(changes, told):
    with pytest.raises(UserError, match=told):
        GroundConfig(**{**vars(CONFIG), **changes})


def test_a_journal_holds_the_whole_record(opened, tmp_path):
    groups = draw_groups(CONFIG)
    with opened("") as model, Answers(tmp_path / "j.json", {}) as journal:
        one = Ground(model, "T", groups, CONFIG, {})
        job = next(iter(jobs_of([Cell("T", "greedy", None, Budget("80"))], groups)))
        asyncio.run(one.measure([job], journal, 1, Stop(), lambda *_: None))
        [made] = journal.records.values()
    with Answers(tmp_path / "j.json", {}) as journal:
        assert [asdict(read) for read in journal.records.values()] == [asdict(made)]

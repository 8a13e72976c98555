"""Recorded lines stand for the model, and the curve's points are what their records say."""

import gzip
import json

import pytest

from outthink.bench.replay import Recorded, ReplayLM
from outthink.bench.scaling import Record, ScalingConfig, measure, replay, run, sample_pool
from outthink.core.errors import CapabilityError
from outthink.core.sampling import Sampling, Until
from outthink.reason.solve import ask, think
from outthink.tasks.suites import draw_problems


def no_progress(*_):
    pass


def record(problem, right_lines, total=4, greedy_right=False):
    def line(right):
        return Recorded(f"answer: {problem.answer if right else 'nothing'}", 10, -1.0 - right, "stop")

    return Record(problem, 7, line(greedy_right), tuple(line(i in right_lines) for i in range(total)))


@pytest.fixture(scope="module")
def problems():
    return draw_problems("arithmetic", 0.3, "test", 5, seed=1)


async def test_replay_is_what_the_model_would_have_said(tiny_model, problems):
    """Majority vote over the first N recorded lines equals majority vote run on the engine with that N."""
    config = ScalingConfig(counts=(1, 2, 4), temperature=0.8, seed=3)
    records = await sample_pool(tiny_model, problems[:2], config, no_progress)
    for kept in records:
        question = ask(kept.problem, chat=False)
        for n in (1, 2, 4):
            lm = ReplayLM(kept.prompt_tokens, kept.lines, kept.greedy)
            replayed = await think(question, lm, "majority-vote", n=n)
            live = tiny_model.session(sampling=Sampling(temperature=0.8, seed=3))
            direct = await think(question, live, "majority-vote", n=n)
            assert [t.text for t in replayed.tree.walk()] == [t.text for t in direct.tree.walk()]
            assert replayed.cost.decoded == direct.cost.decoded
            assert replayed.cost.tokens == direct.cost.prefilled + direct.cost.cached + direct.cost.decoded


async def test_points_are_what_the_records_say(problems):
    records = [
        record(problems[0], {0}),
        record(problems[1], {0, 1, 2, 3}),
        record(problems[2], set()),
        record(problems[3], {2, 3}, greedy_right=True),
        record(problems[4], {1}),
    ]
    points = {(p.strategy, p.verifier, p.n): p for p in await measure(records, (1, 2, 4), no_progress)}
    assert points["greedy", None, 1].accuracy.value == pytest.approx(1 / 5)
    # One line each: averaged over all four of every problem.
    assert points["majority-vote", None, 1].accuracy.value == pytest.approx((1 + 4 + 0 + 2 + 1) / 20)
    # Any right line is enough for a sound verifier: blocks of two, then all four.
    assert points["best-of-n", "exact", 2].accuracy.value == pytest.approx((0.5 + 1 + 0 + 0.5 + 0.5) / 5)
    assert points["best-of-n", "exact", 4].accuracy.value == pytest.approx(4 / 5)
    assert points["best-of-n", "exact", 4].tokens == pytest.approx(7 + 40)
    assert points["sample-until-verified", "exact", 4].accuracy.value == pytest.approx(4 / 5)
    gain = points["best-of-n", "exact", 4].gain
    assert gain.value == pytest.approx(3 / 5)
    assert gain.low < gain.value < gain.high
    for point in points.values():
        assert point.accuracy.n == 5
        assert point.accuracy.validity


async def test_a_recording_does_not_pretend_to_be_a_model(problems):
    kept = record(problems[0], {0})
    root = await ReplayLM(3, kept.lines, kept.greedy).root("any")
    for wrong in (root.extend(5), root.extend(1, Until(3)), root.score("1"), root.feed("1")):
        with pytest.raises(CapabilityError):
            await wrong


async def test_blocks_are_disjoint(problems):
    outcomes = await replay([record(problems[0], {0, 1})], "majority-vote", None, 2)
    assert outcomes.right == [0.5]
    assert outcomes.tokens == [7 + 20]


def test_run_writes_json_records_and_picture(make_tiny_model, tmp_path):
    model = make_tiny_model()
    config = ScalingConfig(num_problems=3, counts=(1, 2), difficulty=0.2, temperature=0.7)
    seen = []
    result = run(model, config, tmp_path / "sub" / "curve.json", lambda *step: seen.append(step))
    written = json.loads((tmp_path / "sub" / "curve.json").read_text())
    assert written == json.loads(json.dumps(result))
    assert written["config"]["num_problems"] == 3
    assert len(written["points"]) == 1 + 5 * 2
    with gzip.open(tmp_path / "sub" / "curve.records.jsonl.gz", "rt") as file:
        rows = [json.loads(row) for row in file]
    assert len(rows) == 3
    assert len(rows[0]["lines"]) == 2
    assert (tmp_path / "sub" / "curve.png").read_bytes()[:4] == b"\x89PNG"
    assert seen

"""Searches over steps against exact computation in a world of steps that can be enumerated."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from outthink.reason.search import abmcts, best_first, mcts
from outthink.reason.search.guided_beam import sample_without_replacement
from outthink.reason.search.rebase import share_out
from outthink.reason.solve import think
from search_world import PROMPT, Scores, StepWorld, grown, optimistic, path_of, random_score

SEEDS = range(8)
ENOUGH = 24  # draws that find each of three steps, for every seed used here


def scored(path):
    return Scores(random_score(path))


# ---- beams -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_step_beam_of_full_width_is_exhaustive_search(seed):
    """Scores of unfinished lines mislead; the beam holds all of them, so the best leaf of all is found."""
    world, score = StepWorld("ab", 3, seed), random_score(seed)
    lm = world.lm(seed=seed)
    posterior = await think(world.question, lm, "step-beam", Scores(score), n=8 * 24, width=24)
    assert {c.answer for c in posterior.candidates} == set(world.leaves())
    best = max(world.leaves(), key=score)
    assert posterior.best == best
    total = math.fsum(math.exp(score(leaf)) for leaf in world.leaves())
    assert posterior.weights == pytest.approx({leaf: math.exp(score(leaf)) / total for leaf in world.leaves()})
    assert best_line_fates(lm.tree) == {best}


def best_line_fates(tree):
    return {thought.answer for thought in tree.walk() if thought.fate == "chosen"}


async def test_a_narrow_step_beam_keeps_the_best_of_each_layer():
    """Against a plain beam over the enumerated tree; and it misses the best leaf for some seed, as a beam may."""
    missed = 0
    for seed in SEEDS:
        world, score = StepWorld("abc", 3, seed), random_score(seed)
        posterior = await think(
            world.question, world.lm(seed=seed), "step-beam", Scores(score), n=2 * ENOUGH, width=ENOUGH
        )
        beam = [""]
        for _ in range(world.depth):
            beam = sorted((p + x for p in beam for x in world.letters), key=score, reverse=True)[:2]
        assert posterior.best == beam[0]
        missed += beam[0] != max(world.leaves(), key=score)
    assert missed > 0


async def test_a_guided_beam_without_chance_or_verifier_takes_the_likeliest_steps():
    """With trust 0 and no temperature it is a beam by probability, here of one line."""
    for seed in SEEDS:
        world = StepWorld("ab", 3, seed)
        options = {"n": 24, "width": 24, "trust": 0.0, "temperature": 1e-5}
        posterior = await think(world.question, world.lm(seed=seed), "guided-beam", scored(seed), **options)
        greedy = ""
        for _ in range(world.depth):
            greedy = max((greedy + x for x in world.letters), key=world.log_prob)
        assert posterior.best == greedy


def test_sampling_without_replacement_has_the_law_of_drawing_one_after_another():
    """Chi-square over 6,000 keys against the enumerated law; fails by chance once in a million."""
    weights = [0.5, 0.3, 0.15, 0.05]
    counts = Counter(tuple(sample_without_replacement(np.log(weights), 2, key)) for key in range(6000))
    law = {(i, j): weights[i] * weights[j] / (1 - weights[i]) for i in range(4) for j in range(4) if i != j}
    assert counts.keys() <= law.keys()
    assert chisquare([counts[pair] for pair in law], [6000 * p for p in law.values()]).pvalue > 1e-6
    flat = [0.25] * 4
    wrong = [6000 * flat[i] * flat[j] / 0.75 for i, j in law]
    assert chisquare([counts[pair] for pair in law], wrong).pvalue < 1e-6


# ---- reward-balanced search ------------------------------------------------------------------------------------------


@given(
    st.integers(0, 60),
    st.lists(st.tuples(st.floats(0, 1), st.integers(1, 5)), min_size=1, max_size=9),
    st.sampled_from([0.05, 0.1, 1.0]),
)
def test_shares_follow_the_softmax_of_rewards(total, nodes, temperature):
    rewards, counts = [r for r, _ in nodes], [c for _, c in nodes]
    shares = share_out(total, rewards, temperature, counts)
    weights = np.array(counts) * np.exp((np.array(rewards) - max(rewards)) / temperature)
    exact = total * weights / weights.sum()
    assert sum(shares) == total
    assert np.all(np.abs(np.array(shares) - exact) < 1 + 1e-9)
    for i, j in zip(np.argsort(exact)[:-1], np.argsort(exact)[1:], strict=True):
        assert shares[i] <= shares[j] + (abs(exact[i] - exact[j]) < 1e-9)


async def test_rebase_draws_as_many_steps_as_the_shares_say():
    """In each layer the draws below each line are those of the softmax over the layer, and all of n are drawn."""
    for seed in SEEDS:
        world, score = StepWorld("abc", 3, seed), random_score(seed)
        lm = world.lm(seed=seed)
        posterior = await think(world.question, lm, "rebase", Scores(score), n=20, temperature=0.3)
        layer, [top] = {"": 20}, list(lm.tree.children)
        for _ in range(world.depth):
            drawn = {path: drawn_below(top, path) for path in layer}
            assert {path: sum(d.values()) for path, d in drawn.items()} == layer
            multiplicity = {step: count for d in drawn.values() for step, count in d.items()}
            weights = {s: c * math.exp(math.exp(score(s)) / 0.3) for s, c in multiplicity.items()}
            exact = {s: 20 * w / math.fsum(weights.values()) for s, w in weights.items()}
            if len(next(iter(multiplicity))) < world.depth:
                expanded = {s: sum(drawn_below(top, s).values()) for s in multiplicity}
                assert sum(expanded.values()) == 20
                assert all(abs(expanded[s] - exact[s]) < 1 for s in multiplicity)
                layer = {s: n for s, n in expanded.items() if n}
        votes = Counter()
        for path, count in multiplicity.items():
            votes[path] += count * math.exp(score(path))
        assert posterior.weights == pytest.approx({p: v / sum(votes.values()) for p, v in votes.items()})


def drawn_below(top, path):
    """How often each step was drawn after ``path``."""
    return Counter(path_of(t) for t in grown(top) if len(path_of(t)) == len(path) + 1 and path_of(t.parent) == path)


# ---- diverse verifier trees ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trees", [1, 3])
async def test_dvts_takes_the_best_step_of_each_tree_s_own_draws(trees):
    """Replayed: at each line as many groups of draws as trees are there, each goes on with the best of its group."""
    for seed in SEEDS:
        world, score = StepWorld("abc", 3, seed), random_score(seed)
        lm = world.lm(seed=seed)
        posterior = await think(world.question, lm, "dvts", Scores(score), n=4 * trees, width=4)
        heads = {"": trees}
        by_path = {path: [path_of(t) for t in found] for path, found in children_by_path(lm.tree).items()}
        for _ in range(world.depth):
            following = Counter()
            for path, there in heads.items():
                draws = by_path[path]
                assert len(draws) == 4 * there
                for g in range(there):
                    following[max(draws[4 * g : 4 * g + 4], key=score)] += 1
            heads = following
        votes = {path: n * math.exp(score(path)) for path, n in heads.items()}
        assert posterior.weights == pytest.approx({p: v / sum(votes.values()) for p, v in votes.items()})
        assert sum(heads.values()) == trees


def children_by_path(tree):
    found = {}
    for thought in grown(tree):
        found.setdefault(path_of(thought.parent), []).append(thought)
    return found


# ---- greedy steps with backtracking ----------------------------------------------------------------------------------


async def test_step_greedy_goes_back_from_a_dead_end():
    """Everything that begins with the likeliest first step turns bad at the third; the answer lies elsewhere."""
    world = StepWorld("ab", 3, seed=1)
    dead, right = sorted("ab", key=world.log_prob, reverse=True)

    def score(path):
        if path.startswith(dead):
            return math.log(0.9) if len(path) < 3 else math.log(0.01)
        return math.log(0.3)

    lm = world.lm(seed=1)
    posterior = await think(world.question, lm, "step-greedy", Scores(score), n=64, width=6)
    assert posterior.best.startswith(right)
    fates = {path_of(t): t.fate for t in grown(lm.tree) if t.fate != "the same as a sibling"}
    assert fates[dead] == "no way on"
    assert all(fates[dead + x] in ("no way on", None) for x in "ab" if dead + x in fates)
    drawn = [path_of(t) for t in grown(lm.tree)]
    assert drawn.count(dead) < 6 and sum(len(path) == 2 and path[0] == dead for path in drawn) == 6


async def test_step_greedy_takes_good_steps_at_once_and_the_best_neutral_one_else():
    world = StepWorld("abc", 2, seed=3, sharpness=0.1)
    good = Scores(lambda path: math.log(0.9))
    lm = world.lm(seed=3)
    await think(world.question, lm, "step-greedy", good, width=5)
    assert len(grown(lm.tree)) == world.depth, "a good step was not taken at once"
    neutral = Scores(lambda path: math.log(0.2 + 0.1 * "abc".index(path[-1])))
    lm = world.lm(seed=3)
    posterior = await think(world.question, lm, "step-greedy", neutral, width=16)
    assert posterior.best == "cc"
    assert len(grown(lm.tree)) == 16 * world.depth


# ---- best first ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_flight", [1, 8])
async def test_a_star_with_an_admissible_heuristic_pops_the_optimum_first(in_flight):
    for seed in SEEDS:
        world, leaf_score = StepWorld("abc", 3, seed), random_score(seed)
        lm = world.lm(seed=seed)
        judge = Scores(optimistic(world, leaf_score))
        posterior = await think(world.question, lm, "a-star", judge, width=ENOUGH, in_flight=in_flight)
        best = max(world.leaves(), key=leaf_score)
        assert posterior.best == best
        assert posterior.best_line.log_weight == leaf_score(best)
        expanded = [t for t in grown(lm.tree) if t.children]
        if in_flight == 1:
            assert {path_of(t) for t in expanded} == {best[:1], best[:2]}, "more was extended than the best line"


async def test_a_star_weighs_likelihood_where_asked():
    """Cost -log p(line) and no heuristic: Dijkstra's algorithm; the likeliest leaf comes out first."""
    for seed in SEEDS:
        world = StepWorld("abc", 3, seed)
        lm, flat = world.lm(seed=seed), Scores(lambda path: 0.0)
        posterior = await think(world.question, lm, "a-star", flat, width=ENOUGH, likelihood=1.0)
        assert posterior.best == max(world.leaves(), key=world.log_prob)


@pytest.mark.parametrize("in_flight", [1, 8])
async def test_a_star_with_a_pessimistic_heuristic_is_caught(in_flight):
    """The test above has power: a heuristic below the truth misses the optimum for some seed."""
    missed = 0
    for seed in SEEDS:
        world, leaf_score = StepWorld("abc", 3, seed), random_score(seed)
        hopeful = optimistic(world, leaf_score)
        judge = Scores(lambda path, h=hopeful: h(path) if len(path) == 3 else 3 * random_score(99)(path))
        posterior = await think(world.question, world.lm(seed=seed), "a-star", judge, width=ENOUGH, in_flight=in_flight)
        missed += posterior.best != max(world.leaves(), key=leaf_score)
    assert missed > 0


def levin_truth(tree, score, temperature):
    """Depth + 1 over policy of every path drawn, from the recorded tree and the scores alone."""
    cost, policy = {"": 1.0}, {"": 1.0}
    for path, children in sorted(children_by_path(tree).items(), key=lambda item: len(item[0])):
        counts = Counter(path_of(t) for t in children)
        weights = {step: n * math.exp(score(step) / temperature) for step, n in counts.items()}
        for step, weight in weights.items():
            policy[step] = policy[path] * weight / math.fsum(weights.values())
            cost[step] = (len(step) + 1) / policy[step]
    return cost


def record_pops(monkeypatch):
    pops, pop = [], best_first.Frontier.pop

    def recording(self, answers):
        found = len(self.found)
        node = pop(self, answers)
        pops.extend(("found", path_of(line.branch.thought)) for line in self.found[found:])
        if node is not None:
            pops.append(("extend", path_of(node.branch.thought)))
        return node

    monkeypatch.setattr(best_first.Frontier, "pop", recording)
    return pops


async def levin_run(monkeypatch, seed, in_flight):
    world, score = StepWorld("abc", 3, seed), random_score(seed)
    with monkeypatch.context() as patch:
        pops, lm = record_pops(patch), world.lm(seed=seed)
        await think(world.question, lm, "levin", Scores(score), n=200, width=6, temperature=0.5, in_flight=in_flight)
    return pops, levin_truth(lm.tree, score, 0.5)


def check_levin(pops, cost, in_flight):
    [goal] = [path for kind, path in pops if kind == "found"]
    extended = [path for kind, path in pops if kind == "extend"]
    assert sum(cost[path] <= cost[goal] for path in extended) <= cost[goal]
    assert all(cost[goal] <= cost[path] for path in cost if len(path) == 3), "a cheaper goal was drawn"
    if in_flight == 1:
        costs = [cost[path] for _, path in pops]
        assert costs == sorted(costs), "a dearer line was taken first"


async def test_levin_extends_by_cost_and_keeps_its_bound(monkeypatch):
    """Orseau et al. 2018, theorem 3: the goal comes out before depth / probability lines as cheap are extended."""
    for seed in SEEDS:
        for in_flight in (1, 8):
            check_levin(*await levin_run(monkeypatch, seed, in_flight), in_flight)


async def test_levin_with_a_broken_cost_is_caught(monkeypatch):
    """Depth first, and without the depth."""
    for broken in (lambda depth, _: -depth, lambda depth, log_policy: math.exp(-log_policy) / (depth + 1)):
        monkeypatch.setattr(best_first, "levin_cost", broken)
        caught = 0
        for seed in SEEDS:
            try:
                check_levin(*await levin_run(monkeypatch, seed, 1), 1)
            except AssertionError:
                caught += 1
        assert caught > 0


@pytest.mark.parametrize("name", ["a-star", "levin"])
@pytest.mark.parametrize("in_flight", [1, 8])
async def test_where_all_that_was_drawn_is_extended_it_is_extended_again_cheapest_first(monkeypatch, name, in_flight):
    """Wanting all answers, in a world whose tree of draws is complete long before ``n``: no extension is left undone,
    and each line is found once. By A*, one at a time, those extended k times cost k log 2 more.
    """
    for seed in SEEDS:
        world, score = StepWorld("abc", 3, seed, sharpness=2.0), random_score(seed)
        options = {"n": 80, "width": 3, "answers": 1000, "in_flight": in_flight}
        with monkeypatch.context() as patch:
            pops, lm = record_pops(patch), world.lm(seed=seed)
            posterior = await think(world.question, lm, name, Scores(score), **options)
        assert len(grown(lm.tree)) == 3 * 80
        found = Counter(path for kind, path in pops if kind == "found")
        assert set(found.values()) == {1} and set(found) == {c.answer for c in posterior.candidates}
        extended = [path for kind, path in pops if kind == "extend"]
        assert extended.count("") > 1
        if name == "a-star" and in_flight == 1:
            times = Counter[str]()
            for path in extended:
                due = {x: (-score(x) if x else 0.0) + k * math.log(2) for x, k in times.items()}
                assert path not in due or due[path] == min(due.values()), "a dearer line was extended again"
                times[path] += 1


# ---- Monte-Carlo trees -----------------------------------------------------------------------------------------------


class RecordedStatistics(mcts.Statistics):
    """Notes what is selected and what is backed up, in order, and how often every child was drawn by then."""

    events: list

    def select(self, root):
        leaf = super().select(root)
        line = [leaf, *ancestors(leaf)]
        self.events.append(("select", leaf, {node: {x: x.count for x in node.children} for node in line}))
        return leaf

    def back_up(self, leaf, value):
        self.events.append(("back", leaf, value))
        super().back_up(leaf, value)


def ancestors(node):
    return [] if node.parent is None else [node.parent, *ancestors(node.parent)]


def replay(events, exploration):
    """Check every descent against PUCT with visits, values, virtual losses and returns counted anew, and that it ends
    where it should; returns the visits.
    """
    visits, totals, flying, returns, expanded = Counter(), Counter(), Counter(), Counter(), set()
    root = events[0][1]
    for number, (kind, leaf, noted) in enumerate(events):
        line = [*reversed(ancestors(leaf)), leaf]
        if kind == "back":
            for node in line:
                flying[node] -= 1
                if noted is not None:
                    visits[node] += 1
                    totals[node] += noted
            if noted is not None and not leaf.whole:
                expanded.add(leaf)
            if leaf.whole:
                returns.update(line)
            continue
        assert line[0] is root
        flying[root] += 1
        for parent, child in itertools.pairwise(line):
            assert parent in expanded
            assert returns[parent] < len(noted[parent]), "the descent went on where it was to widen"

            def puct(x, parent=parent, counts=noted[parent]):
                n, k = visits[x], flying[x]
                q = (math.exp(x.score) + totals[x]) / (1 + n + k)
                p = counts[x] / sum(counts.values())
                return q + exploration * p * math.sqrt(visits[parent] + flying[parent] - 1) / (1 + n + k)

            assert puct(child) == pytest.approx(max(puct(x) for x in noted[parent]), abs=1e-12)
            flying[child] += 1
        assert leaf.whole or leaf not in expanded or returns[leaf] >= len(noted[leaf]), "the descent ended early"
        if not leaf.whole and events[number + 1 : number + 2] != [("back", leaf, None)]:
            returns[leaf] = 0
    assert not any(flying.values()), "a virtual loss was left behind"
    return visits


async def mcts_run(monkeypatch, seed, in_flight, statistics=RecordedStatistics, n=60):
    world, score = StepWorld("abc", 3, seed), random_score(seed)
    statistics.events = []
    monkeypatch.setattr(mcts, "Statistics", statistics)
    lm = world.lm(seed=seed)
    posterior = await think(
        world.question, lm, "mcts", Scores(score), n=n, width=5, exploration=0.7, in_flight=in_flight
    )
    return world, lm, posterior, score


@pytest.mark.parametrize("in_flight", [1, 6])
async def test_mcts_visits_follow_puct_and_sum_up(monkeypatch, in_flight):
    for seed in SEEDS:
        _, lm, posterior, score = await mcts_run(monkeypatch, seed, in_flight)
        visits = replay(RecordedStatistics.events, 0.7)
        [root] = {node for _, node, _ in RecordedStatistics.events if node.parent is None}
        ended = Counter(leaf for kind, leaf, value in RecordedStatistics.events if kind == "back" and value is not None)
        assert visits[root] == sum(ended.values())
        assert sum(times for node, times in ended.items() if not node.whole) == 60
        drawn = Counter((path_of(t.parent), path_of(t)) for t in grown(lm.tree))
        for node in visits:
            assert visits[node] == ended[node] + sum(visits[child] for child in node.children)
            assert node.branch.thought.visits == visits[node]
            path = path_of(node.branch.thought)
            if not node.whole:
                assert sum(n for (above, _), n in drawn.items() if above == path) == 5 * ended[node]
            for child in node.children:
                assert child.count == drawn[path, path_of(child.branch.thought)]
        lines = {t: path_of(t) for t in grown(lm.tree) if t.answer is not None}
        weights = Counter()
        for thought, path in lines.items():
            if thought.fate != "the same as a sibling":
                weights[path] += math.exp(score(path)) * (1 + (thought.visits or 0))
        assert posterior.weights == pytest.approx({p: w / sum(weights.values()) for p, w in weights.items()})


async def test_mcts_widens_until_it_was_allowed_to_and_comes_back_in_between_no_more_than_it_has_ways(monkeypatch):
    """In a world of 27 lines, most of them improbable, 60 extensions are more than its 13 inner lines have."""
    for seed in SEEDS:
        await mcts_run(monkeypatch, seed, 4)
        backs = [leaf for kind, leaf, value in RecordedStatistics.events if kind == "back" and value is not None]
        widened = Counter(leaf for leaf in backs if not leaf.whole)
        assert sum(widened.values()) == 60 and max(widened.values()) > 1
        runs = itertools.groupby(leaf.whole for leaf in backs)
        longest = max((len(list(run)) for free, run in runs if free), default=0)
        assert 0 < longest <= 3 * 4, "it kept coming back to what is finished"


async def test_mcts_with_a_broken_formula_is_caught(monkeypatch):
    class Broken(RecordedStatistics):
        def puct(self, node, draws):
            return self.mean(node) + self.exploration / (1 + self.visits[node])

    class Leaky(RecordedStatistics):
        def back_up(self, leaf, value):
            super().back_up(leaf, value)
            self.flying[leaf] += 1

    class Forgetful(RecordedStatistics):
        def come_back(self, leaf):
            super().come_back(leaf)
            self.returns[leaf.parent] = 0

    for broken in (Broken, Leaky, Forgetful):
        await mcts_run(monkeypatch, 0, 4, broken)
        with pytest.raises(AssertionError):
            replay(broken.events, 0.7)


async def test_mcts_finds_a_planted_solution():
    """One of 128 lines is right, and the value of a line says how far it agrees; 25 of 127 expansions find it."""
    for seed in SEEDS:
        world = StepWorld("ab", 7, seed, sharpness=0.1)
        planted = "abbabab" if seed % 2 else "babbaab"

        def value(path, planted=planted):
            agree = next((i for i, (x, y) in enumerate(zip(path, planted, strict=False)) if x != y), len(path))
            return math.log(0.05 + 0.9 * agree / len(path))

        posterior = await think(
            world.question, world.lm(seed=seed), "mcts", Scores(value), n=25, width=10, exploration=0.3
        )
        assert posterior.best == planted


# ---- adaptive branching ----------------------------------------------------------------------------------------------


async def ab_mcts_run(monkeypatch, seed, in_flight=4):
    """Every line as (the path that it was written from, its path), the posterior, the scores and the beliefs."""
    world, score, trees, writings = StepWorld("abc", 3, seed), random_score(seed), [], []
    take_back, thompson = abmcts.Search.next, abmcts.Thompson

    class Recorded(thompson):
        def __init__(self, rng):
            super().__init__(rng)
            trees.append(self)

    async def recording(self):
        expansion = await take_back(self)
        writings.append((path_of(expansion.node.branch.thought), path_of(expansion.line[-1].branch.thought)))
        return expansion

    with monkeypatch.context() as patch:
        patch.setattr(abmcts, "Thompson", Recorded)
        patch.setattr(abmcts.Search, "next", recording)
        posterior = await think(
            world.question, world.lm(seed=seed), "ab-mcts", Scores(score), n=50, in_flight=in_flight
        )
    return writings, posterior, score, trees[0]


def check_beliefs(writings, tree, score):
    """Every belief against the recorded lines, each written from a place on: counts, and sums of values."""
    for node, beliefs in tree._beliefs.items():
        path = path_of(node.branch.thought)
        through = [(start, leaf) for start, leaf in writings if leaf.startswith(path)]
        wider = [leaf for start, leaf in through if len(start) <= len(path) < len(leaf)]
        deeper = [leaf for start, leaf in through if len(start) > len(path)]
        itself = [leaf for _, leaf in through] if path else []
        for belief, seen in ((beliefs.wider, wider), (beliefs.deeper, deeper), (beliefs.itself, itself)):
            assert belief.observations == pytest.approx(len(seen))
            assert belief.a == pytest.approx(0.5 + math.fsum(math.exp(score(leaf)) for leaf in seen))


async def test_ab_mcts_beliefs_count_every_line_once(monkeypatch):
    for seed in SEEDS:
        writings, posterior, score, tree = await ab_mcts_run(monkeypatch, seed)
        assert len(writings) == 50
        check_beliefs(writings, tree, score)
        leaves = {leaf for _, leaf in writings}
        assert posterior.best == max(leaves, key=score)
        assert {len(start) for start, _ in writings} == {0, 1, 2}, "it never went deeper, or always"


async def test_ab_mcts_that_forgets_the_lines_above_is_caught(monkeypatch):
    def back_up(self, node, line):
        self.of(node).wider.observe(line[-1].value)
        for step in line:
            self.of(step).itself.observe(line[-1].value)

    monkeypatch.setattr(abmcts.Thompson, "back_up", back_up)
    writings, _, score, tree = await ab_mcts_run(monkeypatch, 0)
    with pytest.raises(AssertionError):
        check_beliefs(writings, tree, score)


async def test_thompson_sampling_goes_wider_as_often_as_its_beliefs_say():
    """At a line with Beta(3.5, 1.5) for wider and Beta(1.5, 3.5) for deeper, over 4,000 draws (z-test, 1e-6)."""
    from scipy.integrate import quad
    from scipy.stats import beta, binomtest

    world = StepWorld()
    root = await world.lm().root(PROMPT)
    [step] = await root.extend(1, None)
    top = abmcts.Node(root)
    child = abmcts.Node(step, top, 1, 2)
    top.children.append(child)
    tree = abmcts.Thompson(np.random.default_rng(0))
    tree.of(top).wider.a, tree.of(top).wider.b = 3.5, 1.5
    tree.of(top).deeper.a, tree.of(top).deeper.b = 1.5, 3.5
    wider = sum(tree.select(top) is top for _ in range(4000))
    exact = quad(lambda x: beta.pdf(x, 3.5, 1.5) * beta.cdf(x, 1.5, 3.5), 0, 1)[0]
    assert binomtest(wider, 4000, exact).pvalue > 1e-6
    assert binomtest(wider, 4000, 0.5).pvalue < 1e-6

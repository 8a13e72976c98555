"""Bills against closed forms: each position of a tree once, whatever the engine had to do; budgets that are kept."""

import math

import pytest

from engine.fakes import HashBackend
from engine.world import Node, World, make_engine
from outthink.core.budget import Budget, Ledger
from outthink.core.sampling import Until
from outthink.engine.billing import Costs, Purse
from outthink.engine.sequence import Sequence
from outthink.models.config import ModelConfig
from outthink.models.flops import head_flops, prefill_flops
from outthink.scheduling import Limits

CONFIG = ModelConfig.from_dict(
    {
        "model_type": "mistral",
        "vocab_size": 12,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "sliding_window": 11,
    },
    "config.json",
)
PROMPT = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9] * 3
# With pages longer than any branch's own text nothing is found in the cache by chance, and the closed form is exact.
CIRCUMSTANCES = {
    "plenty": (40, 64, Limits()),
    "chunks": (40, 64, Limits(max_batch_tokens=7)),
    "few pages": (3, 64, Limits(max_batch_tokens=50)),
}


def make_world(num_pages: int = 40, page_size: int = 64, limits: Limits | None = None) -> World:
    engine = make_engine(num_pages, page_size, limits)
    engine.costs = Costs(lambda start, count: prefill_flops(CONFIG, start, count), head_flops(CONFIG))
    engine._readings._costs = engine.costs
    return World(engine)


def grow(world: World, node: Node, n: int, tokens: int, ledger: Ledger) -> list[Node]:
    known = list(world.nodes)
    world.extend(node, n, Until(tokens, ignore_eos=True), ledger=ledger)
    world.run()
    return [node for node in world.nodes if node not in known]


def flops(*computed: range, rows: int) -> int:
    return sum(prefill_flops(CONFIG, p, 1) for positions in computed for p in positions) + rows * head_flops(CONFIG)


@pytest.mark.parametrize("circumstance", CIRCUMSTANCES)
def test_a_tree_is_charged_by_its_distinct_positions(circumstance: str) -> None:
    world, ledger = make_world(*CIRCUMSTANCES[circumstance]), Ledger()
    root = world.root(PROMPT)
    children = grow(world, root, 5, 8, ledger)
    assert (ledger.bill.prefilled, ledger.bill.cached, ledger.bill.decoded) == (30, 0, 40)
    expected = flops(range(30), rows=1) + 5 * flops(range(30, 37), rows=7)
    assert ledger.bill.flops == expected

    grow(world, children[0], 3, 6, ledger)  # computes the child's last token once
    expected += flops(range(37, 38), rows=1) + 3 * flops(range(38, 43), rows=5)
    assert (ledger.bill.prefilled, ledger.bill.decoded, ledger.bill.flops) == (30, 58, expected)

    world.score(root, [3, 1, 4, 1, 5, 9], ledger)
    world.run()
    expected += flops(range(30, 35), rows=5)
    assert (ledger.bill.prefilled, ledger.bill.decoded, ledger.bill.flops) == (35, 58, expected)

    twins = [world.feed(children[1], [2, 7, 1]), world.feed(children[1], [8, 2])]
    grow(world, twins[0], 1, 4, ledger)
    grow(world, twins[1], 1, 4, ledger)  # the child's last token was computed for the other twin
    expected += flops(range(37, 41), rows=1) + flops(range(41, 44), rows=3)
    expected += flops(range(38, 40), rows=1) + flops(range(40, 43), rows=3)
    assert (ledger.bill.prefilled, ledger.bill.decoded, ledger.bill.flops) == (40, 66, expected)
    assert ledger.bill.cached == 0
    if circumstance == "few pages":
        assert world.engine.stats.recomputed > 0, "it was meant to run out of pages"
    world.finish()


def test_extending_together_or_one_by_one_costs_the_same() -> None:
    bills = []
    for sizes in ([12], [5, 7], [1] * 12):
        world, ledger = make_world(), Ledger()
        root = world.root(PROMPT)
        for n in sizes:
            grow(world, root, n, 6, ledger)
        bills.append((ledger.bill.prefilled, ledger.bill.decoded, ledger.bill.flops))
    assert bills == [bills[0]] * 3


@pytest.mark.parametrize("page_size", [1, 4, 7])
@pytest.mark.parametrize("limits", [Limits(), Limits(max_batch_tokens=3)])
def test_given_positions_are_prefilled_or_cached_and_never_both(page_size: int, limits: Limits) -> None:
    world, first, second = make_world(80, page_size, limits), Ledger(), Ledger()
    root = world.root(PROMPT)
    grow(world, root, 2, 5, first)
    fed = world.feed(root, [5, 5, 5, 5])
    grow(world, fed, 2, 5, first)
    assert first.bill.prefilled + first.bill.cached == 34
    other = world.root([*PROMPT[:20], 9, 9])
    grow(world, other, 1, 5, second)
    assert (second.bill.prefilled + second.bill.cached, second.bill.decoded) == (22, 5)
    assert second.bill.cached == 20 // page_size * page_size
    again = Ledger()
    grow(world, world.root(PROMPT), 1, 1, again)
    assert (again.bill.prefilled, again.bill.cached, again.bill.flops) == (0, 30, 0)
    world.finish()


def test_a_prompt_shared_by_two_users_is_paid_by_the_first() -> None:
    world, a, b = make_world(limits=Limits(max_batch_tokens=4)), Ledger(), Ledger()
    one, two = world.root(PROMPT), world.root(PROMPT)
    assert one.sequence is two.sequence
    task = world.extend(one, 1, Until(3, ignore_eos=True), ledger=a)
    world.extend(two, 1, Until(3, ignore_eos=True), ledger=b)
    world.run()
    assert (a.bill.prefilled, a.bill.cached, b.bill.prefilled, b.bill.cached) == (30, 0, 0, 30)
    assert task.over


def bought(tokens: int, others: str) -> tuple[list[list[int]], int]:
    """What two lines get for a budget while ``others`` ask the same, and what is billed."""
    world, ledger = make_world(limits=Limits(max_batch_tokens=4)), Ledger(Budget(tokens=tokens))
    if others == "before":
        world.extend(world.root(PROMPT), 1, Until(5, ignore_eos=True))
        world.run()
    if others == "beside":
        world.extend(world.root(PROMPT), 1, Until(5, ignore_eos=True))
    task = world.extend(world.root(PROMPT), 2, Until(5, ignore_eos=True), ledger=ledger)
    world.run()
    assert ledger.bill.tokens <= tokens
    return [child.tokens for child in task.children], ledger.bill.tokens


def test_what_a_budget_buys_does_not_depend_on_who_asked_the_same() -> None:
    for tokens in (1, 2, 29, 30, 31, 32, 33, 35, 39, 40, 41):
        alone = bought(tokens, "nobody")
        assert alone == bought(tokens, "before") == bought(tokens, "beside"), tokens
        drawn = max(0, tokens - len(PROMPT))
        assert [len(line) - len(PROMPT) for line in alone[0]] == [min(5, -(-drawn // 2)), min(5, drawn // 2)]


def test_two_who_share_a_ledger_pay_for_their_prompt_once() -> None:
    world, just_enough = make_world(limits=Limits(max_batch_tokens=4)), Ledger(Budget(tokens=32))
    root = world.root(PROMPT)
    tasks = [world.extend(root, 1, Until(5, ignore_eos=True), ledger=just_enough) for _ in range(2)]
    world.run()
    assert [len(child.tokens) for task in tasks for child in task.children] == [31, 31]


def test_when_the_first_gives_up_the_second_pays_the_rest() -> None:
    world, a, b = make_world(limits=Limits(max_batch_tokens=4)), Ledger(), Ledger()
    task = world.extend(world.root(PROMPT), 1, Until(3, ignore_eos=True), ledger=a)
    world.extend(world.root(PROMPT), 1, Until(3, ignore_eos=True), ledger=b)
    for _ in range(3):
        world.step()
    world.cancel(task)
    world.run()
    assert (a.bill.prefilled, b.bill.prefilled, b.bill.cached) == (12, 18, 12)


@pytest.mark.parametrize("limits", [Limits(), Limits(max_batch_tokens=5), Limits(max_sequences=2)])
def test_every_token_budget_is_spent_and_none_exceeded(limits: Limits) -> None:
    total = 30 + 4 * 6
    for tokens in range(total + 3):
        world, ledger = make_world(limits=limits), Ledger(Budget(tokens=tokens))
        children = grow(world, world.root(PROMPT), 4, 6, ledger)
        assert len(children) == 4
        assert ledger.bill.tokens == (min(tokens, total) if tokens > 30 else 0), "what cannot be finished is not begun"
        assert all(c.sequence.generation.finish in ("budget", "length") for c in children)  # type: ignore[union-attr]


def test_scores_and_several_prompts_keep_to_a_token_budget_together() -> None:
    for tokens in range(0, 110, 3):
        world, whole = make_world(limits=Limits(max_batch_tokens=40)), Ledger(Budget(tokens=tokens))
        parts = [whole.slice(Budget(tokens=50)), whole.slice(Budget()), whole]
        for i, part in enumerate(parts):
            root = world.root([i, *PROMPT[i:]])
            world.score(root, PROMPT[:12], part)
            world.extend(root, 2, Until(6, ignore_eos=True), ledger=part)
        world.run()
        assert whole.bill.tokens <= tokens
        assert parts[0].bill.tokens <= 50


def test_a_flops_budget_is_exceeded_by_one_step_at_most() -> None:
    full = Ledger()
    world = make_world()
    grow(world, world.root(PROMPT), 4, 6, full)
    for share in (0.0, 0.01, 0.5, 0.8, 0.97):
        world, ledger = make_world(limits=Limits(max_batch_tokens=9)), Ledger(Budget(flops=share * full.bill.flops))
        world.extend(world.root(PROMPT), 4, Until(6, ignore_eos=True), ledger=ledger)
        after = math.inf
        while world.live:
            assert ledger.bill.flops <= after, "charged after the limit was reached"
            after = ledger.bill.flops if ledger.exhausted else math.inf
            world.step()
        assert ledger.bill.flops >= ledger.budget.flops
        assert ledger.bill.decoded < full.bill.decoded


def test_seconds_cut_what_is_in_flight() -> None:
    now = 0.0
    world, ledger = make_world(), Ledger(Budget(seconds=10), clock=lambda: now)
    task = world.extend(world.root(PROMPT), 2, Until(50, ignore_eos=True), ledger=ledger)
    for _ in range(6):
        world.step()
    now = 10.0
    world.step()
    assert task.over
    assert [len(c.tokens) for c in task.children] == [36, 36]


def test_cancelling_a_ledger_cuts_its_tasks_at_the_next_step_and_no_others() -> None:
    world, ours, theirs = make_world(), Ledger(), Ledger()
    mine = world.extend(world.root(PROMPT), 2, Until(50, ignore_eos=True), ledger=ours)
    other = world.extend(world.root(PROMPT[1:]), 2, Until(9, ignore_eos=True), ledger=theirs)
    for _ in range(4):
        world.step()
    ours.cancel()
    world.step()
    assert mine.over
    world.run()
    assert [len(c.tokens) for c in other.children] == [29 + 9] * 2


def test_a_purse_gives_what_is_left_and_takes_it_from_the_whole_too() -> None:
    whole = Ledger(Budget(tokens=10))
    a, b = whole.slice(Budget(tokens=6)), whole.slice(Budget())
    purse = Purse()
    assert (purse.take(a, 4), purse.take(b, 4), purse.take(a, 4), purse.take(b, 4)) == (4, 4, 2, 0)
    assert purse.take(Ledger(), 10**9) == 10**9
    assert whole.bill.tokens == 0, "setting aside charges nobody"


def test_progress_is_known_to_all_children_of_an_ancestor() -> None:
    root = Sequence([1] * 10, 0)
    left, right = Sequence([1] * 14, 1, parent=root), Sequence([1] * 12, 2, parent=root)
    below = Sequence([1] * 20, 3, parent=left)
    below.mark(6)
    assert (root.progress, left.progress, right.progress, below.progress) == ((6, 6),) * 4
    below.mark(17)
    assert (root.progress, left.progress, below.progress) == ((10, 10), (14, 14), (17, 17))
    assert right.progress == (10, 10)


class ForgetsAncestors(Sequence):
    """Marks its own positions alone, so that twins pay twice for what they share."""

    __slots__ = ()

    def mark(self, end: int) -> None:
        self.billed, self.reached = max(self.billed, end), max(self.reached, end)


def test_a_bill_that_charges_twins_twice_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("outthink.engine.engine.Sequence", ForgetsAncestors)
    world, ledger = make_world(), Ledger()
    root = world.root(PROMPT)
    for text in ([1, 2], [3, 4]):
        grow(world, world.feed(root, text), 1, 2, ledger)
    assert ledger.bill.prefilled > 30 + 4


def test_what_a_backend_computes_is_what_is_counted() -> None:
    backend = HashBackend(40, 64)
    world = World(make_engine(40, 64, Limits(max_batch_tokens=11), backend=backend))
    grow(world, world.root(PROMPT), 3, 6, Ledger())
    assert sum(backend.batch_sizes) == world.engine.stats.positions == 30 + 3 * 5
    assert (backend.steps, world.engine.stats.drawn) == (world.engine.stats.steps, 18)
    assert max(backend.batch_sizes) <= 11


def read_together(count: int, flops: float) -> tuple[list[int], float]:
    """How much of each of ``count`` texts of ten tokens is read at once, and what that costs of ``flops``."""
    world, ledger = make_world(), Ledger(Budget(flops=flops))
    root = world.root(PROMPT)
    world.extend(root, 1, Until(1, ignore_eos=True))
    world.run()
    tasks = [world.judge(root, [1 + i, *range(1, 10)], ledger) for i in range(count)]
    world.run()
    return [len(task.read) for task in tasks], ledger.bill.flops


def test_what_is_given_up_while_it_is_read_takes_no_flops_of_others() -> None:
    price = read_together(1, 1e15)[1]
    world, ledger = make_world(limits=Limits(max_batch_tokens=4)), Ledger(Budget(flops=2.5 * price))
    root = world.root(PROMPT)
    world.extend(root, 1, Until(1, ignore_eos=True))
    world.run()
    first = world.judge(root, range(1, 11), ledger)
    world.step()
    world.cancel(first)
    others = [world.judge(root, [2 + i, *range(1, 10)], ledger) for i in range(2)]
    world.run()
    assert [len(task.read) for task in others] == [10, 10]


def test_what_is_read_together_stays_within_its_flops(monkeypatch: pytest.MonkeyPatch) -> None:
    one, price = read_together(1, 1e15)
    assert one == [10] and price > 0
    for paid in range(1, 6):
        read, spent = read_together(6, price * paid)
        assert sum(count == 10 for count in read) == paid and sum(read) == 10 * paid
        assert spent <= price * paid
    monkeypatch.setattr("outthink.engine.reading.Readings._within_flops", lambda self, task: True)
    assert read_together(6, price * 2)[1] > price * 2  # as it would be were each looked at by itself

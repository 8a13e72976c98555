"""How many pages things take, exactly, and when they are given back."""

import pytest

from engine.world import Node, World, make_engine
from outthink.core.budget import Ledger
from outthink.core.sampling import Sampling, Until
from outthink.kv import Lease, PagedCache
from outthink.scheduling import Limits

PREFIX = [(7 * i + i // 5) % 10 for i in range(1000)]
SIZE = 16


def make_world(num_pages: int = 400, cache: type[PagedCache] = PagedCache, **limits: int) -> World:
    return World(make_engine(num_pages, SIZE, Limits(**limits), cache=cache))


def num_leased(world: World) -> int:
    return world.engine.cache.num_leased(world.engine.scheduler.leases())


def grow(world: World, node: Node, n: int, max_tokens: int, seed: int = 0) -> list[Node]:
    known = list(world.nodes)
    world.extend(node, n, Until(max_tokens, ignore_eos=True), Sampling(seed=seed))
    world.run()
    return [node for node in world.nodes if node not in known]


def pages_by_hand(nodes: list[Node], tails: int) -> int:
    """Distinct full pages of these branches, the last token of each not computed, and ``tails`` partly filled."""
    full = {node.tokens[: end + SIZE] for node in nodes for end in range(0, len(node.tokens) - SIZE, SIZE)}
    return len(full) + tails


def test_64_children_take_the_pages_of_their_prefix_once() -> None:
    world = make_world()
    root = world.root(PREFIX)
    children = grow(world, root, 64, 20)
    assert num_leased(world) == pages_by_hand([root, *children], tails=65)
    assert num_leased(world) <= 62 + 1 + 64 * 2  # and not 64 x 64
    assert world.engine.stats.positions == 1000 + 64 * 19, "the prefix was computed once"
    for child in children:
        world.close(child)
    world.step()
    assert num_leased(world) == 63
    world.finish()


def test_children_that_have_written_nothing_take_no_page() -> None:
    world = make_world()
    root = world.root(PREFIX)
    grow(world, root, 64, 1)
    assert num_leased(world) == 63
    world.finish()


def test_children_that_write_the_same_share_their_full_pages() -> None:
    world = make_world()
    root = world.root(PREFIX)
    world.extend(root, 8, Until(40, ignore_eos=True), Sampling(temperature=0))
    world.run()
    assert len({node.tokens for node in world.nodes}) == 2
    assert num_leased(world) == 1039 // SIZE + 8 + 1
    world.finish()


def test_a_prefix_is_computed_again_by_nobody_who_comes_later() -> None:
    world = make_world()
    first = world.root(PREFIX)
    grow(world, first, 1, 3)
    world.close(first)
    world.step()
    before = world.engine.stats.positions
    ledger = Ledger()
    again = world.root([*PREFIX[:990], 1, 2, 3])
    world.extend(again, 2, Until(3, ignore_eos=True), ledger=ledger)
    world.run()
    assert world.engine.stats.positions - before == (993 - 976) + 2 * 2
    assert (ledger.bill.cached, ledger.bill.prefilled) == (976, 17)
    world.finish()


def test_two_prompts_at_once_compute_what_they_share_once() -> None:
    world = make_world(max_batch_tokens=700)
    a, b = world.root([*PREFIX, 1, 1, 1]), world.root([*PREFIX, 2, 2])
    world.extend(a, 1, Until(1))
    world.extend(b, 1, Until(1))
    world.run()
    assert world.engine.stats.positions <= 1003 + 1002 - 992 + SIZE * 44  # no more than the first chunk twice
    assert num_leased(world) == 62 + 2
    world.finish()


class ForksByComputing(PagedCache):
    """A fork takes no hold of its parent's pages, so that every child computes the whole prefix."""

    def fork(self, lease: Lease) -> Lease:
        return super().lease([0])


def test_a_cache_that_does_not_share_is_noticed() -> None:
    world = make_world(cache=ForksByComputing)
    grow(world, world.root(PREFIX), 4, 20)
    assert world.engine.stats.positions > 1000 + 4 * 19


@pytest.mark.parametrize("verb", ["close", "cancel"])
def test_pages_are_given_back_within_one_step(verb: str) -> None:
    world = make_world()
    root = world.root(PREFIX)
    grow(world, root, 1, 1)
    at_rest = num_leased(world)
    task = world.extend(root, 16, Until(200, ignore_eos=True))
    for _ in range(30):
        world.step()
    assert num_leased(world) > at_rest + 16
    if verb == "cancel":
        world.engine.submit(lambda: world.cancel(task))
        world.step()
        assert num_leased(world) == at_rest
    else:
        world.engine.submit(lambda: world.close(root))
        world.step()
        assert num_leased(world) == 63, "the child of one token holds its prefix"
    world.finish()


def test_a_cancelled_prefill_gives_its_pages_back() -> None:
    world = make_world(max_batch_tokens=100)
    root = world.root(PREFIX)
    task = world.extend(root, 4)
    for _ in range(5):
        world.step()
    assert num_leased(world) == 500 // SIZE + 1
    world.cancel(task)
    world.close(root)
    world.step()
    assert num_leased(world) == 0
    assert world.engine.cache.num_free == 400 - 500 // SIZE, "its full pages stay cached"
    world.finish()


@pytest.mark.parametrize(
    ("limits", "num_pages"), [(Limits(4, 64), 64), (Limits(1, 1), 64), (Limits(64, 4), 64), (Limits(64, 64), 12)]
)
def test_nobody_starves_while_others_keep_coming(limits: Limits, num_pages: int) -> None:
    world = World(make_engine(num_pages, 4, limits))
    crowd = world.root([0, 1, 2])

    def crowd_in() -> None:
        for node in [n for n in world.nodes if n.prompt is crowd.prompt and n is not crowd]:
            world.close(node)
        for _ in range(8 - sum(task.prompt is crowd.prompt for task in world.live)):
            world.extend(crowd, 1, Until(9, ignore_eos=True))

    for _ in range(5):
        crowd_in()
        world.step()
    late = world.extend(world.root([3] * 30), 1, Until(4, ignore_eos=True))
    for _ in range(400):
        crowd_in()
        world.step()
        if late.over:
            return
    raise AssertionError("the late prompt was never answered")

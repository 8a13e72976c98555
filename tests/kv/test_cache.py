"""The prefix tree by itself: what is found, what is copied, what is evicted first, what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outthink.kv import Lease, PagedCache

SIZE = 4
TOKENS = st.lists(st.integers(0, 2), max_size=20)


def fill(cache: PagedCache, tokens: list[int], namespace: str = "") -> Lease:
    """A lease that has computed all of ``tokens``."""
    lease = cache.lease(tokens, namespace)
    count = len(tokens) - lease.length
    assert cache.reserve(lease, count) is not None
    cache.commit(lease, tokens, count)
    return lease


def found(cache: PagedCache, tokens: list[int], namespace: str = "", most: int | None = None) -> int:
    lease = cache.lease(tokens, namespace, most)
    length = lease.length
    cache.release(lease)
    return length


def test_whole_pages_are_found_and_one_position_is_always_left_to_compute() -> None:
    cache = PagedCache(8, SIZE)
    cache.release(fill(cache, [*range(10)]))
    assert found(cache, [*range(10)]) == 8
    assert found(cache, [*range(9)]) == 8
    assert found(cache, [*range(8)]) == 4
    assert found(cache, [*range(8)], most=8) == 8
    assert found(cache, [*range(10)], most=7) == 4
    assert found(cache, [*range(10)], most=0) == 0
    assert found(cache, [0, 1, 2, 3, 9, 9, 9, 9, 9]) == 4
    assert found(cache, [1, 2, 3, 4, 5]) == 0
    assert found(cache, [0]) == 0


def test_a_namespace_sees_its_own_pages_alone() -> None:
    cache = PagedCache(8, SIZE)
    cache.release(fill(cache, [*range(10)], "a"))
    assert found(cache, [*range(10)], "b") == 0
    assert found(cache, [*range(10)]) == 0
    assert cache.peek([*range(10)], "b") == 0
    assert found(cache, [*range(10)], "a") == cache.peek([*range(10)], "a") == 8


@given(st.lists(TOKENS.filter(bool), max_size=5), TOKENS)
def test_peek_says_what_a_lease_would_find(known: list[list[int]], tokens: list[int]) -> None:
    cache = PagedCache(64, SIZE)
    for line in known:
        cache.release(fill(cache, line))
    peeked = cache.peek(tokens)
    assert peeked == found(cache, tokens)
    whole = {tuple(line[:end]) for line in known for end in range(SIZE, len(line) + 1, SIZE)}
    by_hand = [end for end in range(SIZE, len(tokens), SIZE) if tuple(tokens[:end]) in whole]
    assert peeked == max(by_hand, default=0)


def test_a_fork_costs_no_page_and_the_first_write_copies_the_tail_alone() -> None:
    cache = PagedCache(8, SIZE)
    parent = fill(cache, [*range(6)])
    children = [cache.fork(parent) for _ in range(2)]
    assert cache.num_free == 6
    assert cache.num_leased([parent, *children]) == 2
    [(source, target)] = cache.reserve(children[0], 1) or []
    assert source == parent.pages[1] == children[1].pages[1]
    assert target == children[0].pages[1] != source
    assert children[0].pages[0] == parent.pages[0]
    cache.commit(children[0], [*range(6), 7], 1)
    assert len(cache.reserve(children[1], 1) or []) == 1
    cache.commit(children[1], [*range(6), 8], 1)
    assert cache.reserve(parent, 1) == [], "the last holder of a tail writes into it"
    cache.commit(parent, [*range(6), 9], 1)
    cache.check_integrity([parent, *children])


def test_a_fork_at_a_page_boundary_copies_nothing() -> None:
    cache = PagedCache(8, SIZE)
    parent = fill(cache, [*range(8)])
    child = cache.fork(parent)
    assert cache.reserve(child, 1) == []
    assert child.pages[:2] == parent.pages


def test_two_that_write_the_same_page_end_with_one() -> None:
    cache = PagedCache(8, SIZE)
    tokens = [*range(4)]
    leases = [cache.lease(tokens) for _ in range(2)]
    for lease in leases:
        assert cache.reserve(lease, 4) == []
    assert cache.num_free == 6
    for lease in leases:
        cache.commit(lease, tokens, 4)
    assert leases[0].pages == leases[1].pages
    assert cache.num_free == 7
    cache.check_integrity(leases)


def test_what_does_not_fit_is_refused_and_changes_nothing() -> None:
    cache = PagedCache(3, SIZE)
    held = fill(cache, [*range(6)])
    lease = cache.lease([9] * 20)
    assert cache.reserve(lease, 5) is None
    assert (lease.pages, lease.length, cache.num_free) == ([], 0, 1)
    cache.check_integrity([held, lease])
    assert cache.reserve(lease, 4) == []


def test_the_least_recently_used_page_is_evicted_first_and_leaves_before_their_parents() -> None:
    cache = PagedCache(4, SIZE)
    a, b = [*range(8)], [*range(10, 18)]
    cache.release(fill(cache, a))
    cache.release(fill(cache, b))
    assert cache.num_free == 0
    assert found(cache, [*a, 0]) == 8  # a is used again
    lease = cache.lease([99])
    assert cache.reserve(lease, 1) == []
    assert found(cache, [*b, 0]) == 4, "the second page of b went"
    assert found(cache, [*a, 0]) == 8
    assert cache.reserve(lease, 5) == []
    assert found(cache, [*b, 0]) == 0
    assert found(cache, [*a, 0]) == 8


def test_a_page_whose_children_went_is_as_old_as_its_own_last_use() -> None:
    cache = PagedCache(4, SIZE)
    a, b = [*range(8)], [*range(10, 18)]
    cache.release(fill(cache, a))
    cache.release(fill(cache, b))
    assert found(cache, a[:5]) == 4  # the first page of a alone
    lease = cache.lease([99])
    assert cache.reserve(lease, 2 * SIZE) == []
    assert (found(cache, [*a, 0]), found(cache, [*b, 0])) == (4, 4)


def test_pages_in_use_are_never_evicted() -> None:
    cache = PagedCache(4, SIZE)
    held = fill(cache, [*range(8)])
    cache.release(fill(cache, [*range(4), 9, 9, 9, 9]))
    lease = cache.lease([99])
    assert cache.reserve(lease, SIZE * 2) == []
    assert cache.reserve(lease, SIZE * 3) is None
    assert found(cache, [*range(9)]) == 8
    cache.commit(lease, [99] * 8, 8)
    cache.check_integrity([held, lease])


def test_releasing_twice_or_never_is_noticed() -> None:
    cache = PagedCache(8, SIZE)
    lease = fill(cache, [*range(6)])
    with pytest.raises(AssertionError):
        cache.check_integrity([])
    with pytest.raises(AssertionError):
        cache.check_integrity([lease, lease])
    cache.check_integrity([lease])
    cache.release(lease)
    cache.check_integrity([])
    assert cache.num_free == 7, "the full page stays cached"


@pytest.mark.parametrize(
    "harm",
    [
        lambda cache, lease: cache._free.pop(),
        lambda cache, lease: cache._free.append(lease.pages[0]),
        lambda cache, lease: cache._free.append(lease.pages[-1]),
        lambda cache, lease: cache._tail_refs.update({lease.pages[-1]: 2}),
        lambda cache, lease: cache._tail_refs.clear(),
        lambda cache, lease: lease.pages.reverse(),
        lambda cache, lease: lease.pages.pop(),
        lambda cache, lease: setattr(lease.node, "refs", lease.node.refs + 1),
        lambda cache, lease: setattr(lease.node, "refs", 0),
        lambda cache, lease: setattr(lease, "length", 3),
        lambda cache, lease: setattr(lease, "node", lease.node.parent),
    ],
)
def test_every_kind_of_harm_is_noticed(harm) -> None:
    cache = PagedCache(8, SIZE)
    lease = fill(cache, [*range(10)])
    cache.check_integrity([lease])
    harm(cache, lease)
    with pytest.raises(AssertionError):
        cache.check_integrity([lease])


def test_a_cache_used_for_long_keeps_no_more_offers_than_pages() -> None:
    cache = PagedCache(8, SIZE)
    for i in range(3000):
        cache.release(fill(cache, [i % 7, i % 5, 1, 2, 3]))
    cache.check_integrity([])
    assert len(cache._evictable) <= 2 * 8 + 65


def test_the_bookkeeping_needs_no_torch() -> None:
    import subprocess
    import sys

    script = "import sys, outthink.kv, outthink.scheduling, outthink.core.sampling; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


class BelievesDigests(PagedCache):
    """Takes pages for the same whose tokens have the same digest, as one does who never compares the tokens."""

    def _key(self, tokens, start):
        return bytes([sum(tokens[start : start + self.page_size]) % 5])


LINES = st.lists(st.tuples(st.sampled_from(["a", "b"]), TOKENS.filter(bool)), min_size=1, max_size=8)


def check_found(kind: type[PagedCache], lines: list[tuple[str, list[int]]]) -> None:
    """What is found of each line is its longest beginning, in whole pages, that its own tenant computed before."""
    cache, known = kind(64, SIZE), {"a": [], "b": []}
    for tenant, tokens in lines:
        ends = [end for end in range(SIZE, len(tokens), SIZE) if any(k[:end] == tokens[:end] for k in known[tenant])]
        longest = max(ends, default=0)
        assert found(cache, tokens, tenant) == longest == cache.peek(tokens, tenant)
        cache.release(fill(cache, tokens, tenant))
        known[tenant].append(tokens)


@given(LINES)
def test_exactly_the_own_tenants_pages_of_the_very_same_tokens_are_found(lines: list[tuple[str, list[int]]]) -> None:
    check_found(PagedCache, lines)


@pytest.mark.parametrize("broken", ["digests", "namespaces"])
def test_a_cache_that_finds_what_is_not_the_same_is_noticed(broken: str) -> None:
    class Shares(PagedCache):
        def lease(self, tokens, namespace="", most=None):
            return super().lease(tokens, "", most)

    kind = BelievesDigests if broken == "digests" else Shares
    with pytest.raises(AssertionError):
        check_found(kind, [("a", [0, 1, 2, 2, 0, 0]), ("b", [0, 1, 2, 2, 0, 0]), ("a", [2, 2, 1, 0, 0, 0])])

"""The prefix tree of pages. The search tree of every request lives in it: what branches share, they share here.

A page holds the keys and values of ``page_size`` positions. A *full* page of known tokens is a node of the tree, found
again by its tokens; a *tail* page is partly filled and belongs to the leases that count it. A `Lease` is the hold of
one sequence: a path of tree nodes, then at most one tail page while it rests. Forking a lease copies no page; the first
write to a tail page that others hold too copies that page alone.

Every page is in exactly one place: the free list, a tail (counted in ``_tail_refs``), or a tree node. A node counts one
reference for each lease that ends at it and one for each child; a node without references is cached, and evictable,
least recently used first.

Each namespace has a tree of its own: what one tenant computed, no other finds. A page is looked up by the bytes of its
tokens, which Python hashes with a key that is secret and new in every process, and compares in full on a hit: so no
choice of tokens finds a page of other tokens, nor makes look-ups slow.
"""

from __future__ import annotations

import heapq
import struct
from collections import Counter
from collections.abc import Iterable, Sequence

Copy = tuple[int, int]


class _Node:
    """A full page of tokens under its parent's; the root has no page."""

    __slots__ = ("children", "depth", "key", "page", "parent", "refs", "used")

    def __init__(self, parent: _Node | None, key: bytes, page: int) -> None:
        self.parent, self.key, self.page = parent, key, page
        self.children: dict[bytes, _Node] = {}
        self.depth: int = 0 if parent is None else parent.depth + 1
        self.refs = 0
        self.used = 0


def _holds(entry: tuple[int, int, _Node]) -> bool:
    """Whether an offer for eviction still stands."""
    used, _, node = entry
    parent = node.parent
    return not node.refs and used == node.used and parent is not None and parent.children.get(node.key) is node


class Lease:
    """The pages of one sequence: ``pages`` in order, ``length`` positions of which hold valid KV."""

    __slots__ = ("length", "node", "pages")

    def __init__(self, node: _Node, pages: list[int], length: int) -> None:
        self.node, self.pages, self.length = node, pages, length


class PagedCache:
    """Hands out pages to sequences, shares what they have in common, and caches what they leave behind."""

    def __init__(self, num_pages: int, page_size: int) -> None:
        self.num_pages, self.page_size = num_pages, page_size
        self._bytes = struct.Struct(f"{page_size}i").pack
        self._free = list(range(num_pages - 1, -1, -1))
        self._tail_refs: dict[int, int] = {}
        self._roots: dict[str, _Node] = {}
        self._evictable: list[tuple[int, int, _Node]] = []
        self._tick = 0

    def lease(self, tokens: Sequence[int], namespace: str = "", most: int | None = None) -> Lease:
        """A lease on the longest cached prefix of ``tokens``, in whole pages and of at most ``most`` positions.

        By default it leaves at least one position to compute. Only prefixes computed under the same ``namespace`` are
        found.
        """
        root = self._roots.get(namespace)
        if root is None:
            root = self._roots[namespace] = _Node(None, b"", -1)
        root.refs += 1
        lease = Lease(root, [], 0)
        self.advance(lease, tokens, most)
        return lease

    def advance(self, lease: Lease, tokens: Sequence[int], most: int | None = None) -> int:
        """Move a lease that rests on a page boundary along the tree as far as it goes; positions won.

        It comes to hold at most ``most`` positions; by default all of ``tokens`` but the last.
        """
        size, start = self.page_size, lease.length
        most = len(tokens) - 1 if most is None else most
        while lease.length == lease.node.depth * size and lease.length + size <= most:
            child = lease.node.children.get(self._key(tokens, lease.length))
            if child is None:
                break
            self._move(lease, child)
            lease.pages.append(child.page)
            lease.length += size
        return lease.length - start

    def peek(self, tokens: Sequence[int], namespace: str = "") -> int:
        """How many leading positions of ``tokens`` a lease would find, without taking one."""
        node, length = self._roots.get(namespace), 0
        while node is not None and length + self.page_size < len(tokens):
            node = node.children.get(self._key(tokens, length))
            length += self.page_size if node is not None else 0
        return length

    def next_key(self, lease: Lease, tokens: Sequence[int]) -> tuple[int, bytes] | None:
        """What identifies the next whole page that this lease will fill, or None where it fills none."""
        start = lease.node.depth * self.page_size
        return (id(lease.node), self._key(tokens, start)) if start + self.page_size <= len(tokens) else None

    def fork(self, lease: Lease) -> Lease:
        """A second lease on the same pages; costs none."""
        lease.node.refs += 1
        for page in lease.pages[lease.node.depth :]:
            self._tail_refs[page] += 1
        return Lease(lease.node, list(lease.pages), lease.length)

    def reserve(self, lease: Lease, count: int) -> list[Copy] | None:
        """Pages for ``count`` further positions, evicting cached ones if need be.

        Returns the (source, target) pages to copy before anything is written, or None, with nothing changed but what
        was evicted, where there is not room.
        """
        fresh = -(-(lease.length + count) // self.page_size) - len(lease.pages)
        shared_tail = lease.length % self.page_size > 0 and self._tail_refs.get(lease.pages[-1], 0) > 1
        need = fresh + shared_tail
        while len(self._free) < need:
            if not self._evict():
                return None
        copies: list[Copy] = []
        if shared_tail:
            old, new = lease.pages[-1], self._take()
            self._tail_refs[old] -= 1
            lease.pages[-1] = new
            copies.append((old, new))
        lease.pages.extend(self._take() for _ in range(fresh))
        return copies

    def commit(self, lease: Lease, tokens: Sequence[int], count: int) -> None:
        """Record that the KV of the next ``count`` positions of ``tokens`` is in the reserved pages.

        Pages that are now full join the tree; where the tree already has the same page, the lease moves to that one.
        """
        lease.length += count
        size = self.page_size
        while (lease.node.depth + 1) * size <= lease.length:
            index = lease.node.depth
            key = self._key(tokens, index * size)
            page = lease.pages[index]
            child = lease.node.children.get(key)
            if child is None:
                child = _Node(lease.node, key, page)
                lease.node.children[key] = child
                lease.node.refs += 1
                del self._tail_refs[page]  # written, so held by this lease alone
            else:
                lease.pages[index] = child.page
                self._drop_tail(page)
            self._move(lease, child)

    def trim(self, lease: Lease) -> None:
        """Give back pages that were reserved and hold nothing."""
        used = -(-lease.length // self.page_size)
        for page in lease.pages[used:]:
            self._drop_tail(page)
        del lease.pages[used:]

    def release(self, lease: Lease) -> None:
        """Give the hold back. Full pages stay cached until their room is needed; a tail page is free at once."""
        for page in lease.pages[lease.node.depth :]:
            self._drop_tail(page)
        self._unref(lease.node)
        lease.pages, lease.length = [], 0

    @property
    def num_free(self) -> int:
        """Pages that hold nothing."""
        return len(self._free)

    def num_leased(self, leases: Iterable[Lease]) -> int:
        """Distinct pages that these leases hold."""
        return len({page for lease in leases for page in lease.pages})

    def check_integrity(self, leases: Iterable[Lease]) -> None:
        """Raise AssertionError unless the accounting is exact, given every live lease."""
        leases = list(leases)
        lease_ends, tails = Counter(id(x.node) for x in leases), Counter()
        for lease in leases:
            path, node = [], lease.node
            while node.parent is not None:
                path.append(node.page)
                node = node.parent
            assert lease.pages[: lease.node.depth] == path[::-1], "a lease's pages differ from its path"
            assert len(lease.pages) == -(-lease.length // self.page_size), "a resting lease holds spare pages"
            tails.update(lease.pages[lease.node.depth :])
        assert dict(tails) == self._tail_refs, f"tail references {self._tail_refs} but held {dict(tails)}"
        tree, stack = [], list(self._roots.values())
        heap = {id(entry[2]) for entry in self._evictable}
        while stack:
            node = stack.pop()
            assert node.refs == lease_ends[id(node)] + len(node.children), "a node's references are wrong"
            assert node.refs or node.parent is None or id(node) in heap, "an unreferenced node can never be evicted"
            tree += [node.page] if node.parent is not None else []
            stack.extend(node.children.values())
        assert sorted([*self._free, *self._tail_refs, *tree]) == list(range(self.num_pages)), "a page is lost or double"

    def _key(self, tokens: Sequence[int], start: int) -> bytes:
        """As what the page of ``tokens`` from ``start`` on is found."""
        return self._bytes(*tokens[start : start + self.page_size])

    def _take(self) -> int:
        page = self._free.pop()
        self._tail_refs[page] = 1
        return page

    def _drop_tail(self, page: int) -> None:
        self._tail_refs[page] -= 1
        if not self._tail_refs[page]:
            del self._tail_refs[page]
            self._free.append(page)

    def _move(self, lease: Lease, node: _Node) -> None:
        node.refs += 1
        self._unref(lease.node)
        lease.node = node

    def _unref(self, node: _Node) -> None:
        node.refs -= 1
        self._tick += 1
        node.used = self._tick
        self._offer(node)

    def _offer(self, node: _Node) -> None:
        if node.refs == 0 and node.parent is not None:
            heapq.heappush(self._evictable, (node.used, id(node), node))
            if len(self._evictable) > 2 * self.num_pages + 64:  # mostly entries that no longer hold
                self._evictable = [entry for entry in self._evictable if _holds(entry)]
                heapq.heapify(self._evictable)

    def _evict(self) -> bool:
        """Free the page of the least recently used node without references; False where there is none."""
        while self._evictable:
            entry = heapq.heappop(self._evictable)
            used, _, node = entry
            parent = node.parent
            if parent is None or not _holds(entry):
                continue  # used again, or gone, since it was offered
            del parent.children[node.key]
            self._free.append(node.page)
            parent.refs -= 1
            parent.used = max(parent.used, used)
            self._offer(parent)
            return True
        return False

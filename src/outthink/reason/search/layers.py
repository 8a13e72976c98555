"""Searches that go layer by layer: all of a layer is in flight at once, and only the choice among it waits for all."""

from __future__ import annotations

from collections.abc import Sequence

from outthink.reason.search.node import Expansion, Node
from outthink.reason.search.tree import Search

TRIES = 4  # how often steps are drawn where the verifier rules all of them out and no budget says when to stop


async def grow_layer(search: Search, nodes: Sequence[Node], widths: Sequence[int]) -> list[Expansion]:
    """Extend each node in as many ways as its width says. In the order of ``nodes``; fewer where the budget ends or
    the verifier accepts a line.

    Where everything is ruled out the layer is drawn again, as `may_try_again` says; else what has no way on is closed.
    """
    layer: list[Expansion] = []
    tries = 0
    while may_try_again(search, tries):
        layer += await _grow_once(search, nodes, widths)
        tries += 1
        if search.accepted or any(e.fit for e in layer):
            await search.close(*(e.node for e in layer if not e.live), fate="no way on")
            break
    return sorted(layer, key=lambda expansion: nodes.index(expansion.node))


async def _grow_once(search: Search, nodes: Sequence[Node], widths: Sequence[int]) -> list[Expansion]:
    waiting = [(node, width) for node, width in zip(nodes, widths, strict=True) if width > 0]
    layer: list[Expansion] = []
    while not search.accepted:
        while waiting and search.room:
            node, width = waiting.pop(0)
            search.launch(node, width, sharing=len(waiting) + 1)
        if not search.in_flight:
            break
        layer.append(await search.next())
    return layer


def may_try_again(search: Search, tries: int) -> bool:
    """Whether steps all of which were ruled out ``tries`` times may be drawn again: while there is a budget for it, or
    `TRIES` times where nothing limits them.
    """
    return search.room if search.ledger.limited else tries < TRIES


def best(nodes: Sequence[Node], n: int) -> list[Node]:
    """The ``n`` nodes of highest score, those found first among equals; ruled out and cut ones left out."""
    return sorted((node for node in nodes if node.fit), key=lambda node: -node.score)[:n]

"""Paged KV cache bookkeeping: pages, the prefix tree over them, leases. Imports no torch."""

from outthink.kv.cache import Lease, PagedCache

__all__ = ["Lease", "PagedCache"]

"""The tree of reasoning as a page that stands alone."""

from outthink.cli.tree.page import tree_page

__all__ = ["tree_page"]

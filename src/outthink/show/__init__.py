"""What a person is shown of a posterior: the tree behind it as data to draw, and as a page that stands alone.

``assets/`` holds the one renderer, in plain modules of JavaScript: the server's page imports them, `tree_page` writes
them into its file.
"""

from outthink.show.page import tree_page
from outthink.show.record import copied, read_record, record_of
from outthink.show.view import live_view, view_of

__all__ = ["copied", "live_view", "read_record", "record_of", "tree_page", "view_of"]

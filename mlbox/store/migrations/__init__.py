"""The schemas of all SQLite files, one module each, as named, forward-only migrations.

A released migration is never edited: a change is a new function at the end of its set, and `datadir.LAYOUT_VERSION` goes
up by one.
"""

from mlbox.store.migrations.access import access
from mlbox.store.migrations.registry import registry

__all__ = ["access", "registry"]

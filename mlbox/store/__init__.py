"""State: everything that mlbox keeps on disk."""

import importlib
import sys


def _import_without(module: str, *unwanted: str) -> None:
    """Import a module while others look as if they were not installed."""
    blocked = [name for name in unwanted if name not in sys.modules]
    try:
        # What the import system documents: None under a name makes importing it a ModuleNotFoundError.
        sys.modules.update(dict.fromkeys(blocked))  # type: ignore[arg-type]
        importlib.import_module(module)
    finally:
        for name in blocked:
            del sys.modules[name]


# We use sqlite-utils for migrations alone, but where pandas and numpy are installed it imports both, to convert cells of
# theirs: 90 MB and most of a second of every start. It takes their absence well, and nothing else sees it.
_import_without("sqlite_utils", "pandas", "numpy")

"""`python confined.py FILE COMMAND...`: a command of the server's own that may reach no more than the rules in FILE.

The standard library alone.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from typing import Any


def main(file: str, command: list[str]) -> None:
    """Confine this process as the file says, and become the command."""
    with open(file) as text:
        _beside("confine").confine(json.load(text))
    os.execv(command[0], command)  # noqa: S606 (it is the command that this process becomes)


def _beside(name: str) -> Any:
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), f"{name}.py")
    found = importlib.util.spec_from_file_location(name, path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])

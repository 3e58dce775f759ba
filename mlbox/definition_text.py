"""Definitions of the feature store as people write them, in TOML or JSON: lengths such as `7d`, and errors by line."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import msgspec

from mlbox import policy_file
from mlbox.errors import InvalidInput
from mlbox.records import Definitions

KINDS = ("sources", "entities", "views", "transforms", "services")
HINT = f"It has lists {', '.join(f'`{kind}`' for kind in KINDS)}."
MOST_CHARACTERS = 1024 * 1024
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_LENGTH = re.compile(r"(\d{1,9})\s*([smhdw])")
_PLACE = re.compile(r"(.*?) - at `\$\.?(.*)`")


def read(text: str) -> Definitions:
    """What a text in TOML defines; raises InvalidInput of the field `toml` that begins with the line that is wrong."""
    if len(text) > MOST_CHARACTERS:
        raise InvalidInput(
            f"The definitions have {len(text):,} characters.", hint=f"{MOST_CHARACTERS:,} at most.", field="toml"
        )
    try:
        found = of_plain(tomllib.loads(text))
    except msgspec.ValidationError as err:
        place = _PLACE.fullmatch(str(err))
        said, path = (place[1], place[2]) if place else (str(err), "")
        wrong = InvalidInput(f"{path}: {said}." if path else f"{said}.", hint=HINT, field=path)
        raise policy_file.at_line(text, wrong) from err
    except RecursionError as err:
        raise InvalidInput("The definitions are nested too deeply.", hint=HINT, field="toml") from err
    except ValueError as err:
        raise policy_file.unreadable(text, str(err)) from err
    if not any(getattr(found, kind) for kind in KINDS):
        raise InvalidInput("The text defines nothing.", hint=HINT, field="toml")
    return found


def of_plain(raw: Any) -> Definitions:
    """What TOML or JSON says, `ttl = "7d"` and `stale_after = "2h"` in seconds; raises msgspec's ValidationError."""
    for view in _views(raw):
        for name in ("ttl", "stale_after"):
            if isinstance(view, dict) and name in view:
                view[f"{name}_seconds"] = _seconds(view.pop(name), name)
    return msgspec.convert(raw, Definitions)


def _views(raw: Any) -> list[Any]:
    found = raw.get("views") if isinstance(raw, dict) else None
    return found if isinstance(found, list) else []


def _seconds(text: Any, name: str) -> int:
    found = _LENGTH.fullmatch(str(text))
    if found is None:
        raise msgspec.ValidationError(f"{name} is {text!r}, and a length such as 90m, 12h or 7d is wanted")
    return int(found[1]) * _UNITS[found[2]]

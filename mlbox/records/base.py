"""The base of all records, names, and events."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from mlbox.errors import InvalidInput

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,255}")


_longest_name = 256


def limit_names(longest: int) -> None:
    """From here on this process takes names of at most so many characters, 256 at the most: the setting max_name."""
    global _longest_name
    _longest_name = longest


def check_name(name: str, *, field: str = "name") -> str:
    """A name that is safe in a path, a URL and a metric label; raises InvalidInput with the field otherwise."""
    if not NAME.fullmatch(name):
        raise InvalidInput(
            f"{name[:80]!r} is not a valid {field}.",
            hint="Use 1 to 256 letters, digits, '.', '_' and '-', beginning with a letter or digit.",
            field=field,
        )
    if len(name) > _longest_name:
        raise InvalidInput(
            f"The {field} {name[:80]!r} is longer than {_longest_name} characters.",
            hint="Choose a shorter one; the setting max_name says how long it may be.",
            field=field,
        )
    return name


def split_ref(ref: str) -> tuple[str, int]:
    """`MODEL/VERSION` or `MODEL@VERSION` as its parts; raises InvalidInput."""
    model, _, version = ref.replace("@", "/").rpartition("/")
    if not model or not (version.isascii() and version.isdigit()):
        hint = "For example flight-delay/3; `mlbox model versions MODEL` lists versions."
        raise InvalidInput(f"{ref!r:.200} is not MODEL/VERSION.", hint=hint, field="ref")
    return model, int(version)


def html_table(facts: Mapping[str, Any]) -> str:
    """Facts by name as a small HTML table: what a notebook shows of a record."""
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(str(fact))}</td></tr>" for name, fact in facts.items()
    )
    return f"<table>{rows}</table>"


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all records."""

    def to_json(self) -> bytes:
        """The record as JSON."""
        return msgspec.json.encode(self)

    def _repr_html_(self) -> str:
        """What a notebook shows: every field that says something."""
        facts = {name: getattr(self, name) for name in self.__struct_fields__}
        return html_table({name: fact for name, fact in facts.items() if fact not in (None, "", (), {})})


class Event(Record, frozen=True, kw_only=True):
    """One thing that happened: an audit row, a live update, a cause for an alert."""

    id: str
    type: str
    subject: str
    """Noun and id, such as `model:fraud/3` or `job:0198...`."""
    actor: str
    at: datetime
    domain_at: datetime
    data: dict[str, Any]


class ChainReport(Record, frozen=True, kw_only=True):
    """What the verification of one room's audit log found."""

    room: str
    events: int
    """How many are as they were written."""
    head: str
    """Number and hash of the last of these: keep it elsewhere, and verify against it later."""
    problem: str = ""
    """What is wrong first; nothing where the log is whole."""

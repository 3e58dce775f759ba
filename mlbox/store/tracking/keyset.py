"""Keyset pages: the terms that an order is made of, and the rows that come after one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from mlbox.errors import InvalidInput
from mlbox.store.tracking.filters import Bound, Value


class Page(NamedTuple):
    """One page, and the values that the next one begins after; None at the end."""

    found: list[Any]
    next: list[Any] | None


class Term(NamedTuple):
    """A column of an order: SQL that is never NULL, its values, and whether it ascends."""

    sql: str
    ascending: bool
    values: tuple[Any, ...] = ()


def sorting(terms: Sequence[Term]) -> str:
    """Terms as ORDER BY takes them."""
    return ", ".join(f"{term.sql} {'ASC' if term.ascending else 'DESC'}" for term in terms)


def after_row(terms: Sequence[Term], place: Sequence[Any]) -> Bound:
    """True for the rows that come after one with these values."""
    if len(place) != len(terms):
        raise wrong_page()
    ways: list[str] = []
    values: list[Value | int] = []
    for number, term in enumerate(terms):
        same = [f"{before.sql} = ?" for before in terms[:number]]
        ways.append(" AND ".join([*same, f"{term.sql} {'>' if term.ascending else '<'} ?"]))
        values += [*place[:number], place[number]]
    first = f"{terms[0].sql} {'>=' if terms[0].ascending else '<='} ?"  # where an index can begin
    return f"({first} AND ({' OR '.join(f'({way})' for way in ways)}))", [place[0], *values]


_INFINITE = {"\0inf": math.inf, "\0-inf": -math.inf}
"""Infinities in a page's token, because JSON has none; no other text begins like that."""


def token_of(values: Sequence[Any]) -> list[Any]:
    """The values of a row's terms as a page's token has them."""
    infinite = {value: text for text, value in _INFINITE.items()}
    return [infinite.get(value, value) for value in values]


def values_of(token: Sequence[Any]) -> list[Any]:
    """The values in a page's token."""
    return [_INFINITE.get(value, value) for value in token]


def wrong_page() -> InvalidInput:
    """The error of a page's token that is another search's."""
    return InvalidInput("Invalid page_token: it is of another search.", hint="Begin again.", field="page_token")

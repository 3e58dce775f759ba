"""MLflow's filter grammar: a text to a list of clauses that all must hold.

    filter     = [ clause { "AND" clause } ]
    clause     = key ( comparator value | "IS NULL" | "IS NOT NULL" )
    key        = [ entity "." ] name; a name may stand in backticks or double quotes
    comparator = "=" "!=" "<" "<=" ">" ">=" "LIKE" "ILIKE" "IN" "NOT IN"
    value      = 'text', "text", a number, or a list of texts in parentheses

Which entities there are, and how what of them is compared, is a `Grammar`. Words are known in any case; names are not.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal, NamedTuple

from mlbox.errors import InvalidInput

MAX_FILTER = 20_000
Value = str | float | tuple[str, ...] | None
Kind = Literal["text", "number", "pair", "metric", "dataset"]
"""What a name stands for: a text or a number of the row, a parameter or tag, a metric, a text of the data that was read."""

_SPACE = re.compile(r"\s+")
_WORD = re.compile(r"[A-Za-z_][\w.]*")
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_OPERATOR = re.compile(r"!=|>=|<=|=|>|<")
QUOTES = {"'": "text", '"': "quoted", "`": "name"}
ORDERED = ("=", "!=", ">", ">=", "<", "<=")
COMPARATORS: dict[Kind, tuple[str, ...]] = {
    "text": ("=", "!=", "LIKE", "ILIKE"),
    "number": ORDERED,
    "metric": ORDERED,
    "pair": ("=", "!=", "LIKE", "ILIKE", "IS NULL", "IS NOT NULL"),
    "dataset": ("=", "!=", "LIKE", "ILIKE", "IN", "NOT IN"),
}


class Grammar(NamedTuple):
    """What may be asked, in which words; `own` is the entity of the row itself, which need not be named."""

    entities: dict[str, str]
    """Each entity and its other names, to its plain name: metric, param, tag, dataset or attribute."""
    texts: frozenset[str]
    numbers: frozenset[str]
    lists: frozenset[str]
    """Those of `texts` that IN and NOT IN take as well."""
    aliases: dict[str, str] = {}
    """Other names of attributes."""
    datasets: frozenset[str] = frozenset()


class Clause(NamedTuple):
    """One comparison. The value fits the kind: a number, a text, a tuple of texts after IN, None after IS NULL."""

    entity: str
    key: str
    kind: Kind
    comparator: str
    value: Value


class Token(NamedTuple):
    """A piece of a filter: `word`, `quoted` (a name or a text), `text`, `number`, `operator`, `mark`."""

    kind: str
    text: str
    place: int
    end: int


def parse(filter: str, grammar: Grammar) -> list[Clause]:
    """A filter's clauses; raises InvalidInput that says what does not belong."""
    if len(filter) > MAX_FILTER:
        raise bad(f"it has {len(filter):,} characters, and at most {MAX_FILTER:,} are read")
    reader = _Reader(tokens(filter), len(filter))
    clauses: list[Clause] = []
    while not reader.over:
        if clauses and (joint := reader.take("word")).text.upper() != "AND":
            raise bad("its clauses are joined by AND, and by nothing else", joint)
        clauses.append(_clause(reader, grammar))
    return clauses


# -- tokens -------------------------------------------------------------------------------------------------------------


def tokens(filter: str) -> list[Token]:
    """A filter's pieces, in order; raises InvalidInput for what begins none."""
    found: list[Token] = []
    place = 0
    while (token := next_token(filter, place)) is not None:
        found.append(token)
        place = token.end
    return found


def next_token(filter: str, place: int) -> Token | None:
    """The piece that begins at a place or after the space there; None at the end; raises InvalidInput as `tokens`."""
    if space := _SPACE.match(filter, place):
        place = space.end()
    if place >= len(filter):
        return None
    mark = filter[place]
    if mark in QUOTES:
        text, end = _quoted(filter, place)
        return Token(QUOTES[mark], text, place, end)
    for kind, pattern in (("word", _WORD), ("number", _NUMBER), ("operator", _OPERATOR)):
        if match := pattern.match(filter, place):
            return Token(kind, match[0], place, match.end())
    if mark in "(),":
        return Token("mark", mark, place, place + 1)
    raise bad(f"{filter[place : place + 40]!r} is not of its grammar", (place, place + 1))


def _quoted(filter: str, place: int) -> tuple[str, int]:
    """What stands in quotes, where two of them stand for one, and the place after it."""
    mark, end, parts = filter[place], place + 1, []
    while True:
        close = filter.find(mark, end)
        if close < 0:
            raise bad(f"the quote {mark} at {filter[place : place + 40]!r} is not closed", (place, len(filter)))
        parts.append(filter[end:close])
        if mark == "`" or filter[close + 1 : close + 2] != mark:
            return mark.join(parts), close + 1
        end = close + 2


class _Reader:
    """Tokens, taken one by one."""

    def __init__(self, found: list[Token], length: int) -> None:
        self._left = found[::-1]
        self._length = length

    @property
    def over(self) -> bool:
        return not self._left

    def take(self, *kinds: str) -> Token:
        if not self._left:
            raise bad("it ends too early", (self._length, self._length))
        token = self._left.pop()
        if kinds and token.kind not in kinds:
            raise bad(f"{token.text[:80]!r} stands where {' or '.join(kinds)} is wanted", token)
        return token

    def until(self) -> int:
        """Where what was taken last ends."""
        return self._left[-1].place if self._left else self._length

    def joined(self, token: Token) -> bool:
        """True when the next token begins right where this one ends."""
        return bool(self._left) and self._left[-1].place == token.end


# -- clauses ------------------------------------------------------------------------------------------------------------


def _clause(reader: _Reader, grammar: Grammar) -> Clause:
    entity, key, kind = _key(reader, grammar)
    at = reader.until()
    comparator = _comparator(reader)
    allowed = comparators(grammar, key, kind)
    if comparator not in allowed:
        why = f"{entity}.{key[:80]} is not compared by {comparator[:20]!r}, but by one of {', '.join(allowed)}"
        raise bad(why, (at, at + len(comparator)))
    if comparator.startswith("IS"):
        return Clause(entity, key, kind, comparator, None)
    if comparator in ("IN", "NOT IN"):
        return Clause(entity, key, kind, comparator, _list(reader))
    if kind in ("metric", "number"):
        return Clause(entity, key, kind, comparator, _number(reader.take("number")))
    return Clause(entity, key, kind, comparator, reader.take("text", "quoted").text)


def comparators(grammar: Grammar, key: str, kind: Kind) -> tuple[str, ...]:
    """By what a key of this kind is compared."""
    return COMPARATORS[kind] + (("IN", "NOT IN") if key in grammar.lists and kind == "text" else ())


def _key(reader: _Reader, grammar: Grammar) -> tuple[str, str, Kind]:
    first = reader.take("word", "quoted", "name")
    if first.kind != "word":
        return located(first, grammar, "attribute", first.text)
    entity, dot, rest = first.text.partition(".")
    if not dot:
        return located(first, grammar, "attribute", entity)
    if entity not in grammar.entities:
        why = f"Invalid entity type '{entity[:80]}'. Valid entity types are {sorted(grammar.entities)}"
        raise bad(why, (first.place, first.place + len(entity)))
    if not rest and reader.joined(first):
        rest = reader.take("quoted", "name").text
    if not rest:
        raise bad(f"no name follows {first.text[:80]!r}", first)
    return located(first, grammar, grammar.entities[entity], rest)


def located(token: Token, grammar: Grammar, entity: str, name: str) -> tuple[str, str, Kind]:
    """What a name stands for; an error says that it is of this token."""
    try:
        return _of(grammar, entity, name)
    except InvalidInput as err:
        err.place = (token.place, token.end)
        raise


def _of(grammar: Grammar, entity: str, name: str) -> tuple[str, str, Kind]:
    kinds: dict[str, Kind] = {"metric": "metric", "param": "pair", "tag": "pair"}
    if entity in kinds:
        return entity, name, kinds[entity]
    if entity == "dataset":
        if name not in grammar.datasets:
            raise bad(f"Invalid dataset key '{name[:80]}' specified. Valid keys are {sorted(grammar.datasets)}")
        return entity, name, "dataset"
    return entity, *attribute(grammar, name)


def attribute(grammar: Grammar, name: str) -> tuple[str, Literal["text", "number"]]:
    """The plain name of an attribute, and its kind; raises InvalidInput."""
    plain = grammar.aliases.get(name, name)
    if plain in grammar.numbers:
        return plain, "number"
    if plain not in grammar.texts:
        raise bad(
            f"Invalid attribute key '{name[:80]}' specified. Valid keys are {sorted(grammar.texts | grammar.numbers)}"
        )
    return plain, "text"


def _comparator(reader: _Reader) -> str:
    token = reader.take("operator", "word")
    word = token.text.upper()
    if word == "NOT":
        return f"NOT {reader.take('word').text.upper()}"
    if word == "IS":
        second = reader.take("word").text.upper()
        return f"IS NOT {reader.take('word').text.upper()}" if second == "NOT" else f"IS {second}"
    return word


def _number(token: Token) -> float:
    text, value = token.text, float(token.text)
    if value in (float("inf"), float("-inf")):
        raise bad(f"{text[:40]} is too large a number", token)
    plain = text.lstrip("+-").isdigit() and len(text) < 19
    return int(text) if plain else value


def _list(reader: _Reader) -> tuple[str, ...]:
    found: list[str] = []
    if (begin := reader.take("mark")).text != "(":
        raise bad("a list begins with '('", begin)
    while True:
        found.append(reader.take("text", "quoted").text)
        mark = reader.take("mark")
        if mark.text == ")":
            return tuple(found)
        if mark.text != ",":
            raise bad("texts in a list are parted by ','", mark)


def bad(why: str, at: Token | tuple[int, int] | None = None) -> InvalidInput:
    """The error of a filter that cannot be read, and which of its characters are wrong."""
    place = (at.place, at.end) if isinstance(at, Token) else at
    where = f"Look at character {place[0] + 1}. " if place else ""
    example = "For example: metrics.auc > 0.8 AND params.lr = '0.1'"
    err = InvalidInput(f"Invalid filter: {why}.", hint=where + example, field="filter")
    err.place = place
    return err


# -- as SQL -------------------------------------------------------------------------------------------------------------

Bound = tuple[str, list[Value | int]]
"""SQL, and the values of its placeholders."""


def comparison(column: str, comparator: str, value: Value) -> Bound:
    """A comparison of a column; LIKE minds case, ILIKE does not mind that of ASCII letters."""
    if isinstance(value, tuple):
        return f"{column} {comparator} ({','.join('?' * len(value))})", list(value)
    if comparator == "LIKE":  # SQLite's own knows no case
        return f"{column} GLOB ?", [_as_glob(str(value))]
    return f"{column} {'LIKE' if comparator == 'ILIKE' else comparator} ?", [value]


def _as_glob(pattern: str) -> str:
    plain = re.sub(r"[*?\[]", lambda match: f"[{match[0]}]", pattern)
    return plain.replace("%", "*").replace("_", "?")


def all_of(clauses: list[Clause], compile: Callable[[Clause], Bound]) -> Bound:
    """The conjunction of compiled clauses."""
    parts, values = ["1"], []
    for clause in clauses:
        sql, bound = compile(clause)
        parts.append(sql)
        values += bound
    return " AND ".join(parts), values

"""Search of models and versions by MLflow's filters (see `filters`), as SQL with bound values.

Pages go on from the last row's own values, so a page costs the same wherever it is and no row is shown twice.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from mlbox.clock import to_us
from mlbox.errors import InvalidInput
from mlbox.records import Model, ModelVersion
from mlbox.store.registry.registry import Registry
from mlbox.store.tracking.filters import Bound, Clause, Grammar, all_of, comparison, parse

IS_PROMPT = "mlflow.prompt.is_prompt"
"""MLflow 3 lists models apart from its prompts by this tag, which models do not have."""
_ENTITIES = {"tag": "tag", "tags": "tag", "attribute": "attribute", "attributes": "attribute"}


class Searched(NamedTuple):
    """What may be asked and sorted by, and the SQL columns that these are."""

    grammar: Grammar
    columns: dict[str, str]
    tags: str
    order: dict[str, str]
    default: tuple[tuple[str, bool], ...]


MODELS = Searched(
    grammar=Grammar(entities=_ENTITIES, texts=frozenset({"name"}), numbers=frozenset(), lists=frozenset({"name"})),
    columns={"name": "model.name"},
    tags="model_tag WHERE model_id = model.id",
    order={
        "name": "model.name",
        "creation_timestamp": "model.created_us",
        "last_updated_timestamp": "model.updated_us",
        "timestamp": "model.updated_us",
    },
    default=(("name", True),),
)
VERSIONS = Searched(
    grammar=Grammar(
        entities=_ENTITIES,
        texts=frozenset({"name", "run_id", "source_path"}),
        numbers=frozenset({"version_number"}),
        lists=frozenset({"name", "run_id"}),
    ),
    columns={
        "name": "model.name",
        "run_id": "model_version.run_id",
        "source_path": "model_version.source",
        "version_number": "model_version.version",
    },
    tags="version_tag WHERE version_id = model_version.id",
    order={
        "name": "model.name",
        "version_number": "model_version.version",
        "creation_timestamp": "model_version.created_us",
        "last_updated_timestamp": "model_version.updated_us",
    },
    default=(("last_updated_timestamp", False), ("name", True), ("version_number", False)),
)


class Page(NamedTuple):
    """One page, and the values that the next one begins after; None at the end."""

    found: list[Any]
    next: list[Any] | None


class ModelSearch:
    """Models and versions by filter."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def models(
        self, filter: str = "", *, order_by: Sequence[str] = (), limit: int = 100, after: Sequence[Any] | None = None
    ) -> Page:
        """Models that match; raises InvalidInput for a filter or an order that is not of the grammar."""
        order = _order(MODELS, order_by, ("name",))
        sql, values = _compile(MODELS, filter, order, after)
        found = self._registry.select_models(sql, values, _sorting(MODELS, order), limit + 1)
        return _page(found, limit, [key for key, _ in order], _of_model)

    def versions(
        self, filter: str = "", *, order_by: Sequence[str] = (), limit: int = 100, after: Sequence[Any] | None = None
    ) -> Page:
        """Versions that match; raises InvalidInput for a filter or an order that is not of the grammar."""
        order = _order(VERSIONS, order_by, ("name", "version_number"))
        sql, values = _compile(VERSIONS, filter, order, after)
        found = self._registry.select_versions(sql, values, _sorting(VERSIONS, order), limit + 1)
        return _page(found, limit, [key for key, _ in order], _of_version)


# -- compiling ----------------------------------------------------------------------------------------------------------

Order = list[tuple[str, bool]]
"""Keys, and whether each ascends."""


def _order(what: Searched, order_by: Sequence[str], last: Sequence[str]) -> Order:
    order: Order = []
    for text in order_by:
        match = re.fullmatch(r"\s*(?:attributes?\.)?[`\"]?(\w+)[`\"]?(?:\s+(ASC|DESC))?\s*", text, re.IGNORECASE)
        if match is None or match[1] not in what.order:
            raise InvalidInput(
                f"Invalid order_by clause {text[:80]!r}.",
                hint=f"Use {', '.join(what.order)}, followed by ASC or DESC.",
                field="order_by",
            )
        order.append((match[1], (match[2] or "ASC").upper() == "ASC"))
    if not order:
        order = list(what.default)
    keys = [key for key, _ in order]
    if len(set(keys)) < len(keys):
        raise InvalidInput("order_by names a column twice.", hint="Name each once.", field="order_by")
    return order + [(key, True) for key in last if key not in keys]


def _sorting(what: Searched, order: Order) -> str:
    return ", ".join(f"{what.order[key]} {'ASC' if up else 'DESC'}" for key, up in order)


def _compile(what: Searched, filter: str, order: Order, after: Sequence[Any] | None) -> tuple[str, list[Any]]:
    sql, values = all_of(parse(filter, what.grammar), lambda clause: _condition(clause, what))
    if after is None:
        return sql, list(values)
    beyond, places = _beyond(what, order, after)
    return f"{sql} AND {beyond}", [*values, *places]


def _condition(clause: Clause, what: Searched) -> Bound:
    if clause.entity != "tag":
        return comparison(what.columns[clause.key], clause.comparator, clause.value)
    there = f"EXISTS (SELECT 1 FROM {what.tags} AND key = ?"
    if clause.value is None:
        return f"{'NOT ' if clause.comparator == 'IS NULL' else ''}{there})", [clause.key]
    if clause.key == IS_PROMPT and (clause.comparator, clause.value) in (("=", "false"), ("!=", "true")):
        return f"NOT {there} AND value = 'true')", [clause.key]
    sql, values = comparison("value", clause.comparator, clause.value)
    return f"{there} AND {sql})", [clause.key, *values]


def _beyond(what: Searched, order: Order, after: Sequence[Any]) -> tuple[str, list[Any]]:
    """True for the rows that come after one with these values."""
    if len(after) != len(order):
        raise InvalidInput("The page token is of another search.", hint="Begin again.", field="page_token")
    ways, values = [], []
    for place, (key, up) in enumerate(order):
        same = [f"{what.order[before]} = ?" for before, _ in order[:place]]
        ways.append(" AND ".join([*same, f"{what.order[key]} {'>' if up else '<'} ?"]))
        values += [*after[:place], after[place]]
    return f"({' OR '.join(f'({way})' for way in ways)})", values


def _page(found: list[Any], limit: int, keys: Sequence[str], of: Any) -> Page:
    if len(found) <= limit:
        return Page(found, None)
    shown = found[:limit]
    return Page(shown, [of(shown[-1], key) for key in keys])


def _of_model(model: Model, key: str) -> Any:
    return {
        "name": model.name,
        "creation_timestamp": _us(model.created_at),
        "last_updated_timestamp": _us(model.updated_at),
        "timestamp": _us(model.updated_at),
    }[key]


def _of_version(version: ModelVersion, key: str) -> Any:
    return {
        "name": version.model,
        "version_number": version.version,
        "creation_timestamp": _us(version.created_at),
        "last_updated_timestamp": _us(version.updated_at),
    }[key]


def _us(moment: datetime | None) -> int:
    assert moment is not None
    return to_us(moment)

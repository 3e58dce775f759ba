"""The rows of a request, and their features as a version wants them: looked up by entity, or as the caller gave them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from mlbox.errors import InvalidInput, MlboxError, NotFound, suggest
from mlbox.records import Column, ModelVersion, OnlineRow, Record
from mlbox.store.features.features import FeatureStore

if TYPE_CHECKING:
    import numpy as np

MAX_ROWS = 10_000
MAX_IDS = 64
MAX_TEXT = 1000
FLOAT32_MAX = (2 - 2**-23) * 2.0**127
INT64 = range(-(2**63), 2**63)
Values = list[list[float | None]]
"""A row of features for each row asked about, in the order of a model's columns; None is a missing value."""


class PredictRow(Record, frozen=True, kw_only=True):
    """One row to score: by the entity's ids, or by features; `key` decides which version answers."""

    key: str
    entity: dict[str, Any] = {}
    """The ids that features are looked up by; kept in the prediction log either way."""
    features: dict[str, Any] | None = None
    """Numbers, by full reference, or by name where that is unambiguous; None is a missing value. Those that are left out are
    looked up, where there is an entity."""


def check_rows(rows: Sequence[PredictRow]) -> None:
    """All by ids or all by features, not too many, and ids that are plain values; raises InvalidInput naming the field."""
    if not rows or len(rows) > MAX_ROWS:
        raise InvalidInput(f"{len(rows)} rows; 1 to {MAX_ROWS:,} are taken.", hint="Split them.", field="rows")
    if len({row.features is None for row in rows}) > 1:
        raise InvalidInput("Some rows have features and some have none.", hint="Send them apart.", field="features")
    for number, row in enumerate(rows):
        if len(row.entity) > MAX_IDS:
            raise InvalidInput(
                f"Entity {number} has {len(row.entity)} ids; at most {MAX_IDS} are taken.",
                hint="Send the join keys only.",
                field=f"entities.{number}",
            )
        for name, value in row.entity.items():
            if not _is_plain(value) or len(name) > MAX_TEXT:
                raise InvalidInput(
                    f"{name[:80]!r} of entity {number} is {value!r:.60}, and an id is wanted.",
                    hint=f"Send a number, a boolean or a text of at most {MAX_TEXT:,} characters.",
                    field=f"entities.{number}.{name[:80]}",
                )


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= MAX_TEXT
    if isinstance(value, int):
        return value in INT64
    return value is None or isinstance(value, float)


class Columns:
    """Where a version's features are among its input's columns, by full reference and by what is unambiguous."""

    def __init__(self, version: ModelVersion) -> None:
        self.ref = version.ref
        self.names = version.features
        self.places = {name: place for place, name in enumerate(self.names)}
        bare = [name.partition(":")[2] for name in self.names]
        self.places |= {name: place for place, name in enumerate(bare) if bare.count(name) == 1}


class Form(NamedTuple):
    """What a row for a version may be made of."""

    columns: Columns
    keys: tuple[Column, ...]
    """What features are looked up by, and what on-demand transforms take with a request."""

    def row(self, values: Mapping[str, Any], key: str) -> PredictRow:
        """A row of columns by name, each a feature or a part of the entity; raises InvalidInput for one that is neither."""
        names = {column.name for column in self.keys}
        features = {name: value for name, value in values.items() if name in self.columns.places}
        entity = {name: value for name, value in values.items() if name not in features}
        for name in entity:
            if name not in names and features:
                raise InvalidInput(
                    f"{self.columns.ref} has no feature {name!r:.200}, and none is looked up by it.",
                    hint=suggest(name[:200], [*self.columns.places, *names]),
                    field=name[:200],
                )
        return PredictRow(key=key, entity=entity, features=features or None)


class Inputs:
    """The features of one request's rows. All versions that see a row, and its shadow, see the same look-up."""

    def __init__(self, store: FeatureStore, rows: Sequence[PredictRow]) -> None:
        self.rows = rows
        self._store = store
        self._found: dict[tuple[str, ...], tuple[_Looked, float, int]] = {}
        """By features: what was found, the seconds that took, and where these rows begin in it."""

    def of(self, columns: Columns, places: Sequence[int]) -> tuple[Values, float]:
        """The features of the rows at these places, and the seconds that the look-up took.

        Raises NotFound for an entity that no view knows, and InvalidInput for odd ids or features, naming row and field.
        """
        given = [self.rows[place].features for place in places]
        if given[0] is not None and not any(self._is_partial(columns, place) for place in places):
            return [_given(columns, one or {}, place) for one, place in zip(given, places, strict=True)], 0.0
        online, seconds, first = self._look_up(columns.names)
        if given[0] is not None:
            found = [self._known(columns, online, first, place) for place in places]
            return [
                _given(columns, self.rows[at].features or {}, at, f) for at, f in zip(places, found, strict=True)
            ], seconds
        return [self._known(columns, online, first, place) for place in places], seconds

    def _is_partial(self, columns: Columns, place: int) -> bool:
        """Whether a row has some of the features, and an entity that the others are looked up by."""
        row = self.rows[place]
        return bool(row.entity) and len(row.features or ()) < len(columns.names)

    def _look_up(self, names: tuple[str, ...]) -> tuple[_Looked, float, int]:
        """Of all rows at once, whoever answers them, so that an error's row number is the caller's."""
        if names not in self._found:
            began = time.perf_counter()
            entities = [row.entity for row in self.rows]
            if self._store.uses_transforms(names):
                found: _Looked = _Records(names, self._store.online_features(names, entities))
            else:
                found = self._store.online_vectors(names, entities)
            self._found[names] = found, time.perf_counter() - began, 0
        return self._found[names]

    def _known(self, columns: Columns, found: _Looked, first: int, place: int) -> list[float | None]:
        if found.is_unknown(first + place):
            views = dict.fromkeys(name.partition(":")[0] for name in columns.names)
            raise NotFound(
                f"No view knows the entity {self.rows[place].entity!r:.200}: it is not in {', '.join(views)}.",
                hint="Check its ids, or materialize the views.",
                field=f"entities.{place}",
            )
        return [
            value if type(value) is float else _number(value, name)
            for value, name in zip(found.values(first + place), columns.names, strict=True)
        ]

    @staticmethod
    def look_up_together(asked: Sequence[tuple[Inputs, tuple[str, ...]]]) -> None:
        """Look the features of several requests up at once. Where that fails, each is told of its own when it looks itself."""
        alike: dict[tuple[str, ...], list[Inputs]] = {}
        for inputs, names in asked:
            if inputs.rows[0].features is None:
                alike.setdefault(names, []).append(inputs)
        for names, some in alike.items():
            if len(some) == 1:
                continue
            every = Inputs(some[0]._store, [row for inputs in some for row in inputs.rows])
            with contextlib.suppress(MlboxError):
                found, seconds, first = every._look_up(names)
                for inputs in some:
                    inputs._found[names] = found, seconds, first
                    first += len(inputs.rows)


class _Looked(Protocol):
    """Features of entities, as far as they were found."""

    def values(self, entity: int, /) -> Sequence[Any]:
        """One entity's, in the order in which they were asked for."""

    def is_unknown(self, entity: int, /) -> bool:
        """No view knows it."""


class _Records:
    """Those that come as records, as they do where transforms are among them."""

    def __init__(self, names: Sequence[str], rows: Sequence[OnlineRow]) -> None:
        self._names = names
        self._rows = rows

    def values(self, entity: int) -> Sequence[Any]:
        return [self._rows[entity].values[name] for name in self._names]

    def is_unknown(self, entity: int) -> bool:
        return all(status == "NOT_FOUND" for status in self._rows[entity].statuses.values())


def _given(
    columns: Columns, features: Mapping[str, Any], row: int, found: Sequence[float | None] | None = None
) -> list[float | None]:
    """Features in the model's order: what the caller gave, None for a missing value, and beside it what was found."""
    values: dict[int, float | None] = {}
    for name, value in features.items():
        field = f"features.{row}.{name[:200]}"
        place = columns.places.get(name)
        if place is None:
            raise InvalidInput(
                f"{columns.ref} has no feature {name!r:.200}.", hint=suggest(name[:200], columns.places), field=field
            )
        if place in values:
            raise InvalidInput(f"The feature {name!r} is given twice.", hint="Give each once.", field=field)
        if value is not None and not (isinstance(value, int | float) and abs(value) <= FLOAT32_MAX):
            raise InvalidInput(
                f"{name!r} is {value!r:.60}, and a finite number that fits into a float32 is wanted.",
                hint="Send null for a missing value.",
                field=field,
            )
        values[place] = None if value is None else float(value)
    if found is not None:
        return [values.get(place, value) for place, value in enumerate(found)]
    for place, name in enumerate(columns.names):
        if place not in values:
            raise InvalidInput(
                f"The feature {name!r} is missing.",
                hint="Send null for a missing value.",
                field=f"features.{row}.{name}",
            )
    return [values[place] for place in range(len(columns.names))]


def _number(value: Any, name: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, str):
        raise InvalidInput(
            f"The feature {name} is text, and a model takes numbers.", hint="Encode it in its view.", field=name
        )
    return float(value)


def as_matrix(values: Values) -> np.ndarray:
    """Features as float32 [N, F] with NaN for missing; what is too large for a float32 is infinite."""
    import numpy as np

    with np.errstate(over="ignore"):
        return np.array(values, dtype=np.float64).astype(np.float32)

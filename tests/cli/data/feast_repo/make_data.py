"""Make the Parquet files that the definitions read."""

from datetime import UTC, datetime
from pathlib import Path

import pandas as pd


def day(number: int, hour: int = 0) -> datetime:
    return datetime(2026, 1, number, hour, tzinfo=UTC)


Path("data").mkdir(exist_ok=True)
stats = pd.DataFrame(
    {
        "driver_id": [1001, 1002, 1001],
        "conv_rate": pd.Series([0.5, 0.25, 0.75], dtype="float32"),
        "trips": pd.Series([3, 4, 5], dtype="int32"),
        "last_trip": [day(1), day(2), day(3)],
        "acc_rate": [0.9, 0.8, None],
        "embedding": [[0.5, 0.25], [1.0, 0.0], [0.0, 1.0]],
        "event_timestamp": [day(1), day(2), day(3)],
        "created": [day(1, 1), day(2, 1), day(3, 1)],
    }
)
stats.to_parquet("data/driver_stats.parquet")
fares = pd.DataFrame(
    {
        "driver_id": [1001, 1001],
        "town": ["Wien", "Linz"],
        "fare_eur": [9.5, 20.0],
        "order": [7, 8],
        "at": [day(1), day(2)],
    }
)
fares.to_parquet("data/fares.parquet")
pd.DataFrame({"city": ["Wien", "Linz"], "temp": [3.5, -1.0], "hour": [day(4), day(4)]}).to_parquet(
    "data/weather.parquet"
)
pd.DataFrame({"price": [1.6], "day": [day(1)]}).to_parquet("data/fuel.parquet")

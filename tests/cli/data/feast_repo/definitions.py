"""The definitions that registry.db was made from, with `feast apply` of Feast 0.67."""

from datetime import timedelta

import pandas as pd
from feast import (
    Entity,
    FeatureService,
    FeatureView,
    Field,
    FileSource,
    KafkaSource,
    PushSource,
    RequestSource,
    ValueType,
)
from feast.data_format import JsonFormat
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Array, Float32, Float64, Int32, Int64, UnixTimestamp

driver = Entity(
    name="driver",
    join_keys=["driver_id"],
    value_type=ValueType.INT64,
    description="Who drives.",
    tags={"domain": "fleet"},
    owner="fleet@example.org",
)
city = Entity(name="city", join_keys=["city"], value_type=ValueType.STRING)

stats_file = FileSource(
    name="driver_stats",
    path="data/driver_stats.parquet",
    timestamp_field="event_timestamp",
    created_timestamp_column="created",
    description="From the trips of each hour.",
)
stats_push = PushSource(name="driver_stats_push", batch_source=stats_file)
driver_hourly = FeatureView(
    name="driver_hourly",
    entities=[driver],
    ttl=timedelta(days=1),
    schema=[
        Field(name="conv_rate", dtype=Float32, description="Share of offers taken."),
        Field(name="trips", dtype=Int32, tags={"unit": "trips"}),
        Field(name="last_trip", dtype=UnixTimestamp),
        Field(name="embedding", dtype=Array(Float32)),
    ],
    source=stats_push,
    description="How a driver does.",
    tags={"stage": "production", "quoted": 'says "hi" \\ and\ttabs'},
    owner="fleet@example.org",
)
driver_slow = FeatureView(
    name="driver_slow",
    entities=[driver],
    schema=[Field(name="acc_rate", dtype=Float64)],
    source=stats_file,
    online=False,
)

fares = FeatureView(
    name="fares",
    entities=[driver, city],
    ttl=timedelta(hours=36),
    schema=[Field(name="fare", dtype=Float64), Field(name="order", dtype=Int64)],
    source=FileSource(
        path="data/fares.parquet",
        timestamp_field="at",
        field_mapping={"fare_eur": "fare", "town": "city"},
    ),
)

weather_file = FileSource(name="weather_file", path="data/weather.parquet", timestamp_field="hour")
weather = FeatureView(
    name="weather",
    entities=[city],
    schema=[Field(name="temp", dtype=Float64)],
    source=weather_file,
)
prices = FeatureView(
    name="fuel_price",
    entities=[],
    schema=[Field(name="price", dtype=Float64)],
    source=FileSource(name="fuel", path="data/fuel.parquet", timestamp_field="day"),
)
clicks = FeatureView(
    name="clicks",
    entities=[driver],
    schema=[Field(name="count", dtype=Int64)],
    source=KafkaSource(
        name="clicks_stream",
        kafka_bootstrap_servers="kafka:9092",
        topic="clicks",
        timestamp_field="at",
        message_format=JsonFormat(schema_json="driver_id int, count int, at timestamp"),
        batch_source=FileSource(name="clicks_file", path="s3://clicks/all.parquet", timestamp_field="at"),
    ),
)

request = RequestSource(name="vals", schema=[Field(name="limit", dtype=Int64)])


@on_demand_feature_view(sources=[driver_hourly, request], schema=[Field(name="rate_over", dtype=Float64)])
def rate(inputs: pd.DataFrame) -> pd.DataFrame:
    df = pd.DataFrame()
    df["rate_over"] = inputs["conv_rate"] / inputs["limit"]
    return df


scoring = FeatureService(
    name="scoring",
    features=[driver_hourly[["conv_rate", "embedding"]], rate, fares],
    description="What the model takes.",
)
route = FeatureService(
    name="route",
    features=[
        weather.with_name("origin_weather").with_join_key_map({"city": "origin"}),
        weather.with_name("goal_weather").with_join_key_map({"city": "goal"}),
        driver_slow.with_name("slow"),
    ],
)

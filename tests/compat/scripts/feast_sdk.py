"""Feast's SDK as its users use it, with mlbox as its online store: write, push, and read back."""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import requests
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, PushSource, ValueType
from feast.data_source import PushMode
from feast.errors import FeatureViewNotFoundException, PushSourceNotFoundException
from feast.types import Float64, Int64, String

URL, TOKEN = os.environ["MLBOX_URL"], os.environ["MLBOX_TOKEN"]
HTTP = requests.Session()
HTTP.headers["Authorization"] = f"Bearer {TOKEN}"
NOW = datetime.now(UTC).replace(microsecond=0)


def define(path: str, body: dict) -> None:
    answer = HTTP.post(f"{URL}/api/v1/{path}", json=body)
    assert answer.status_code == 201, answer.text


def columns(**dtypes: str) -> list[dict[str, str]]:
    return [{"name": name, "dtype": dtype} for name, dtype in dtypes.items()]


# -- the same names on the box ------------------------------------------------------------------------------------------------

STATS = columns(driver_id="INT64", conv="FP64", trips="INT64", event_timestamp="TIMESTAMP")
define("sources", {"name": "driver_push", "columns": STATS, "event_time": "event_timestamp"})
define(
    "features/views",
    {
        "name": "drv",
        "join_keys": STATS[:1],
        "features": STATS[1:3],
        "sources": ["driver_push"],
        "sql": "SELECT driver_id, conv, trips, event_timestamp AS event_time FROM driver_push",
        "ttl_seconds": 86_400,
    },
)
ROUTES = columns(driver_id="INT64", city="STRING", fare="FP64", event_timestamp="TIMESTAMP")
define("sources", {"name": "routes", "columns": ROUTES, "event_time": "event_timestamp"})
define(
    "features/views",
    {
        "name": "fares",
        "join_keys": ROUTES[:2],
        "features": ROUTES[2:3],
        "sources": ["routes"],
        "sql": "SELECT driver_id, city, fare, event_timestamp AS event_time FROM routes",
    },
)
define("features/services", {"name": "svc", "features": ["drv:conv", "drv:trips"]})

# -- Feast's repository -------------------------------------------------------------------------------------------------------

Path("feature_store.yaml").write_text(
    f"""
project: compat
provider: local
registry: registry.db
online_store:
  type: remote
  path: {URL}/feast
auth:
  type: oidc
  token_env_var: MLBOX_TOKEN
entity_key_serialization_version: 3
"""
)
stats = pd.DataFrame(
    {
        "driver_id": [1001, 1002, 1003],
        "conv": [0.5, 0.25, None],
        "trips": [5, 7, 9],
        "event_timestamp": [NOW - timedelta(hours=2), NOW - timedelta(hours=1), NOW - timedelta(hours=1)],
        "created": [NOW] * 3,
    }
)
stats.to_parquet("stats.parquet")
routes = pd.DataFrame({"driver_id": [1001], "city": ["Wien"], "fare": [9.5], "event_timestamp": [NOW]})
routes.to_parquet("routes.parquet")
driver = Entity(name="driver", join_keys=["driver_id"], value_type=ValueType.INT64)
city = Entity(name="city", join_keys=["city"], value_type=ValueType.STRING)
batch = FileSource(
    name="stats", path="stats.parquet", timestamp_field="event_timestamp", created_timestamp_column="created"
)
push_source = PushSource(name="driver_push", batch_source=batch)
drv = FeatureView(
    name="drv",
    entities=[driver],
    ttl=timedelta(days=1),
    schema=[Field(name="driver_id", dtype=Int64), Field(name="conv", dtype=Float64), Field(name="trips", dtype=Int64)],
    source=push_source,
)
fares = FeatureView(
    name="fares",
    entities=[driver, city],
    schema=[
        Field(name="driver_id", dtype=Int64),
        Field(name="city", dtype=String),
        Field(name="fare", dtype=Float64),
    ],
    source=FileSource(name="routes", path="routes.parquet", timestamp_field="event_timestamp"),
)
svc = FeatureService(name="svc", features=[drv])
gone = FeatureView(
    name="gone", entities=[driver], schema=[Field(name="x", dtype=Float64)], source=batch, ttl=timedelta(days=1)
)
store = FeatureStore(repo_path=".")
store.apply([driver, city, batch, push_source, drv, fares, svc, gone])

# -- write, push and read -----------------------------------------------------------------------------------------------------


def read(features, entity_rows, **options):
    return store.get_online_features(features=features, entity_rows=entity_rows, **options).to_dict()


store.write_to_online_store("drv", df=stats)
store.write_to_online_store("fares", df=routes.assign(created=NOW))
print(json.dumps(read(["drv:conv", "drv:trips"], [{"driver_id": 1001}, {"driver_id": 1003}, {"driver_id": 9}])))
print(json.dumps(read(["fares:fare"], [{"driver_id": 1001, "city": "Wien"}, {"driver_id": 1001, "city": "Linz"}])))
print(json.dumps(read(store.get_feature_service("svc"), [{"driver_id": 1002}])))
print(json.dumps(read(["drv:conv", "fares:fare"], [{"driver_id": 1001, "city": "Wien"}], full_feature_names=True)))

newer = stats.head(1).assign(conv=[0.75], event_timestamp=[NOW - timedelta(minutes=1)])
older = stats.head(1).assign(conv=[0.1], event_timestamp=[NOW - timedelta(hours=9)])
store.push("driver_push", newer, to=PushMode.ONLINE)
store.push("driver_push", older, to=PushMode.ONLINE)
print(json.dumps(read(["drv:conv"], [{"driver_id": 1001}])))

store.materialize(
    NOW - timedelta(days=2), NOW, feature_views=["drv"]
)  # Feast's own: from its file, through /write-to-online-store
print(json.dumps(read(["drv:trips"], [{"driver_id": 1002}])))

stale = stats.head(1).assign(driver_id=[1004], event_timestamp=[NOW - timedelta(days=3)])
store.push("driver_push", stale, to=PushMode.ONLINE)
print(json.dumps(read(["drv:conv"], [{"driver_id": 1004}])))

try:
    read(["gone:x"], [{"driver_id": 1}])
except FeatureViewNotFoundException as err:
    print(type(err).__name__, "gone" in str(err))
answer = HTTP.post(f"{URL}/feast/push", json={"push_source_name": "none", "df": {}})
print(answer.status_code, PushSourceNotFoundException.from_error_detail(answer.json()).__class__.__name__)

"""What `bench.feast` has Feast do, in Feast's own environment: define, fill the online store, join again and again.

`feast_side.py apply REPO` makes a repository of the files that are there; `feast_side.py join REPO` joins once for each line on
stdin and answers each with a line of JSON: CPU seconds, seconds, and what the answer was.
"""

import json
import resource
import sys
import time
from datetime import timedelta
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.types import Float64, Int64

CONFIG = """
project: bench
provider: local
registry: registry.db
online_store:
  type: sqlite
  path: online.db
offline_store:
  type: duckdb
entity_key_serialization_version: 3
"""


def apply(repo: Path) -> None:
    """A view over each file, and online what `wide.parquet` has."""
    (repo / "feature_store.yaml").write_text(CONFIG)
    who = Entity(name="who", join_keys=["who"], value_type=ValueType.INT64)
    store = FeatureStore(repo_path=str(repo))
    store.apply([who, *(_view(file, who) for file in sorted(repo.glob("*.parquet")) if file.stem != "spine")])
    wide = pd.read_parquet(repo / "wide.parquet")
    for start in range(0, len(wide), 10_000):
        store.write_to_online_store("wide", df=wide[start : start + 10_000])


def _view(file: Path, who: Entity) -> FeatureView:
    names = [name for name in pq.read_schema(file).names if name not in ("who", "moment")]
    return FeatureView(
        name=file.stem,
        entities=[who],
        ttl=timedelta(days=7),
        schema=[Field(name="who", dtype=Int64), *(Field(name=name, dtype=Float64) for name in names)],
        source=FileSource(name=file.stem, path=str(file), timestamp_field="moment"),
    )


def join(repo: Path) -> None:
    """Joins as they are asked for."""
    store = FeatureStore(repo_path=str(repo))
    spine = pd.read_parquet(repo / "spine.parquet")
    features = [f"view{number}:amount{number}" for number in range(3)]
    for _ in sys.stdin:
        began, cpu = time.perf_counter(), _cpu()
        found = store.get_historical_features(entity_df=spine, features=features).to_arrow()
        took = {"cpu": _cpu() - cpu, "seconds": time.perf_counter() - began}
        columns = [found[name.partition(":")[2]] for name in features]
        sums = [column.to_pandas().sum() for column in columns]
        nulls = [column.null_count for column in columns]
        print(json.dumps({**took, "rows": found.num_rows, "sums": sums, "nulls": nulls}), flush=True)


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    {"apply": apply, "join": join}[sys.argv[1]](Path(sys.argv[2]))

"""`mlbox feature search|lineage|profile` against a running server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from mlbox.records import FeatureHit, FeatureLineage, ViewProfile

FEATURES = """
[[sources]]
name = "sales"
columns = [
  {name = "who", dtype = "STRING"}, {name = "moment", dtype = "TIMESTAMP"}, {name = "amount", dtype = "FP64"},
]
event_time = "moment"

[[views]]
name = "spend"
join_keys = [{name = "who", dtype = "STRING"}]
features = [{name = "amount", dtype = "FP64", unit = "euro", description = "What was paid"}]
sql = "SELECT who, amount, moment AS event_time FROM sales"
sources = ["sales"]
owner = "ada"
tags = {tier = "gold"}

[[services]]
name = "all"
features = ["spend:amount"]
"""


def test_a_feature_is_found_followed_and_profiled(box_cli: Callable[..., Any], home: Path) -> None:
    (home / "features.toml").write_text(FEATURES)
    rows = "".join(f"p{n},2026-01-01T00:00:{n:02}Z,{n if n % 4 else ''}\n" for n in range(40))
    (home / "sales.csv").write_text(f"who,moment,amount\n{rows}")
    assert box_cli("feature", "apply", "features.toml").code == 0
    assert box_cli("source", "append", "sales", "sales.csv").code == 0

    for words in (("amuont",), ("paid",), ("--tag", "tier=gold"), ("euro", "--owner", "ada", "--entity", "who"), ()):
        ran = box_cli("feature", "search", *words, "-o", "json")
        assert [hit.ref for hit in msgspec.json.decode(ran.out, type=list[FeatureHit])] == ["spend@v1:amount"], ran
    assert box_cli("feature", "search", "-o", "id").out == "spend@v1:amount\n"
    assert box_cli("feature", "search", "nothing", "-o", "id").out == ""
    assert box_cli("feature", "search", "--limit", "0").code == 2

    followed = box_cli("feature", "lineage", "spend", "-o", "json").out
    assert [node.id for node in msgspec.json.decode(followed, type=FeatureLineage).nodes] == [
        "view:spend@v1",
        "source:sales",
        "service:all@v1",
    ]
    table = box_cli("feature", "lineage", "spend").out.splitlines()
    assert [line.split()[:2] for line in table[1:]] == [
        ["source", "sales"],
        ["view", "spend@v1"],
        ["service", "all@v1"],
    ]

    assert "not computed yet" in box_cli("feature", "profile", "spend").err
    ran = box_cli("feature", "profile", "spend", "--refresh", "-o", "json")
    (amount,) = msgspec.json.decode(ran.out, type=ViewProfile).features
    assert (amount.rows, amount.nulls, amount.min, amount.max) == (40, 10, 1.0, 39.0)
    assert "0.25" in box_cli("feature", "profile", "spend").out
    assert box_cli("feature", "profile", "nothing").code == 3

"""`mlbox feature import-feast`, from a registry that Feast itself made to values that are read online."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from mlbox.clock import SystemClock
from tests.cli.conftest import Ran
from tests.conftest import Server

REPO = Path(__file__).parent / "data" / "feast_repo"
REGISTRY = REPO / "data" / "registry.db"

HOURLY = """
[[views]]
name = "driver_hourly"
join_keys = [{ name = "driver_id", dtype = "INT64" }]
features = [
  { name = "conv_rate", dtype = "FP64", description = "Share of offers taken." },
  { name = "trips", dtype = "INT64", unit = "trips" },
  { name = "last_trip", dtype = "TIMESTAMP" },
]
sql = '''
SELECT
  driver_id,
  event_timestamp AS event_time, created AS arrival_time,
  conv_rate, trips, last_trip
FROM driver_stats_push'''
sources = ["driver_stats_push"]
ttl = "1d"
owner = "fleet@example.org"
description = "How a driver does."
tags = { quoted = "says \\"hi\\" \\\\ and\\ttabs", stage = "production" }
entity = "driver"
"""
FARES = """
sql = '''
SELECT
  driver_id, town AS city,
  "at" AS event_time,
  fare_eur AS fare, "order"
FROM fares'''
sources = ["fares"]
ttl = "36h"
entity = "driver_city"
"""
LEFT = [
    "view driver_hourly: feature embedding: there is no type FLOAT_LIST here; keep it as text, or as a column for each"
    " of its parts",
    "view fuel_price: it has no entity; give it a constant key; a draft of that is in the file",
    "service scoring: driver_hourly: embedding did not come over; add them when they are here",
    "service scoring: rate: rate_over did not come over; add them by hand",
    "service scoring: it has no place for its description; say it with the model that uses it",
    "on-demand view rate: its function is Python of any kind; write it as a transform; a draft with the function's text"
    " is in the file",
    "source clicks_stream: mlbox does not read from Kafka; let what reads the stream push its rows"
    " (`mlbox source push`) to the source of clicks",
    "source vals: it comes with a request (limit INT64); make it inputs of a transform",
]
NOTES = [
    "view driver_slow: it is not for online reads there; here every view is",
    "service route: it calls driver_slow slow; here its features are driver_slow:FEATURE",
    "source driver_stats and its push source are one here, driver_stats_push: append and push to that",
    "source 'data/fares.parquet' is called fares here",
]


def said(ran: Ran, kind: str) -> list[str]:
    return [line.removeprefix(f"{kind}: ") for line in ran.err.splitlines() if line.startswith(f"{kind}: ")]


def test_a_repository_is_printed_as_definitions_with_what_is_lost(cli: Callable[..., Ran]) -> None:
    ran = cli("feature", "import-feast", str(REPO))
    assert ran.code == 0, ran.err
    assert HOURLY in ran.out
    assert FARES in ran.out
    assert ran.err.splitlines()[0] == "5 sources, 3 entities, 7 views, 2 services."
    assert (said(ran, "not carried over"), said(ran, "note")) == (LEFT, NOTES)
    assert "# def rate(inputs: pd.DataFrame) -> pd.DataFrame:\n#     df = pd.DataFrame()\n" in ran.out
    assert '#   { name = "limit", dtype = "INT64" },' in ran.out
    found = tomllib.loads(ran.out)
    assert found["services"] == [
        {"name": "route", "features": ["origin_weather:temp", "goal_weather:temp", "driver_slow:acc_rate"]},
        {"name": "scoring", "features": ["driver_hourly:conv_rate", "fares:fare", "fares:order"]},
    ]
    assert [one["name"] for one in found["sources"]] == [
        "clicks_file",
        "driver_stats_push",
        "fares",
        "fuel",
        "weather_file",
    ]
    assert found["entities"][0] == {
        "name": "driver",
        "join_keys": [{"name": "driver_id", "dtype": "INT64"}],
        "owner": "fleet@example.org",
        "description": "Who drives.",
        "tags": {"domain": "fleet"},
    }


def test_what_is_imported_is_applied_loaded_and_read_online(
    box_cli: Callable[..., Ran], server: Server, tmp_path: Path
) -> None:
    file = tmp_path / "features.toml"
    imported = box_cli("feature", "import-feast", str(REPO), "--to", str(file))
    assert (imported.code, imported.out) == (0, ""), imported.err
    applied = box_cli("feature", "apply", str(file), "--yes")
    assert applied.code == 0, applied.err
    assert "17 to create" in applied.err
    again = box_cli("feature", "apply", str(file), "--yes")
    assert "17 unchanged" in again.err

    for line in said(imported, "to load"):
        program, *arguments = shlex.split(line, comments=True)
        if program == "python":
            subprocess.run([sys.executable, *arguments], cwd=tmp_path, check=True, env=os.environ)
        elif "clicks_file" not in arguments:
            arguments[-1] = str(tmp_path / arguments[-1])
            done = box_cli(*arguments)
            assert done.code == 0, done.err
    assert box_cli("feature", "materialize").code == 0
    asked = {
        "features": ["driver_slow:acc_rate", "driver_hourly:conv_rate"],
        "entities": [{"driver_id": 1001}, {"driver_id": 1002}, {"driver_id": 7}],
    }
    rows = server.http.post("/api/v1/features/online", json=asked).raise_for_status().json()
    slow, hourly = "driver_slow@v1:acc_rate", "driver_hourly@v1:conv_rate"
    assert [row["values"][slow] for row in rows] == [None, 0.8, None]
    assert [row["statuses"][slow] for row in rows] == ["NULL", "PRESENT", "NOT_FOUND"]
    assert [row["statuses"][hourly] for row in rows] == ["OUTSIDE_MAX_AGE"] * 2 + ["NOT_FOUND"]

    asked = {"features": ["route"], "entities": [{"origin": "Wien", "goal": "Linz", "driver_id": 1002}]}
    (row,) = server.http.post("/api/v1/features/online", json=asked).raise_for_status().json()
    assert list(row["values"].values()) == [3.5, -1.0, 0.8]

    now = SystemClock().real().isoformat()
    values = ("driver_id=1001", "acc_rate=0.5", "conv_rate=0.125", "trips=9", f"last_trip={now}")
    pushed = box_cli("source", "push", "driver_stats_push", *values, f"event_timestamp={now}", f"created={now}")
    assert pushed.code == 0, pushed.err
    got = box_cli("feature", "get", "driver_hourly:conv_rate", "--key", "driver_id=1001", "-o", "json")
    assert '"value": 0.125' in got.out, got.err


def test_a_draft_becomes_a_definition_when_its_comment_goes(box_cli: Callable[..., Ran], tmp_path: Path) -> None:
    printed = box_cli("feature", "import-feast", str(REPO)).out
    lines = printed.splitlines()
    start = lines.index("# [[views]]")
    end = next(at for at in range(start, len(lines)) if not lines[at])
    draft = "\n".join(line.removeprefix("# ") for line in lines[start:end])
    (tmp_path / "features.toml").write_text(f"{printed}\n{draft}\n")
    applied = box_cli("feature", "apply", str(tmp_path / "features.toml"), "--yes")
    assert "+ view fuel_price@v1" in applied.out, applied.err
    assert box_cli("source", "append", "fuel", str(REPO / "data" / "fuel.parquet")).code == 0
    assert box_cli("feature", "materialize").code == 0
    got = box_cli("feature", "get", "fuel_price:price", "--key", "scope=all", "-o", "json")
    assert '"value": 1.6' in got.out, got.err


def test_a_file_that_exists_stays(cli: Callable[..., Ran], tmp_path: Path) -> None:
    (tmp_path / "features.toml").write_text("# mine")
    ran = cli("feature", "import-feast", str(REPO), "--to", str(tmp_path / "features.toml"))
    assert (ran.code, "exists. Remove it" in ran.line) == (5, True)
    assert (tmp_path / "features.toml").read_text() == "# mine"
    wrong = cli("feature", "import-feast", str(REPO), "--to", str(tmp_path / "features.py"))
    assert (wrong.code, "End it in .toml." in wrong.line) == (2, True)
    nowhere = cli("feature", "import-feast", str(REPO), "--to", str(tmp_path / "no" / "features.toml"))
    assert (nowhere.code, "cannot be written" in nowhere.line) == (2, True)


def test_the_registry_file_alone_is_enough(cli: Callable[..., Ran]) -> None:
    whole = cli("feature", "import-feast", str(REPO)).out
    for path in (REGISTRY, REPO / "feature_store.yaml"):
        assert cli("feature", "import-feast", str(path)).out == whole
    other = cli("feature", "import-feast", str(REGISTRY), "--project", "other")
    assert (other.code, "has no project 'other'. Give --project, one of shop." in other.line) == (2, True)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (REGISTRY.read_bytes()[:5000], "registry.db is no registry of Feast, or is damaged, at byte "),
        (b"SQLite format 3\0" + bytes(100), "is an SQLite database: the registry_type is `sql`."),
        (b"", "registry.db defines nothing."),
        (None, "registry.db cannot be read: No such file or directory."),
    ],
)
def test_a_damaged_registry_is_one_line_that_names_it(
    cli: Callable[..., Ran], tmp_path: Path, content: bytes | None, says: str
) -> None:
    repo = tmp_path / "repo"
    shutil.copytree(REPO, repo)
    (repo / "data" / "registry.db").unlink()
    if content is not None:
        (repo / "data" / "registry.db").write_bytes(content)
    ran = cli("feature", "import-feast", str(repo))
    assert (ran.code, says in ran.line, ran.out) == (2, True, ""), ran.err


def test_a_registry_that_is_too_large_is_not_read(cli: Callable[..., Ran], tmp_path: Path) -> None:
    with (tmp_path / "registry.db").open("wb") as file:
        file.truncate((64 << 20) + 1)
    ran = cli("feature", "import-feast", str(tmp_path / "registry.db"))
    assert (ran.code, "is larger than 64 MiB." in ran.line) == (2, True)

"""Data that a run read, and which of it is a dataset version of this box.

Whoever logs data in MLflow's way gives it a name, a digest and a source. It is a version where the name is the version's
(`flights@v3`), or the source is: its address here, or the folder in which a job finds it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from mlbox.records import DatasetInput, DatasetVersion
from mlbox.store.db import Row, Tx

MAX_DIGEST = 36
TYPES = {"FP64": "double", "INT64": "long", "BOOL": "boolean", "STRING": "string", "TIMESTAMP": "datetime"}
"""MLflow's names of what columns hold."""
_REF = re.compile(r"[^@/\s]+@v[1-9][0-9]*")
_FOLDER = re.compile(r"/datasets/([^@/\s]+@v[1-9][0-9]*)(?:/|$)")


def input_of(version: DatasetVersion, url: str) -> DatasetInput:
    """A version as the data of a run: by its own name and hash, with its columns, at its address on this box."""
    columns = [{"type": TYPES[c.dtype], "name": c.name, "required": False} for c in version.columns]
    return DatasetInput(
        name=version.ref,
        digest=version.hash[:MAX_DIGEST],
        source_type="http",
        source=json.dumps({"url": f"{url}/api/v1/datasets/{version.ref}"}),
        schema=json.dumps({"mlflow_colspec": columns}) if columns else "",
        profile=json.dumps({"num_rows": version.rows}),
    )


def version_named(data: DatasetInput, url: str) -> str | None:
    """The version that data says it is, as NAME@vN; whether there is one is not looked at."""
    if _REF.fullmatch(data.name):
        return data.name
    source = _source(data.source)
    if "://" in source and not source.startswith((f"{url}/", "file://")):
        return None
    found = _FOLDER.search(source)
    return found[1] if found else None


def versions_among(names: Sequence[str | None]) -> tuple[str, ...]:
    """Those of the names of data that are a dataset version's, each once."""
    return tuple(dict.fromkeys(name for name in names if name is not None and _REF.fullmatch(name)))


def _source(text: str) -> str:
    """Where data is from, by what MLflow's client says of files and addresses."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    said: Any = found.get("uri") or found.get("url") if isinstance(found, dict) else ""
    return said if isinstance(said, str) else ""


def write_input(tx: Tx, run_id: str, group: str, data: DatasetInput) -> None:
    """Note what a run of an experiment read; what is noted already stays."""
    tx.run(
        "INSERT OR IGNORE INTO dataset (experiment_id, name, digest, source_type, source, schema, profile)"
        " VALUES (?,?,?,?,?,?,?)",
        (group, data.name, data.digest, data.source_type, data.source, data.schema, data.profile),
    )
    tx.run(
        "INSERT OR IGNORE INTO run_dataset SELECT ?, id, ? FROM dataset"
        " WHERE experiment_id = ? AND name = ? AND digest = ?",
        (run_id, msgspec.json.encode(data.tags).decode(), group, data.name, data.digest),
    )


def read_input(row: Row) -> DatasetInput:
    """What was noted."""
    plain = ("name", "digest", "source_type", "source", "schema", "profile")
    return DatasetInput(**{name: row[name] or "" for name in plain}, tags=msgspec.json.decode(row["tags"]))

"""Making a dataset version from Python or the command line: what is said of it, and rows on their way to the box."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypedDict, Unpack
from urllib.parse import quote

import msgspec

from mlbox.client import BYTES, CHUNK, Client
from mlbox.clock import parse_time
from mlbox.errors import InvalidInput
from mlbox.records import DatasetVersion
from mlbox.sdk.snapshot import git_commit

if TYPE_CHECKING:
    import pyarrow as pa

RUN_ID = "MLBOX_RUN_ID"
DIRTY = "-dirty"
BUILD_SECONDS = 3600
"""How long the answer may take: the box sorts, writes and hashes all rows first."""


class AboutDataset(TypedDict, total=False):
    """What is said of a version besides its rows."""

    split: Mapping[str, float | str | datetime | None]
    """The parts by name: each one's share, or the moment before which its rows are; the last part in time has none."""
    split_keys: Sequence[str]
    """The entity's keys, by whose hash shares are given out."""
    parents: Sequence[str]
    """Dataset versions that it is made from."""
    description: str
    tags: Mapping[str, str]


def about(**given: Unpack[AboutDataset]) -> dict[str, Any]:
    """What is said of a version, as the box takes it, with the commit and the run that this is at."""
    commit = git_commit(Path.cwd()) or ""
    split, keys = given.get("split"), given.get("split_keys", ())
    return {
        "split": split_of(split, keys) if split or keys else None,
        "parents": list(given.get("parents", ())),
        "description": given.get("description", ""),
        "tags": dict(given.get("tags", {})),
        "run_id": os.environ.get(RUN_ID),
        "git_commit": commit.removesuffix(DIRTY) or None,
        "git_dirty": commit.endswith(DIRTY),
    }


def split_of(
    parts: Mapping[str, float | str | datetime | None] | None, keys: Sequence[str] = ()
) -> dict[str, Any] | None:
    """A split as the box takes it: shares of the entities that `keys` name, or moments before which the rows of a part are.

    Raises InvalidInput for what is neither.
    """
    found = [(name, _share_or_moment(name, value)) for name, value in (parts or {}).items()]
    by_share = [isinstance(value, float) for _, value in found]
    if keys or any(by_share):
        if not keys or not all(by_share):
            raise InvalidInput(
                "A split by a hash has a share for each part, and the entity's keys." if found else "No part is named.",
                hint="Such as --split train=0.8 --split test=0.2 --split-key customer.",
                field="split",
            )
        return {"by": "hash", "keys": list(keys), "parts": [{"name": name, "share": share} for name, share in found]}
    return {"by": "time", "parts": [{"name": name, "until": until} for name, until in found]}


def _share_or_moment(name: str, value: float | str | datetime | None) -> float | str | None:
    if isinstance(value, datetime):
        return value.isoformat()
    if value is None or value == "":
        return None
    try:
        return float(value)
    except ValueError:
        return parse_time(str(value), field=f"split.{name}").isoformat()


def from_definition(client: Client, name: str, given: Mapping[str, Any]) -> DatasetVersion:
    """Have a version built from what the box holds."""
    body = {"name": name, **given}
    answer = client.request("POST", "/api/v1/datasets", body=body, timeout_seconds=BUILD_SECONDS)
    return client.decode(answer, DatasetVersion)


def from_file(client: Client, name: str, file: BinaryIO, format: str, given: Mapping[str, Any]) -> DatasetVersion:
    """Send a file's rows, which are a version in their order; its hash goes ahead, so that nothing else is kept."""
    digest, chunks = hashlib.sha256(), iter(lambda: file.read(CHUNK), b"")
    for chunk in chunks:
        digest.update(chunk)
    file.seek(0)
    answer = client.send(
        "POST",
        f"/api/v1/datasets/{quote(name, safe='')}/rows",
        content=iter(lambda: file.read(CHUNK), b""),
        headers=BYTES,
        query={"format": format, "sha256": digest.hexdigest(), "about": msgspec.json.encode(given).decode()},
        timeout_seconds=BUILD_SECONDS,
    )
    return client.decode(answer, DatasetVersion)


def from_rows(client: Client, name: str, rows: Any, given: Mapping[str, Any]) -> DatasetVersion:
    """Send the rows of a frame or a table; no more of them than a few are in memory twice."""
    import pyarrow as pa

    with tempfile.TemporaryFile(prefix="mlbox-") as file:
        with _reader(rows) as reader, pa.ipc.new_stream(pa.PythonFile(file, "w"), reader.schema) as writer:
            for batch in reader:
                writer.write_batch(batch)
        file.seek(0)
        return from_file(client, name, file, "arrow", given)


def _reader(rows: Any) -> pa.RecordBatchReader:
    import pyarrow as pa

    if isinstance(rows, pa.RecordBatchReader):
        return rows
    if isinstance(rows, pa.Table):
        return rows.to_reader()
    if type(rows).__module__.partition(".")[0] == "pandas":
        return pa.Table.from_pandas(rows, preserve_index=False).to_reader()
    if hasattr(rows, "__arrow_c_stream__"):  # polars, DuckDB and others
        return pa.RecordBatchReader.from_stream(rows)
    raise InvalidInput(
        f"A {type(rows).__name__} is no table.",
        hint="Give a pandas or polars frame, or an Arrow table or reader.",
        field="rows",
    )

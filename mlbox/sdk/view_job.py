"""The job of a view in free Python: `python -m mlbox.sdk.view_job`, in the folder of its code.

It reads what the view's sources had at the moment that it was asked for, calls the function, and sends back what that yields.
"""

from __future__ import annotations

import io
import runpy
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from mlbox import context
from mlbox.client import BYTES, Client
from mlbox.define import View
from mlbox.errors import InvalidInput, MlboxError
from mlbox.records import Computation, FeatureView

if TYPE_CHECKING:
    import pyarrow as pa


class _Task(msgspec.Struct, frozen=True):
    computation: Computation
    view: FeatureView


def main() -> int:
    """Compute the view of this job."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with Client(*context.resolve(), timeout_seconds=3600) as client:
        task = client.get("/api/v1/features/computation", _Task)
        view = task.view
        given: dict[str, pa.Table] = {}
        for ref in view.sources:
            name = ref.partition("@")[0]
            content = client.send("GET", f"/api/v1/features/computation/{name}")
            given[name] = pa.ipc.open_file(pa.py_buffer(content)).read_all()
            print(f"{name}: {given[name].num_rows:,} rows", file=sys.stderr)
        table = as_table(function_of(view)(**given))
        sink = io.BytesIO()
        pq.write_table(table, sink)
        done = client.send(
            "POST",
            "/api/v1/features/computation/rows",
            content=sink.getvalue(),
            headers=BYTES,
            query={"format": "parquet"},
        )
    rows = msgspec.json.decode(done, type=Computation).rows
    print(f"{view.ref}: {table.num_rows:,} rows, {rows:,} of them new", file=sys.stderr)
    return 0


def function_of(view: FeatureView) -> Any:
    """The view's function, from the file that defines it."""
    assert view.function is not None
    file = Path(view.function.file)
    sys.path.insert(0, str(file.resolve().parent))
    for found in runpy.run_path(str(file), run_name="mlbox_definitions").values():
        if isinstance(found, View) and found.name == view.name:
            return found.function
    raise InvalidInput(f"{file} defines no view {view.name!r}.", hint="Apply the definitions again.", field="function")


def as_table(found: Any) -> pa.Table:
    """What a function yielded as an Arrow table: one, a DataFrame of pandas or polars, columns by name, or rows."""
    import pyarrow as pa

    if isinstance(found, pa.Table):
        return found
    if isinstance(found, Mapping):
        return pa.table(dict(found))
    if isinstance(found, list):
        return pa.Table.from_pylist(found)
    if hasattr(found, "__arrow_c_stream__"):
        return pa.table(found)
    if hasattr(found, "iloc"):
        return pa.Table.from_pandas(found, preserve_index=False)
    raise InvalidInput(
        f"The function yielded {type(found).__name__}.",
        hint="Return a pyarrow.Table, a DataFrame, columns by name, or a list of rows.",
        field="function",
    )


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MlboxError as err:
        sys.exit(f"mlbox: {err}")

"""The job of a batch scoring: `python -m mlbox.sdk.score_job`.

It runs the model that the box names over the dataset that is mounted, some rows at a time, and sends the scores back as a
dataset: the rows' columns that are no features, in their order, with `score` and `model_version`.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from mlbox import context
from mlbox.client import Client
from mlbox.errors import MlboxError, Unavailable
from mlbox.records import DatasetVersion
from mlbox.sdk.datasets import Dataset, find

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

BATCH_ROWS = 10_000


class _Task(msgspec.Struct, frozen=True):
    model: str
    version: int
    dataset: str
    name: str
    features: tuple[str, ...]
    input: str
    output: str


def main() -> int:
    """Score the dataset of this job."""
    with Client(*context.resolve(), timeout_seconds=3600) as client, tempfile.TemporaryDirectory() as folder:
        task = client.get("/api/v1/scoring", _Task)
        model, scored = Path(folder) / "model.onnx", Path(folder) / "scores.parquet"
        client.download("/api/v1/scoring/model", model)
        rows = score_to(scored, find(client, task.dataset), model, task)
        ref = f"{task.model}/{task.version}"
        about = {
            "parents": [task.dataset],
            "description": f"{task.dataset} scored by {ref}",
            "tags": {"mlbox.model": ref},
        }
        path = f"/api/v1/datasets/{quote(task.name, safe='')}/rows"
        text = msgspec.json.encode(about).decode()
        made = client.upload("POST", path, scored, DatasetVersion, format="parquet", about=text)
    print(f"{made.ref}: {rows:,} rows scored by {ref}", file=sys.stderr)
    return 0


def score_to(target: Path, dataset: Dataset, model: Path, task: _Task) -> int:
    """Write the scores of all rows to a Parquet file; how many there were."""
    import onnxruntime as ort
    import pyarrow.parquet as pq

    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    kept = [column.name for column in dataset.columns if column.name not in task.features]
    rows, writer = 0, None
    for batch in dataset.batches(columns=[*kept, *task.features], batch_size=BATCH_ROWS):
        table = _scored(batch, kept, session, task)
        writer = writer or pq.ParquetWriter(target, table.schema)
        writer.write_table(table)
        rows += len(batch)
    if writer is None:
        raise Unavailable(f"{task.dataset} has no rows.", hint="Score one that has some.")
    writer.close()
    return rows


def _scored(batch: pa.RecordBatch, kept: list[str], session: Any, task: _Task) -> pa.Table:
    import numpy as np
    import pyarrow as pa

    columns = [_numbers(batch.column(name)) for name in task.features]
    (found,) = session.run([task.output], {task.input: np.column_stack(columns)})
    scores = np.asarray(found, np.float64)
    scores = scores if scores.ndim == 1 else scores[:, -1]  # of a classifier's probabilities the last
    table = pa.table({name: batch.column(name) for name in kept})
    table = table.append_column("score", pa.array(scores, from_pandas=True))
    return table.append_column("model_version", pa.array(np.full(len(batch), task.version, np.int64)))


def _numbers(column: pa.Array) -> np.ndarray:
    """A feature as the model takes it: float32, NaN where it is missing."""
    import numpy as np
    import pyarrow as pa

    plain = column.cast(pa.float64(), safe=False)
    found: np.ndarray = plain.to_numpy(zero_copy_only=False).astype(np.float32)
    return found


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MlboxError as err:
        sys.exit(f"mlbox: {err}")

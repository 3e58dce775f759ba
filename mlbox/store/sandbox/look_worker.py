"""The disposable process that looks into a file of a run for a page (see `workers`): a table's first rows, or a graph.

A reader of Parquet, Arrow or ONNX may die, loop or swell on a file that was made to do so. Here it takes nothing with it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from mlbox.records import Record
from mlbox.store.sandbox.parse_worker import is_arrow_file, limit

if TYPE_CHECKING:
    import pyarrow as pa

MOST_COLUMNS = 200
MOST_LETTERS = 200
MOST_NODES = 5000
Format = Literal["parquet", "arrow", "onnx"]


class LookRequest(Record, frozen=True, kw_only=True):
    """Which file, how many rows of it, and what looking may take."""

    path: str
    format: Format
    rows: int
    memory_bytes: int
    cpu_seconds: int


class TableLook(Record, frozen=True, kw_only=True):
    """The first rows of a table, as texts; None stands for null."""

    columns: tuple[str, ...]
    types: tuple[str, ...]
    rows: tuple[tuple[str | None, ...], ...]
    rows_in_all: int
    columns_in_all: int


class GraphTensor(Record, frozen=True, kw_only=True):
    """An input, an output or a weight of a graph."""

    name: str
    type: str


class GraphNode(Record, frozen=True, kw_only=True):
    """An operation of a graph."""

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class GraphLook(Record, frozen=True, kw_only=True):
    """What an ONNX file has."""

    producer: str
    opsets: tuple[str, ...]
    inputs: tuple[GraphTensor, ...]
    outputs: tuple[GraphTensor, ...]
    weights: tuple[GraphTensor, ...]
    parameters: int
    """Numbers in all of its weights."""
    nodes: tuple[GraphNode, ...]
    nodes_in_all: int


class LookAnswer(Record, frozen=True, kw_only=True):
    """What was found, or why nothing was."""

    table: TableLook | None = None
    graph: GraphLook | None = None
    error: str = ""


def _table(request: LookRequest) -> TableLook:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if request.format == "parquet":
        with pq.ParquetFile(request.path) as file:
            names = file.schema_arrow.names
            batches = file.iter_batches(request.rows, columns=names[:MOST_COLUMNS])
            return _rows(next(batches, None), file.schema_arrow, request.rows, file.metadata.num_rows)
    with pa.OSFile(request.path, "rb") as source:
        opened = pa.ipc.open_file(source) if is_arrow_file(source) else pa.ipc.open_stream(source)
        with opened as reader:
            table = reader.read_all()
            table.validate(full=True)
            return _rows(table, table.schema, request.rows, table.num_rows)


def _rows(found: pa.RecordBatch | pa.Table | None, schema: pa.Schema, most: int, in_all: int) -> TableLook:
    names = schema.names[:MOST_COLUMNS]
    rows: list[dict[str, Any]] = [] if found is None else found.slice(0, most).to_pylist()
    return TableLook(
        columns=tuple(names),
        types=tuple(str(schema.field(at).type)[:MOST_LETTERS] for at in range(len(names))),
        rows=tuple(tuple(_text(row.get(name)) for name in names) for row in rows),
        rows_in_all=in_all,
        columns_in_all=len(schema.names),
    )


def _text(value: object) -> str | None:
    return None if value is None else str(value)[:MOST_LETTERS]


def _graph(request: LookRequest) -> GraphLook:
    import onnx

    model = onnx.load(request.path, load_external_data=False)
    graph = model.graph
    if not graph.node and not graph.output:
        raise ValueError("it has no graph")
    weights = {one.name: one for one in graph.initializer}
    names = onnx.TensorProto.DataType.Name
    return GraphLook(
        producer=f"{model.producer_name} {model.producer_version}".strip()[:MOST_LETTERS],
        opsets=tuple(f"{one.domain or 'ai.onnx'} {one.version}"[:MOST_LETTERS] for one in model.opset_import),
        inputs=tuple(_tensor(one) for one in graph.input if one.name not in weights)[:MOST_COLUMNS],
        outputs=tuple(_tensor(one) for one in graph.output)[:MOST_COLUMNS],
        weights=tuple(
            GraphTensor(name=_cut(one.name), type=_typed(names(one.data_type), list(one.dims)))
            for one in list(weights.values())[:MOST_NODES]
        ),
        parameters=sum(math.prod(one.dims) for one in weights.values()),
        nodes=tuple(
            GraphNode(op=_cut(one.op_type), name=_cut(one.name), inputs=_names(one.input), outputs=_names(one.output))
            for one in graph.node[:MOST_NODES]
        ),
        nodes_in_all=len(graph.node),
    )


def _tensor(one: Any) -> GraphTensor:
    import onnx

    kind = one.type.WhichOneof("value")
    if kind != "tensor_type":
        return GraphTensor(name=_cut(one.name), type=str(kind or "unknown").removesuffix("_type"))
    tensor = one.type.tensor_type
    sizes = [size.dim_param or (size.dim_value if size.HasField("dim_value") else "?") for size in tensor.shape.dim]
    return GraphTensor(name=_cut(one.name), type=_typed(onnx.TensorProto.DataType.Name(tensor.elem_type), sizes))


def _typed(kind: str, sizes: Sequence[object]) -> str:
    return f"{kind.lower()} [{', '.join(str(size) for size in sizes[:8])}]"[:MOST_LETTERS]


def _names(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(_cut(name) for name in names if name)


def _cut(text: str) -> str:
    return text[:MOST_LETTERS]


def answer(request: LookRequest) -> LookAnswer:
    """Look, and put whatever goes wrong into words."""
    limit(request.memory_bytes, request.cpu_seconds, 1 << 20)
    try:
        if request.format == "onnx":
            return LookAnswer(graph=_graph(request))
        return LookAnswer(table=_table(request))
    except MemoryError:
        return LookAnswer(error="It takes too much memory to be looked into.")
    except Exception as err:  # whatever a reader says of a file that is none
        return LookAnswer(error=f"It cannot be read as {request.format}: {str(err)[:300] or type(err).__name__}.")


def main() -> None:
    """Answer the one request."""
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=LookRequest)
    sys.stdout.buffer.write(answer(request).to_json())

"""MLflow's scoring protocol: POST /invocations for one model, in each of the five forms that `mlflow models serve` takes.

Columns of a table are features or what features are looked up by, for a model that names features; the model's inputs, for one
that does not. `params` may be what the Open Inference Protocol has as parameters: `key`, `keys`, `priority`, `timeout`.

https://mlflow.org/docs/latest/deployment/deploy-model-locally.html, "Local Inference Server Specification".
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from litestar import Request, Response, get, post

from mlbox import __version__
from mlbox.errors import InvalidInput, NotFound
from mlbox.records import Principal, TensorSpec
from mlbox.serve.inference.rows import Form
from mlbox.serve.inference.server import ModelServer
from mlbox.serve.inference.tensors import Tensor
from mlbox.web.api.predict import default_key
from mlbox.web.box import Box
from mlbox.web.mlflow.wire import problem, shape
from mlbox.web.problems import SHAPES
from mlbox.web.v2 import wire
from mlbox.web.v2.dataplane import keys_of, readable
from mlbox.web.v2.queueing import queueing

FORMS = ("dataframe_split", "dataframe_records", "instances", "inputs")
CSV = "text/csv"
_NUMBER = re.compile(r"[+-]?\d{1,18}")
SHAPES.append(("/invocations", shape))
Row = dict[str, Any]


class Split(msgspec.Struct):
    """A table as pandas writes it with orient='split'; the index says nothing to a model."""

    columns: list[str | int]
    data: list[list[Any]]


@post(
    ["/invocations", "/invocations/{model:str}", "/models/{model:str}/invocations"],
    status_code=200,
    accepts=(CSV,),
    exception_handlers={Exception: problem},
    action="model.predict",
)
async def invocations(
    request: Request[Any, Any, Any], box: Box, principal: Principal, model: str | None = None
) -> Response[bytes]:
    """Predictions of a model, of the one in the setting `invocations_model` where the path names none."""
    name = model or box.settings.invocations_model
    if not name:
        raise NotFound(
            "The path names no model, and the setting invocations_model is not set.",
            hint="POST to /invocations/NAME or /models/NAME/invocations.",
            field="model",
        )
    body, kind = await request.body(), request.headers.get("content-type", "")
    found = await box.call(answer_of, box.models, name, body, kind, principal.name)
    return Response(found, media_type="application/json")


def answer_of(models: ModelServer, model: str, body: bytes, kind: str, caller: str) -> bytes:
    """From body to body, all of it off the loop."""
    if kind.partition(";")[0].strip().lower() == CSV:
        form = models.form(model)
        found = _of_table(models, model, form, _csv(body, _texts(form, models.inputs(model))), {}, caller)
    else:
        found = _of_json(models, model, body, caller)
    return msgspec.json.encode({"predictions": found})


def _of_json(models: ModelServer, model: str, body: bytes, caller: str) -> Any:
    try:
        asked = msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.MsgspecError as err:
        raise InvalidInput(
            f"The body cannot be read: {err}.", hint=f"Send JSON with one of {', '.join(FORMS)}."
        ) from err
    given = [name for name in FORMS if name in asked]
    if len(given) != 1:
        raise InvalidInput(
            f"The body has {' and '.join(given) or 'none of the forms of input'}.",
            hint=f"Send exactly one of {', '.join(FORMS)}.",
            field=given[1] if given else FORMS[0],
        )
    params = asked.get("params") or {}
    if not isinstance(params, dict):
        raise InvalidInput("The params are no object.", hint='Send {"NAME": VALUE}.', field="params")
    name, value = given[0], asked[given[0]]
    if name == "dataframe_split":
        return _of_table(models, model, models.form(model), _split(value), params, caller)
    if name == "dataframe_records" or (name == "instances" and _is_records(value)):
        return _of_table(models, model, models.form(model), _records(name, value), params, caller)
    if isinstance(value, dict):
        return _of_columns(models, model, value, params, caller)
    specs = models.inputs(model)
    if len(specs) != 1:
        names = ", ".join(spec.name for spec in specs[:10])
        raise InvalidInput(
            f"The model {model!r} has {len(specs)} inputs, and {name} has no names.",
            hint=f'Send {{"NAME": VALUES}} for each of {names}.',
            field=name,
        )
    return _run(models, model, [_tensor(specs[0], value)], params, caller)


# -- the forms of a table ---------------------------------------------------------------------------------------------------


def _split(value: Any) -> list[Row]:
    try:
        table = msgspec.convert(value, Split)
    except msgspec.ValidationError as err:
        raise InvalidInput(
            f"The dataframe_split is not a table: {err}.",
            hint='Send {"columns": [...], "data": [[...], ...]}.',
            field="dataframe_split",
        ) from err
    return _rows([str(name) for name in table.columns], table.data, "dataframe_split")


def _rows(columns: Sequence[str], data: Sequence[Sequence[Any]], field: str) -> list[Row]:
    twice = next((name for place, name in enumerate(columns) if name in columns[:place]), None)
    if twice is not None:
        raise InvalidInput(f"The column {twice!r:.80} is there twice.", hint="Name each once.", field=twice[:200])
    for number, row in enumerate(data):
        if len(row) != len(columns):
            raise InvalidInput(
                f"Row {number} has {len(row)} values for {len(columns)} columns.",
                hint="Send one for each, null for a missing one.",
                field=field,
            )
    return [dict(zip(columns, row, strict=True)) for row in data]


def _is_records(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _records(name: str, value: Any) -> list[Row]:
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise InvalidInput(f"The {name} are no list of objects.", hint='Send [{"COLUMN": VALUE}, ...].', field=name)
    return value


def _csv(body: bytes, texts: set[str]) -> list[Row]:
    """Rows of a file with a header. An empty field is missing, and in columns that are no texts the others are numbers."""
    try:
        header, *data = [line for line in csv.reader(io.StringIO(body.decode("utf-8-sig")), strict=True) if line]
    except (csv.Error, UnicodeDecodeError, ValueError) as err:
        raise InvalidInput(
            f"The body is no CSV with a header: {err}.",
            hint="Send UTF-8, the names of the columns first.",
            field="body",
        ) from err
    return [
        {name: (value or None) if name in texts else _number(value) for name, value in row.items()}
        for row in _rows(header, data, "body")
    ]


def _number(text: str) -> Any:
    if not text:
        return None
    try:
        return int(text) if _NUMBER.fullmatch(text) else float(text)
    except ValueError:
        return text


def _texts(form: Form, specs: Sequence[TensorSpec]) -> set[str]:
    """Columns whose values stay texts where nothing else says so."""
    return {key.name for key in form.keys if key.dtype == "STRING"} | {s.name for s in specs if s.dtype == "BYTES"}


# -- answers ----------------------------------------------------------------------------------------------------------------


def _of_table(
    models: ModelServer, model: str, form: Form, rows: list[Row], params: Mapping[str, Any], caller: str
) -> Any:
    if not rows:
        raise InvalidInput("There are no rows.", hint="Send at least one.", field="data")
    if form.columns.names and not _is_unnamed(rows[0]):
        return _scores(models, model, form, rows, params, caller)
    columns = list(rows[0])
    if any(row.keys() != rows[0].keys() for row in rows):
        raise InvalidInput(
            "The rows do not have the same columns.", hint="Send null for a missing value.", field="data"
        )
    specs = models.inputs(model)
    if {spec.name for spec in specs} != set(columns) and len(specs) == 1 and len(specs[0].shape) == 2:
        return _run(models, model, [_tensor(specs[0], [list(row.values()) for row in rows])], params, caller)
    return _of_columns(models, model, {name: [row[name] for row in rows] for name in columns}, params, caller)


def _is_unnamed(row: Row) -> bool:
    """Whether columns are 0, 1, 2: those of a table that was made of an array."""
    return list(row) == [str(place) for place in range(len(row))]


def _scores(
    models: ModelServer, model: str, form: Form, rows: list[Row], params: Mapping[str, Any], caller: str
) -> list[float | None]:
    names = {key.name for key in form.keys}
    keys = keys_of(params)
    if len(keys) > 1 and len(keys) != len(rows):
        raise InvalidInput(f"{len(keys)} keys for {len(rows)} rows.", hint="Send one for each row.", field="keys")
    given = keys * len(rows) if len(keys) == 1 else keys
    asked = []
    for place, row in enumerate(rows):
        entity = {name: value for name, value in row.items() if name in names}
        asked.append(form.row(row, given[place] if given else default_key(entity)))
    return [found.score for found in models.predict(model, rows=asked, caller=caller)]


def _of_columns(
    models: ModelServer, model: str, columns: Mapping[str, Any], params: Mapping[str, Any], caller: str
) -> Any:
    """Columns by name: the model's inputs, or features and ids with a value for each row."""
    specs, form = models.inputs(model), models.form(model)
    by_name = {spec.name: spec for spec in specs}
    if form.columns.names and not by_name.keys() & columns.keys():
        lists = {name: value if isinstance(value, list) else [value] for name, value in columns.items()}
        count = max(map(len, lists.values()), default=0)
        uneven = next((name for name, values in lists.items() if len(values) != count), None)
        if uneven is not None:
            raise InvalidInput(
                f"The column {uneven!r:.80} has {len(lists[uneven])} values for {count} rows.",
                hint="Send one for each row.",
                field=uneven[:200],
            )
        rows = [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]
        return _of_table(models, model, form, rows, params, caller)
    unknown = next((name for name in columns if name not in by_name), None)
    if unknown is not None:
        raise InvalidInput(
            f"The model {model!r} has no input {unknown!r:.80}.",
            hint=f"It takes {', '.join(list(by_name)[:10])}.",
            field=unknown[:200],
        )
    return _run(models, model, [_tensor(by_name[name], value) for name, value in columns.items()], params, caller)


def _run(models: ModelServer, model: str, tensors: Sequence[Tensor], params: Mapping[str, Any], caller: str) -> Any:
    """The values of the one output, or of each by its name."""
    found = models.infer(model, tensors, caller=caller, keys=keys_of(params), **queueing(params))
    shown = {tensor.name: readable(tensor).tolist() for tensor in found.outputs}
    return next(iter(shown.values())) if len(shown) == 1 else shown


def _tensor(spec: TensorSpec, value: Any) -> Tensor:
    """Nested lists as the tensor that an input takes, in its own type; raises InvalidInput naming it."""
    size = _shape(value)
    if len(size) == 1 and len(spec.shape) == 2 and spec.shape[1] in (-1, 1):
        size = (*size, 1)
        value = [[one] for one in value]
    half = spec.dtype in ("FP16", "BF16")
    data = msgspec.Raw(msgspec.json.encode(value))
    given = wire.InputTensor(name=spec.name, datatype="FP32" if half else spec.dtype, shape=size, data=data)
    return _halved(wire.from_json(given), spec.dtype) if half else wire.from_json(given)


def _shape(value: Any) -> tuple[int, ...]:
    found: list[int] = []
    while isinstance(value, list) and len(found) <= wire.MAX_DIMENSIONS:
        found.append(len(value))
        value = value[0] if value else None
    return tuple(found)


def _halved(tensor: Tensor, dtype: str) -> Tensor:
    import numpy as np

    if dtype == "FP16":
        with np.errstate(over="ignore"):
            return Tensor(tensor.name, dtype, tensor.data.astype(np.float16))
    bits = tensor.data.view(np.uint32)
    return Tensor(
        tensor.name, dtype, ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    )  # to nearest, to even


# -- beside it --------------------------------------------------------------------------------------------------------------


@get("/ping", media_type="text/plain", action="public")
async def ping() -> str:
    """The server answers, as `mlflow models serve` says it; for everyone, as /livez is."""
    return "\n"


@get(
    ["/models/{model:str}/ping", "/models/{model:str}/health"],
    media_type="text/plain",
    exception_handlers={Exception: problem},
    action="model.read",
)
async def model_ping(box: Box, model: str) -> str:
    """The model serves and is in memory."""
    await box.call(box.models.ready, model)
    return "\n"


@get(
    "/models/{model:str}/version", media_type="text/plain", exception_handlers={Exception: problem}, action="model.read"
)
async def model_version(box: Box, model: str) -> str:
    """The release of the server, where MLflow's has its own."""
    await box.call(box.models.metadata, model)
    return __version__


handlers: list[Any] = [invocations, ping, model_ping, model_version]

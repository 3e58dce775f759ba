"""How a model is asked: the fields of a form, and the same question in the words of three clients.

The example is what was asked last, where it names all ids; every line shown runs as it stands, with a token in MLBOX_TOKEN.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

from mlbox.records import Column, Prediction, TensorSpec
from mlbox.web.box import Box

SIMPLE = {"STRING": "BYTES", "TIMESTAMP": "BYTES"}
"""Tensors of what a column is, where the word is another."""
BLANK: dict[str, Any] = {"STRING": "…", "TIMESTAMP": "2026-01-31T12:00:00Z", "INT64": 0, "FP64": 0.0, "BOOL": False}


class Call(NamedTuple):
    """The question in one client's words."""

    client: str
    code: str


class Trial(NamedTuple):
    """What a request may be made of, with an example."""

    keys: tuple[Column, ...]
    features: tuple[str, ...]
    entity: dict[str, Any]
    values: dict[str, float | None]
    calls: tuple[Call, ...]


def trial_of(box: Box, base: str, model: str, asked: Sequence[Prediction]) -> Trial:
    """The trial of whoever is in Production, from what is known of it: to look at a page loads nothing. Raises as `form` does."""
    form, specs = box.models.form(model), box.models.known_inputs(model)
    features = form.columns.names
    entity = _entity(form.keys, asked)
    values = dict.fromkeys(features, 0.0) | (dict(asked[0].features) if asked else {})
    values = {name: _finite(values[name]) for name in features}
    rows: dict[str, Any] = {"entities": [entity]} if form.keys else {"features": [values]}
    tensors = _of_keys(form.keys, entity) if form.keys else _of_specs(specs)
    calls = [_curl(base, model, rows), _python(base, model, rows)] if form.keys or features else []
    if tensors:
        calls.append(_triton(base, model, tensors))
    return Trial(form.keys, features, entity, values, tuple(calls))


def _finite(value: float | None) -> float | None:
    """What JSON can say; what it cannot is a missing value."""
    return value if value is not None and math.isfinite(value) else None


def _entity(keys: Sequence[Column], asked: Sequence[Prediction]) -> dict[str, Any]:
    """The ids of the newest prediction that names them all."""
    for prediction in asked:
        if all(prediction.entity.get(key.name) is not None for key in keys):
            return {key.name: prediction.entity[key.name] for key in keys}
    return {key.name: BLANK[key.dtype] for key in keys}


def _curl(base: str, model: str, rows: Mapping[str, Any]) -> Call:
    body = shlex.quote(json.dumps(rows, ensure_ascii=False))
    address = shlex.quote(f"{base}/api/v1/models/{quote(model, safe='')}/predict")
    return Call("curl", f'curl {address} \\\n  -H "Authorization: Bearer $MLBOX_TOKEN" \\\n  --json {body}')


def _python(base: str, model: str, rows: Mapping[str, Any]) -> Call:
    asked = ", ".join(f"{field}={value!r}" for field, value in rows.items())
    return Call("Python", f"import mlbox\n\nbox = mlbox.connect({base!r})\nprint(box.predict({model!r}, {asked}))")


def _of_keys(keys: Sequence[Column], entity: Mapping[str, Any]) -> list[str]:
    return [f"({key.name!r}, {SIMPLE.get(key.dtype, key.dtype)!r}, {[entity[key.name]]!r})" for key in keys]


def _of_specs(specs: Sequence[TensorSpec]) -> list[str]:
    shapes = ([max(size, 1) for size in spec.shape] for spec in specs)
    return [f"({one.name!r}, {one.dtype!r}, np.zeros({shape}))" for one, shape in zip(specs, shapes, strict=True)]


def _triton(base: str, model: str, tensors: Sequence[str]) -> Call:
    where = urlsplit(base)
    listed = "".join(f"    {tensor},\n" for tensor in tensors)
    return Call(
        "tritonclient",
        f"""\
import os

import numpy as np
import tritonclient.http as triton
from tritonclient.http.auth import BasicAuth
from tritonclient.utils import triton_to_np_dtype

client = triton.InferenceServerClient({where.netloc!r}{", ssl=True" if where.scheme == "https" else ""})
client.register_plugin(BasicAuth("token", os.environ["MLBOX_TOKEN"]))
inputs = []
for name, datatype, values in [
{listed}]:
    tensor = np.array(values, triton_to_np_dtype(datatype))
    inputs.append(triton.InferInput(name, tensor.shape, datatype))
    inputs[-1].set_data_from_numpy(tensor)
answer = client.infer({model!r}, inputs)
print({{output["name"]: answer.as_numpy(output["name"]) for output in answer.get_response()["outputs"]}})""",
    )

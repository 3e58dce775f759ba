"""Inference over the Open Inference Protocol, whichever wire the request came over.

A request is the model's own tensors, or the entities' ids: one [N] tensor for each join key, and the server looks the features
up. It may carry both: a feature by its name, which is then not looked up, or the model's own tensor beside the ids, which then
are for the log. The answer to ids is the tensor `score`, FP64 [N]. The request's parameter `key` (or `keys`, one for each row)
decides which version answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mlbox.errors import InvalidInput, MlboxError
from mlbox.records import TensorSpec
from mlbox.serve.inference.answers import SCORE, Inferred
from mlbox.serve.inference.execution import Ask, AskRows, Begun
from mlbox.serve.inference.rows import Form, PredictRow
from mlbox.serve.inference.server import ModelServer
from mlbox.serve.inference.tensors import FLOATS, Tensor, check_inputs
from mlbox.web.api.predict import default_key
from mlbox.web.v2 import wire
from mlbox.web.v2.queueing import queueing

if TYPE_CHECKING:
    import numpy as np


class Answer(NamedTuple):
    """What a request is answered with."""

    version: str
    outputs: list[Tensor]
    parameters: dict[str, Any]


def infer(
    models: ModelServer,
    model: str,
    version: int | None,
    asked: wire.Request,
    tensors: Sequence[Tensor],
    caller: str,
) -> Answer:
    """Answer one request; raises as `ModelServer.infer` does."""
    (found,) = models.run([begin(models, model, version, asked, tensors, caller)])
    if isinstance(found, MlboxError):
        raise found
    return answer(asked, found)


def begin(
    models: ModelServer,
    model: str,
    version: int | None,
    asked: wire.Request,
    tensors: Sequence[Tensor],
    caller: str,
) -> Begun | AskRows:
    """A request that was checked and is ready to run."""
    keys = keys_of(asked.parameters)
    target = models.targets.find(model, version)
    specs = models.targets.inputs(target)
    own = [spec.name for spec in specs]
    strange = [tensor.name for tensor in tensors if tensor.name not in own]
    if strange and _are_rows(models, model, version, strange, specs, beside_own=len(strange) < len(tensors)):
        return _by_ids(models, model, version, asked, tensors, keys, caller, specs)
    for output in asked.outputs:
        wire.check_sent("output", output.name, output.parameters)
    outputs = [output.name for output in asked.outputs]
    return models.begin(Ask(target, tensors, caller, outputs, keys, **queueing(asked.parameters)))


def answer(asked: wire.Request, found: Inferred) -> Answer:
    """What a request is answered with."""
    return Answer(str(found.versions[0]), _shown(asked, found.outputs), _parameters(found))


def _shown(asked: wire.Request, outputs: Sequence[Tensor]) -> list[Tensor]:
    """The outputs, those as texts of their largest values that were asked for so."""
    if not asked.outputs:
        return list(outputs)
    ranks = {output.name: output.parameters.get("classification") for output in asked.outputs}
    return [
        tensor if ranks.get(tensor.name) is None else wire.classified(tensor, ranks[tensor.name]) for tensor in outputs
    ]


def _by_ids(
    models: ModelServer,
    model: str,
    version: int | None,
    asked: wire.Request,
    tensors: Sequence[Tensor],
    keys: Sequence[str],
    caller: str,
    specs: Sequence[TensorSpec],
) -> AskRows:
    if any(output.name != SCORE for output in asked.outputs):
        raise InvalidInput("By ids the output is `score`.", hint=f"Name {SCORE}, or none.", field="outputs")
    rows = _rows(models.form(model, version), model, tensors, keys, specs)
    return models.ask_rows(model, rows, caller, version)


def _are_rows(
    models: ModelServer,
    model: str,
    version: int | None,
    names: Sequence[str],
    specs: Sequence[TensorSpec],
    *,
    beside_own: bool,
) -> bool:
    """Whether these, which the model does not take, are ids or features: only ids beside its own tensor of features.

    Raises InvalidInput, with what may be sent, where they are neither and the model has both.
    """
    form = models.form(model, version)
    keys = {column.name for column in form.keys}
    if beside_own:
        return keys.issuperset(names)
    if keys and (keys | form.columns.places.keys()).isdisjoint(names):
        raise InvalidInput(
            f"unexpected inference input {names[0]!r:.80} for model {model!r}",
            hint=f"Send {_own(specs)}, or one id for each row of {', '.join(map(repr, sorted(keys)))}.",
            field=names[0][:200],
        )
    return bool(form.columns.names)


def _own(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{spec.name!r} [{','.join(map(str, spec.shape))}]" for spec in specs)


def _rows(
    form: Form, model: str, tensors: Sequence[Tensor], keys: Sequence[str], specs: Sequence[TensorSpec]
) -> list[PredictRow]:
    own = specs[0].name if form.columns.names else None
    matrix = next((tensor for tensor in tensors if tensor.name == own), None)
    if matrix is not None:
        check_inputs(specs, [matrix], model)
        tensors = [tensor for tensor in tensors if tensor is not matrix]
    count = tensors[0].data.shape[0]
    if matrix is not None and len(matrix.data) != count:
        raise InvalidInput(
            f"The input {matrix.name!r:.80} has {len(matrix.data)} rows, and {tensors[0].name!r:.80} has {count}.",
            hint="Send one id for each row.",
            field=tensors[0].name[:200],
        )
    seen: set[str] = set()
    for tensor in tensors:
        if tensor.data.shape not in ((count,), (count, 1)) or tensor.name in seen:
            raise InvalidInput(
                f"unexpected shape for input {tensor.name!r:.80} for model {model!r}. Expected [{count}],"
                f" got {list(tensor.data.shape)!s:.80}"
                if tensor.name not in seen
                else f"The input {tensor.name!r:.80} is named twice.",
                hint=f"Send {_own(specs)}, or one id for each row and join key.",
                field=tensor.name[:200],
            )
        seen.add(tensor.name)
    columns = {tensor.name: _values(tensor) for tensor in tensors}
    if matrix is not None:
        columns |= {
            name: _values(matrix._replace(data=matrix.data[:, at])) for at, name in enumerate(form.columns.names)
        }
    if len(keys) > 1 and len(keys) != count:
        raise InvalidInput(f"{len(keys)} keys for {count} rows.", hint="Send one for each row.", field="keys")
    given = list(keys) * count if len(keys) == 1 else list(keys)
    rows = [{name: values[n] for name, values in columns.items()} for n in range(count)]
    names = {column.name for column in form.keys}
    entities = [{name: value for name, value in row.items() if name in names} for row in rows]
    return [form.row(row, given[n] if given else default_key(entities[n])) for n, row in enumerate(rows)]


def _values(tensor: Tensor) -> list[Any]:
    """The values of a column, None for NaN, which is how rows say that one is missing."""
    found: list[Any] = readable(tensor).reshape(-1).tolist()
    return [None if value != value else value for value in found] if tensor.dtype in (*FLOATS, "BF16") else found


def readable(tensor: Tensor) -> np.ndarray:
    """A tensor's numbers: those of BF16, which are bits, as float32."""
    import numpy as np

    if tensor.dtype != "BF16":
        return tensor.data
    return (tensor.data.astype(np.uint32) << 16).view(np.float32)


def keys_of(parameters: Mapping[str, Any]) -> list[str]:
    """What decides which version answers, one for all rows or one for each; empty where the request leaves it open."""
    if not parameters:
        return []
    key, keys = parameters.get("key"), parameters.get("keys")
    if key is not None:
        keys = [key]
    if keys is None:
        return []
    if not isinstance(keys, list) or not keys:
        raise InvalidInput("The parameter keys is not a list of one for each row.", hint="Send a list.", field="keys")
    if any(isinstance(one, list | dict) for one in keys):
        raise InvalidInput("A key is a text or a number.", hint="Send what stays with the caller.", field="key")
    return [str(one) for one in keys]


def _parameters(found: Inferred) -> dict[str, Any]:
    """Who answered: one value, or where rows differ one for each, joined by commas."""
    parameters = {"model_version": _joined([str(one) for one in found.versions]), "role": _joined(found.roles)}
    if len(found.ids) == 1:
        parameters["prediction_id"] = found.ids[0]
    return parameters


def _joined(values: Sequence[str]) -> str:
    return values[0] if len(values) == 1 or len(set(values)) == 1 else ",".join(values)

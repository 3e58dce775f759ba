"""Inference over the Open Inference Protocol, whichever wire the request came over.

A request is the model's own tensors, or the entities' ids: one [N] tensor for each join key, and the server looks the features
up; the answer then is the tensor `score`, FP64 [N]. The request's parameter `key` (or `keys`, one for each row) decides which
version answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from mlbox.errors import InvalidInput
from mlbox.records import TensorSpec
from mlbox.serve.answers import SCORE, Inferred
from mlbox.serve.server import ModelServer, PredictRow
from mlbox.serve.tensors import Tensor
from mlbox.web.api.predict import default_key
from mlbox.web.v2 import wire
from mlbox.web.v2.queueing import queueing


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
    keys = _keys(asked)
    specs = models.inputs(model, version)
    if {spec.name for spec in specs}.isdisjoint(tensor.name for tensor in tensors):
        found = _by_ids(models, model, version, asked, tensors, keys, caller, specs)
    else:
        outputs = [output.name for output in asked.outputs]
        policy = queueing(asked.parameters)
        found = models.infer(model, tensors, caller=caller, version=version, outputs=outputs, keys=keys, **policy)
    return Answer(str(found.versions[0]), _shown(asked, found.outputs), _parameters(found))


def _shown(asked: wire.Request, outputs: Sequence[Tensor]) -> list[Tensor]:
    """The outputs, those as texts of their largest values that were asked for so."""
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
) -> Inferred:
    import numpy as np

    if any(output.name != SCORE for output in asked.outputs):
        raise InvalidInput("By ids the output is `score`.", hint=f"Name {SCORE}, or none.", field="outputs")
    rows = _rows_of_ids(model, tensors, keys, specs)
    found = models.predict(model, rows=rows, caller=caller, version=version)
    scores = np.array([np.nan if one.score is None else one.score for one in found])
    return Inferred(
        [Tensor(SCORE, "FP64", scores)],
        [one.id for one in found],
        [one.version for one in found],
        [one.role for one in found],
    )


def _rows_of_ids(
    model: str, tensors: Sequence[Tensor], keys: Sequence[str], specs: Sequence[TensorSpec]
) -> list[PredictRow]:
    count = tensors[0].data.shape[0]
    own = ", ".join(f"{spec.name!r} [{','.join(map(str, spec.shape))}]" for spec in specs)
    seen: set[str] = set()
    for tensor in tensors:
        if tensor.data.shape not in ((count,), (count, 1)) or tensor.name in seen:
            raise InvalidInput(
                f"unexpected shape for input {tensor.name!r:.80} for model {model!r}. Expected [{count}],"
                f" got {list(tensor.data.shape)!s:.80}"
                if tensor.name not in seen
                else f"The input {tensor.name!r:.80} is named twice.",
                hint=f"Send {own}, or one id for each row and join key.",
                field=tensor.name[:200],
            )
        seen.add(tensor.name)
    columns = {tensor.name: tensor.data.reshape(-1).tolist() for tensor in tensors}
    if len(keys) > 1 and len(keys) != count:
        raise InvalidInput(f"{len(keys)} keys for {count} rows.", hint="Send one for each row.", field="keys")
    given = list(keys) * count if len(keys) == 1 else list(keys)
    rows = [{name: values[n] for name, values in columns.items()} for n in range(count)]
    return [PredictRow(key=given[n] if given else default_key(row), entity=row) for n, row in enumerate(rows)]


def _keys(asked: wire.Request) -> list[str]:
    key, keys = asked.parameters.get("key"), asked.parameters.get("keys")
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
    return values[0] if len(set(values)) == 1 else ",".join(values)

"""Predictions over the native API, and the log of them."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import get, post
from litestar.params import Parameter

from mlbox.errors import InvalidInput
from mlbox.ids import new_id
from mlbox.records import Prediction, Principal, Record
from mlbox.serve.server import PredictRow
from mlbox.web.box import Box


class PredictRequest(Record, frozen=True, kw_only=True):
    """Rows by their entities' ids, whose features the server looks up, or by features."""

    entities: tuple[dict[str, Any], ...] = ()
    features: tuple[dict[str, Any], ...] = ()
    keys: tuple[str, ...] = ()
    """What decides which version answers each row; by default the entity itself."""
    version: int | None = None


class Answer(Record, frozen=True, kw_only=True):
    """One row's score and who gave it."""

    id: str
    score: float
    version: int
    role: str


def rows_of(request: PredictRequest) -> list[PredictRow]:
    """The rows of a request; raises InvalidInput naming the field."""
    entities, features = request.entities, request.features
    count = max(len(entities), len(features))
    if count == 0:
        raise InvalidInput("There are no rows.", hint="Send entities or features.", field="entities")
    for field, given in (("entities", entities), ("features", features), ("keys", request.keys)):
        if given and len(given) != count:
            raise InvalidInput(f"{len(given)} {field} for {count} rows.", hint="Send one for each row.", field=field)
    return [
        PredictRow(
            key=request.keys[n] if request.keys else default_key(entities[n] if entities else {}),
            entity=entities[n] if entities else {},
            features=features[n] if features else None,
        )
        for n in range(count)
    ]


def default_key(entity: dict[str, Any]) -> str:
    """The entity itself, so that it meets the same version each time; a row without one meets any."""
    return msgspec.json.encode(entity, order="sorted").decode() if entity else new_id()


@post("/api/v1/models/{model:str}/predict", status_code=200)
async def predict(box: Box, principal: Principal, model: str, data: PredictRequest) -> list[Answer]:
    """Score rows, in their order."""
    found = await box.call(box.models.predict, model, rows=rows_of(data), caller=principal.name, version=data.version)
    return [Answer(id=p.id, score=p.score, version=p.version, role=p.role) for p in found]


@get("/api/v1/predictions")
async def list_predictions(
    box: Box, model: str, limit: Annotated[int, Parameter(ge=1, le=1000)] = 100
) -> list[Prediction]:
    """A model's last predictions, newest first."""
    await box.call(box.registry.model, model)
    return await box.call(box.predictions.recent, model, limit)


handlers: list[Any] = [predict, list_predictions]

"""Predictions over the native API, and the log of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from litestar import get, post
from litestar.params import Parameter

from mlbox.errors import InvalidInput, MlboxError
from mlbox.ids import new_id
from mlbox.records import FeatureLineage, Prediction, Principal, Record
from mlbox.serve.inference.answers import Inferred
from mlbox.serve.inference.execution import AskRows
from mlbox.serve.inference.server import ModelServer, PredictRow
from mlbox.web.box import Box
from mlbox.web.crowd import Crowd
from mlbox.web.fast.routes import Alike, Call, Fast, Reply
from mlbox.web.provenance import lineage_of


class PredictRequest(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rows by their entities' ids, whose features the server looks up, or by features."""

    entities: tuple[dict[str, Any], ...] = ()
    features: tuple[dict[str, Any], ...] = ()
    keys: tuple[str, ...] = ()
    """What decides which version answers each row; by default the entity itself."""
    version: int | None = None


class Answer(Record, frozen=True, kw_only=True):
    """One row's score and who gave it."""

    id: str
    score: float | None
    """None when it is no finite number."""
    """Null where the model gave no finite number."""
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


def answers_of(models: ModelServer, model: str, request: PredictRequest, caller: str) -> list[Answer]:
    """Score a request's rows; all of it off the loop."""
    (found,) = models.run([models.ask_rows(model, rows_of(request), caller, request.version)])
    if isinstance(found, MlboxError):
        raise found
    return _shown(found)


def _shown(found: Inferred) -> list[Answer]:
    every = zip(found.ids, found.outputs[0].data.tolist(), found.versions, found.roles, strict=True)
    return [Answer(id=own, score=score, version=version, role=role) for own, score, version, role in every]


def default_key(entity: dict[str, Any]) -> str:
    """The entity itself, so that it meets the same version each time; a row without one meets any.

    It is not checked yet, so this must take whatever JSON can say.
    """
    return repr(sorted(entity.items(), key=lambda item: item[0])) if entity else new_id()


@post("/api/v1/models/{model:str}/predict", status_code=200, action="model.predict")
async def predict(box: Box, principal: Principal, model: str, data: PredictRequest) -> list[Answer]:
    """Score rows, in their order."""
    return await box.call(answers_of, box.models, model, data, principal.name)


class _OneEntity(msgspec.Struct, forbid_unknown_fields=True):
    """What most requests are."""

    entities: tuple[dict[str, Any]]


_decode = msgspec.json.Decoder(PredictRequest).decode
_decode_entity = msgspec.json.Decoder(_OneEntity).decode


def _is_at_hand(box: Box, call: Call) -> bool:
    call.read = asked = _decode(call.body)
    rows = max(len(asked.entities), len(asked.features))
    own = None if asked.features and not asked.entities else ()
    return asked.version is None and box.models.targets.is_at_hand(call.parameters["model"], rows, own)


def _fast(box: Box, call: Call) -> Reply:
    asked = _decode(call.body) if call.read is None else call.read
    answers = answers_of(box.models, call.parameters["model"], asked, call.principal.name)
    return Reply(msgspec.json.encode(answers))


class _Entities(Crowd[Reply]):
    """Requests of an entity each, whose features are looked up."""

    def take(self, body: bytes) -> bool:
        """Read an entity."""
        try:
            (entity,) = _decode_entity(body).entities
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return False
        if entity:
            self._rows.append(PredictRow(key=default_key(entity), entity=entity))
        return bool(entity)

    def _inferred(self, rows: list[Any]) -> Inferred:
        return self._models.answer_singles(self._models.singles(self._target, rows, self._caller))

    def _written(self, found: Inferred) -> list[Reply | None]:
        return [Reply(msgspec.json.encode([answer])) for answer in _shown(found)]


def _alike(box: Box, call: Call) -> Alike | None:
    model = call.parameters["model"]
    target = box.models.crowd(model)
    if target is None or not box.models.targets.is_at_hand(model, 1, ()):
        return None
    return _Entities.of(box.models, target, call.lead, lambda: _Entities(box.models, target, call.principal.name))


def _together(box: Box, calls: Sequence[Call]) -> list[Reply | Exception]:
    """Requests that were read on the loop: what is looked up for them is looked up at once, and scored in one run."""
    asked = [_asked(box, call) for call in calls]
    ran = iter(box.models.run([one for one in asked if not isinstance(one, Exception)]))
    found = [one if isinstance(one, Exception) else next(ran) for one in asked]
    return [one if isinstance(one, Exception) else Reply(msgspec.json.encode(_shown(one))) for one in found]


def _asked(box: Box, call: Call) -> AskRows | Exception:
    call.enter()
    try:
        return box.models.ask_rows(call.parameters["model"], rows_of(call.read), call.principal.name)
    except Exception as err:  # this request's own, whatever it is
        return err


@get("/api/v1/predictions", action="monitor.read")
async def list_predictions(
    box: Box, model: str, limit: Annotated[int, Parameter(ge=1, le=1000)] = 100, after: str | None = None
) -> list[Prediction]:
    """A model's last predictions, newest first, of every role."""
    await box.call(box.registry.model, model)
    return await box.call(box.predictions.recent, model, limit, after=after)


@get("/api/v1/predictions/{prediction_id:str}/lineage", action="monitor.read")
async def prediction_lineage(box: Box, prediction_id: str) -> FeatureLineage:
    """What a prediction comes from, back to the raw labels, and the label that it met; what one may not see is left out."""
    return await box.call(lineage_of, box, prediction_id)


handlers: list[Any] = [predict, list_predictions, prediction_lineage]
fast = [Fast(predict, _is_at_hand, _fast, _together, _alike)]

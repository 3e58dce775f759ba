"""One prediction: what it comes from, as a picture."""

from __future__ import annotations

from typing import Any

from litestar import Response, get

from mlbox.web.pages.feature_pictures import draw
from mlbox.web.pages.view import View
from mlbox.web.provenance import lineage_of, located


def _prediction(view: View, prediction_id: str) -> dict[str, Any]:
    model, number, at = located(view.box, prediction_id)
    entity, _ = view.box.predictions.find({prediction_id})[prediction_id]
    drawing = draw(lineage_of(view.box, prediction_id))
    return {"id": prediction_id, "model": model, "number": number, "at": at, "entity": entity, "drawing": drawing}


@get("/predictions/{prediction_id:str}", include_in_schema=False, action="monitor.read")
async def prediction(view: View, prediction_id: str) -> Response[bytes]:
    """One prediction."""
    return await view.page("prediction.html", lambda: _prediction(view, prediction_id))


handlers: list[Any] = [prediction]

"""Label sets: what came true, and how much of it is known by now."""

from __future__ import annotations

from typing import Any

from litestar import Response, get

from mlbox.web.box import Box
from mlbox.web.pages.view import View, part


def _known(box: Box, name: str) -> int | None:
    """How many outcomes are known at domain time."""
    return part(lambda: box.labels.known(name, at=box.clock.now())).value


def _fetch(box: Box) -> dict[str, Any]:
    return {"sets": part(lambda: [(found, _known(box, found.name)) for found in box.labels.sets()])}


@get("/labels", include_in_schema=False, action="label.read")
async def labels(view: View) -> Response[bytes]:
    """All label sets."""
    return await view.page("labels.html", lambda: _fetch(view.box))


handlers: list[Any] = [labels]

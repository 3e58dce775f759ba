"""What was found by a search over everything."""

from __future__ import annotations

import itertools
from typing import Annotated, Any

from litestar import Response, get
from litestar.params import Parameter

from mlbox.web.box import Box
from mlbox.web.pages.view import View

MOST_EACH = 10
KINDS = {
    "model": ("Models", "cube"),
    "view": ("Feature views", "layers"),
    "transform": ("On-demand transforms", "layers"),
    "source": ("Sources", "table"),
    "dataset": ("Datasets", "table"),
    "label": ("Label sets", "tag"),
    "experiment": ("Experiments", "curve"),
    "run": ("Runs", "curve"),
    "job": ("Jobs", "queue"),
    "cron": ("Crons", "clock"),
}
"""What a kind's hits are shown under: words and icon."""


def _fetch(box: Box, text: str) -> dict[str, Any]:
    if not text.strip():
        return {"words": "", "groups": [], "down": (), "most": MOST_EACH}
    found = box.search.find(text, limit=MOST_EACH + 1)
    groups = itertools.groupby(found.hits, lambda hit: hit.kind)
    shown = [(*KINDS[kind], list(hits)) for kind, hits in groups]
    return {"words": text, "groups": shown, "down": found.down, "most": MOST_EACH}


@get("/search", include_in_schema=False, action="box.read")
async def search(view: View, q: Annotated[str, Parameter(max_length=1000)] = "") -> Response[bytes]:
    """Everything that has all words in its name, id or description."""
    return await view.page("search.html", lambda: _fetch(view.box, q))


handlers: list[Any] = [search]

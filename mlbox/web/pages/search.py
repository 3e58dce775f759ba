"""What was found by a search over everything."""

from __future__ import annotations

import itertools
from typing import Annotated, Any
from urllib.parse import urlencode

from litestar import Response, get
from litestar.params import Parameter

from mlbox.store.tracking.run_words import quoted_text
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


def _all_of(kind: str, words: list[str]) -> str | None:
    """The address of a list that finds all of a kind; None where there is none."""
    if kind in ("view", "transform"):
        return f"/features?{urlencode({'q': ' '.join(words)})}"
    if kind == "dataset" and len(words) == 1:
        return f"/datasets?{urlencode({'q': words[0]})}"
    if kind == "run":
        clauses = [f"attributes.run_name ILIKE {quoted_text(f'%{word}%')}" for word in words]
        return f"/runs?{urlencode({'filter': ' AND '.join(clauses)})}"
    return None


def _fetch(box: Box, text: str) -> dict[str, Any]:
    if not text.strip():
        return {"words": "", "groups": [], "down": (), "most": MOST_EACH}
    found = box.search.find(text, limit=MOST_EACH + 1)
    groups = itertools.groupby(found.hits, lambda hit: hit.kind)
    shown = [(*KINDS[kind], list(hits), _all_of(kind, text.split())) for kind, hits in groups]
    return {"words": text, "groups": shown, "down": found.down, "most": MOST_EACH}


@get("/search", include_in_schema=False, action="box.read")
async def search(view: View, q: Annotated[str, Parameter(max_length=1000)] = "") -> Response[bytes]:
    """Everything that has all words in its name, id or description."""
    return await view.page("search.html", lambda: _fetch(view.box, q))


handlers: list[Any] = [search]

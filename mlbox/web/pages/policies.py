"""A model's promotion policy: what is in force and whose word it is, the text to change, and every revision before."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Response, get
from litestar.params import Parameter

from mlbox import policy_file
from mlbox.store.registry.policy_book import named
from mlbox.web.pages.view import PAGE_SIZE, View, keyset, next_page

Number = Annotated[int | None, Parameter(ge=0, le=2**62)]


def _policy(view: View, name: str, revision: int | None, after: int | None) -> dict[str, Any]:
    book = view.box.registry.policies
    in_force = book.in_force(name)
    shown = in_force if revision is None else book.revision(name, revision)
    found, last = keyset(book.revisions(name, limit=PAGE_SIZE + 1, before=after), PAGE_SIZE, lambda r: str(r.revision))
    return {
        "model": name,
        "in_force": in_force,
        "shown": shown,
        "text": policy_file.write(shown.policy),
        "most": policy_file.MOST_CHARACTERS,
        "revisions": found,
        "next": next_page(view, last),
        "under_way": [(p, named(p.policy)) for p in view.box.promotions.open(name)],
        "may_set": view.may("admin", name=name),
    }


@get("/models/{name:str}/policy", include_in_schema=False, action="model.read")
async def policy(view: View, name: str, revision: Number = None, after: Number = None) -> Response[bytes]:
    """A model's policy; `revision` takes up a former one, to look at or to put in force again."""
    return await view.page("policy.html", lambda: _policy(view, name, revision, after))


handlers: list[Any] = [policy]

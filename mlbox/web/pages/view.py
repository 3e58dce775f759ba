"""One request for a page: who asks, what the frame shows, and how the page is rendered.

A page is a function that reads the core objects and gives its template what it shows. It runs, with the rendering, on the
box's thread pool, so that no page holds up the event loop.
"""

from __future__ import annotations

import functools
import gzip
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Generic, NamedTuple, TypeVar
from urllib.parse import urlencode

import jinja2
from litestar import Request, Response
from litestar.exceptions import HTTPException
from litestar.params import Parameter

from mlbox import __version__
from mlbox.errors import MlboxError
from mlbox.records import Principal, Role
from mlbox.store.access.roles import at_least
from mlbox.store.registry.promotion_moves import WITHDRAWABLE
from mlbox.web.box import Box
from mlbox.web.form_token import masked
from mlbox.web.pages import form
from mlbox.web.pages.phrases import link_of, phrase
from mlbox.web.pages.static import static_url

T = TypeVar("T")
PAGE_SIZE = 50
Place = Annotated[int, Parameter(ge=0, le=2**31 - 1)]
"""A place in a list."""
THEMES = ("light", "dark")
GZIP_LEVEL = 4
"""A seventh of a page's size, for a millisecond or two."""
HTML = "text/html"
"""Litestar adds the charset to what is text."""

NAV: tuple[tuple[str, tuple[tuple[str, str, str], ...]], ...] = (
    ("", (("/", "Overview", "home"),)),
    ("Data", (("/features", "Features", "layers"), ("/datasets", "Datasets", "table"), ("/labels", "Labels", "tag"))),
    (
        "Train",
        (
            ("/jobs", "Jobs", "queue"),
            ("/crons", "Crons", "clock"),
            ("/runs", "Runs", "curve"),
            ("/secrets", "Secrets", "key"),
        ),
    ),
    ("Ship", (("/models", "Models", "cube"), ("/approvals", "Approvals", "check"))),
    ("Serve", (("/endpoints", "Endpoints", "bolt"), ("/monitoring", "Monitoring", "pulse"))),
    (
        "Govern",
        (
            ("/audit", "Audit", "book"),
            ("/deleted", "Deleted", "bin"),
            ("/teams", "Teams", "people"),
            ("/admin", "Admin", "gauge"),
        ),
    ),
)
"""Groups of the navigation: address, name, icon."""


class Part(NamedTuple, Generic[T]):
    """A part of a page: what it shows, or why that could not be had."""

    value: T | None
    error: MlboxError | None = None


def part(fetch: Callable[[], T]) -> Part[T]:
    """Fetch a part; a store that is down takes away its own part of a page and no more."""
    try:
        return Part(fetch())
    except MlboxError as err:
        return Part(None, err)


@functools.cache
def environment() -> jinja2.Environment:
    """The templates; every value is escaped, and one that is missing is an error."""
    env = jinja2.Environment(
        loader=jinja2.PackageLoader("mlbox.web"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    env.filters.update(form.FILTERS)
    env.filters.update(phrase=phrase)
    env.globals.update(static=static_url, nav=NAV, release=__version__, link_of=link_of, withdrawable=WITHDRAWABLE)
    return env


def render(template: str, context: Mapping[str, Any]) -> bytes:
    """One template as bytes."""
    return environment().get_template(template).render(context).encode()


class View:
    """What every page needs to know of its request."""

    def __init__(self, request: Request[Any, Any, Any], box: Box) -> None:
        state = request.scope.get("state", {})
        session = state.get("session")
        self.box = box
        self.principal: Principal | None = state.get("principal")
        self.csrf: str = masked(session.csrf) if session else ""
        self.path: str = request.url.path
        self.here: str = self.path + (f"?{request.url.query}" if request.url.query else "")
        self.section = self.path
        """The address of the navigation's entry that holds this page, where its own does not say so."""
        self.base = str(request.base_url).rstrip("/")
        self.query: Mapping[str, str] = dict(request.query_params)
        self._packed = "gzip" in request.headers.get("accept-encoding", "")
        theme = request.cookies.get("mlbox_theme", "")
        self.theme = theme if theme in THEMES else ""

    def post(self, noun: str, file: str) -> str:
        """The command that sends a JSON file to the API of this very server."""
        return f'curl --json @{file} -H "Authorization: Bearer $MLBOX_TOKEN" {self.base}/api/v1/{noun}'

    def may(self, role: Role, *, name: str = "", team: str | None = None) -> bool:
        """True for who has at least this role in the team that owns a name: what would be refused is not offered."""
        who, teams = self.principal, self.box.teams
        return (
            who is not None and who.job_id is None and at_least(teams.role_in(who, team or teams.team_of(name)), role)
        )

    def may_somewhere(self, role: Role) -> bool:
        """True for who has at least this role in some team."""
        who = self.principal
        return who is not None and who.job_id is None and at_least(self.box.teams.highest(who), role)

    async def page(
        self, template: str, fetch: Callable[[], Mapping[str, Any]], *, status: int = 200
    ) -> Response[bytes]:
        """Fetch what the template shows and render it, off the loop."""

        def work() -> bytes:
            shown = render(template, {**self.frame(), **fetch()})
            return gzip.compress(shown, GZIP_LEVEL, mtime=0) if self._packed else shown

        headers = {"vary": "accept-encoding", **({"content-encoding": "gzip"} if self._packed else {})}
        return Response(await self.box.call(work), media_type=HTML, status_code=status, headers=headers)

    def frame(self) -> dict[str, Any]:
        """What the frame around every page shows."""
        clock = self.box.clock
        return {
            "position": self.box.bus.position,
            "view": self,
            "replay": clock.replay,
            "standby": self.box.settings.standby == "on",
            "domain_now": clock.now(),
            "real_now": clock.real(),
            "tallies": self._tallies() if self.principal else {},
        }

    def _tallies(self) -> dict[str, int]:
        """What waits for someone, beside its name in the navigation."""
        waiting = part(lambda: sum(p.state == "waiting_approval" for p in self.box.promotions.open()))
        return {"/approvals": waiting.value or 0}

    def is_here(self, address: str) -> bool:
        """True when a navigation entry leads to this page, or to what holds it."""
        return self.section == address or (address != "/" and self.section.startswith(address + "/"))


def provide_view(request: Request[Any, Any, Any], box: Box) -> View:
    """Litestar's way to a View."""
    return View(request, box)


def error_page(request: Request[Any, Any, Any], box: Box, err: MlboxError) -> Response[bytes]:
    """An error as a page, for a person who followed a link."""
    view = View(request, box)
    context = {**view.frame(), "error": err, "not_found": err.status == 404}
    return Response(render("error.html", context), media_type=HTML, status_code=err.status)


FOR_PROGRAMS = ("/api/", "/ajax-api/", "/dvc/", "/feast/", "/v2/")
"""Where no person's page is, whatever a browser asks for."""


def wants_page(request: Request[Any, Any, Any], err: Exception) -> bool:
    """True for a browser that navigates: not for htmx, which shows an error beside what was asked."""
    if isinstance(err, HTTPException) and err.status_code == 405:
        return False
    accepts = "text/html" in request.headers.get("accept", "")
    return accepts and "hx-request" not in request.headers and not request.url.path.startswith(FOR_PROGRAMS)


class Node(NamedTuple):
    """One link of a chain of lineage."""

    what: str
    name: str
    href: str | None
    here: bool = False
    beside: bool = False
    """It stands beside the one before, not after it."""


def next_page(view: View, last: str | None, name: str = "after") -> str | None:
    """The address of the page that follows, with the same filters; None at the end. `name` tells a page's lists apart."""
    if last is None:
        return None
    kept = {one: text for one, text in view.query.items() if one != name and text}
    return f"{view.path}?{urlencode({**kept, name: last})}"


def keyset(items: list[T], limit: int, key: Callable[[T], str]) -> tuple[list[T], str | None]:
    """A page of a list that was asked for one more than `limit`, and where the next one begins."""
    return items[:limit], key(items[limit - 1]) if len(items) > limit else None


def from_place(items: Sequence[T], place: int, limit: int = PAGE_SIZE) -> tuple[Sequence[T], str | None]:
    """A page of a list that is sorted by what changes, from a place in it, and the place of the next one."""
    end = place + limit
    return items[place:end], str(end) if len(items) > end else None

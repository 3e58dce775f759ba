"""DVC's objects: found, read and pushed by the MD5 of their content, `.dir` at its end for a directory's listing.

DVC asks whether an object is there by GET and goes away once it has the status; it pushes by PUT or POST, chunked. An address
without a team is everyone's; what is pushed under `/dvc/TEAM` is there for the team alone.
"""

from __future__ import annotations

from typing import Any

from litestar import HttpMethod, Request, Response, route

from mlbox.errors import NotFound
from mlbox.records import Principal, Record
from mlbox.store.access.teams import EVERYONE
from mlbox.store.datasets.dvc import check_oid
from mlbox.web.box import Box
from mlbox.web.downloads import send_file
from mlbox.web.uploads import receive_artifact

PATHS = ["/dvc/files/md5/{head:str}/{tail:str}", "/dvc/{team:str}/files/md5/{head:str}/{tail:str}"]


class Kept(Record, frozen=True, kw_only=True):
    """An object that is on disk."""

    md5: str
    size: int


@route(PATHS, http_method=[HttpMethod.GET, HttpMethod.HEAD], action="dvc.read")
async def get_object(
    request: Request[Any, Any, Any], box: Box, principal: Principal, head: str, tail: str, team: str = EVERYONE
) -> Response[Any]:
    """An object, or the part of it that the header Range asks for."""
    _require(box, principal, "dvc.read", team)
    found = await box.call(box.dvc.find, head + tail, team)
    path = await box.call(box.artifacts.path, found.sha256)
    return send_file(box, request, path, found.sha256, found.size, name=found.oid)


@route(
    PATHS,
    http_method=[HttpMethod.PUT, HttpMethod.POST],
    status_code=200,
    request_max_body_size=None,
    action="dvc.write",
)
async def put_object(
    request: Request[Any, Any, Any], box: Box, principal: Principal, head: str, tail: str, team: str = EVERYONE
) -> Kept:
    """Keep the body as an object, streamed; refused where its MD5 is another. Doing it again changes nothing."""
    _require(box, principal, "dvc.write", team)
    oid = check_oid(head + tail)
    known = await box.call(box.dvc.pushed, oid, team)
    owner = f"{team}." if known is None else None  # what is there already counts already
    limit = box.settings.max_artifact
    sha256, size = await receive_artifact(box, request, limit, owner=owner, md5=oid.removesuffix(".dir"))
    await box.call(box.dvc.add, oid, team, sha256, size, actor=principal.name)
    return Kept(md5=oid, size=size)


def _require(box: Box, principal: Principal, action: str, team: str) -> None:
    """Raise NotFound for no team, and NotAuthorised for another's."""
    if box.teams.team_of(f"{team}.") != team:
        raise NotFound(f"There is no team {team[:80]!r}.", hint="`mlbox team ls` lists them.", field="team")
    box.teams.require(principal, action, team=team)


handlers: list[Any] = [get_object, put_object]

"""Authorisation around every route: each handler names its action, and one guard asks the table of roles.

A handler says `action="dataset.create"` in its decorator. An app in which one does not, or in which a path parameter is not known
here, does not start: so a new route is guarded without anyone remembering to.

What is read is not asked about here: what is private is absent for others, in the stores themselves (`store/access/teams.py`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import msgspec
from litestar.connection import ASGIConnection
from litestar.handlers.base import BaseRouteHandler
from litestar.types import ASGIApp, Receive, Scope, Send

from mlbox.errors import NotAuthorised
from mlbox.records import Principal
from mlbox.serve.inference import naming
from mlbox.store.access.roles import ACTIONS
from mlbox.store.asking import NOBODY, set_asking
from mlbox.web.box import Box

PUBLIC = "public"
"""The action of what answers without credentials."""
Named = Mapping[str, Any]


async def _by_name(box: Box, value: str) -> str:
    """A reference `NAME@vN` or `NAME` begins with the name."""
    return value.partition("@")[0]


async def _by_run(box: Box, value: str) -> str:
    return await box.call(box.tracker.experiment_of, value)


async def _by_promotion(box: Box, value: str) -> str:
    return (await box.call(box.promotions.get, value)).model


async def _by_job(box: Box, value: str) -> str:
    return f"{(await box.call(box.scheduler.find, value)).spec.team}."


async def _by_cron(box: Box, value: str) -> str:
    return f"{(await box.call(box.crons.crons.get, value)).spec.job.team}."


async def _by_team(box: Box, value: str) -> str:
    return f"{value}."


OWNERS: dict[str, Callable[[Box, str], Awaitable[str]]] = {
    "model": _by_name,
    "name": _by_name,
    "ref": _by_name,
    "run_id": _by_run,
    "promotion_id": _by_promotion,
    "job_id": _by_job,
    "cron": _by_cron,
    "team": _by_team,
}
"""By path parameter: a name in the namespace of the team that owns what it stands for."""


class Asking:
    """Tells the stores who asks: what is private to others is absent for them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one connection on, in the context of whoever made it."""
        set_asking(scope.get("state", {}).get("principal") or NOBODY)
        await self._app(scope, receive, send)


def guard(box: Box) -> Callable[[ASGIConnection[Any, Any, Any, Any], BaseRouteHandler], Awaitable[None]]:
    """Litestar's guard before every handler; it raises NotAuthorised, or NotFound for what is private to others."""

    async def authorise(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        name = handler.opt.get("action")
        if name is None or name == PUBLIC:
            return
        by_body = handler.opt.get("names") == "body"
        await check(box, connection.scope["state"]["principal"], name, connection.path_params, by_body=by_body)

    return authorise


async def check(box: Box, principal: Principal, action: str, named: Named, *, by_body: bool = False) -> None:
    """Raise NotAuthorised unless a principal may do this to what is named, or NotFound for what is private to others."""
    if action == "model.predict" and principal.job_id is not None and await box.call(_is_judged, box, principal, named):
        principal = msgspec.structs.replace(principal, job_id=None)  # as its user, whose job judges this version
    if principal.job_id is not None:
        await _check_job(box, principal, action, named, by_body=by_body)
    where = ACTIONS[action].where
    if where == "owner" and by_body:
        where = "named"
    if where == "owner":
        box.teams.require(principal, action, name=await _owner(box, named))
    elif where == "named":
        box.teams.require_anywhere(principal, action)
    else:
        box.teams.require(principal, action)


def check_handlers(handlers: Iterable[BaseRouteHandler]) -> None:
    """Raise LookupError for a handler of ours that names no action, or whose path does not say to whom its object belongs."""
    for handler in handlers:
        name = handler.opt.get("action")
        where = f"{handler.fn.__module__}.{handler.fn.__name__}"
        if name != PUBLIC and name not in ACTIONS:
            raise LookupError(f"{where} names no action of the table of roles: {name!r}.")
        if name == PUBLIC or ACTIONS[name].where != "owner" or handler.opt.get("names") == "body":
            continue
        for path in handler.paths:
            if not any(f"{{{key}:" in path for key in OWNERS):
                raise LookupError(f"{where}: the path {path} does not say who owns what it names.")


async def _owner(box: Box, parameters: Named) -> str:
    found = next(key for key in OWNERS if key in parameters)
    return await OWNERS[found](box, str(parameters[found]))


async def _check_job(box: Box, principal: Principal, action: str, parameters: Named, *, by_body: bool) -> None:
    """A job's token reads and writes its own run, reads its own datasets, registers what its run made, and nothing else."""
    if not ACTIONS[action].job:
        raise _job_only(f"To {ACTIONS[action].what} is not for a job's token.")
    assert principal.job_id is not None
    job = await box.call(box.scheduler.job, principal.job_id)
    if "run_id" in parameters and parameters["run_id"] != job.run_id:
        raise _job_only("A job's token is for its own run.")
    if action == "run.read" and "run_id" not in parameters and not by_body:  # else the handler asks
        raise _job_only("A job's token does not list runs.")
    if action == "dataset.read" and parameters.get("ref") not in job.spec.datasets:
        raise _job_only("A job's token is for the datasets that the job named when it was submitted.")


def _is_judged(box: Box, principal: Principal, parameters: Named) -> bool:
    """Whether a path names, as one version, the one that the job judges: by NAME@staging, NAME@vN, or a version beside it."""
    run = box.gate_runs.of_job(principal.job_id or "")
    if run is None or "model" not in parameters:
        return False
    promotion = box.promotions.get(run.promotion_id)
    model, what = naming.parse(str(parameters["model"]))
    number = parameters.get("version") or naming.version_meant(box.registry, model, what)
    return (model, number) == (promotion.model, promotion.version)


def _job_only(message: str) -> NotAuthorised:
    return NotAuthorised(message, hint="Use a user's token.")

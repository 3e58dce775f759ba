"""What Triton has and this server does not: each path is there and says so, with 501 as Triton does of what it was built without.

Of shared memory none is ever registered. Clients begin with taking all of it out, and find none to take.
"""

from __future__ import annotations

from typing import Any, NoReturn

from litestar import MediaType, Response, get, post

from mlbox.errors import MlboxError
from mlbox.serve.inference import naming
from mlbox.web.box import Box
from mlbox.web.v2.models import problem
from mlbox.web.v2.repository import UNTYPED

MEMORY = ("systemsharedmemory", "cudasharedmemory")
OF_A_MODEL = ("/v2/models/{model:str}", "/v2/models/{model:str}/versions/{version:int}")
SETTINGS = ["/v2/logging", "/v2/trace/setting", *(f"{path}/trace/setting" for path in OF_A_MODEL)]
SHARED_MEMORY = "shared memory", "Send tensors in the request."
OBSERVING = "tracing or logging by this protocol", "See /metrics, and the server's log."
GENERATING = "generate, which is for models that answer in pieces", "Ask infer."
REPOSITORIES = "repositories by name: there is one, the registry", "Leave the name out of the path."


def not_offered(what: str, instead: str) -> MlboxError:
    """The error that says that something is not there, and what is."""
    err = MlboxError(f"This server has no {what}.", hint=instead)
    err.status, err.code = 501, "not_offered"
    return err


async def _is_there(box: Box, model: str | None) -> None:
    """Raise NotFound for a model that is not there for the asker, before anything is said of it."""
    if model is not None:
        await box.call(box.registry.model, naming.parse(model)[0])


@get(
    [f"/v2/{kind}{region}/status" for kind in MEMORY for region in ("", "/region/{region:str}")],
    exception_handlers={Exception: problem},
    action="model.read",
)
async def regions(region: str | None = None) -> list[dict[str, Any]]:
    """No region of shared memory is registered."""
    return []


@post(
    [f"/v2/{kind}{region}/unregister" for kind in MEMORY for region in ("", "/region/{region:str}")],
    status_code=200,
    media_type=MediaType.TEXT,
    accepts=UNTYPED,
    exception_handlers={Exception: problem},
    action="model.predict",
)
async def unregister(region: str | None = None) -> Response[bytes]:
    """No region is registered any more, as none was."""
    return Response(b"", status_code=200)


@post(
    [f"/v2/{kind}/region/{{region:str}}/register" for kind in MEMORY],
    accepts=UNTYPED,
    exception_handlers={Exception: problem},
    action="model.predict",
)
async def register(region: str) -> NoReturn:
    """Shared memory is not read."""
    raise not_offered(*SHARED_MEMORY)


@get(SETTINGS, exception_handlers={Exception: problem}, action="model.read")
async def observed(box: Box, model: str | None = None, version: int | None = None) -> NoReturn:
    """Nothing is traced or logged by this protocol."""
    await _is_there(box, model)
    raise not_offered(*OBSERVING)


@post(SETTINGS, accepts=UNTYPED, exception_handlers={Exception: problem}, action="model.read")
async def observe(box: Box, model: str | None = None, version: int | None = None) -> NoReturn:
    """Likewise."""
    await _is_there(box, model)
    raise not_offered(*OBSERVING)


@post(
    [f"{path}/{what}" for path in OF_A_MODEL for what in ("generate", "generate_stream")],
    accepts=UNTYPED,
    exception_handlers={Exception: problem},
    action="model.predict",
)
async def generate(box: Box, model: str, version: int | None = None) -> NoReturn:
    """Models give one answer to a request."""
    await _is_there(box, model)
    raise not_offered(*GENERATING)


@post(
    [
        f"/v2/repository/{{repository:str}}/{what}"
        for what in ("index", "models/{model:str}/load", "models/{model:str}/unload")
    ],
    accepts=UNTYPED,
    exception_handlers={Exception: problem},
    action="model.read",
)
async def named_repository(box: Box, repository: str, model: str | None = None) -> NoReturn:
    """There is one repository."""
    await _is_there(box, model)
    raise not_offered(*REPOSITORIES)


handlers: list[Any] = [regions, unregister, register, observed, observe, generate, named_repository]

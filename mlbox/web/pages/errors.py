"""Errors of the app: a page for a person, JSON for a program."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response
from litestar.exceptions import NotFoundException

from mlbox.web import problems
from mlbox.web.box import Box
from mlbox.web.pages.view import error_page, wants_page


class ErrorHandler:
    """Litestar's exception handler: the same error, as the one who asks can read it."""

    def __init__(self, box: Box) -> None:
        self._box = box

    def __call__(self, request: Request[Any, Any, Any], err: Exception) -> Response[Any]:
        """Answer an error."""
        if wants_page(request, err):
            ours = problems.as_mlbox_error(err)
            if isinstance(err, NotFoundException):
                ours.message = f"No page has the address {request.url.path[:200]!r}."
            return error_page(request, self._box, ours)
        return problems.handle(request, err)

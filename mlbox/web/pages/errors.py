"""Errors of the app: a page for a person, JSON for a program."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response

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
            return error_page(request, self._box, problems.as_mlbox_error(err))
        return problems.handle(request, err)

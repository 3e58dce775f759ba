"""Every error mlbox raises on purpose, in one tree.

    MlboxError                 500 internal           exit 1
    ├── InvalidInput           400 invalid_input      exit 2
    ├── NotAuthenticated       401 not_authenticated  exit 4
    ├── NotAuthorised          403 not_authorised     exit 4
    ├── Refused                403 refused            exit 5   a gate or an approval rule said no
    ├── NotFound               404 not_found          exit 3
    ├── Conflict               409 conflict           exit 5
    │   └── AlreadyExists      409 already_exists     exit 5
    ├── TooLarge               413 too_large          exit 2
    ├── WrongType              415 wrong_type         exit 2
    ├── TooMany                429 too_many           exit 1
    ├── Unavailable            503 unavailable        exit 1   a store or a model is down, named
    ├── TimedOut               504 timed_out          exit 124
    └── StartupError           500 startup            exit 1   the server cannot start

The message says what happened and why, the hint says what to do next.
Each protocol adapter maps this tree once to its own wire format.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

_MOST_KNOWN = 1000
"""Among so many names those that come close are looked for, which takes some 10 ms."""


class MlboxError(Exception):
    """Base of all errors: message, hint and, for bad input, the field that was wrong."""

    status = 500
    code = "internal"
    exit_code = 1
    retry_seconds: int = 0
    """When to come back, for Retry-After; 0 where nobody knows."""

    def __init__(self, message: str, *, hint: str = "", field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.field = field

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip()


class InvalidInput(MlboxError):
    status = 400
    code = "invalid_input"
    exit_code = 2
    place: tuple[int, int] | None = None
    """Of a text that has a grammar, the first character that is wrong, and the one after the last."""


class NotAuthenticated(MlboxError):
    status = 401
    code = "not_authenticated"
    exit_code = 4


class NotAuthorised(MlboxError):
    status = 403
    code = "not_authorised"
    exit_code = 4


class Refused(MlboxError):
    status = 403
    code = "refused"
    exit_code = 5


class NotFound(MlboxError):
    status = 404
    code = "not_found"
    exit_code = 3
    model = ""
    """The model that there is none of, or not in this version: protocols of inference have words of their own for it."""
    version: int | None = None


class Conflict(MlboxError):
    status = 409
    code = "conflict"
    exit_code = 5


class AlreadyExists(Conflict):
    code = "already_exists"


class TooLarge(MlboxError):
    status = 413
    code = "too_large"
    exit_code = 2


class WrongType(MlboxError):
    status = 415
    code = "wrong_type"
    exit_code = 2


class TooMany(MlboxError):
    status = 429
    code = "too_many"


class Unavailable(MlboxError):
    status = 503
    code = "unavailable"


class TimedOut(MlboxError):
    status = 504
    code = "timed_out"
    exit_code = 124


class StartupError(MlboxError):
    code = "startup"


def said(err: Exception) -> str:
    """What an error of the system says, without its number and the path that was asked for; of any other, its words."""
    return err.strerror if isinstance(err, OSError) and err.strerror else str(err).rstrip(".")


def suggest(name: str, known: Iterable[str], *, otherwise: str | None = None) -> str:
    """A hint for a name that there is not: those that come close; else `otherwise`, or all that there are of a few.

    What nobody may know of who asks does not belong among `known`.
    """
    import difflib  # imported late: a command that goes well needs none

    by_word = {one.casefold(): one for one in sorted(known)[:_MOST_KNOWN]}
    close = [by_word[word] for word in difflib.get_close_matches(name[:200].casefold(), by_word, n=3)]
    if close:
        return f"Did you mean {' or '.join(close)}?"
    if otherwise is not None:
        return otherwise
    return f"There is {', '.join(list(by_word.values())[:10])}." if by_word else "None was defined yet."


def unknown_names(given: Any, known: Any, path: str = "") -> Iterator[tuple[str, Iterable[str]]]:
    """Keys that were read and say nothing, by their path, each with those that would say something there."""
    if isinstance(given, dict) and isinstance(known, dict):
        for key, part in given.items():
            where = f"{path}.{key}".strip(".")
            if key not in known:
                yield where, known
            else:
                yield from unknown_names(part, known[key], where)
    elif isinstance(given, list) and isinstance(known, list | tuple):
        for place, (one, other) in enumerate(zip(given, known, strict=False)):
            yield from unknown_names(one, other, f"{path}[{place}]")


def _walk(root: type[MlboxError]) -> list[type[MlboxError]]:
    return [root, *(e for sub in root.__subclasses__() for e in _walk(sub))]


BY_CODE: dict[str, type[MlboxError]] = {e.code: e for e in _walk(MlboxError)}
"""Error classes by their stable code: how the client rebuilds a server's error."""

"""A thin HTTP client: what the SDK and the CLI talk to a box with."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, TypeVar

import httpx
import msgspec

from mlbox import context
from mlbox.errors import BY_CODE, InvalidInput, MlboxError, NotAuthenticated, TimedOut, Unavailable

T = TypeVar("T")
CHUNK = 1024 * 1024
CONNECT_SECONDS = 10
_DOWNLOAD_TO = ".part"
JSON = {"Content-Type": "application/json"}
BYTES = {"Content-Type": "application/octet-stream"}


class Client:
    """One box, reached by URL and token. Raises the same error tree as the server. Use `with`, or `close` it."""

    def __init__(self, url: str, token: str, *, timeout_seconds: float = 60) -> None:
        self.url = url.rstrip("/")
        try:
            self._http = httpx.Client(
                base_url=self.url,
                headers={"Authorization": f"Bearer {token}"} if token else {},
                timeout=httpx.Timeout(timeout_seconds, connect=min(CONNECT_SECONDS, timeout_seconds)),
                trust_env=False,
                verify=_trusted(self.url),
            )
        except (httpx.InvalidURL, UnicodeError) as err:
            raise _bad_url(url) from err
        if self._http.base_url.scheme not in ("http", "https") or not self._http.base_url.host:
            self._http.close()
            raise _bad_url(url)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    # -- JSON ---------------------------------------------------------------------------------------------------------

    def request(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        query: dict[str, Any] | None = None,
        timeout_seconds: float | None = None,
    ) -> bytes:
        """Send JSON, get bytes; raises the error that the server named."""
        content = msgspec.json.encode(body) if body is not None else None
        return self.send(method, path, content=content, headers=JSON, query=query, timeout_seconds=timeout_seconds)

    def get(self, path: str, type: type[T], /, **query: Any) -> T:
        """GET and decode into a record or a list of records."""
        return self.decode(self.request("GET", path, query=query), type)

    def post(self, path: str, type: type[T], /, body: Any = None, **query: Any) -> T:
        """POST JSON and decode the answer."""
        return self.decode(self.request("POST", path, body=body, query=query), type)

    def put(self, path: str, type: type[T], /, body: Any = None, **query: Any) -> T:
        """PUT JSON and decode the answer."""
        return self.decode(self.request("PUT", path, body=body, query=query), type)

    def delete(self, path: str, /, **query: Any) -> None:
        """DELETE."""
        self.request("DELETE", path, query=query)

    def pages(self, path: str, type: type[T], /, *, key: str = "id", limit: int = 1000, **query: Any) -> Iterator[T]:
        """Every row of a paged list, asked for page by page; `key` is the field that the next page comes after."""
        after: Any = None
        while True:
            rows = self.get(path, list[type], limit=limit, after=after, **query)  # type: ignore[valid-type]
            yield from rows
            if len(rows) < limit:
                return
            after = getattr(rows[-1], key)

    # -- bytes --------------------------------------------------------------------------------------------------------

    def send(
        self,
        method: str,
        path: str,
        *,
        content: bytes | Iterable[bytes] | None = None,
        headers: dict[str, str] | None = None,
        query: dict[str, Any] | None = None,
        timeout_seconds: float | None = None,
    ) -> bytes:
        """Send bytes as they are, in one piece or in chunks, and get bytes."""
        return self.exchange(
            method, path, content=content, headers=headers, query=query, timeout_seconds=timeout_seconds
        ).content

    def exchange(
        self,
        method: str,
        path: str,
        *,
        content: bytes | Iterable[bytes] | None = None,
        headers: dict[str, str] | None = None,
        query: dict[str, Any] | None = None,
        timeout_seconds: float | None = None,
        accept: Container[int] = (),
    ) -> httpx.Response:
        """As `send`, where the answer's headers matter too, or error statuses that are no errors to the caller."""

        def ask() -> httpx.Response:
            return self._http.request(
                method,
                path,
                content=content,
                headers=headers if content is not None else {},
                params=_given(query),
                timeout=timeout_seconds if timeout_seconds is not None else httpx.USE_CLIENT_DEFAULT,
            )

        try:
            try:
                answer = ask()
            except (httpx.RemoteProtocolError, httpx.ReadError):
                if method != "GET":
                    raise
                answer = ask()  # a kept connection that the server had closed; asking to read again changes nothing
        except httpx.HTTPError as err:
            raise self._lost(err) from err
        return answer if answer.status_code in accept else self._checked(answer)

    def upload(self, method: str, path: str, source: Path | BinaryIO, type: type[T], /, **query: Any) -> T:
        """Stream a file up, without holding it in memory, and decode the answer."""
        if isinstance(source, Path):
            try:
                opened = source.open("rb")
            except OSError as err:
                raise InvalidInput(f"{source} cannot be read: {err.strerror}.", hint="Give another file.") from err
            with opened as file:
                return self.upload(method, path, file, type, **query)
        chunks = iter(lambda: source.read(CHUNK), b"")
        return self.decode(self.send(method, path, content=chunks, headers=BYTES, query=query), type)

    def download(self, path: str, target: Path, /, **query: Any) -> int:
        """Stream a file down, under its name only once it is whole; returns its size in bytes."""
        partial = target.with_name(target.name + _DOWNLOAD_TO)
        try:
            with partial.open("wb") as file:
                size = sum(file.write(chunk) for chunk in self.stream(path, **query))
            os.replace(partial, target)
        except OSError as err:
            raise InvalidInput(f"{target} cannot be written: {err.strerror}.", hint="Give another file.") from err
        finally:
            partial.unlink(missing_ok=True)
        return size

    def stream(self, path: str, /, **query: Any) -> Iterator[bytes]:
        """The bytes of an answer, as they come."""
        try:
            with self._http.stream("GET", path, params=_given(query)) as answer:
                if answer.is_error:
                    answer.read()
                self._checked(answer)
                yield from answer.iter_bytes(CHUNK)
        except httpx.HTTPError as err:
            raise self._lost(err) from err

    # -- what can go wrong --------------------------------------------------------------------------------------------

    def _lost(self, err: httpx.HTTPError) -> MlboxError:
        if isinstance(err, httpx.TimeoutException) and not isinstance(err, httpx.ConnectTimeout):
            return TimedOut(
                f"{self.url} did not answer in time.", hint="Is the box overloaded? `mlbox status` asks it."
            )
        said, hint = re.sub(r"^\[Errno -?\d+\] ", "", str(err)).rstrip("."), "Is `mlbox serve` running there?"
        if "CERTIFICATE_VERIFY_FAILED" in said:
            hint = (
                f"If its certificate is signed by an authority of your own, name that one's file: --ca or {context.CA}."
            )
        elif isinstance(err, httpx.RemoteProtocolError) and self.url.startswith("http:"):
            hint += " If it has a certificate, its address begins with https."
        return Unavailable(f"No answer from {self.url}: {said}.", hint=hint)

    def _checked(self, answer: httpx.Response) -> httpx.Response:
        if answer.is_error:
            raise error_of(answer.status_code, answer.content)
        if answer.is_redirect:
            raise NotAuthenticated(
                f"{self.url} answers with a redirect to {answer.headers.get('location', '')[:200]}.",
                hint="Give the address of the box itself to `mlbox login URL`.",
            )
        return answer

    def decode(self, body: bytes, type: type[T]) -> T:
        """An answer's JSON as a record."""
        try:
            return msgspec.json.decode(body, type=type)
        except msgspec.MsgspecError as err:
            raise MlboxError(
                f"{self.url} answers in a way that this client does not understand: {err}.",
                hint="Is it an mlbox of the same release? `mlbox status` tells.",
            ) from err


def _given(query: dict[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (query or {}).items() if value is not None}


def _trusted(url: str) -> ssl.SSLContext | bool:
    """Whose certificates to believe: the authority's that is named for a box, else those that every machine knows."""
    file = context.ca_of(url) if url.startswith("https:") else ""
    if not file:
        return True
    try:
        return ssl.create_default_context(cafile=file)
    except OSError as err:  # an unreadable file, or with ssl.SSLError one that holds no certificate
        raise InvalidInput(
            f"The authority's file {file} cannot be used: {err.strerror or err}.",
            hint=f"Give a PEM file with --ca or {context.CA}.",
            field="ca",
        ) from err


def _bad_url(url: str) -> InvalidInput:
    return InvalidInput(f"{url!r} is not the address of a box.", hint="Write it like http://box:8265.", field="url")


def error_of(status: int, body: bytes) -> MlboxError:
    """The server's error, rebuilt from its body; of what is not ours, the status says the kind."""
    of_status = next((kind for kind in BY_CODE.values() if kind.status == status), MlboxError)
    try:
        told = msgspec.json.decode(body)["error"]
        kind = BY_CODE.get(told["code"], of_status)
        return kind(told["message"], hint=told.get("hint") or "", field=told.get("field"))
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError):
        return of_status(f"The server answered {status}: {body[:200]!r}.")

"""A thin HTTP client: what the SDK and the CLI talk to a box with."""

from __future__ import annotations

from typing import Any, TypeVar

import httpx
import msgspec

from mlbox.errors import BY_CODE, MlboxError, Unavailable

T = TypeVar("T")


class Client:
    """One box, reached by URL and token. Raises the same error tree as the server."""

    def __init__(self, url: str, token: str, *, timeout_seconds: float = 60) -> None:
        self.url = url.rstrip("/")
        self._http = httpx.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {token}"}, timeout=timeout_seconds, trust_env=False
        )

    def request(self, method: str, path: str, *, body: Any = None, query: dict[str, Any] | None = None) -> bytes:
        """Send JSON, get bytes; raises the error that the server named."""
        content = msgspec.json.encode(body) if body is not None else None
        headers = {"Content-Type": "application/json"} if body is not None else {}
        try:
            answer = self._http.request(method, path, content=content, headers=headers, params=query)
        except httpx.TransportError as err:
            raise Unavailable(f"No answer from {self.url}: {err}.", hint="Is `mlbox serve` running there?") from err
        if answer.is_error:
            raise error_of(answer.status_code, answer.content)
        return answer.content

    def get(self, path: str, type: type[T], **query: Any) -> T:
        """GET and decode into a record or a list of records."""
        found = {k: v for k, v in query.items() if v is not None}
        return msgspec.json.decode(self.request("GET", path, query=found), type=type)

    def post(self, path: str, type: type[T], body: Any = None) -> T:
        """POST JSON and decode the answer."""
        return msgspec.json.decode(self.request("POST", path, body=body), type=type)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()


def error_of(status: int, body: bytes) -> MlboxError:
    """The server's error, rebuilt from its body."""
    try:
        told = msgspec.json.decode(body)["error"]
        kind = BY_CODE.get(told["code"], MlboxError)
        return kind(told["message"], hint=told.get("hint") or "", field=told.get("field"))
    except (msgspec.DecodeError, KeyError, TypeError):
        return MlboxError(f"The server answered {status}: {body[:200]!r}.")

"""Two sign-in providers on loopback: a real one as its own process, and one that does what no honest one does."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey

from tests.conftest import unclaimed_port, wait_for

PROVIDER = Path(sys.executable).with_name("oidc-provider-mock")


class RealProvider:
    """`oidc-provider-mock` as a process: it shows a form, gives codes, and signs with a key made at its start."""

    def __init__(self, log: Path, *flags: str, port: int | None = None) -> None:
        self.port = port or unclaimed_port()
        self.issuer = f"http://127.0.0.1:{self.port}"
        with log.open("ab") as out:
            self._process = subprocess.Popen([PROVIDER, "--port", str(self.port), *flags], stdout=out, stderr=out)
        wait_for(lambda: self._is_up(log), what="the provider")

    def _is_up(self, log: Path) -> bool:
        assert self._process.poll() is None, log.read_text()
        try:
            return httpx.get(f"{self.issuer}/jwks").status_code == 200
        except httpx.TransportError:
            return False

    def register(self, redirect_uri: str) -> tuple[str, str]:
        """A client's id and secret."""
        made = httpx.post(f"{self.issuer}/oauth2/clients", json={"redirect_uris": [redirect_uri]}).json()
        return made["client_id"], made["client_secret"]

    def set_user(self, subject: str, **claims: Any) -> None:
        httpx.put(f"{self.issuer}/users/{subject}", json=claims).raise_for_status()

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=60)


class Browser:
    """Goes through a sign-in by hand, as a person at a browser would."""

    def __init__(self, url: str) -> None:
        self.url = url
        nothing_open = httpx.Limits(max_keepalive_connections=0)
        self.http = httpx.Client(base_url=url, headers={"Accept": "text/html"}, timeout=60, limits=nothing_open)

    def leave(self, target: str = "") -> str:
        """Press the button; where that leads to."""
        answer = self.http.get("/login/oidc", params={"next": target} if target else {})
        assert answer.status_code == 303, answer.text
        return str(answer.headers["location"])

    def agree(self, address: str, subject: str) -> str:
        """Fill in the provider's form; where it sends the browser back to."""
        assert "Authorize" in httpx.get(address).text
        return str(httpx.post(address, data={"sub": subject}).headers["location"])

    def sign_in(self, subject: str, target: str = "") -> httpx.Response:
        """The whole way; the server's answer to the callback."""
        return self.http.get(self.agree(self.leave(target), subject))

    def who(self) -> dict[str, Any] | None:
        """Whom the server takes this browser for."""
        answer = self.http.get("/api/v1/whoami", headers={"Accept": "application/json"})
        return answer.json() if answer.status_code == 200 else None


def message(answer: httpx.Response) -> str:
    """What the sign-in page says went wrong."""
    found = re.search(r'role="alert">(.*?)</p>', answer.text, re.S)
    assert found, answer.text
    return found[1].replace("&#39;", "'")


class HostileProvider:
    """A provider in this process whose ID tokens, keys and documents are whatever a test makes them."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.key = RSAKey.generate_key(2048, {"use": "sig", "kid": "one"})
        self.published = [self.key]
        self.claims: dict[str, Any] = {}
        """Put over the honest claims; None takes one away."""
        self.sign: Callable[[dict[str, Any]], str] = self.honestly
        self.metadata: dict[str, Any] = {}
        self.userinfo: dict[str, Any] = {}
        self.status: dict[str, int] = {}
        self.asked: list[str] = []
        self.posted: list[tuple[dict[str, str], str]] = []
        """Form and Authorization of each request for a token."""
        self._codes: dict[str, dict[str, str]] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        self.issuer = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def reset(self) -> None:
        self.claims, self.metadata, self.userinfo, self.status = {}, {}, {}, {}
        self.sign = self.honestly
        self.published = [self.key]

    def honestly(self, claims: dict[str, Any]) -> str:
        return jwt.encode({"alg": "RS256", "kid": self.key.kid}, claims, self.key)

    def agree(self, address: str) -> dict[str, str]:
        """What a provider sends back for the address that a browser was sent to."""
        asked = {name: values[0] for name, values in parse_qs(urlsplit(address).query).items()}
        code = secrets.token_urlsafe(8)
        self._codes[code] = asked
        return {"code": code, "state": asked["state"]}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, path: str, form: dict[str, str], authorization: str) -> Any:
        if path == "/.well-known/openid-configuration":
            return {
                "issuer": self.issuer,
                "authorization_endpoint": f"{self.issuer}/authorize",
                "token_endpoint": f"{self.issuer}/token",
                "jwks_uri": f"{self.issuer}/jwks",
                "userinfo_endpoint": f"{self.issuer}/userinfo",
                **self.metadata,
            }
        if path == "/jwks":
            return KeySet(self.published).as_dict()
        if path == "/userinfo":
            return self.userinfo
        return self._token(form, authorization)

    def _token(self, form: dict[str, str], authorization: str) -> Any:
        self.posted.append((form, authorization))
        asked = self._codes.pop(form["code"], None)
        digest = hashlib.sha256(form["code_verifier"].encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        if asked is None or (challenge, form["redirect_uri"]) != (asked["code_challenge"], asked["redirect_uri"]):
            self.status["/token"] = 400
            return {"error": "invalid_grant", "error_description": "<script>alert(1)</script>"}
        now = int(time.time())
        honest = {"iss": self.issuer, "aud": "box", "sub": "s1", "nonce": asked["nonce"], "iat": now, "exp": now + 60}
        claims = {**honest, "preferred_username": "mallory", "groups": ["team"], **self.claims}
        token = self.sign({name: value for name, value in claims.items() if value is not None})
        return {"access_token": "at", "token_type": "Bearer", "id_token": token}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.answer({})

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"])).decode()
                self.answer({name: values[0] for name, values in parse_qs(body).items()})

            def answer(self, form: dict[str, str]) -> None:
                path = urlsplit(self.path).path
                provider.asked.append(path)
                body = json.dumps(provider._answer(path, form, self.headers.get("authorization", ""))).encode()
                self.send_response(provider.status.pop(path, 200))
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Nothing: what was asked is in `asked`."""

        return Handler

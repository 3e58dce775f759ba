"""Requests that the server itself makes, and where they may go.

Only to targets that the settings name, or that such a target names in turn (the token endpoint of a sign-in provider). Every
request resolves its host once, looks at every address that came back, and connects to one of exactly these: a name that
answers differently the second time (DNS rebinding) is never asked a second time. TLS is still checked against the name.

What is not an address of the public internet is refused, in whichever form it is written, unless the setting
`outgoing_allow` names it. Redirects are not followed, proxies of the environment are not used, compressed bodies are not
taken (a small one may unpack to a large one), and the time and the size of an answer are bounded as a whole.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import httpcore
import httpx

from mlbox.errors import InvalidInput, MlboxError, Refused, StartupError, TimedOut, Unavailable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolve = Callable[[str, int], Sequence[str]]
"""Addresses of a host as texts; raises OSError. The seam by which tests answer for the DNS."""

MOST_BYTES = 1024 * 1024
SECONDS = 20.0
STEP_SECONDS = 10.0
_MOST_ADDRESSES = 16
_HOST = re.compile(r"(?!-)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")

# The registries of special-purpose addresses (RFC 6890 and its updates), written out: what the standard library calls global
# has changed between its releases.
_V4_SPECIAL = tuple(
    ipaddress.IPv4Network(text)
    for text in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24"),
        *("192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24"),
        *("198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
    )
)
_V6_GLOBAL = ipaddress.IPv6Network("2000::/3")
_V6_SPECIAL = tuple(
    ipaddress.IPv6Network(text)
    for text in ("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20")
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def is_public(address: Address) -> bool:
    """True for an address of the public internet; one that carries another (IPv4-mapped, NAT64) counts as that other."""
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _V4_SPECIAL)
    carried = _carried(address)
    if carried is not None:
        return is_public(carried)
    return address in _V6_GLOBAL and not any(address in network for network in _V6_SPECIAL)


def _carried(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) if address in _NAT64 else None


def system_resolve(host: str, port: int) -> list[str]:
    """What this machine's resolver says, each address once; it also reads forms such as 2130706433 and 0x7f.1."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return list(dict.fromkeys(str(place[0]) for *_, place in found))


class Allowed:
    """What the setting `outgoing_allow` lists: host names, addresses and networks. Raises InvalidInput for anything else."""

    def __init__(self, entries: Iterable[str]) -> None:
        self._hosts: set[str] = set()
        self._networks: list[Network] = []
        for entry in entries:
            text = entry.strip().lower()
            try:
                self._networks.append(ipaddress.ip_network(text.strip("[]"), strict=False))
            except ValueError:
                self._hosts.add(_checked_host(text))

    def permits(self, host: str, address: Address) -> bool:
        """True for an address that may be connected to under this host name."""
        if host.lower().rstrip(".") in self._hosts or is_public(address):
            return True
        carried = _carried(address) if isinstance(address, ipaddress.IPv6Address) else None
        return any(one in network for network in self._networks for one in (address, carried) if one is not None)


def _checked_host(text: str) -> str:
    if not _HOST.fullmatch(text) or text.rpartition(".")[2].isdigit():
        raise InvalidInput(
            f"outgoing_allow: {text[:200]!r} is no host name, address or network.",
            hint="Write it like idp.lab.example, 10.1.2.3 or 10.0.0.0/8; no scheme, port or wildcard.",
            field="outgoing_allow",
        )
    return text


class Outgoing:
    """A client for the server's own requests. Safe to use from several threads; every call blocks.

    `seconds` bounds a request as a whole, `most_bytes` the body of its answer.
    """

    def __init__(
        self,
        allow: Iterable[str] = (),
        *,
        ca_file: str = "",
        seconds: float = SECONDS,
        most_bytes: int = MOST_BYTES,
        resolve: Resolve = system_resolve,
    ) -> None:
        self._most_bytes = most_bytes
        self._backend = _Backend(Allowed(allow), resolve, seconds)
        self._pool = httpcore.ConnectionPool(
            ssl_context=_tls(ca_file),
            max_connections=8,
            max_keepalive_connections=0,  # a connection would outlive the check of its address
            network_backend=self._backend,
        )

    def check(self, url: str) -> None:
        """Raise InvalidInput or Refused, as `request` would, for a URL that is to be asked later.

        A host that is not known now may be by then.
        """
        parsed = check_url(url)
        port = parsed.port or (443 if parsed.scheme == "https" else 80)
        with contextlib.suppress(httpcore.ConnectError):
            self._backend.addresses(parsed.raw_host.decode("ascii"), port)

    def get(self, url: str, headers: Mapping[str, str] | None = None) -> httpx.Response:
        """GET, whole; see `request`."""
        return self.request("GET", url, headers)

    def post(self, url: str, content: bytes, headers: Mapping[str, str] | None = None) -> httpx.Response:
        """POST, whole; see `request`."""
        return self.request("POST", url, headers, content)

    def request(
        self, method: str, url: str, headers: Mapping[str, str] | None = None, content: bytes = b""
    ) -> httpx.Response:
        """The answer with its whole body, whatever its status below 300 or from 400 on.

        Raises InvalidInput for a URL that is not plain http or https, Refused for an address that may not be connected to,
        TimedOut, and Unavailable for a host that does not answer, redirects, or answers with too much.
        """
        parsed = check_url(url)
        request = httpx.Request(
            method,
            parsed,
            headers={"user-agent": "mlbox", **(headers or {}), "accept-encoding": "identity"},
            content=content,
        )
        place = f"{parsed.scheme}://{parsed.netloc.decode('ascii')}"
        try:
            return self._answer(request, place)
        except httpcore.TimeoutException as err:
            raise TimedOut(f"{place} did not answer in time.", hint="Try again, or look at that server.") from err
        except (httpcore.NetworkError, httpcore.ProtocolError) as err:
            raise _unavailable(place, f"could not be asked: {str(err)[:200] or type(err).__name__}") from err

    def close(self) -> None:
        """Close what is open."""
        self._pool.close()

    def _answer(self, request: httpx.Request, place: str) -> httpx.Response:
        asked = httpcore.Request(
            request.method,
            httpcore.URL(
                scheme=request.url.raw_scheme,
                host=request.url.raw_host,
                port=request.url.port,
                target=request.url.raw_path,
            ),
            headers=request.headers.raw,
            content=request.content,
            extensions={"timeout": dict.fromkeys(("connect", "read", "write", "pool"), STEP_SECONDS)},
        )
        response = self._pool.handle_request(asked)
        try:
            if 300 <= response.status < 400:
                raise _unavailable(place, "answered with a redirect, which is not followed")
            headers = httpx.Headers(response.headers)
            if headers.get("content-encoding", "identity") != "identity":
                raise _unavailable(place, "sent a compressed answer, which was not asked for")
            body = bytearray()
            assert isinstance(response.stream, Iterable)
            for chunk in response.stream:
                body += chunk
                if len(body) > self._most_bytes:
                    raise _unavailable(place, f"answered with more than {self._most_bytes:,} bytes")
        finally:
            response.close()
        return httpx.Response(response.status, headers=headers, content=bytes(body), request=request)


def check_url(url: str) -> httpx.URL:
    """A URL that may be asked at all, host aside; raises InvalidInput."""
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as err:
        raise InvalidInput(
            f"{url[:200]!r} is not a URL.", hint="Write it like https://host/path.", field="url"
        ) from err
    if parsed.scheme not in ("http", "https") or not parsed.host or not 0 < (parsed.port or 1) < 65536:
        raise InvalidInput(f"{url[:200]!r} is not an http or https URL.", hint="Begin it with https://.", field="url")
    if parsed.userinfo:
        raise InvalidInput("The URL has a user name in it.", hint="Leave out what stands before the @.", field="url")
    return parsed


def _unavailable(place: str, what: str) -> MlboxError:
    return Unavailable(f"{place} {what}.", hint="Check the setting that names it, and that server.")


def _tls(ca_file: str) -> ssl.SSLContext:
    context = httpx.create_ssl_context(trust_env=False)
    if ca_file:
        try:
            context.load_verify_locations(cafile=ca_file)
        except OSError as err:  # SSLError among them
            raise StartupError(
                f"The certificates in {ca_file} cannot be used: {err.strerror or err}.",
                hint="outgoing_ca takes a PEM file with certificates of authorities.",
            ) from err
    return context


class _Backend(httpcore.NetworkBackend):
    """Connects to addresses that were looked at, and to nothing else."""

    def __init__(self, allowed: Allowed, resolve: Resolve, seconds: float) -> None:
        self._allowed = allowed
        self._resolve = resolve
        self._seconds = seconds
        self._inner = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        end = time.monotonic() + self._seconds
        refused: httpcore.NetworkError | httpcore.TimeoutException | None = None
        for address in self.addresses(host, port):
            try:
                stream = self._inner.connect_tcp(address, port, _left(end, timeout), local_address, socket_options)
            except (httpcore.NetworkError, httpcore.TimeoutException) as err:
                refused = err
            else:
                return _Bounded(stream, end)
        raise refused or httpcore.ConnectError("the name has no address")

    def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        raise Refused("A socket of this machine was to be opened.", hint="Outgoing requests go over TCP.")

    def addresses(self, host: str, port: int) -> list[str]:
        """Every address of a host; one bad one among them spoils all, because no honest name has both kinds by chance."""
        try:
            found = list(self._resolve(host, port))[:_MOST_ADDRESSES]
        except (OSError, UnicodeError) as err:
            raise httpcore.ConnectError(f"the name {host} is not known") from err
        for text in found:
            if not self._allowed.permits(host, ipaddress.ip_address(text)):
                at = "" if host.strip("[]") == text else f"at {text}, which is "
                raise Refused(
                    f"{host} is {at}not a public address.",
                    hint=f"If that is meant, allow it: --outgoing-allow {host}",
                    field="outgoing_allow",
                )
        return found


class _Bounded(httpcore.NetworkStream):
    """A connection of which every step ends when the time for the whole request does."""

    def __init__(self, inner: httpcore.NetworkStream, end: float) -> None:
        self._inner = inner
        self._end = end

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, _left(self._end, timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, _left(self._end, timeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _Bounded(self._inner.start_tls(ssl_context, server_hostname, _left(self._end, timeout)), self._end)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


def _left(end: float, timeout: float | None) -> float:
    left = end - time.monotonic()
    if left <= 0:
        raise httpcore.ReadTimeout("the time for the whole request is over")
    return min(left, timeout) if timeout is not None else left

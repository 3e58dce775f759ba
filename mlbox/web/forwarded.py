"""What a proxy says of the one who asks: believed only from a trusted address, and read from the last hop back.

Anyone may write `X-Forwarded-For: 127.0.0.1` into a request. Each proxy appends the address that it itself saw, so the list
is true from its end up to the first hop that is no proxy of ours: that one is the client, and what stands before it is hearsay.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from typing import Any

from mlbox.errors import InvalidInput

FOR, PROTO, HOST = b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host"
NAMES = frozenset({FOR, PROTO, HOST})
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Addresses and networks as written in the setting; raises InvalidInput for one that is neither."""
    found = []
    for text in texts:
        try:
            found.append(ipaddress.ip_network(text.strip()))
        except ValueError as err:
            raise InvalidInput(
                f"The trusted proxy {text!r} is neither an address nor a network: {err}.",
                hint="Write it like 10.0.0.5 or 10.0.0.0/24.",
                field="trusted_proxy",
            ) from err
    return tuple(found)


def address(text: str) -> Address | None:
    """An address as proxies write it, with or without brackets and a port; None for anything else."""
    plain = text.strip()
    if plain.startswith("["):
        plain = plain[1:].partition("]")[0]
    elif plain.count(":") == 1:
        plain = plain.partition(":")[0]
    try:
        found = ipaddress.ip_address(plain)
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found


def is_trusted(peer: Address | None, proxies: Sequence[Network]) -> bool:
    """True for the address of a proxy of ours."""
    return peer is not None and any(peer in network for network in proxies)


def client_of(peer: Address, hops: Sequence[str], proxies: Sequence[Network]) -> Address:
    """Who asked: going back from the peer, the first address that is no proxy of ours, or the last that can be read."""
    found = peer
    for hop in reversed(hops):
        if not is_trusted(found, proxies):
            break
        said = address(hop)
        if said is None:
            break
        found = said
    return found


def rewrite(scope: Any, proxies: Sequence[Network]) -> None:
    """Put the client's address, scheme and Host into a scope that came through a trusted proxy.

    From anyone else the headers are taken out, so that nothing behind this can believe them.
    """
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    said = [(name, value) for name, value in headers if name in NAMES]
    scope["headers"] = [(name, value) for name, value in headers if name not in NAMES] if said else headers
    peer = address(scope["client"][0]) if scope.get("client") else None
    if peer is None or not said or not is_trusted(peer, proxies):
        return
    hops = _listed(said, FOR)
    client = client_of(peer, hops, proxies)
    if client != peer:
        scope["client"] = (str(client), 0)
    scheme = _listed(said, PROTO)[-1:]
    if scheme and scheme[0].lower() in ("http", "https"):
        scope["scheme"] = scheme[0].lower()
    host = _listed(said, HOST)[-1:]
    if host:
        scope["headers"] = [(n, v) for n, v in scope["headers"] if n != b"host"] + [
            (b"host", host[0].encode("latin-1"))
        ]


def _listed(said: Iterable[tuple[bytes, bytes]], name: bytes) -> list[str]:
    """A header's values in order, whether sent as one list or many lines."""
    parts = (part.strip() for n, value in said if n == name for part in value.decode("latin-1").split(","))
    return [part for part in parts if part]

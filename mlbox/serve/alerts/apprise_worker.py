"""Sends one message by apprise, in a process of its own: a `Task` on stdin, a `Told` on stdout.

apprise opens its own connections, so where it may go is held here, by Python's audit hooks: every connection of this process, one
after a redirect too, is to an address of the public internet or one that `outgoing_allow` names; no program is started, and no
file is read but those of Python and of TLS. What a URL says can make apprise do no more than that.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from mlbox.errors import Refused
from mlbox.outgoing import Allowed, system_resolve

STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "pty.spawn")
SENDS = ("socket.connect", "socket.sendto", "socket.sendmsg")
_WORDS = 200


class Task(msgspec.Struct, frozen=True):
    """What is to be sent, where to, and where one may go."""

    url: str
    title: str
    body: str
    kind: str = "info"
    """apprise's: info, success, warning or failure."""
    allow: tuple[str, ...] = ()


class Told(msgspec.Struct, frozen=True):
    """What became of it."""

    taken: bool
    words: str
    final: bool = False
    """Another try makes no sense."""


class Fence:
    """Where this process may connect to, and what else it may not do."""

    def __init__(self, allow: tuple[str, ...]) -> None:
        self._allowed = Allowed(allow)
        self._named = {address for host in allow if not _is_address(host) for address in _addresses(host)}
        places = {*sys.path, sys.prefix, sys.base_prefix, *_certificates(), "/usr/share/zoneinfo", "/usr/lib/ssl"}
        self._readable = tuple({text for place in places if place for text in (place, str(Path(place).resolve()))})
        self.refused = ""
        """The first thing that was."""

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """The audit hook; raises Refused."""
        if event in SENDS:
            self._check_address(arguments[1] if len(arguments) > 1 else None)
        elif event in STARTS:
            self._refuse("A program may not be started for a message.")
        elif event == "open" and isinstance(arguments[0], str | bytes):
            path = os.path.abspath(os.fsdecode(arguments[0]))
            if not path.startswith(self._readable):
                self._refuse("A file of the server may not be read for a message.")

    def _check_address(self, given: Any) -> None:
        host = given[0] if isinstance(given, tuple) and given else None
        if host is None and given is None:
            return  # a connected socket's
        try:
            address = ipaddress.ip_address(str(host).partition("%")[0])
        except ValueError:
            self._refuse("Only addresses of the network may be connected to.")
        if not (address in self._named or self._allowed.permits("", address)):
            self._refuse(f"{address} is not on the public internet, and outgoing_allow does not name it.")

    def _refuse(self, why: str) -> None:
        self.refused = self.refused or why
        raise Refused(why)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_network(text.strip("[]"), strict=False)
    except ValueError:
        return False
    return True


def _addresses(host: str) -> Iterator[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    try:
        found = system_resolve(host, 0)
    except OSError:
        return
    yield from (ipaddress.ip_address(text.partition("%")[0]) for text in found)


def _certificates() -> Iterator[str]:
    paths = ssl.get_default_verify_paths()
    yield from (path for path in (paths.cafile, paths.capath, "/etc/ssl") if path)


class _Last(logging.Handler):
    """What apprise said last that went wrong; it keeps tokens out of its warnings itself."""

    words = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.words = record.getMessage()


def send(task: Task) -> Told:
    """Send it; what the address says wrongly is final."""
    import apprise

    last = _Last(logging.WARNING)
    logging.getLogger("apprise").addHandler(last)
    asset = apprise.AppriseAsset(app_id="mlbox", app_desc="mlbox", app_url="", async_mode=False)
    service = apprise.Apprise.instantiate(task.url, asset=asset, suppress_exceptions=True)
    if service is None:
        return Told(False, "apprise does not know this address; see its list of services.", final=True)
    fence = Fence(task.allow)
    sys.addaudithook(fence)
    try:
        taken = bool(service.notify(body=task.body, title=task.title, notify_type=task.kind))
    except Refused:
        taken = False
    return Told(taken, "sent" if taken else fence.refused or last.words[:_WORDS] or "not taken")


def main() -> None:
    """One task from stdin to stdout."""
    told = send(msgspec.json.decode(sys.stdin.buffer.read(), type=Task))
    sys.stdout.buffer.write(msgspec.json.encode(told))


if __name__ == "__main__":
    main()

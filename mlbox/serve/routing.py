"""Which version answers a request, and what came of it: the words that router, model server and prediction log share."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from mlbox.records import ServeRole


class Route(NamedTuple):
    """The version that answers, the role it answers in, and the version that only watches."""

    version: int
    role: ServeRole
    shadow: int | None = None


class Routes(Protocol):
    """Where the model server asks."""

    def route(self, model: str, key: str) -> Route:
        """Who answers this key; raises NotFound when nothing of the model serves."""

    def versions(self, model: str) -> tuple[int, ...]:
        """Every version that may answer some key now; none when nothing of the model serves."""


@dataclass(frozen=True)
class Traffic:
    """What one role of one version did."""

    count: int = 0
    errors: int = 0
    p95_ms: float | None = None

    def since(self, start: Traffic) -> Traffic:
        """What came after an earlier reading."""
        return Traffic(self.count - start.count, self.errors - start.errors, self.p95_ms)


class TrafficSource(Protocol):
    """Where the figures come from: the prediction log."""

    def traffic(self, model: str, version: int, role: ServeRole) -> Traffic:
        """All that this role of this version did since the server started."""


def bucket(key: str) -> float:
    """A key's fixed place in 0..100, uniform over keys: the same key meets the same version in every process."""
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64 * 100

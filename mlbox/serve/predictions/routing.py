"""Which version answers a request, and what came of it: the words that router, model server and prediction log share."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from mlbox.records import ServeRole
from mlbox.serve.predictions.batches import Given


class Route(NamedTuple):
    """The version that answers, the role it answers in, and the version that only watches."""

    version: int
    role: ServeRole
    shadow: int | None = None


class Beside(NamedTuple):
    """A request that the champion answered, and what a shadow made of it."""

    given: Given
    answered: Sequence[float | None]
    """The scores that users got."""
    answered_ms: float
    beside: Sequence[float | None] | None
    """The shadow's of the same rows; None where it failed."""
    beside_ms: float = 0.0


class Routes(Protocol):
    """Where the model server asks."""

    generation: int
    """Another one whenever an answer of the two below may be another one."""

    def route(self, model: str, key: str) -> Route:
        """Who answers this key; raises NotFound when nothing of the model serves."""

    def versions(self, model: str) -> tuple[int, ...]:
        """Every version that may answer some key now; none when nothing of the model serves."""

    def paired(self, model: str, version: int, found: Beside) -> None:
        """Be told of what a shadow made of a request that the champion answered; must return at once."""


@dataclass(frozen=True)
class Traffic:
    """What one role of one version did."""

    count: int = 0
    errors: int = 0
    p95_ms: float | None = None


def bucket(key: str, salt: str = "") -> float:
    """A key's fixed place in 0..100, uniform over keys: the same key meets the same version in every process.

    The salt is the promotion's id: other promotions put other keys first.
    """
    digest = hashlib.blake2b(key.encode(), digest_size=8, key=salt.encode()).digest()
    return int.from_bytes(digest, "big") / 2**64 * 100

"""What is moved, in the shapes that a folder keeps and an importer takes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import msgspec

Point = tuple[int, int, str]
"""Step, milliseconds since 1970, and the value as `repr` of a float writes it."""


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is moved."""


class ExperimentItem(Item, frozen=True, kw_only=True):
    """An experiment."""

    id: str
    """At its source."""
    name: str
    tags: dict[str, str] = {}


class RunItem(Item, frozen=True, kw_only=True):
    """A run without its points and files."""

    id: str
    experiment: str
    name: str = ""
    user: str = ""
    status: str = "FINISHED"
    started_ms: int | None = None
    ended_ms: int | None = None
    params: dict[str, str] = {}
    tags: dict[str, str] = {}
    metrics: tuple[str, ...] = ()
    """The names of its metrics."""
    datasets: tuple[dict[str, Any], ...] = ()
    """As MLflow's `log-inputs` takes them."""
    address: str = ""
    """Where its files are at the source."""


class LoggedModelItem(Item, frozen=True, kw_only=True):
    """A logged model of MLflow 3."""

    id: str
    experiment: str
    name: str
    type: str = ""
    status: str = "LOGGED_MODEL_READY"
    run_id: str = ""
    params: dict[str, str] = {}
    tags: dict[str, str] = {}
    address: str = ""


class VersionItem(Item, frozen=True, kw_only=True):
    """A version of a registered model."""

    version: int
    source: str
    run_id: str = ""
    model_id: str = ""
    stage: str = "None"
    description: str = ""
    tags: dict[str, str] = {}
    aliases: tuple[str, ...] = ()


class ModelItem(Item, frozen=True, kw_only=True):
    """A registered model with its versions, oldest first."""

    name: str
    description: str = ""
    tags: dict[str, str] = {}
    versions: tuple[VersionItem, ...] = ()


class File(NamedTuple):
    """One file of a run or a logged model."""

    path: str
    size: int
    sha256: str = ""
    """Empty where the source does not say."""


class Source(Protocol):
    """Where things come from. Every method reads anew, so that an import that was cut off can begin again."""

    name: str
    """What is noted of everything that came from here."""

    def experiments(self) -> Iterator[ExperimentItem]:
        """All that are not deleted."""

    def runs(self, experiment: ExperimentItem) -> Iterator[RunItem]:
        """An experiment's, oldest first, but for deleted ones."""

    def points(self, run: RunItem, key: str) -> Iterator[Point]:
        """A metric's points, each once."""

    def logged_models(self, experiment: ExperimentItem) -> Iterator[LoggedModelItem]:
        """An experiment's."""

    def files(self, owner: RunItem | LoggedModelItem) -> list[File]:
        """All files; raises NotFound where the source has no way to them."""

    def read(self, owner: RunItem | LoggedModelItem, file: File) -> Iterator[bytes]:
        """A file's content."""

    def models(self) -> Iterator[ModelItem]:
        """The registered models."""


class Sum:
    """How many points there were, and a sum of their hashes: the same in whatever order they come."""

    def __init__(self) -> None:
        self.count = 0
        self._sum = 0

    def add(self, key: str, point: Point) -> None:
        """Take one in."""
        self.count += 1
        digest = hashlib.sha256(msgspec.json.encode((key, *point))).digest()
        self._sum = (self._sum + int.from_bytes(digest)) % (1 << 256)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sum) and (self.count, self._sum) == (other.count, other._sum)

    def __hash__(self) -> int:
        return hash((self.count, self._sum))

    def __str__(self) -> str:
        return f"{self._sum:064x}"


def value_of(value: float | str) -> str:
    """A metric's value as points have it: a number, or NaN, Infinity and -Infinity as text."""
    return repr(float(value))


def wire_value(value: str) -> float | str:
    """A point's value as MLflow's JSON has it."""
    return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(value, float(value))

"""What `Workers` keeps of each process that runs models, and of each model that they hold."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any, NamedTuple

from mlbox.store.sandbox.workers import Worker as Process

Name = tuple[str, int]


class Held:
    """One model that workers hold."""

    def __init__(self, key: int, name: Name, load: Mapping[str, Any]) -> None:
        self.key = key
        self.name = name
        self.load = dict(load)
        """What a worker is told to load it by."""
        self.first: Future[Mapping[str, Any]] = Future()
        """What the first worker that loaded it says of it."""
        self.loading = False
        """By the first of them: no second one tries what a first one may die of."""

    @property
    def sound(self) -> bool:
        """Whether a worker has loaded it."""
        return self.first.done() and self.first.exception() is None


class State(NamedTuple):
    """What the workers do."""

    running: int
    starting: int
    busy: int
    restarts: int
    crashes: Mapping[Name, int]
    """Since the start of the server, by the version that ran."""
    pids: tuple[int, ...]


class Slot:
    """The place of one worker, and the worker that is there now."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.process: Process | None = None
        self.pid = 0
        self.asked: socket.socket | None = None
        self.told: socket.socket | None = None
        self.alive = False
        self.busy = False
        self.holds: set[int] = set()
        self.refused: dict[int, str] = {}
        """What it could not load, though another could."""
        self.ended: Future[int] = Future()
        """How its process ended."""


class Waiting(NamedTuple):
    held: Held
    slot: Future[Slot]

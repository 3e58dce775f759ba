"""The program of a process that runs models for the server. It may die, and takes nothing with it but what it runs.

It is forked by `check_forks`, and finds as its `PIPE` the socket on which it is asked (see `frames`); over that it gets a second
one, on which it is told the number of a run that nobody waits for any more. It does one thing at a time, so that what it died of
is known.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from mlbox.serve.inference.frames import Gone, Message, receive, send
from mlbox.serve.inference.runtime import Session
from mlbox.store.sandbox.stream_worker import PIPE

if TYPE_CHECKING:
    import numpy as np

NUMBER_BYTES = 8
OOM_SCORE = 500
"""Where memory runs out, the kernel ends a worker and not the server."""


def main() -> None:
    """Answer until the server is gone."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a library prints has no reader
    asked = socket.socket(fileno=PIPE)
    _, (fd,), _, _ = socket.recv_fds(asked, 1, 1)
    _Worker(asked, socket.socket(fileno=fd)).serve()


class _Worker:
    def __init__(self, asked: socket.socket, told: socket.socket) -> None:
        self._asked = asked
        self._told = told
        self._sessions: dict[int, Session] = {}
        self._running: tuple[int, Any] = (0, None)
        self._ended = 0
        """The latest number that was told, which may come before its run."""

    def serve(self) -> None:
        threading.Thread(target=self._listen, daemon=True).start()
        does: Mapping[str, Callable[[Message, list[np.ndarray]], tuple[Message, list[np.ndarray]]]] = {
            "load": self._load,
            "run": self._run,
            "drop": self._drop,
        }
        with contextlib.suppress(Gone):
            while True:
                message, arrays = receive(self._asked)
                try:
                    answer, found = does[message.what](message, arrays)
                except Exception as err:
                    answer, found = Message("failed", error=str(err) or type(err).__name__), []
                send(self._asked, answer, found)

    def _listen(self) -> None:
        """End runs that are told of."""
        while number := self._told.recv(NUMBER_BYTES):
            self._ended = int.from_bytes(number, "little")
            current, options = self._running
            if current == self._ended:
                options.terminate = True

    def _load(self, message: Message, arrays: list[np.ndarray]) -> tuple[Message, list[np.ndarray]]:
        session = Session(Path(message.facts["path"]), **message.facts["how"])
        self._sessions[message.key] = session
        facts = {"inputs": session.inputs, "outputs": session.outputs, "providers": session.providers}
        return Message("done", facts=msgspec.to_builtins(facts)), []

    def _run(self, message: Message, arrays: list[np.ndarray]) -> tuple[Message, list[np.ndarray]]:
        session = self._sessions[message.key]
        options = session.options()
        self._running = message.number, options
        if self._ended == message.number:
            options.terminate = True
        feeds = dict(zip(message.names, arrays, strict=False))
        return Message("done"), session.run(feeds, message.names[len(arrays) :], options)

    def _drop(self, message: Message, arrays: list[np.ndarray]) -> tuple[Message, list[np.ndarray]]:
        self._sessions.pop(message.key, None)
        return Message("done"), []

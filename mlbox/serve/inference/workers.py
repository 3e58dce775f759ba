"""The processes that run models for the server: kept running, asked in turn, and what they die of is known.

Invariants
- Every worker holds every model, so the death of one costs speed and no answer.
- A worker does one thing at a time; what waits is served in the order in which it came, once a worker that holds it is free.
- A process that dies while it loads or runs a version counts against this version alone; one that dies idle, against none.
- A run that takes longer than its version may take is ended with its process, and that is such a death. Whoever asked can only
  tell it to end, so no client has a version count one that keeps to its time.
- A worker that died is started again at once, and later where it dies again and again; until it holds what it is asked for, the
  others answer.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import select
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlbox.errors import InvalidInput, MlboxError, Unavailable
from mlbox.serve.inference.check import FORKS
from mlbox.serve.inference.frames import Gone, Message, Unread, receive, send
from mlbox.serve.inference.infer_worker import NUMBER_BYTES
from mlbox.serve.inference.remote import Died, RemoteSession, Stop
from mlbox.serve.inference.slots import Held, Name, Slot, State, Waiting
from mlbox.store.sandbox.workers import Worker as Process

if TYPE_CHECKING:
    import numpy as np

MOST_DELAY = 1.0
"""Seconds between the death of a worker and its next start, at most: with the start itself, it is back within two."""
FIRST_DELAY = 0.05
STEADY_SECONDS = 30.0
"""A worker that lived so long begins anew with the shortest delay."""
DRAIN_SECONDS = 2.0
LOAD_SECONDS = 120.0
HANG_SECONDS = 5.0
"""How long a run may go on after its time was over and it was told to end; then its process ends."""
_log = logging.getLogger(__name__)


class Workers:
    """So many processes, from the first model on.

    `crashed` is told of each death that counts against a version, how it came, and for how many seconds the process had run it.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.crashed: Callable[[Name, str, float], None] = lambda name, how, seconds: None
        self._changed = threading.Condition()
        self._slots = [Slot(number) for number in range(count)]
        self._threads: list[threading.Thread] = []
        self._models: dict[int, Held] = {}
        self._let_go: deque[Held] = deque()
        self._waiting: list[Waiting] = []
        self._keys = itertools.count(1)
        self._numbers = itertools.count(1)
        self._restarts = 0
        self._crashes: dict[Name, int] = {}
        self._barred: dict[Name, Callable[[], Unavailable]] = {}
        self._closed = threading.Event()

    # -- models -------------------------------------------------------------------------------------------------------------

    def open(self, model: str, version: int, path: Path, how: Mapping[str, Any]) -> RemoteSession:
        """A version, as soon as one worker holds it; raises InvalidInput where that fails, or ends the worker.

        `how` is what `Session` takes beside it.
        """
        held = Held(next(self._keys), (model, version), {"path": str(path), "how": how})
        with self._changed:
            if self._closed.is_set():
                raise _stops()
            self._refuse_barred(held.name)
            self._begin()
            self._models[held.key] = held
            self._changed.notify_all()
        try:
            facts = held.first.result(LOAD_SECONDS)
        except BaseException as err:
            self.let_go(held)
            if isinstance(err, TimeoutError):
                raise Unavailable(
                    f"No worker has loaded it within {LOAD_SECONDS:g} s.", hint="Try again later."
                ) from err
            raise
        return RemoteSession(self, held, facts)

    def _begin(self) -> None:
        if self._threads:
            return
        self._threads = [
            threading.Thread(target=self._keep, args=(slot,), name=f"mlbox-worker-{slot.number}", daemon=True)
            for slot in self._slots
        ]
        for thread in self._threads:
            thread.start()

    def let_go(self, held: Held) -> None:
        """Have all workers free a model's memory. It may come from the garbage collector, so it waits for no lock of others."""
        self._let_go.append(held)
        with self._changed:
            self._changed.notify_all()

    def _forget(self) -> None:
        while self._let_go:
            self._models.pop(self._let_go.popleft().key, None)

    # -- running ------------------------------------------------------------------------------------------------------------

    def run(self, held: Held, feeds: Mapping[str, np.ndarray], wanted: Sequence[str], stop: Stop) -> list[np.ndarray]:
        """Have a worker run a model; raises Died, RuntimeError for what the model raised, Unavailable where it is barred."""
        number = next(self._numbers)
        message = Message("run", key=held.key, number=number, names=[*feeds, *wanted])
        while True:
            message.arrays.clear()
            slot = self._take(held, stop)
            try:
                stop.bind(functools.partial(_tell, slot, number))
                answer, arrays = self._ask(slot, held, message, list(feeds.values()), stop)
                break
            except Unread:  # it had died before, and nobody had noticed
                continue
            finally:
                stop.free()
                self._give(slot)
        if answer.what == "failed":
            raise RuntimeError(answer.error)
        return arrays

    def _take(self, held: Held, stop: Stop) -> Slot:
        """A worker that holds a model, once there is one with nothing else to do."""
        waiting = Waiting(held, Future())
        with self._changed:
            if self._closed.is_set():
                raise _stops()
            self._refuse_barred(held.name)
            self._waiting.append(waiting)
            self._match()
        if not waiting.slot.done():
            stop.bind(lambda: self._cancel(waiting))
        return waiting.slot.result()

    def _cancel(self, waiting: Waiting) -> None:
        with self._changed:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
                waiting.slot.set_exception(Unavailable("Nobody waits for this run any more.", hint="Ask again."))

    def _match(self) -> None:
        """Give what waits to workers that are free, the longest waiting first."""
        for waiting in list(self._waiting):
            key = waiting.held.key
            slot = next((one for one in self._slots if one.alive and not one.busy and key in one.holds), None)
            refusal = None if slot else self._refusal(key)
            if slot is None and refusal is None:
                continue
            self._waiting.remove(waiting)
            if slot is not None:
                slot.busy = True
                waiting.slot.set_result(slot)
            else:
                assert refusal is not None
                waiting.slot.set_exception(refusal)

    def _refusal(self, key: int) -> MlboxError | None:
        """Why no worker will ever hold a model; None as long as one may."""
        words = [slot.refused.get(key) for slot in self._slots if slot.alive]
        if not words or None in words:
            return None
        return Unavailable(f"No worker can load it: {words[0]}", hint="The server's log has the details.")

    def _give(self, slot: Slot) -> None:
        with self._changed:
            slot.busy = False
            self._match()
            self._changed.notify_all()

    def _ask(
        self, slot: Slot, held: Held, message: Message, arrays: Sequence[np.ndarray], stop: Stop | None = None
    ) -> tuple[Message, list[np.ndarray]]:
        """One question to a worker that was taken; raises Died, or Unread where it never came to it."""
        assert slot.asked is not None
        hung, began = "", time.monotonic()
        try:
            send(slot.asked, message, arrays)
            if stop is not None and not _is_answered(slot, stop):
                hung = f", as its run took more than {stop.seconds:g} s"
                _kill(slot)
            return receive(slot.asked)
        except Gone as err:
            with self._changed:
                slot.alive = False
            how = _how(slot.ended.result()) + hung
            if isinstance(err, Unread):
                raise
            if self._closed.is_set():
                raise _stops() from err
            _log.error("The worker %s that ran %s/%s ended: %s.", slot.pid, *held.name, how)
            self._crashes[held.name] = self._crashes.get(held.name, 0) + 1
            self.crashed(held.name, how, time.monotonic() - began)
            raise Died(f"{held.name[0]}/{held.name[1]} was running when its process ended ({how}).") from err

    # -- keeping them running -----------------------------------------------------------------------------------------------

    def _keep(self, slot: Slot) -> None:
        """Have a worker in a slot, until the server stops."""
        deaths = 0
        while not self._closed.is_set():
            began = time.monotonic()
            try:
                self._live(slot)
            except MlboxError as err:
                _log.error("A worker cannot be started: %s", err)
            deaths = deaths + 1 if time.monotonic() - began < STEADY_SECONDS else 1
            if self._closed.wait(min(MOST_DELAY, FIRST_DELAY * 2 ** min(deaths - 1, 10))):
                return
            self._restarts += 1

    def _live(self, slot: Slot) -> None:
        """One worker's life: it is started, told what to hold, and has ended."""
        asked, theirs = socket.socketpair()
        told, their_told = socket.socketpair()
        with asked, told:
            with theirs, their_told:
                process = FORKS.worker("infer", pipe=theirs.fileno())
                with contextlib.suppress(OSError):
                    socket.send_fds(asked, [b"t"], [their_told.fileno()])
            with process:
                pid = process.pid
                with self._changed:
                    slot.pid = pid
                    slot.process, slot.asked, slot.told = process, asked, told
                    slot.holds, slot.refused, slot.ended = set(), {}, Future()
                    slot.alive, slot.busy = True, False
                ending = threading.Thread(target=self._await_end, args=(slot, process), daemon=True)
                ending.start()
                while (task := self._next_task(slot)) is not None:
                    self._do(slot, *task)
                process.kill()
                ending.join()
                self._await_idle(slot)  # whoever asked it last reads how it ended

    def _await_idle(self, slot: Slot) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not slot.busy)

    def _await_end(self, slot: Slot, process: Process) -> None:
        code = process.wait()
        with self._changed:
            slot.alive = False
            slot.ended.set_result(code)
            self._match()
            self._changed.notify_all()

    def _next_task(self, slot: Slot) -> tuple[str, Held | None, int] | None:
        """What a worker is to load or to drop, for which it is taken; None once it is dead, or the server stops."""
        with self._changed:
            while True:
                if not slot.alive or self._closed.is_set():
                    return None
                self._forget()
                if not slot.busy and (task := self._due(slot)):
                    slot.busy = True
                    return task
                self._changed.wait()

    def _due(self, slot: Slot) -> tuple[str, Held | None, int] | None:
        for key in slot.holds - self._models.keys():
            return "drop", None, key
        wanted = {waiting.held.key for waiting in self._waiting}
        missing = [held for held in self._models.values() if held.key not in slot.holds | slot.refused.keys()]
        for held in sorted(missing, key=lambda one: one.key not in wanted):
            if held.name not in self._barred and (held.sound or not held.loading):
                held.loading = True
                return "load", held, held.key
        return None

    def _do(self, slot: Slot, what: str, held: Held | None, key: int) -> None:
        try:
            if held is None:
                assert slot.asked is not None
                slot.holds.discard(key)
                send(slot.asked, Message(what, key=key))
                receive(slot.asked)
                return
            answer, _ = self._ask(slot, held, Message(what, key=key, facts=held.load), ())
            if answer.what == "done":
                slot.holds.add(key)
                _settle(held, answer.facts)
            else:
                slot.refused[key] = answer.error
                _settle(held, InvalidInput(f"The model cannot be loaded: {answer.error}", hint="Export it again."))
        except Died as err:
            _settle(held, InvalidInput(f"The model ended the process that loaded it. {err}", hint="Export it again."))
        except Gone:  # another will do it
            if held is not None:
                held.loading = False
        except Unavailable as err:
            _settle(held, err)
        finally:
            self._give(slot)

    # -- what may not run -------------------------------------------------------------------------------------------------

    def bar(self, name: Name, why: Callable[[], Unavailable]) -> None:
        """Run a version no more: whoever asks, or waits, is told why."""
        with self._changed:
            self._barred[name] = why
            for waiting in [one for one in self._waiting if one.held.name == name]:
                self._waiting.remove(waiting)
                waiting.slot.set_exception(why())
            for held in self._models.values():
                if held.name == name:
                    _settle(held, why())

    def _refuse_barred(self, name: Name) -> None:
        if name in self._barred:
            raise self._barred[name]()

    def unbar(self, name: Name) -> None:
        """Run a version again."""
        with self._changed:
            self._barred.pop(name, None)

    # -- what they do -------------------------------------------------------------------------------------------------------

    def state(self) -> State:
        """For the metrics."""
        with self._changed:
            alive = [slot for slot in self._slots if slot.alive]
            return State(
                running=len(alive),
                starting=len(self._slots) - len(alive) if self._threads else 0,
                busy=sum(slot.busy for slot in alive),
                restarts=self._restarts,
                crashes=dict(self._crashes),
                pids=tuple(slot.pid for slot in alive),
            )

    def close(self) -> None:
        """End them, once what runs and waits was answered, or after some seconds."""
        with self._changed:
            self._changed.wait_for(
                lambda: not self._waiting and not any(slot.busy for slot in self._slots), DRAIN_SECONDS
            )
            self._closed.set()
            for waiting in self._waiting:
                waiting.slot.set_exception(_stops())
            self._waiting.clear()
            for held in self._models.values():
                _settle(held, _stops())
            self._changed.notify_all()
        for slot in self._slots:
            _kill(slot)
        for thread in self._threads:
            thread.join()


def _stops() -> Unavailable:
    return Unavailable("The server stops.", hint="Try again in a moment.")


def _settle(held: Held | None, outcome: Mapping[str, Any] | MlboxError) -> None:
    """Tell who opened a model, where that is not known yet."""
    if held is None:
        return
    with contextlib.suppress(InvalidStateError):
        if isinstance(outcome, MlboxError):
            held.first.set_exception(outcome)
        else:
            held.first.set_result(outcome)


def _tell(slot: Slot, number: int) -> None:
    with contextlib.suppress(OSError):
        assert slot.told is not None
        slot.told.send(number.to_bytes(NUMBER_BYTES, "little"))


def _is_answered(slot: Slot, stop: Stop) -> bool:
    """Wait for what a run gives, as long as it may take, and past that tell it to end; False where it does not either."""
    assert slot.asked is not None
    poll = select.poll()
    poll.register(slot.asked, select.POLLIN)
    if poll.poll(stop.seconds * 1000):
        return True
    stop.terminate = True
    return bool(poll.poll(HANG_SECONDS * 1000))


def _kill(slot: Slot) -> None:
    if slot.process is not None:
        slot.process.kill()


def _how(code: int) -> str:
    if code >= 0:
        return f"exit status {code}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"

"""A lane: how requests come to one version's session, alone or joined, at once or after those before them.

A model that was measured to be quick runs in the thread of whoever asks: a hop to another thread costs more than its run. Any
other has a thread of its own, which takes what waits by priority and joins requests of one shape into one run.

Invariants
- Each work is answered exactly once: with what it asked for, or with why not.
- A request fails by itself alone: those of a joined run that failed run again, each for itself.
- A lane that was closed still answers what it has, and what comes late; then its thread ends.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import math
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from mlbox.errors import MlboxError, TimedOut, TooMany, Unavailable
from mlbox.records import ServingConfig
from mlbox.serve.inference.remote import Died
from mlbox.serve.inference.runtime import Session
from mlbox.serve.inference.statistics import Statistics
from mlbox.serve.inference.warmup import Speed
from mlbox.serve.inference.watch import Watch
from mlbox.serve.inference.work import (
    Apart,
    Left,
    NotByRow,
    Ran,
    Unfit,
    Work,
    check_rows_of,
    failure_of,
    feeds_of,
    split,
)
from mlbox.store.asking import presence

if TYPE_CHECKING:
    import numpy as np

QUICK_SECONDS = 200e-6
"""A run that takes less is cheaper where it was asked for than in another thread."""
WORTH_SECONDS = 50e-6
"""Of a model of which a row takes longer, another run costs next to nothing beside it, and a run of many rows is no quicker."""
UNFORESEEN_SECONDS = 0.5
"""A run where it was asked that takes longer shows that the model is not quick after all."""
MOST_RETRY_SECONDS = 60
SAME_SECONDS = 0.05
"""A client by gRPC goes when the deadline that it set is over, a moment before that is over here: then it was too long for it."""
_SMOOTHING = 0.1
_log = logging.getLogger(__name__)


class _Group:
    """Works of one shape that wait, the next first."""

    def __init__(self) -> None:
        self.heap: list[tuple[int, int, Work]] = []
        self.rows = 0


class Lane:
    """The way to one session."""

    def __init__(
        self,
        ref: str,
        session: Session,
        config: ServingConfig,
        statistics: Statistics,
        watch: Watch,
        *,
        joins: bool = True,
        speed: Speed | None = None,
        width: int = 1,
    ) -> None:
        model, _, version = ref.rpartition("/")
        self._name = (model, int(version))
        self._ref = ref
        self._session = session
        self._config = config
        self._statistics = statistics
        self._watch = watch
        self._joins = joins and session.batched
        self.speed = speed
        """Measured at warm-up; None for a model whose cost depends on more than its rows."""
        self._ready = threading.Condition()
        self._groups: dict[Any, _Group] = {}
        self._order = itertools.count()
        self._waiting = 0
        self._running: dict[int, tuple[list[Work], Any]] = {}
        """By the thread that runs them."""
        self._usual_seconds = speed.first if speed else 0.0
        """Of a request; 0 until that is known."""
        self._width = width
        """Runs at a time: more than one where they are in processes of their own."""
        self._threads = 0
        self._idle = 0
        self._closed = False

    @property
    def config(self) -> ServingConfig:
        """What it goes by."""
        return self._config

    @property
    def joins(self) -> bool:
        """Whether requests are joined."""
        return self._joins and self._config.max_batch > 1

    @property
    def at_once(self) -> int:
        """How many rows of requests that are there at the same time are one run where they were asked."""
        worth = self.joins and self.speed is not None and self.speed.row <= WORTH_SECONDS
        return self._config.max_batch if worth else 1

    @property
    def pending(self) -> int:
        """Works that wait."""
        return self._waiting

    def usual_seconds(self, rows: int | None) -> float:
        """What a request of so many rows usually takes; 0 where nothing is known of that yet."""
        return max(self._usual_seconds, self.speed.of(rows or 1) if self.speed else 0.0)

    def configure(self, config: ServingConfig) -> None:
        """Go by another configuration from now on; what waits stays in its place."""
        with self._ready:
            self._config = config
            self._ready.notify_all()

    def quick(self, rows: int | None) -> bool:
        """Whether a request of so many rows is answered soonest where it is asked, the event loop included."""
        return self.speed is not None and not self._session.apart and self.speed.of(rows or 1) <= QUICK_SECONDS

    def run(self, work: Work) -> Ran:
        """Have a work answered, and wait for it."""
        if self.quick(work.rows):
            self.run_now([work])
            return work.result()
        return self.submit(work).result()

    # -- waiting ------------------------------------------------------------------------------------------------------------

    def submit(self, work: Work) -> Future[Ran]:
        """Queue a work; raises TooMany, which says when to come back, where too many wait, and Left where nobody waits for it."""
        work.future, work.presence = Future(), presence()
        if work.presence.gone:
            self._statistics.failed(*self._name, reason="cancelled")
            raise self._left()
        with self._ready:
            if self._waiting >= self._config.queue_limit:
                self._statistics.failed(*self._name, reason="queue_full")
                raise self._full()
            self._push(work)
            if self._threads < self._width and self._idle < self._waiting:
                self._threads += 1
                threading.Thread(target=self._loop, name=f"mlbox-model-{self._ref}", daemon=True).start()
            self._ready.notify()
        self._watch.add(self)
        return work.future

    def offer(self, work: Work) -> None:
        """As `submit`, where a refusal is what becomes of the work."""
        try:
            self.submit(work)
        except (TooMany, Left) as err:
            work.state, work.outcome, work.future = "done", err, None

    def _push(self, work: Work) -> None:
        config = self._config
        level = work.priority if 1 <= work.priority <= config.priority_levels else config.default_priority
        if work.last:
            level = config.priority_levels + 1
        work.deadline = min(work.deadline, work.queued + config.timeout_ms / 1000)
        work.state = "waiting"
        group = self._groups.setdefault(work.shape, _Group())
        heapq.heappush(group.heap, (level, next(self._order), work))
        group.rows += work.rows or 0
        self._waiting += 1

    def _full(self) -> TooMany:
        err = TooMany(
            f"{self._waiting} requests wait for {self._ref} already.", hint="Come back later, or raise its queue_limit."
        )
        err.retry_seconds = self._soon()
        return err

    def _soon(self) -> int:
        """Seconds after which what waits now is likely done."""
        return min(MOST_RETRY_SECONDS, max(1, math.ceil(self._waiting * self._usual_seconds)))

    def _loop(self) -> None:
        while (works := self._next()) is not None:
            self._execute(works, ends=True)

    def _next(self) -> list[Work] | None:
        """What to run next, once there is something; None where the lane is closed and empty."""
        with self._ready:
            while True:
                if not self._groups:
                    if self._closed:
                        self._threads -= 1
                        return None
                    self._idle += 1
                    self._ready.wait()
                    self._idle -= 1
                    continue
                shape, group = min(self._groups.items(), key=lambda item: item[1].heap[0][:2])
                delay = self._still_joins(group)
                if delay > 0:
                    self._ready.wait(delay)
                elif works := self._take(shape, group):
                    return works

    def _still_joins(self, group: _Group) -> float:
        """Seconds to wait for others to join."""
        head = group.heap[0][2]
        if self._closed or head.rows is None or not self.joins or group.rows >= self._config.max_batch:
            return 0
        return head.queued + self._config.max_delay_us / 1e6 - time.perf_counter()

    def _take(self, shape: Any, group: _Group) -> list[Work]:
        """The next works of a group, as many as may be joined; those that were given up are left out."""
        most = self._config.max_batch if self.joins else 1
        works: list[Work] = []
        rows = 0
        while group.heap:
            work = group.heap[0][2]
            if works and rows + (work.rows or most) > most:
                break
            heapq.heappop(group.heap)
            group.rows -= work.rows or 0
            if work.state != "waiting":
                continue
            self._waiting -= 1
            if work.future is not None and not work.future.set_running_or_notify_cancel():
                work.state = "done"  # whoever asked went away
                continue
            work.state = "running"
            rows += work.rows or most
            works.append(work)
        if not group.heap:
            del self._groups[shape]
        return works

    # -- running ------------------------------------------------------------------------------------------------------------

    def run_now(self, works: Sequence[Work]) -> None:
        """Answer works in this thread, in as few runs as they can be joined in."""
        for some in self._joined(works):
            for work in some:
                work.state = "running"
            self._execute(some, ends=False)

    def run_rows(
        self, feeds: Mapping[str, np.ndarray], wanted: Sequence[str], rows: int
    ) -> tuple[Ran, list[tuple[int, float]]]:
        """Run requests of a row each in this thread, as few times as is worth it; and rows and seconds of each run, to `count`.

        Raises Apart where that fails.
        """
        most, found, runs, began = self.at_once, [], [], time.perf_counter()
        try:
            for at in range(0, rows, most):
                some = feeds if most >= rows else {name: data[at : at + most] for name, data in feeds.items()}
                size = min(most, rows - at)
                ran = Ran(*self._session.answer(some, wanted))
                check_rows_of(ran.outputs, size)
                found.append(ran)
                end = time.perf_counter()
                runs.append((size, end - began))
                self._doubt(end - began)
                began = end
        except Exception as err:
            if isinstance(err, NotByRow):
                self._join_no_more()
            raise Apart(f"{self._ref} failed on one of {rows} requests.") from err
        return found[0] if len(found) == 1 else _put_together(found), runs

    def count(self, runs: Sequence[tuple[int, float]]) -> None:
        """Runs of so many rows and seconds answered requests of a row each."""
        for rows, took in runs:
            self._learn(took / rows)
        self._statistics.answered_rows(*self._name, [(rows, int(took * 1e9)) for rows, took in runs])

    def _learn(self, seconds: float) -> None:
        """A request took so many seconds."""
        self._usual_seconds += (_SMOOTHING if self._usual_seconds else 1) * (seconds - self._usual_seconds)

    def _doubt(self, took: float) -> None:
        """After a run where it was asked that took so many seconds: the next is in the lane's thread, if that was too many."""
        if took > UNFORESEEN_SECONDS:
            _log.warning("A run of %s took %.1f s where it was asked; from now on it runs by itself.", self._ref, took)
            self.speed = None

    def _join_no_more(self) -> None:
        _log.warning("%s does not answer row by row; its requests are joined no more.", self._ref)
        self._joins = False

    def _joined(self, works: Sequence[Work]) -> list[list[Work]]:
        """Works by what can be run together, in their order."""
        most = self.at_once
        if len(works) == 1 or most == 1:
            return [[work] for work in works]
        found: list[list[Work]] = []
        last: dict[Any, tuple[list[Work], int]] = {}
        for work in works:
            shape, rows = work.shape, work.rows or most
            some, room = last.get(shape, ([], 0))
            if rows > room:
                some, room = [], most
                found.append(some)
            some.append(work)
            last[shape] = some, room - rows
        return found

    def _execute(self, works: list[Work], *, ends: bool) -> None:
        works = [work for work in works if work.state == "running"]
        if not works:
            return
        options = self._session.options(self._allowed_seconds(works)) if ends else None
        if ends:
            self._running[threading.get_ident()] = (works, options)
            self._watch.add(self)
        try:
            self._run_together(works, options)
        except Exception as err:
            died = isinstance(err, Died)
            if ends:  # what ended because nobody waits for it any more did not fail, and does not run again
                self.look(time.perf_counter())
            if isinstance(err, NotByRow):
                self._join_no_more()
            if len(works) == 1 and (works[0].again or not died):
                self._fail(works[0], err)
                return
            for work in works:
                work.again = work.again or died
                self._execute([work], ends=ends)
        finally:
            self._running.pop(threading.get_ident(), None)

    def _allowed_seconds(self, works: Sequence[Work]) -> float:
        """What a run may take that begins now: what the model's configuration allows, or did when a work came that still waits.

        Never less, whatever its clients do, as the version is to blame for a run that takes longer.
        """
        return max(self._config.timeout_ms / 1000, *[work.deadline - time.perf_counter() for work in works])

    def _run_together(self, works: list[Work], options: Any) -> None:
        began = time.perf_counter()
        wanted = list(works[0].wanted) if len(works) == 1 else list(dict.fromkeys(n for w in works for n in w.wanted))
        scores, outputs = self._session.answer(feeds_of(works), wanted, options)
        took = time.perf_counter() - began
        rans = [Ran(scores, outputs)] if len(works) == 1 else split(works, wanted, scores, outputs)
        if options is None:
            self._doubt(took)
        self._count(
            took,
            rows=sum([work.rows or 1 for work in works]),
            requests=len([work for work in works if work.state == "running"]),
            queued=sum([began - work.queued for work in works]),
        )
        for work, ran in zip(works, rans, strict=True):
            self._settle(work, ran)

    def _count(self, took: float, *, rows: int, requests: int, queued: float = 0.0) -> None:
        """A run of so many seconds answered requests, which had waited for so many together."""
        self._learn(took / max(1, requests))
        self._statistics.executed(
            *self._name, rows=rows, requests=requests, infer_ns=int(took * 1e9), queue_ns=int(queued * 1e9)
        )

    def _fail(self, work: Work, err: Exception) -> None:
        told = failure_of(self._ref, err)
        if self._settle(work, told):
            reason = "crash" if isinstance(err, Died) else "model"
            self._statistics.failed(*self._name, reason=reason, ns=int((time.perf_counter() - work.queued) * 1e9))
            if isinstance(err, Unavailable):
                _log.warning("%s did not run: %s", self._ref, err)
            elif isinstance(told, Unfit):
                _log.warning("%s", told)
            else:
                _log.error("%s failed.", self._ref, exc_info=err)

    def _settle(self, work: Work, outcome: Ran | MlboxError) -> bool:
        """Answer a work, unless it is answered."""
        if work.future is None:  # it is this thread's alone
            work.state, work.outcome = "done", outcome
            return True
        with self._ready:
            if work.state == "done":
                return False
            work.state = "done"
            work.outcome = outcome
        if isinstance(outcome, Ran):
            work.future.set_result(outcome)
        else:
            work.future.set_exception(outcome)
        return True

    # -- what nobody waits for any more -------------------------------------------------------------------------------------

    def look(self, now: float) -> bool:
        """Give up what is past its deadline or whose client left, and end a run that is for nobody; False once nothing runs or
        waits."""
        with self._ready:
            late = [item[2] for group in self._groups.values() for item in group.heap if _is_over(item[2], now)]
            late = [work for work in late if work.state == "waiting"]
            for work in late:
                self._waiting -= 1
                work.state = "late"
            running = list(self._running.values())
            busy = bool(running) or self._waiting > 0
        for work in late:
            if work.future is not None and work.future.set_running_or_notify_cancel():
                self._give_up(work, now, self._unanswered(work), reason="queue_timeout")
        for works, options in running:
            for work in works:
                if _is_over(work, now):
                    self._give_up(work, now, self._too_long(work), reason="timeout")
            if all(work.state == "done" for work in works):
                options.terminate = True
        return busy

    def _give_up(self, work: Work, now: float, err: MlboxError, *, reason: str) -> None:
        if work.presence.gone and work.deadline > now + SAME_SECONDS:
            err, reason = self._left(now - work.queued), "cancelled"
        if self._settle(work, err):
            self._statistics.failed(*self._name, reason=reason, ns=int((time.perf_counter() - work.queued) * 1e9))

    def _left(self, waited: float = 0.0) -> Left:
        err = Left(f"Whoever asked {self._ref} has gone.")
        err.waited = waited
        return err

    def _unanswered(self, work: Work) -> Unavailable:
        err = Unavailable(
            f"The request waited for {self._ref} for {_ms(work)} ms, which is its timeout.",
            hint="Come back later, or ask for more time.",
        )
        err.retry_seconds = self._soon()
        return err

    def _too_long(self, work: Work) -> TimedOut:
        return TimedOut(
            f"{self._ref} did not answer within {_ms(work)} ms.", hint="Send less at a time, or ask for more time."
        )

    def close(self) -> None:
        """Answer what waits, then let the thread end."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()


def _put_together(found: Sequence[Ran]) -> Ran:
    """Scores and outputs of several runs, one after the other."""
    import numpy as np

    scores = [ran.scores for ran in found if ran.scores is not None]
    every = [np.concatenate(parts) for parts in zip(*[ran.outputs for ran in found], strict=True)]
    return Ran(np.concatenate(scores) if scores else None, every)


def _is_over(work: Work, now: float) -> bool:
    """Whether nobody waits for a work any more."""
    return work.deadline <= now or work.presence.gone


def _ms(work: Work) -> str:
    return f"{(work.deadline - work.queued) * 1000:,.0f}"

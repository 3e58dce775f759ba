"""Requests that are answered together: those that come while others are worked on, in one go as soon as these are done.

A thread, a transaction and a wake of the loop for each of many requests cost more than what they ask for. Who comes alone waits
for nobody.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

A = TypeVar("A")
T = TypeVar("T")
MOST = 64
"""Requests that are worked on at once: the first of them is answered with the last."""


class Gathered(Generic[A, T]):
    """Calls a blocking function with all that was asked since its last call; of the event loop.

    `work` runs it off the loop; it gives each its outcome, in their order.
    """

    def __init__(self, work: Callable[[Sequence[A]], Awaitable[Sequence[T | Exception]]]) -> None:
        self._work = work
        self._waiting: deque[tuple[A, asyncio.Future[T]]] = deque()
        self._working: asyncio.Task[None] | None = None

    async def __call__(self, asked: A) -> T:
        """The outcome of one; raises why it has none."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((asked, future))
        if self._working is None:
            self._working = asyncio.create_task(self._work_off())  # not before others of this turn have come
        return await future

    async def _work_off(self) -> None:
        try:
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(MOST, len(self._waiting)))]
                await self._answer(batch)
        finally:
            self._working = None

    async def _answer(self, batch: Sequence[tuple[A, asyncio.Future[T]]]) -> None:
        try:
            outcomes = await self._work([asked for asked, _ in batch])
        except Exception as err:
            outcomes = [err] * len(batch)
        for (_, future), outcome in zip(batch, outcomes, strict=True):
            if future.done():  # whoever asked has gone
                continue
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

"""What is asked while others are worked on is answered with the next of them, each for itself."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from mlbox.errors import InvalidInput, NotFound, Unavailable
from mlbox.web.box.gathered import MOST, Gathered


class Work:
    """Doubles numbers; waits until it is let go. A negative one is refused, and 13 spoils all of its batch."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go = asyncio.Event()

    async def __call__(self, numbers: Sequence[int]) -> list[int | Exception]:
        self.batches.append(list(numbers))
        await self.go.wait()
        if 13 in numbers:
            raise Unavailable("the store is down")
        return [NotFound("there is none") if number < 0 else 2 * number for number in numbers]


async def turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_those_of_one_turn_and_those_that_come_meanwhile_are_worked_on_together() -> None:
    async def walk() -> None:
        work = Work()
        double = Gathered(work)
        first = [asyncio.create_task(double(number)) for number in (1, 2)]
        await turn()
        later = [asyncio.create_task(double(number)) for number in (3, -1, 4)]
        await turn()
        assert work.batches == [[1, 2]]
        work.go.set()
        assert await asyncio.gather(*first) == [2, 4]
        three, none, four = await asyncio.gather(*later, return_exceptions=True)
        assert (three, four) == (6, 8)
        assert isinstance(none, NotFound)
        assert work.batches == [[1, 2], [3, -1, 4]]
        assert await double(5) == 10, "and when nobody else asks, at once"

    asyncio.run(walk())


def test_what_spoils_a_batch_spoils_no_other_and_who_goes_takes_nobody_along() -> None:
    async def walk() -> None:
        work = Work()
        double = Gathered(work)
        spoiled = [asyncio.create_task(double(number)) for number in (1, 13)]
        await turn()
        gone, stays = asyncio.create_task(double(7)), asyncio.create_task(double(8))
        await turn()
        gone.cancel()
        work.go.set()
        assert all(isinstance(one, Unavailable) for one in await asyncio.gather(*spoiled, return_exceptions=True))
        assert await stays == 16
        assert work.batches[1] == [7, 8], "what was asked for is done, whether or not somebody waits for it"
        with pytest.raises(asyncio.CancelledError):
            await gone

    asyncio.run(walk())


def test_a_batch_is_no_longer_than_the_first_may_wait() -> None:
    async def walk() -> None:
        work = Work()
        work.go.set()
        double = Gathered(work)
        assert await asyncio.gather(*map(double, range(100, 100 + MOST + 3))) == [2 * n for n in range(100, 103 + MOST)]
        assert list(map(len, work.batches)) == [MOST, 3]

    asyncio.run(walk())


def test_a_refusal_is_raised_as_it_is() -> None:
    async def walk() -> None:
        async def refuse(asked: Sequence[int]) -> list[int | Exception]:
            return [InvalidInput("no", field="command") for _ in asked]

        with pytest.raises(InvalidInput):
            await Gathered(refuse)(1)

    asyncio.run(walk())

"""Load over HTTP/1.1 with as little work of its own as Python allows: keep-alive connections, each with one request at a time."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import http.client
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import uvloop


class Request(NamedTuple):
    """One request, as bytes on the wire once."""

    method: str
    path: str
    body: bytes = b""
    content_type: str = "application/json"


class Load(NamedTuple):
    """What a load found."""

    per_second: float
    p50_ms: float
    p99_ms: float
    failed: int = 0
    """Requests that were answered with an error; they count as no throughput."""
    late_ms: float = 0.0
    """How late requests were begun by whoever measures, at p99: none of it is the server's."""


class Connection:
    """One kept connection."""

    def __init__(self, url: str, token: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname
        assert parts.port
        self._host, self._port = parts.hostname, parts.port
        auth = f"Authorization: Bearer {token}\r\n" if token else ""
        self._head = f"Host: {parts.hostname}:{parts.port}\r\n{auth}"
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, request: Request) -> bytes:
        """Send one request and read its answer; raises RuntimeError for what is not 2xx."""
        if self._reader is None or self._reader.at_eof():  # the server closes what is idle
            self.close()
            self._reader, self._writer = await asyncio.open_connection(self._host, self._port, limit=1 << 24)
        assert self._reader is not None
        head = (
            f"{request.method} {request.path} HTTP/1.1\r\n{self._head}Content-Type: {request.content_type}\r\n"
            f"Content-Length: {len(request.body)}\r\n\r\n"
        )
        self._writer.write(head.encode() + request.body)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        status = int(answer[9:12])
        body = await self._body(answer.lower())
        if not 200 <= status < 300:
            raise RuntimeError(f"{request.method} {request.path}: {status} {body[:300]!r}")
        return body

    async def _body(self, head: bytes) -> bytes:
        assert self._reader is not None
        at = head.find(b"content-length:")
        if at >= 0:
            return await self._reader.readexactly(int(head[at + 15 : head.index(b"\r\n", at)]))
        chunks = []
        while size := int(await self._reader.readline(), 16):
            chunks.append(await self._reader.readexactly(size))
            await self._reader.readline()
        await self._reader.readline()
        return b"".join(chunks)

    def close(self) -> None:
        """Close it."""
        if self._writer is not None:
            self._writer.close()


def run(url: str, token: str, make: Callable[[int], Request], *, clients: int, seconds: float) -> Load:
    """Have clients ask, each as soon as it is answered, for some seconds; the n-th request is `make(n)`."""

    async def work() -> Load:
        end = time.perf_counter() + seconds
        latencies: list[float] = []
        failures: list[RuntimeError] = []
        count = iter(range(1 << 60))

        async def client() -> None:
            connection = Connection(url, token)
            while (began := time.perf_counter()) < end:
                try:
                    await connection.ask(make(next(count)))
                except RuntimeError as err:
                    failures.append(err)
                else:
                    latencies.append(time.perf_counter() - began)
            connection.close()

        began = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(clients)))
        took = time.perf_counter() - began
        if not latencies:
            raise failures[0]
        return _summed(latencies, took, len(failures))

    return uvloop.run(work())


def paced(url: str, token: str, make: Callable[[int], Request], per_second: int, *, seconds: float) -> Load:
    """Ask at a steady rate, whether answers come or not; the time of a request counts from when it was due.

    A thread keeps the time, since timers of the loop have whole milliseconds, up to two of which would count as the server's. The
    garbage collector of whoever measures does not look at what was there before: a look at all of it takes 30 ms, in which
    requests are due that nobody sends.
    """
    gc.collect()
    gc.freeze()

    async def work() -> Load:
        loop = asyncio.get_running_loop()
        latencies: list[float] = []
        late: list[float] = []
        idle: list[Connection] = []
        asked: list[asyncio.Task[None]] = []
        began = time.perf_counter()

        async def one(number: int, due: float) -> None:
            late.append(time.perf_counter() - due)
            connection = idle.pop() if idle else Connection(url, token)
            await connection.ask(make(number))
            latencies.append(time.perf_counter() - due)
            idle.append(connection)

        def start(number: int, due: float) -> None:
            asked.append(loop.create_task(one(number, due)))

        def keep_time() -> None:
            for number in range(round(per_second * seconds)):
                due = began + number / per_second
                time.sleep(max(0.0, due - time.perf_counter()))
                loop.call_soon_threadsafe(start, number, due)

        await loop.run_in_executor(None, keep_time)
        await asyncio.gather(*asked)
        took = time.perf_counter() - began
        for connection in idle:
            connection.close()
        return _summed(latencies, took)._replace(late_ms=_p99(late) * 1000)

    return uvloop.run(work())


def _summed(latencies: list[float], took: float, failed: int = 0) -> Load:
    return Load(len(latencies) / took, statistics.median(latencies) * 1000, _p99(latencies) * 1000, failed)


def _p99(times: list[float]) -> float:
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, round(0.99 * len(ordered)))]


@contextlib.contextmanager
def before_others(*pids: int) -> Iterator[bool]:
    """Run this process and others before all else on the machine, as if it were quiet; whether that was allowed."""
    threads = [int(task.name) for pid in (os.getpid(), *pids) for task in Path(f"/proc/{pid}/task").iterdir()]
    try:
        _schedule(threads, os.SCHED_FIFO, 1)
    except PermissionError:
        yield False
        return
    try:
        yield True
    finally:
        _schedule(threads, os.SCHED_OTHER, 0)


def _schedule(threads: list[int], policy: int, priority: int) -> None:
    for thread in threads:
        with contextlib.suppress(ProcessLookupError):
            os.sched_setscheduler(thread, policy, os.sched_param(priority))


def each(url: str, token: str, requests: list[Request], *, clients: int = 20) -> list[bytes]:
    """Ask for each of these once; the answers, in their order."""

    async def work() -> list[bytes]:
        answers: list[bytes] = [b""] * len(requests)
        waiting = iter(enumerate(requests))

        async def client() -> None:
            connection = Connection(url, token)
            for at, request in waiting:
                answers[at] = await connection.ask(request)
            connection.close()

        await asyncio.gather(*(client() for _ in range(clients)))
        return answers

    return uvloop.run(work())


def send(url: str, token: str, path: str, block: bytes, count: int) -> float:
    """PUT so many copies of a block as one body; the seconds it took."""
    connection = _blocking(url)
    try:
        began = time.perf_counter()
        connection.putrequest("PUT", path)
        for name, value in {
            **_authorised(token),
            "Content-Type": "application/octet-stream",
            "Content-Length": str(len(block) * count),
        }.items():
            connection.putheader(name, value)
        connection.endheaders()
        for _ in range(count):
            connection.send(block)
        _checked(connection.getresponse(), path).read()
        return time.perf_counter() - began
    finally:
        connection.close()


def fetch(url: str, token: str, path: str, block: bytes) -> tuple[float, int]:
    """GET a file that is made of copies of a block, and compare it: the seconds it took, and its size."""
    connection, got = _blocking(url), memoryview(bytearray(len(block)))
    try:
        began, size = time.perf_counter(), 0
        connection.request("GET", path, headers=_authorised(token))
        answer = _checked(connection.getresponse(), path)
        while count := answer.readinto(got[size % len(block) :]):
            assert got[size % len(block) :][:count] == memoryview(block)[size % len(block) :][:count]
            size += count
        return time.perf_counter() - began, size
    finally:
        connection.close()


def _blocking(url: str) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    return http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=300, blocksize=1 << 20)


def _authorised(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


def _checked(answer: http.client.HTTPResponse, path: str) -> http.client.HTTPResponse:
    if not 200 <= answer.status < 300:
        raise RuntimeError(f"{path}: {answer.status} {answer.read()[:300]!r}")
    return answer


def post(path: str, body: object) -> Request:
    """A POST of JSON."""
    return Request("POST", path, json.dumps(body).encode())

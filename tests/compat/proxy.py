"""A door in front of the server for programs that cannot send a header: it adds the token, and changes nothing else.

Over HTTP it puts an `Authorization` line into the head of each request; over gRPC the metadata `authorization` into each call,
whatever the call is. Both listen on a free port of loopback, in threads of the test.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio

END = b"\r\n\r\n"
MOST = 1 << 24


class _Http:
    """HTTP/1.1, request by request: bodies with a length, as all of these programs send them."""

    def __init__(self, place: str, token: str) -> None:
        self._host, _, port = place.rpartition(":")
        self._port = int(port)
        self._line = f"\r\nAuthorization: Bearer {token}".encode()
        self._open: set[asyncio.Task[None]] = set()
        """The loop itself forgets a task that nobody holds."""

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def close(self) -> None:
        """End what clients left open."""
        left = list(self._open)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, ours = await asyncio.open_connection(self._host, self._port, limit=MOST)
        back = asyncio.create_task(_copy(theirs, writer))
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    head = await reader.readuntil(END)
                    first, _, rest = head.partition(b"\r\n")
                    ours.write(first + self._line + b"\r\n" + rest + await reader.readexactly(_length(rest)))
                    await ours.drain()
            ours.close()
            await back
        finally:
            back.cancel()
            ours.close()
            writer.close()


def _length(head: bytes) -> int:
    lines = [line.partition(b":") for line in head.lower().split(b"\r\n")]
    return next((int(value) for name, _, value in lines if name == b"content-length"), 0)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


class _Rpc(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Every call as a stream of messages each way, which is what a call with one of each is on the wire."""

    def __init__(self, channel: Any, token: str) -> None:
        self._channel = channel
        self._token = token

    def service(self, details: Any) -> Any:
        call = self._channel.stream_stream(details.method)

        async def forward(messages: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
            given = [(name, value) for name, value in context.invocation_metadata() if not name.startswith("grpc-")]
            theirs = call(messages, metadata=(*given, ("authorization", f"Bearer {self._token}")))
            try:
                async for answer in theirs:
                    yield answer
            except grpc.aio.AioRpcError as err:
                await context.abort(err.code(), err.details(), tuple(err.trailing_metadata() or ()))

        return grpc.stream_stream_rpc_method_handler(forward)


class Proxy:
    """Where both doors are."""

    def __init__(self, http: str, rpc: str, token: str) -> None:
        self._asked = (http, rpc, token)
        self._ready = threading.Event()
        self._end: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=asyncio.run, args=(self._serve(),), name="proxy")
        self.http = self.rpc = ""

    async def _serve(self) -> None:
        http, rpc, token = self._asked
        loop, over = asyncio.get_running_loop(), asyncio.Event()

        def end() -> None:
            loop.call_soon_threadsafe(over.set)

        self._end = end
        async with grpc.aio.insecure_channel(rpc, options=[("grpc.max_receive_message_length", -1)]) as channel:
            server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
            server.add_generic_rpc_handlers((_Rpc(channel, token),))
            self.rpc = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
            await server.start()
            clients = _Http(http, token)
            door = await asyncio.start_server(clients.accept, "127.0.0.1", 0, limit=MOST)
            self.http = f"127.0.0.1:{door.sockets[0].getsockname()[1]}"
            self._ready.set()
            await over.wait()
            door.close()
            await clients.close()
            await server.stop(None)

    def __enter__(self) -> Proxy:
        self._thread.start()
        assert self._ready.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        self._thread.join()

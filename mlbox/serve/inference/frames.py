"""What the server and a worker say to each other: a head in MessagePack, then the numbers as they lie in memory.

A frame is the length of its head (u32) and of its body (u64), little-endian, the head and the body. Arrays begin in the body at
multiples of `ALIGN`, so that they are used where they were received. Texts are in the head.
"""

from __future__ import annotations

import math
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    import numpy as np

ALIGN = 64
PREFIX = struct.Struct("<IQ")
MOST_BUFFERS = 512
"""Parts of one `sendmsg`; the system takes 1,024."""


class Laid(msgspec.Struct, array_like=True):
    """How an array lies in a frame: its numpy type and shape, or its texts."""

    dtype: str
    shape: tuple[int, ...]
    texts: list[str] = []


class Message(msgspec.Struct, array_like=True):
    """A request to a worker (`load`, `run` or `drop`), or its answer (`done`, `failed`)."""

    what: str
    key: int = 0
    """Which of the models that the worker holds."""
    number: int = 0
    """Of a run, by which it may be ended."""
    names: list[str] = []
    """Of a run the inputs, then the outputs that are wanted."""
    facts: dict[str, Any] = {}
    error: str = ""
    arrays: list[Laid] = []


class Gone(Exception):
    """The other side of the socket ended."""


class Unread(Gone):
    """It ended before it had read what it was sent: so it is not that of which it ended."""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Message).decode


def send(sock: socket.socket, message: Message, arrays: Sequence[np.ndarray] = ()) -> None:
    """Send a message with its arrays; raises Unread."""
    import numpy as np

    parts: list[Any] = []
    size = 0
    for array in arrays:
        if array.dtype == object:
            message.arrays.append(Laid("", array.shape, array.reshape(-1).tolist()))
            continue
        message.arrays.append(Laid(array.dtype.str, array.shape))
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        parts += [data, bytes(-len(data) % ALIGN)]
        size += len(data) + len(parts[-1])
    head = _encode(message)
    try:
        _send_all(sock, [PREFIX.pack(len(head), size) + head, *parts])
    except (BrokenPipeError, ConnectionResetError) as err:
        raise Unread from err


def _send_all(sock: socket.socket, parts: Sequence[Any]) -> None:
    left = [view for part in parts if (view := memoryview(part))]
    while left:
        sent = sock.sendmsg(left[:MOST_BUFFERS])
        while left and sent >= len(left[0]):
            sent -= len(left.pop(0))
        if sent:
            left[0] = left[0][sent:]


def receive(sock: socket.socket) -> tuple[Message, list[np.ndarray]]:
    """The next message and its arrays, which are in memory of their own; raises Gone."""
    import numpy as np

    head_size, size = PREFIX.unpack(_exactly(sock, bytearray(PREFIX.size)))
    message = _decode(_exactly(sock, bytearray(head_size)))
    body = np.empty(size, np.uint8)
    _exactly(sock, body.data)
    return message, list(_arrays(message, body))


def _exactly(sock: socket.socket, into: Any) -> Any:
    left = memoryview(into)
    while left:
        try:
            got = sock.recv_into(left)
        except ConnectionResetError as err:  # what Linux says where the other side ended with something unread
            raise Unread from err
        if not got:
            raise Gone
        left = left[got:]
    return into


def _arrays(message: Message, body: np.ndarray) -> Iterator[np.ndarray]:
    import numpy as np

    at = 0
    for laid in message.arrays:
        if not laid.dtype:
            yield np.array(laid.texts, object).reshape(laid.shape)
            continue
        size = math.prod(laid.shape) * np.dtype(laid.dtype).itemsize
        yield body[at : at + size].view(laid.dtype).reshape(laid.shape)
        at += size + -size % ALIGN

"""How much memory something takes: of this process meanwhile, or of a process of its own."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psutil


class Watch:
    """The most memory that this process had."""

    peak = 0


@contextlib.contextmanager
def watched() -> Iterator[Watch]:
    """Watch this process's memory meanwhile."""
    watch, stop, process = Watch(), threading.Event(), psutil.Process()

    def look() -> None:
        while not stop.wait(0.02):
            watch.peak = max(watch.peak, process.memory_info().rss)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield watch
    finally:
        stop.set()
        thread.join()


def apart(function: Callable[..., Any], *arguments: Any) -> tuple[Any, int]:
    """What a function returns in a process of its own, and the most memory that it had."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_with_memory, functools.partial(function, *arguments)).result()


def _with_memory(call: Callable[[], Any]) -> tuple[Any, int]:
    found = call()
    return found, most_memory(Path("/proc/self/status"))


def most_memory(status: Path) -> int:
    """Of a process, in bytes; what its parent had before it began does not count, as it does in `getrusage`."""
    (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024

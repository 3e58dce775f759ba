"""The fork server: a small process that has loaded what workers need, and forks one for each request.

It is started as `python -m mlbox.store.sandbox.forkserver FD`; another room has a program like this, with workers of its own. A
worker parses one upload, runs one SQL of a user, looks into one file or compares two, and ends: to start an interpreter with
Arrow and DuckDB for that takes half a second, a fork of this process some milliseconds. What users send goes to the worker alone,
through pipes of its own, so that this process stays as it was when it began. It ends with the server, and its workers with it.

On its socket it is asked for a worker by name, with its stdin, its stdout, the socket on which its end is told, and at most one
more file, which the worker finds at `PIPE`. On that socket it says the worker's process id, with a pidfd, and later how it ended.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import gc
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence

from mlbox.store.sandbox import code_diff_worker, look_worker, parse_worker, sql_worker, stream_worker

Workers = Mapping[str, Callable[[], None]]
WORKERS: Workers = {
    "parse": parse_worker.main,
    "stream": stream_worker.main,
    "sql": sql_worker.main,
    "look": look_worker.main,
    "diff": code_diff_worker.main,
}
MOST_FILES = 4
MESSAGE_BYTES = 64
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
_libc = ctypes.CDLL(None)


def main(workers: Workers, load: Callable[[], None]) -> None:
    """Load what workers need, and fork them until the server is gone."""
    server = socket.socket(fileno=int(sys.argv[1]))
    load()
    waking, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    gc.collect()
    gc.freeze()  # or every worker would copy what it never uses, to look at it
    poll = select.poll()
    poll.register(server, select.POLLIN)
    poll.register(waking, select.POLLIN)
    forked: dict[int, socket.socket] = {}
    while True:
        for fd, _ in poll.poll():
            if fd == waking:
                os.read(waking, 4096)
                _reap(forked)
            elif not _serve(server, forked, workers):
                for pid in forked:  # not collected yet, so it is surely this process
                    os.kill(pid, signal.SIGKILL)
                return


def load() -> None:
    """What workers use, loaded once; nothing of it may start a thread, which a fork would not have."""
    for name in ("pyarrow.compute", "pyarrow.csv", "pyarrow.parquet", "mlbox.store.tables"):
        __import__(name)
    sql_worker.warm_up()


def _serve(server: socket.socket, forked: dict[int, socket.socket], workers: Workers) -> bool:
    """Answer one request; False when the server is gone."""
    message, files, _, _ = socket.recv_fds(server, MESSAGE_BYTES, MOST_FILES)
    if not message:
        return False
    pid = os.fork()
    if pid == 0:
        _become(message.decode(), files, workers)
    pidfd = os.pidfd_open(pid)
    told = socket.socket(fileno=files.pop(2))
    forked[pid] = told
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # whoever asked has gone away
        told.sendmsg([str(pid).encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [pidfd]))])
    for fd in (pidfd, *files):
        os.close(fd)
    return True


def _become(name: str, files: Sequence[int], workers: Workers) -> None:
    """In the child: answer the one request, and end."""
    code = 1
    try:
        _libc.prctl(_DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.dup2(files[0], 0)
        os.dup2(files[1], 1)
        for fd in files[3:]:
            os.dup2(fd, stream_worker.PIPE)
        os.closerange(stream_worker.PIPE + (len(files) > 3), os.sysconf("SC_OPEN_MAX"))
        with open("/proc/self/comm", "w") as comm:
            comm.write(f"mlbox-{name}")
        workers[name]()
        sys.stdout.flush()
        code = 0
    finally:
        os._exit(code)


def _reap(forked: dict[int, socket.socket]) -> None:
    """Collect the workers that have ended, and tell how."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            with forked.pop(ended[0]) as told, contextlib.suppress(BrokenPipeError, ConnectionResetError):
                told.send(str(os.waitstatus_to_exitcode(ended[1])).encode())


if __name__ == "__main__":
    main(WORKERS, load)

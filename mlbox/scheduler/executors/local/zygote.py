"""The zygote: a small process of the server's that forks shims, which is far cheaper than to start an interpreter for each.

It is started by path, with the standard library alone, and has loaded all that a shim needs, so that shims share their memory. On
its socket it is asked for a shim (`ref`, with the spec of an attempt in a file that comes along), and answers with the process
id, a pidfd, by which the server hears of the end, and a socket, by which server and shim talk from then on. First it is told what
the confinements of all attempts have in common (`ground`). It ends with the server; shims with an attempt do not.
"""

from __future__ import annotations

import array
import contextlib
import gc
import importlib.util
import json
import os
import select
import signal
import socket
import sys
import traceback
from types import ModuleType
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))
PACKAGE = os.path.abspath(os.path.join(HERE, *[os.pardir] * 3))
IDLE_MS = 1000


def load(file: str) -> ModuleType:
    """A module by its file: the package is not on the path of a process that is started by path."""
    name = os.path.splitext(os.path.basename(file))[0]
    found = importlib.util.spec_from_file_location(name, file)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def main(server: socket.socket) -> None:
    """Fork shims until the server is gone."""
    shim = load(os.path.join(HERE, "shim.py"))
    beside = [os.path.join(HERE, f"{name}.py") for name in ("attempt", "processes", "cgroups", "logtimes", "outputs")]
    beside += [os.path.join(PACKAGE, "scheduler", "confine.py"), os.path.join(PACKAGE, "scheduler", "mount.py")]
    parts = shim.Parts(*map(load, [*beside, os.path.join(PACKAGE, "masking.py")]))
    parts.processes.prctl(parts.processes.SET_NAME, b"mlbox-zygote")
    waking, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    gc.disable()
    gc.freeze()
    poll = select.poll()
    poll.register(server, select.POLLIN)
    poll.register(waking, select.POLLIN)
    while True:
        ready = poll.poll(IDLE_MS if parts.ground is not None else None)
        if not ready:
            parts.ground.rest()
        for fd, _ in ready:
            if fd == waking:
                os.read(waking, 4096)
                reap()
            elif not serve(server, shim, parts):
                return


def serve(server: socket.socket, shim: ModuleType, parts: Any) -> bool:
    """Answer one request; False when the server is gone."""
    message, files = shim.receive(server)
    if not message:
        return False
    (given,) = files
    asked = json.loads(message)
    if "ground" in asked:
        parts.ground = parts.confine.Ground(shim.read(given))
        os.close(given)
        return True
    if parts.ground is not None:
        parts.ground.prepare()
    signal.pthread_sigmask(signal.SIG_BLOCK, shim.SIGNALS)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        server.close()
        theirs.close()
        become_shim(given, ours, shim, parts)
    pidfd = os.pidfd_open(pid)  # before it can be collected: it is surely this process
    signal.pthread_sigmask(signal.SIG_UNBLOCK, shim.SIGNALS)
    os.close(given)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the server is gone, as the next look will show
        answer = json.dumps({"forked": asked["ref"], "pid": pid}).encode()
        along = array.array("i", [pidfd, theirs.fileno()])
        server.sendmsg([answer], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, along)])
    os.close(pidfd)
    ours.close()
    theirs.close()
    return True


def become_shim(given: int, server: socket.socket, shim: ModuleType, parts: Any) -> None:
    """In the child: run the attempt, and what else the server has for it, and end."""
    code = 1
    try:
        os.setsid()
        shim.Shim(parts, server).serve(given)
        code = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def reap() -> None:
    """Collect the shims that have ended; how they did stands in their folders."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


if __name__ == "__main__":
    sock = socket.socket(fileno=int(sys.argv[1]))
    sock.set_inheritable(False)
    main(sock)

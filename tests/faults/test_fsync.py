"""An acknowledged write is fsynced. A kill cannot show a missing fsync, because the page cache survives it: strace can."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

WRITER = """
import sys, threading
from pathlib import Path
from mlbox.clock import SystemClock
from mlbox.events import EventBus
from mlbox.store import migrations
from mlbox.store.db import Database

writes, threads = int(sys.argv[2]), int(sys.argv[3])
db = Database(Path(sys.argv[1]), migrations.access, SystemClock(), EventBus())
print("BEGIN", file=sys.stderr, flush=True)

def work():
    for i in range(writes):
        db.write(lambda tx: tx.emit("thing.made", "thing:1", "ann"))
        print("ACK", file=sys.stderr, flush=True)

workers = [threading.Thread(target=work) for _ in range(threads)]
[w.start() for w in workers]
[w.join() for w in workers]
print("END", file=sys.stderr, flush=True)
import os; os._exit(0)
"""


def trace(tmp_path: Path, writes: int, threads: int) -> list[str]:
    """The order of fsyncs and acknowledgements between BEGIN and END."""
    assert shutil.which("strace"), "strace is needed: apt-get install strace"
    log = tmp_path / "strace.log"
    watch = ["strace", "-f", "-o", str(log), "-e", "trace=fsync,fdatasync,write"]
    subprocess.run(
        [*watch, sys.executable, "-c", WRITER, str(tmp_path / "t.sqlite"), str(writes), str(threads)],
        check=True,
        capture_output=True,
    )
    text = log.read_text()
    body = text[text.index('"BEGIN') : text.index('"END')]
    return re.findall(r'fsync|fdatasync|"ACK', body)


@pytest.mark.slow
def test_every_acknowledged_write_waits_for_its_own_fsync(tmp_path: Path) -> None:
    order = trace(tmp_path, writes=20, threads=1)
    assert order.count('"ACK') == 20
    for position, word in enumerate(order):
        if word == '"ACK':
            assert order[position - 1] in {"fsync", "fdatasync"}, order


@pytest.mark.slow
def test_concurrent_writes_share_fsyncs(tmp_path: Path) -> None:
    order = trace(tmp_path, writes=25, threads=8)
    acknowledged, synced = order.count('"ACK'), len(order) - order.count('"ACK')
    assert acknowledged == 200
    assert 0 < synced < acknowledged

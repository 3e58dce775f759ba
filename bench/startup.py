"""What starting costs: the server until it is ready, its memory when idle, `mlbox --help`, `import mlbox`.

Peer and raw limit is bare Python, measured in the same run, in turn with each of ours.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from bench.harness import Report, interleave, median, options

MLBOX = Path(sys.executable).with_name("mlbox")
HEAVY = ("torch", "sklearn", "scipy")
SETTLE_SECONDS = 2
"""How long an idle server is left alone before its memory is read."""


class Start(NamedTuple):
    """One start of the server on an empty data directory."""

    ready_seconds: float
    idle_mb: float
    private_mb: float
    heavy: list[str]
    """Heavy packages whose shared libraries the process has mapped."""


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    chosen = options(__doc__ or "", arguments)
    if chosen.setup:
        return 0
    repeats, starts = (5, 3) if chosen.quick else (15, 7)
    report = Report("start-up", conditions={"repeats": str(repeats), "starts of the server": str(starts)})
    _commands(report, repeats)
    _server(report, starts)
    return report.finish()


def _commands(report: Report, repeats: int) -> None:
    python = [sys.executable, "-c", "pass"]
    imports = [sys.executable, "-c", "import mlbox"]
    bare, imported, helped = interleave(
        repeats, lambda: _wall(python), lambda: _wall(imports), lambda: _wall([str(MLBOX), "--help"])
    )
    report.tell("bare python", median(bare) * 1000, "ms")
    report.at_most("import mlbox, over bare python", (median(imported) - median(bare)) * 1000, 50, "ms")
    report.at_most("mlbox --help", median(helped), 0.3, "s")
    report.tell("mlbox --help / bare python", median(helped) / median(bare), "times")


def _server(report: Report, starts: int) -> None:
    found = [_start() for _ in range(starts)]
    report.at_most("server ready, on an empty data directory", median([s.ready_seconds for s in found]), 3, "s")
    report.tell("slowest of these starts", max(s.ready_seconds for s in found), "s")
    report.tell("bare python, resident", _bare_mb(), "MB")
    report.at_most("idle server, resident", max(s.idle_mb for s in found), 150, "MB")
    report.tell("idle server, its own (USS)", max(s.private_mb for s in found), "MB")
    report.at_most("of torch, sklearn and scipy, loaded", len({name for s in found for name in s.heavy}), 0, "packages")


def _wall(command: list[str]) -> float:
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def _start() -> Start:
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as (process, url, begin):
        while not is_ready(url):
            time.sleep(0.01)
        ready = time.perf_counter() - begin
        time.sleep(SETTLE_SECONDS)
        resident, private = memory_mb(process.pid)
        return Start(ready, resident, private, loaded(process.pid, HEAVY))


@contextlib.contextmanager
def serving(folder: Path, *flags: str) -> Iterator[tuple[subprocess.Popen[str], str, float]]:
    """A server on the folder `data` in this one: its process, its address, and when it was started."""
    command = [str(MLBOX), "serve", "--data-dir", str(folder / "data"), "--port", "0", *flags]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLBOX_")}
    begin = time.perf_counter()
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        try:
            for line in process.stderr:
                if found := re.search(r"mlbox listens on (\S+)", line):
                    yield process, found[1], begin
                    break
            else:
                raise SystemExit("The server did not start.")
        finally:
            process.terminate()
            process.stderr.read()


def is_ready(url: str) -> bool:
    """Whether a server says that it is ready."""
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=10) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError):
        return False


def wait_until_loaded(url: str, token: str, models: Iterable[str]) -> None:
    """Until each of these models answers."""
    for model in models:
        asked = urllib.request.Request(f"{url}/v2/models/{model}/ready", headers={"Authorization": f"Bearer {token}"})
        while True:
            with contextlib.suppress(urllib.error.HTTPError), urllib.request.urlopen(asked, timeout=60):
                break
            time.sleep(0.05)


def memory_mb(pid: int) -> tuple[float, float]:
    """Resident and private memory of a process, in MB (10^6 bytes)."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    kib = {name: int(size) for name, size in re.findall(r"^(\w+):\s+(\d+) kB", rollup, re.MULTILINE)}
    return kib["Rss"] * 1024 / 1e6, (kib["Private_Clean"] + kib["Private_Dirty"]) * 1024 / 1e6


def loaded(pid: int, packages: tuple[str, ...]) -> list[str]:
    """Which packages' shared libraries a process has mapped."""
    maps = Path(f"/proc/{pid}/maps").read_text()
    return [name for name in packages if re.search(rf"-packages/{name}(\.libs)?/", maps)]


def _bare_mb() -> float:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, text=True) as process:
        time.sleep(0.2)
        resident, _ = memory_mb(process.pid)
        process.communicate("\n")
    return resident


if __name__ == "__main__":
    sys.exit(main())

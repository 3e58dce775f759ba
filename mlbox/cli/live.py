"""What goes on being looked at: in a terminal drawn in place, elsewhere as lines or once."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from mlbox.cli import jobtable
from mlbox.cli.output import Output, show, show_one, table
from mlbox.records import Gpu, Job

if TYPE_CHECKING:
    from mlbox.client import Client

POLL_SECONDS = 1.0
MOST = 1000
GPU_COLUMNS = {
    "index": "gpu",
    "name": "name",
    "memory_gb": "memory_gb",
    "utilization_percentage": "busy_percent",
    "memory_used_gb": "used_gb",
    "power_watts": "watts",
    "temperature_celsius": "celsius",
    "jobs": "jobs",
}


def watch_jobs(look: Callable[[], list[Job]], output: Output) -> None:
    """Jobs again and again: drawn in place where a table is looked at, else those that have changed."""
    if output is Output.table and sys.stdout.isatty():
        _draw(lambda: table(jobtable.rows(look()), jobtable.COLUMNS))
        return
    told: dict[str, tuple[str, str]] = {}
    for jobs in _forever(look):
        news = [job for job in jobs if told.get(job.id) != (job.state, job.reason)]
        gone = told.keys() - {job.id for job in jobs}
        told = {job.id: (job.state, job.reason) for job in jobs}
        if output is Output.table:
            for row in jobtable.rows(news):
                _line("  ".join(str(row[name]) for name in jobtable.COLUMNS))
            for job_id in gone:
                _line(f"{job_id[-jobtable.SHORT_ID :]}  has ended")
        elif news:
            show(news, ("id",), Output.jsonl if output is Output.json else output)


def top(client: Client, *, once: bool, output: Output) -> None:
    """GPUs and jobs: live in a terminal, once elsewhere; what has one row for each thing has the jobs."""
    if output is Output.json:
        show_one(_overview(client), output)
    elif output is not Output.table:
        show(_overview(client)["jobs"], ("id",), output)
    elif once or not sys.stdout.isatty():
        print(_top(client), end="")
    else:
        _draw(lambda: _top(client))


def _overview(client: Client) -> dict[str, Any]:
    jobs = client.get("/api/v1/jobs", list[Job], open="true", limit=MOST)
    return {"at": datetime.now(UTC), "gpus": client.get("/api/v1/gpus", list[dict[str, Any]]), "jobs": jobs}


def _top(client: Client) -> str:
    seen = _overview(client)
    jobs: list[Job] = seen["jobs"]
    running = [job for job in jobs if job.phase == "running"]
    waiting = [job for job in reversed(jobs) if job.phase == "pending"]
    cpus, memory = (sum(getattr(job.spec, what) or 0 for job in running) for what in ("cpus", "memory_gb"))
    held = f"they hold {cpus:g} CPU{'s' * (cpus != 1)} and {memory:g} GiB"
    lines = [
        f"{client.url}  {seen['at']:%Y-%m-%d %H:%M:%SZ}  {len(running)} running, {len(waiting)} waiting; {held}",
        "",
        _gpus(seen["gpus"], running),
    ]
    for title, some in (("running", running), ("waiting", waiting)):
        if some:
            lines += [title, table(jobtable.rows(some), jobtable.COLUMNS)]
    return "\n".join(lines)


def _gpus(gpus: list[dict[str, Any]], running: list[Job]) -> str:
    if not gpus:
        return "This box has no GPU.\n"
    rows = []
    for gpu in gpus:
        label = msgspec.convert(gpu, Gpu).label
        holders = [job for job in running if gpu["index"] in job.attempts[-1].gpus]
        names = ", ".join(jobtable.called(job) for job in holders) or gpu.get("taken_by") or "free"
        rows.append({column: gpu.get(field) for field, column in GPU_COLUMNS.items()} | {"gpu": label, "jobs": names})
    columns = [name for name in GPU_COLUMNS.values() if any(row[name] is not None for row in rows)]
    return table(rows, columns)


def _forever(look: Callable[[], list[Job]]) -> Iterable[list[Job]]:
    while True:
        yield look()
        time.sleep(POLL_SECONDS)


def _line(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _draw(look: Callable[[], str]) -> None:
    """Draw a text in place until Ctrl-C, which is no failure."""
    from rich.live import Live
    from rich.text import Text

    try:
        with Live(Text(look()), screen=True, auto_refresh=False) as screen:
            while True:
                time.sleep(POLL_SECONDS)
                screen.update(Text(look(), overflow="crop", no_wrap=True), refresh=True)
    except KeyboardInterrupt:
        return

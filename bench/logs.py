"""What the log costs: a request's line in the access log, and masking secrets in what a job prints.

The raw limits, measured in turn with ours: the same app without the layer, and a plain copy of the same output.
"""

from __future__ import annotations

import asyncio
import io
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.harness import Report, interleave, median, options
from mlbox.masking import Masker
from mlbox.records import Principal
from mlbox.web.access_log import AccessLog
from mlbox.web.logs import Sink, as_json

WHO = Principal(name="ann", role="member", token_id="0198c0ffee7f7d10a4e2c9d8b7f60123")
FIELDS = [
    (b"host", b"127.0.0.1:8265"),
    (b"accept", b"*/*"),
    (b"user-agent", b"python-httpx/0.28.1"),
    (b"authorization", b"Bearer mlb_"),
    (b"content-type", b"application/json"),
    (b"content-length", b"120"),
]
LINE = b"epoch 12 step 3400 loss 0.1234 lr 3.0e-04 path /srv/data/part-17.parquet\n"
SECRETS = {"HF_TOKEN": "hf_" + "x9Kq" * 9, "DATABASE": "p@ss/word&more of the database"}


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    chosen = options(__doc__ or "", arguments)
    if chosen.setup:
        return 0
    repeats, requests, lines = (5, 5_000, 20_000) if chosen.quick else (9, 20_000, 100_000)
    report = Report(
        "logs", conditions={"repeats": str(repeats), "requests": f"{requests:,}", "lines of a job": f"{lines:,}"}
    )
    _access_log(report, repeats, requests)
    _masking(report, repeats, lines)
    return report.finish()


async def _app(scope: Any, receive: Any, send: Any) -> None:
    scope["state"]["principal"] = WHO
    await send({"type": "http.response.start", "status": 200, "headers": FIELDS[-2:]})
    await send({"type": "http.response.body", "body": b"{}"})


async def _send(message: Any) -> None:
    pass


def _access_log(report: Report, repeats: int, requests: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        sink = Sink(Path(folder) / "log")
        on, off = (AccessLog(_app, sink, as_json, wanted) for wanted in ("on", "off"))

        def line_and_thread() -> float:
            """CPU of a request with its line, whichever thread it was spent in."""
            start = time.process_time()
            _run(on, requests)
            while on._waiting:
                time.sleep(0.001)
            return (time.process_time() - start) / requests

        bare, idle, lined, whole = interleave(
            repeats,
            lambda: _run(_app, requests),
            lambda: _run(off, requests),
            lambda: _run(on, requests),
            line_and_thread,
        )
        on.close()
        off.close()
        sink.close()
    raw = median(bare)
    report.tell("the app alone", raw * 1e6, "µs a request")
    report.tell("an id, and no line", (median(idle) - raw) * 1e6, "µs a request")
    report.at_most("an id and a line, in the request's thread", (median(lined) - raw) * 1e6, 10, "µs a request")
    report.at_most("an id and a line, CPU of all threads", (median(whole) - raw) * 1e6, 20, "µs a request")


def _run(app: Any, requests: int) -> float:
    """Seconds that one request takes."""

    async def ask() -> float:
        start = time.perf_counter()
        for _ in range(requests):
            scope = {"type": "http", "method": "POST", "path": "/v2/models/score/infer", "query_string": b""}
            await app({**scope, "headers": FIELDS, "client": ("127.0.0.1", 4711), "state": {}}, None, _send)
        return time.perf_counter() - start

    return asyncio.run(ask()) / requests


def _masking(report: Report, repeats: int, lines: int) -> None:
    def copied() -> float:
        target, start = io.BytesIO(), time.perf_counter()
        for _ in range(lines):
            target.write(LINE)
        return time.perf_counter() - start

    def masked() -> float:
        target, masker, start = io.BytesIO(), Masker(SECRETS), time.perf_counter()
        for _ in range(lines):
            target.write(masker.feed(LINE))
        return time.perf_counter() - start

    def in_blocks() -> float:
        masker, block, start = Masker(SECRETS), LINE * 800, time.perf_counter()
        for _ in range(lines // 800):
            masker.feed(block)
        return (lines // 800) * len(block) / (time.perf_counter() - start) / 1e6

    plain, one_by_one, throughput = interleave(repeats, copied, masked, in_blocks)
    report.tell("a copy of a job's line", median(plain) / lines * 1e6, "µs")
    report.at_most("masking a line that comes by itself", median(one_by_one) / lines * 1e6, 50, "µs")
    report.at_least("masking output that comes in blocks", median(throughput), 50, "MB/s")


if __name__ == "__main__":
    raise SystemExit(main())

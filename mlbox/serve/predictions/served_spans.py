"""What was served of a model, by version, role and span of time: from the prediction log, however long that is.

Each file of the log is reduced to a few rows as it is read, and only the columns that are asked for are: what is held at once
is a file's.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from mlbox.clock import from_us, to_us
from mlbox.errors import InvalidInput
from mlbox.records import ServedSpan, ServeRole
from mlbox.serve.predictions.batches import SHARE, shares_of
from mlbox.serve.predictions.log import PredictionLog

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

MAX_SPANS = 10_000
READ = ("version", "role", "domain_us", "score", "latency_ms", SHARE)
Key = tuple[int, int, ServeRole]
"""Number of the span, version, role."""


@dataclass
class _Sum:
    rows: int = 0
    score: float = 0.0
    scored: int = 0
    latency: float = 0.0
    slowest: float = 0.0
    asked: float = 0.0
    """How many there were, of whom these were kept."""


def served_spans(
    log: PredictionLog, model: str, *, since: datetime, until: datetime, every: timedelta
) -> list[ServedSpan]:
    """From `since` to before `until`, in domain time, the oldest first; raises InvalidInput for too many spans."""
    if every < timedelta(seconds=1) or not since < until:
        raise InvalidInput("A span is at least a second, and ends after it begins.", hint="Such as 1d.", field="every")
    if (until - since) / every > MAX_SPANS:
        raise InvalidInput(f"These are more than {MAX_SPANS:,} spans.", hint="Ask for longer ones.", field="every")
    width = every // timedelta(microseconds=1)
    sums: dict[Key, _Sum] = {}
    for table in log.spanning(model, columns=READ, since=since, until=until):
        _add(sums, table, to_us(since), to_us(until), width)
    return [_span(model, key, sums[key], width) for key in sorted(sums)]


def _add(sums: dict[Key, _Sum], table: pa.Table, since_us: int, until_us: int, width: int) -> None:
    """Add a file's rows, which are of one version: each role and span is one number, and numpy counts those."""
    import numpy as np
    import pyarrow as pa

    at = table.column("domain_us").to_numpy()
    if at.min() < since_us or at.max() >= until_us:
        table = table.filter(pa.array((at >= since_us) & (at < until_us)))
        at = table.column("domain_us").to_numpy()
    if not len(at):
        return
    first, spans = since_us // width, until_us // width - since_us // width + 1
    roles = table.column("role").combine_chunks().dictionary_encode()
    code = roles.indices.to_numpy() * np.int64(spans) + (at // width - first)
    most = len(roles.dictionary) * spans
    score = table.column("score").to_numpy()
    latency = table.column("latency_ms").to_numpy()
    rows, waited = np.bincount(code, minlength=most), np.bincount(code, latency, most)
    asked = np.bincount(code, 1 / shares_of(table).to_numpy(zero_copy_only=False), most)
    scored, total = _finite(code, score, most, rows)
    slowest = np.zeros(most)
    np.maximum.at(slowest, code, latency)
    version = table.column("version")[0].as_py()
    for place in np.flatnonzero(rows).tolist():
        role, span = divmod(place, spans)
        one = sums.setdefault((first + span, version, roles.dictionary[role].as_py()), _Sum())
        one.rows += int(rows[place])
        one.score += float(total[place])
        one.scored += int(scored[place])
        one.latency += float(waited[place])
        one.asked += float(asked[place])
        one.slowest = max(one.slowest, float(slowest[place]))


def _finite(code: np.ndarray, score: np.ndarray, most: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many scores of each code are finite, and their sum."""
    import numpy as np

    fine = np.isfinite(score)
    if fine.all():
        return rows, np.bincount(code, score, most)
    return np.bincount(code[fine], minlength=most), np.bincount(code[fine], score[fine], most)


def _span(model: str, key: Key, found: _Sum, width: int) -> ServedSpan:
    return ServedSpan(
        model=model,
        version=key[1],
        role=key[2],
        start=from_us(key[0] * width),
        predictions=found.rows,
        mean_score=found.score / found.scored if found.scored else None,
        mean_latency_ms=found.latency / found.rows,
        max_latency_ms=found.slowest,
        sample=found.rows / found.asked,
    )

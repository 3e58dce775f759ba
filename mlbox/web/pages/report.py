"""A report as a page that needs no other file: its pictures are drawn here, a few hundred bytes each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from mlbox.records import BusinessSeries, DriftShape, MonitorReport
from mlbox.serve.monitoring.drift import ALERT, INVESTIGATE

WIDTH, HEIGHT = 120, 28


def report_page(found: MonitorReport) -> dict[str, Any]:
    """What the template of a report shows."""
    names: dict[str, list[BusinessSeries]] = {}
    for one in found.business:
        names.setdefault(one.name, []).append(one)
    return {
        "report": found,
        "business": names,
        "drawn": drawn,
        "thresholds": (float(INVESTIGATE), float(ALERT)),
        "counts": {
            verdict: sum(result.verdict == verdict for result in found.drift)
            for verdict in ("alert", "investigate", "ok", "not_enough_data")
        },
    }


def drawn(shape: DriftShape) -> Markup:
    """Training filled, and what was served as a line."""
    fill, line = (_path(counts) for counts in (shape.before, shape.now))
    return Markup(
        '<svg viewBox="0 0 {w} {h}" width="{w}" height="{h}" role="img" aria-label="from {low} to {high}">'
        '<path class="t" d="{fill}V{h}Z"/><path class="s" d="{line}"/></svg>'
    ).format(w=WIDTH, h=HEIGHT, low=f"{shape.low:.4g}", high=f"{shape.high:.4g}", fill=fill, line=line)


def _path(counts: Sequence[int]) -> str:
    """Steps, as high as their share of the fullest bin."""
    most, width = max(1, *counts), WIDTH // len(counts)
    return f"M0 {HEIGHT}" + "".join(f"V{round(HEIGHT * (1 - count / most))}h{width}" for count in counts)

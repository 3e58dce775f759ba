"""A canary's guards over the evidence of its step: the interval that tightens, and what is allowed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from mlbox.records import CoursePoint, Finding, Promotion
from mlbox.web.box import Box


class GuardPicture(NamedTuple):
    """A guard's name, what is drawn of it (see `chart.js`), and that in words."""

    name: str
    chart: dict[str, Any]
    label: str


class GuardPictures(NamedTuple):
    """What is drawn of one step of a canary."""

    percent: float
    pictures: list[GuardPicture]


def guard_pictures(box: Box, promotion: Promotion) -> GuardPictures | None:
    """Of the last step of a canary of which anything was noted; None where nothing was."""
    course = box.rollout_log.course(promotion.id)
    if not course:
        return None
    last = course[-1].step
    points = [point for point in course if point.step == last]
    pictures = []
    for guard in promotion.policy.guards:
        drawn = _chart(points, guard.name, guard.margin)
        if drawn is not None:
            pictures.append(GuardPicture(guard.name, *drawn))
    return GuardPictures(promotion.policy.steps[last].percent, pictures) if pictures else None


def _chart(points: Sequence[CoursePoint], guard: str, margin: float | None) -> tuple[dict[str, Any], str] | None:
    """The interval against its margin; of a guard without one, its evidence against what it must not pass."""
    found = [(point.predictions, one) for point in points for one in point.findings if one.guard == guard]
    if margin is None:
        lines = {"evidence": _line(found, "evidence")}
        bounds = _line(found, "bound")
        allowed = {"label": "stops above", "guide": True, "points": bounds}
    else:
        lines = {"at most": _line(found, "high"), "at least": _line(found, "low")}
        ends = sorted({x for line in lines.values() for x, _ in line})
        allowed = {
            "label": "allowed",
            "guide": True,
            "points": [(x, margin) for x in (ends[0], ends[-1])] if ends else [],
        }
    series = [{"label": label, "points": line} for label, line in lines.items() if line]
    if not series:
        return None
    words = found[-1][1].words
    return {
        "x": "predictions",
        "logx": True,
        "series": [*series, allowed],
    }, f"{guard} over the predictions of this step: {words}"


def _line(found: Sequence[tuple[int, Finding]], what: str) -> list[tuple[int, float]]:
    return [(x, getattr(one, what)) for x, one in found if getattr(one, what) is not None]

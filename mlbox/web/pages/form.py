"""How values are written for people: one look for times, sizes, counts and states everywhere."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar
from urllib.parse import quote
from zoneinfo import ZoneInfo

import jinja2
from markupsafe import Markup

from mlbox.records import AlertGroup
from mlbox.records.distances import distance

T = TypeVar("T")
NARROW = "\u202f"
"""Between a number and its unit: a space that does not break."""

STATE_KINDS: dict[str, str] = {
    **dict.fromkeys(("succeeded", "FINISHED", "Production", "completed", "ok", "resolved", "passed", "PRESENT"), "ok"),
    **dict.fromkeys(("healthy", "up", "champion", "approve", "improved"), "ok"),
    **dict.fromkeys(
        ("running", "starting", "RUNNING", "Staging", "testing", "integration", "shadow", "canary", "control"), "run"
    ),
    **dict.fromkeys(("queued", "preempted", "SCHEDULED", "waiting_approval", "waiting_traffic"), "wait"),
    **dict.fromkeys(("submitted", "delivered", "holds", "better", "non_inferior", "advance"), "ok"),
    **dict.fromkeys(("due", "undecided", "too_little", "ask"), "wait"),
    **dict.fromkeys(("refused", "gave_up", "worse", "roll_back"), "bad"),
    **dict.fromkeys(("stopping", "investigate", "timed_out", "OUTSIDE_MAX_AGE", "warn", "inputs_moved"), "warn"),
    **dict.fromkeys(
        ("failed", "FAILED", "lost", "rejected", "rolled_back", "alert", "firing", "down", "reject"), "bad"
    ),
    **dict.fromkeys(("bad", "concept_drift"), "bad"),
}
"""A state's kind: its colour and its shape. What is not here has ended quietly, or says nothing."""

WORDS: dict[str, str] = {
    "FINISHED": "finished",
    "FAILED": "failed",
    "RUNNING": "running",
    "SCHEDULED": "scheduled",
    "KILLED": "killed",
    "None": "no stage",
    "warn": "look",
    "non_inferior": "non-inferior",
}


def kind(state: str) -> str:
    """ok, run, wait, warn, bad or off."""
    return STATE_KINDS.get(state, "off")


def words(state: str) -> str:
    """A state as a person would write it."""
    return WORDS.get(state, state.replace("_", " "))


def count(value: float | None) -> str:
    """A whole number with commas between thousands."""
    return "–" if value is None else f"{int(value):,}"


def number(value: Any, digits: int = 4) -> str:
    """A measured number, to a few significant digits."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if not math.isfinite(value):
        return str(value)
    if isinstance(value, int) or (value.is_integer() and abs(value) < 1e15):
        return count(value) if abs(value) >= 10_000 else str(int(value))  # a year, a port and a step read as they are
    return f"{value:,.1f}" if 1000 <= abs(value) < 1e9 else f"{value:.{digits}g}"


def fixed(value: float | None, digits: int = 3) -> str:
    """A number with the same digits in every row, so that a column can be compared at a glance."""
    return "–" if value is None else f"{value:.{digits}f}"


def percent(value: float | None) -> str:
    """A share of 0..100 with its sign."""
    return "–" if value is None else f"{value:.3g}{NARROW}%" if value >= 1 else f"{value:.2g}{NARROW}%"


def size(value: float | None) -> str:
    """Bytes in decimal units, as disks are sold and `ls -h --si` counts."""
    if value is None:
        return "–"
    if abs(value) < 1000:
        return f"{int(value)}{NARROW}B"
    for unit in ("kB", "MB", "GB"):
        value /= 1000
        if abs(value) < 999.95:
            return f"{value:.1f}{NARROW}{unit}"
    return f"{value / 1000:.1f}{NARROW}TB"


def span(value: timedelta | float | None) -> str:
    """A length of time in its two largest units."""
    if value is None:
        return "–"
    seconds = value.total_seconds() if isinstance(value, timedelta) else float(value)
    if seconds < 1:
        return f"{seconds * 1000:.0f}{NARROW}ms"
    if seconds < 10:
        return f"{seconds:.1f}{NARROW}s"
    parts = []
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        whole, seconds = divmod(seconds, length)
        if whole:
            parts.append(f"{int(whole)}{NARROW}{unit}")
    return " ".join(parts[:2])


def millis(value: float | None) -> str:
    """A length of time that was measured in milliseconds."""
    if value is None:
        return "–"
    return f"{value:.2f}{NARROW}ms" if value < 10 else f"{value:,.0f}{NARROW}ms"


def utc(moment: datetime | None) -> str:
    """A moment to the second, in UTC."""
    return "–" if moment is None else moment.strftime("%Y-%m-%d %H:%M:%S UTC")


def ago(at: datetime, now: datetime) -> str:
    """How long ago, in its largest unit; after thirty days the date says more."""
    seconds = (now - at).total_seconds()
    if abs(seconds) < 60:
        return "just now" if seconds >= 0 else "in a moment"
    if abs(seconds) >= 30 * 86400:
        return at.strftime("%Y-%m-%d")
    unit, length = next((u, n) for u, n in (("d", 86400), ("h", 3600), ("min", 60)) if abs(seconds) >= n)
    whole = int(abs(seconds) // length)
    return f"{whole} {unit} ago" if seconds >= 0 else f"in {whole} {unit}"


@jinja2.pass_context
def when(context: jinja2.runtime.Context, at: datetime | None) -> Markup:
    """A moment of real time as how long ago it was; the browser keeps it true."""
    if at is None:
        return Markup("–")
    words = ago(at, context["real_now"])
    return Markup("<mlbox-time>{}</mlbox-time>").format(_time(at, words))


@jinja2.pass_context
def moment(context: jinja2.runtime.Context, at: datetime | None) -> Markup:
    """A moment of domain time as a plain date: by the viewer's clock, or where it is replayed in UTC, as in the banner."""
    if at is None:
        return Markup("–")
    return _time(at, at.strftime("%Y-%m-%d %H:%M")) if context.get("replay") else here(at)


def here(at: datetime) -> Markup:
    """A moment by the viewer's clock, which only the browser knows; until it has its script, in UTC."""
    return Markup("<mlbox-here>{}</mlbox-here>").format(_time(at, f"{at:%Y-%m-%d %H:%M} UTC"))


def _time(at: datetime, words: str) -> Markup:
    """With UTC for who points at it."""
    return Markup('<time datetime="{}" title="{}">{}</time>').format(at.isoformat(), utc(at), words)


def in_zone(at: datetime, zone: str) -> str:
    """A moment by the clocks of a time zone."""
    return at.astimezone(ZoneInfo(zone)).strftime("%a %Y-%m-%d %H:%M")


def short(text: str | None, length: int = 8) -> str:
    """The tail of an id, where sortable ids differ; or the head of a hash."""
    return "–" if not text else text[-length:]


def head(text: str | None, length: int = 12) -> str:
    """The first digits of a hash."""
    return "–" if not text else text[:length]


def shape(dimensions: Iterable[int]) -> str:
    """A tensor's shape; a free dimension is N."""
    return "[" + ", ".join("N" if d < 0 else str(d) for d in dimensions) + "]"


def home(group: AlertGroup) -> str:
    """Where the alerts of a group are read."""
    if group.kind == "model":
        return f"/monitoring/{quote(group.name)}"
    return f"/features/{quote(group.name)}" if group.kind == "view" else "/monitoring?state=firing"


def raw(value: float | timedelta | None, unit: str = "") -> Markup:
    """A measured value on its table cell, as it is: what a CSV of the table has instead of what people read."""
    if value is None:
        return Markup("")
    plain = value.total_seconds() if isinstance(value, timedelta) else value
    return Markup(' data-value="{}"').format(plain) + (Markup(' data-unit="{}"').format(unit) if unit else Markup(""))


def shell(command: Sequence[str]) -> str:
    """A command as a shell takes it: what is copied from a page runs as it did."""
    return shlex.join(command)


_DIGITS = re.compile(r"([0-9]{1,18})")


def natural(name: str) -> list[str | int]:
    """What names are ordered by where people read them: `layer.2` comes before `layer.10`."""
    return [int(part) if at % 2 else part for at, part in enumerate(_DIGITS.split(name))]


def ordered(pairs: Mapping[str, T]) -> list[tuple[str, T]]:
    """Pairs by their names, in natural order."""
    return sorted(pairs.items(), key=lambda pair: natural(pair[0]))


FILTERS = {
    f.__name__: f
    for f in (
        kind,
        words,
        count,
        number,
        fixed,
        distance,
        percent,
        size,
        span,
        millis,
        utc,
        when,
        moment,
        here,
        raw,
        in_zone,
        short,
        head,
        shape,
        home,
        shell,
        ordered,
    )
}

"""Replays of logged traffic: asked for, and waited for."""

from __future__ import annotations

import time
from urllib.parse import quote

from mlbox.client import Client
from mlbox.errors import InvalidInput, TimedOut
from mlbox.records import Replay, ReplaySpec, split_ref
from mlbox.sdk.runs import patiently

CHAMPION = "champion"
SECONDS = 600.0
EVERY = 0.3


def replay(
    client: Client,
    ref: str,
    *,
    against: str | int = CHAMPION,
    last: int = 10_000,
    window_seconds: float | None = None,
    seconds: float = SECONDS,
) -> Replay:
    """A replay on a version, once it has ended; raises InvalidInput for references, and TimedOut where it takes longer."""
    model, number = split_ref(ref)
    spec = ReplaySpec(against=_number(against, model), last=last, window_seconds=window_seconds)
    path = f"/api/v1/models/{quote(model, safe='')}/versions/{number}/replays"
    asked = client.post(path, Replay, spec)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = patiently(lambda: client.get(f"{path}/{asked.id}", Replay))
        if found.state not in ("waiting", "running"):
            return found
        time.sleep(EVERY)
    raise TimedOut(
        f"The replay {asked.id} of {ref} has not ended after {seconds:g} s.",
        hint="It goes on, and the version's page shows what comes of it.",
    )


def _number(against: str | int, model: str) -> int | None:
    """The version that is meant; None for the champion."""
    if isinstance(against, int) or against == CHAMPION:
        return None if against == CHAMPION else int(against)
    of, number = split_ref(against)
    if of != model:
        raise InvalidInput(f"{against!r} is not of {model}.", hint="Compare versions of one model.", field="against")
    return number

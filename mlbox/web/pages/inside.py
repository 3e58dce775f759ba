"""What the box runs with: each setting and where it comes from, what its stores take of the disk, who may hold how many GPUs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from litestar import Response, get

from mlbox.settings import Origin, describe, env_name, text_of
from mlbox.store.jobs.sharing import DEFAULT
from mlbox.web.pages.view import View, part
from mlbox.web.redaction import redact

MOST_FILES = 100_000
"""That are counted of a folder."""
WORDS = {
    "artifacts": "files of runs and models, code of jobs",
    "jobs": "logs and folders of jobs",
    "offline": "rows of sources and labels",
    "online": "features to serve",
    "predictions": "what was predicted",
    "uploads": "what is being sent",
}


class Place(NamedTuple):
    """A store, and what it takes of the disk; `whole` where all of its files were counted."""

    name: str
    words: str
    size: int
    files: int
    whole: bool


def places(root: Path) -> list[Place]:
    """The stores of a data directory, the largest first."""
    found: dict[str, list[int]] = {}
    whole: dict[str, bool] = {}
    for entry in os.scandir(root):
        name = entry.name.partition(".")[0]
        sizes = found.setdefault(name, [])
        room = MOST_FILES - len(sizes)
        new = list(_sizes(Path(entry.path), room)) if entry.is_dir(follow_symlinks=False) else [entry.stat().st_size]
        sizes += new
        whole[name] = whole.get(name, True) and len(new) < room
    named = [Place(name, WORDS.get(name, ""), sum(sizes), len(sizes), whole[name]) for name, sizes in found.items()]
    return sorted((place for place in named if place.size), key=lambda place: -place.size)


def _sizes(folder: Path, most: int) -> Iterator[int]:
    for parent, _, names in os.walk(folder):
        for name in names:
            if most <= 0:
                return
            most -= 1
            try:
                yield os.lstat(os.path.join(parent, name)).st_size
            except FileNotFoundError:  # it ended meanwhile
                continue


class Told(NamedTuple):
    """A setting as it is shown."""

    name: str
    value: str
    origin: str
    variable: str
    help: str


def _told(origin: Origin) -> Told:
    value = redact(f"{origin.name}={text_of(origin.value)}").partition("=")[2] if origin.value is not None else ""
    return Told(origin.name, value, origin.origin, env_name(origin.name), describe(origin.name))


def _fetch(view: View) -> dict[str, Any]:
    box = view.box
    root = Path(box.data_dir.root)
    return {
        "settings": [_told(origin) for origin in box.origins],
        "places": places(root),
        "disk": shutil.disk_usage(root),
        "root": root,
        "quotas": part(box.sharing.quotas),
        "queues": part(box.sharing.set_queues),
        "default_queue": DEFAULT,
        "weights": part(box.sharing.weights),
        "teams": [team.name for team in box.teams.teams()],
    }


@get("/admin/settings", include_in_schema=False, action="settings.read")
async def inside(view: View) -> Response[bytes]:
    """Settings, storage and quotas."""
    return await view.page("inside.html", lambda: _fetch(view))


handlers: list[Any] = [inside]

"""Where a Feast repository keeps its definitions: `feature_store.yaml` says which file is the registry.

Of the YAML only two top-level entries are read, `project` and `registry`, as Feast's templates write them. Whoever writes them
in another way gives the registry file itself.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Any, NamedTuple

from mlbox.errors import InvalidInput
from mlbox.transfer.feast_registry import Registry
from mlbox.transfer.protobuf import read_message

MAX_REGISTRY = 64 << 20
MAX_YAML = 1 << 20
CONFIG = "feature_store.yaml"
_DIRECTLY = "Give the registry file itself, and its --project: `mlbox feature import-feast registry.db --project NAME`."
_ENTRY = re.compile(r"(?P<indent> *)(?P<key>[A-Za-z_][\w-]*|'[\w-]+'|\"[\w-]+\") *:(?: +(?P<value>.*))?")
_SPECIAL = frozenset("'\"[]{}&*!|>%@`,")
"""What a plain value of YAML does not begin with."""


class Repository(NamedTuple):
    """A registry, of which project, and the folder that its paths begin at."""

    registry: Registry
    project: str
    folder: Path


def open_repository(path: Path, *, project: str | None = None) -> Repository:
    """A repository by its folder, its `feature_store.yaml` or its registry file; raises InvalidInput.

    The project is the one that `feature_store.yaml` names, or the only one of a registry file.
    """
    config = path / CONFIG if path.is_dir() else path
    folder = config.parent
    if config.suffix not in (".yaml", ".yml"):
        registry = _registry(path)
        return Repository(registry, _project(registry, project, path), folder)
    said, file = _read_config(config, folder)
    registry = _registry(file)
    return Repository(registry, _project(registry, project or said or None, file), folder)


def _registry(path: Path) -> Registry:
    data = _read(path, MAX_REGISTRY)
    if data.startswith(b"SQLite format 3\0"):
        raise InvalidInput(
            f"{path} is an SQLite database: the registry_type is `sql`.",
            hint="In a copy of the repository write `registry: registry.db`, and run `feast apply`.",
            field="registry",
        )
    return read_message(data, Registry, name=str(path))


def _read(path: Path, limit: int) -> bytes:
    """A file's bytes; raises InvalidInput for what is no file, or more than `limit` bytes."""
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise InvalidInput(f"{path} is no file.", hint=_DIRECTLY, field="repo")
            data = file.read(limit + 1)
    except OSError as err:
        raise InvalidInput(
            f"{path} cannot be read: {err.strerror}.",
            hint=f"Give a folder with {CONFIG} whose registry was made by `feast apply`.",
            field="repo",
        ) from err
    if len(data) > limit:
        raise InvalidInput(f"{path} is larger than {limit >> 20} MiB.", hint=_DIRECTLY, field="repo")
    return data


def projects(registry: Registry) -> list[str]:
    """The projects that a registry has definitions of, by name."""
    listed = [one.spec.project for some in _parts(registry) for one in some]
    found = {one.spec.name for one in registry.projects} | set(listed)
    return sorted(found - {""})


def _parts(registry: Registry) -> tuple[list[Any], ...]:
    return (
        registry.entities,
        registry.feature_views,
        registry.stream_feature_views,
        registry.on_demand_feature_views,
        registry.feature_services,
    )


def _project(registry: Registry, wanted: str | None, path: Path) -> str:
    known = projects(registry)
    if wanted is None and len(known) == 1:
        return known[0]
    if not known:
        raise InvalidInput(f"{path} defines nothing.", hint="Run `feast apply` in the repository.", field="registry")
    if wanted not in known:
        problem = f"has no project {wanted[:80]!r}" if wanted else "has several projects"
        names = ", ".join(known[:20])
        raise InvalidInput(f"{path} {problem}.", hint=f"Give --project, one of {names}.", field="project")
    return wanted


# -- feature_store.yaml -------------------------------------------------------------------------------------------------


def _read_config(config: Path, folder: Path) -> tuple[str, Path]:
    """The project, and where the registry is."""
    try:
        text = os.path.expandvars(_read(config, MAX_YAML).decode())  # as Feast does
    except UnicodeDecodeError as err:
        raise InvalidInput(f"{config} is not UTF-8 at byte {err.start}.", hint=_DIRECTLY, field="repo") from err
    found = _entries(text, config)
    kind = found.get("registry.registry_type", "file")
    if kind != "file":
        raise InvalidInput(
            f"The registry of {config} is of the type {kind[:80]!r}, not a file.",
            hint="In a copy of the repository write `registry: registry.db`, and run `feast apply`.",
            field="registry",
        )
    said = found.get("registry") or found.get("registry.path")
    if not said:
        raise InvalidInput(f"{config} does not say where its registry is.", hint=_DIRECTLY, field="registry")
    if "://" in said:
        raise InvalidInput(f"The registry is at {said[:200]}.", hint=f"Copy it here. {_DIRECTLY}", field="registry")
    return found.get("project", ""), folder / said


def _entries(text: str, config: Path) -> dict[str, str]:
    """`project`, `registry`, and below it `registry.path` and `registry.registry_type`, where they are."""
    found: dict[str, str] = {}
    within, depth = "", 0
    for number, line in enumerate(text.splitlines(), start=1):
        entry = _ENTRY.fullmatch(line.rstrip())
        if entry is None or not line.strip() or line.lstrip().startswith("#"):
            if entry is None and line[:1] not in (" ", "#", "") and not line.startswith(("---", "- ")):
                raise _unclear(config, number)
            continue
        key, indent = entry["key"].strip("'\""), len(entry["indent"])
        if indent == 0:
            within, depth = key, 0
        elif within != "registry" or indent != (depth := depth or indent):
            continue
        name = key if indent == 0 else f"{within}.{key}"
        if name in ("project", "registry", "registry.path", "registry.registry_type"):
            found[name] = _scalar(entry["value"] or "", config, number)
    return found


def _scalar(text: str, config: Path, number: int) -> str:
    """A value in quotes or without, before a comment."""
    text = text.strip()
    if not text or text.startswith("#"):
        return ""
    quoted = re.fullmatch(r"'([^']*)'(?: +#.*)?|\"([^\"\\]*)\"(?: +#.*)?", text)
    if quoted is not None:
        return quoted[1] or quoted[2] or ""
    plain = text.replace("\t", " ").partition(" #")[0].strip()
    if plain[0] in _SPECIAL:
        raise _unclear(config, number)
    return plain


def _unclear(config: Path, line: int) -> InvalidInput:
    return InvalidInput(f"Line {line} of {config} is not as it is read here.", hint=_DIRECTLY, field="repo")

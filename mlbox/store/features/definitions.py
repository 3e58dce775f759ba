"""Definitions as files: a whole set is planned, and applied as one.

A plan is an apply that is taken back: both run the same code in one transaction of the definitions' file, so a plan says exactly
what an apply does, a set may name what it defines itself, and two applies never mix.
"""

from __future__ import annotations

import difflib
import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence, Set
from typing import Any

import msgspec

from mlbox.errors import Conflict, InvalidInput, MlboxError
from mlbox.records import (
    Definitions,
    Entity,
    FeaturePlan,
    FeatureView,
    PlannedChange,
    ServiceSpec,
    SourceSpec,
    TransformSpec,
    ViewSpec,
)
from mlbox.store.db import Tx
from mlbox.store.features.alike import SECONDS, find_alike, planned_view
from mlbox.store.features.functions import Functions

MAX_DEFINITIONS = 2000
ALIKE_SECONDS = 30.0
"""How long a plan looks for features that repeat others, all in all."""
_TABLES = {"source": "source", "entity": "entity", "view": "view", "transform": "transform", "service": "service"}
_VERSIONED = ("view", "transform", "service")
Spec = SourceSpec | Entity | ViewSpec | TransformSpec | ServiceSpec


class FeatureDefinitions(Functions):
    """The whole feature store, with its definitions as one."""

    def plan(self, wanted: Definitions) -> FeaturePlan:
        """What `apply` would do, without doing it; raises what it would raise."""
        found = self._db.together(lambda tx: self._carry_out(tx, wanted, None, "plan"), keep=False)
        return msgspec.structs.replace(found, changes=tuple(self._with_alike(found.changes, wanted)))

    def apply(self, wanted: Definitions, *, base: str | None = None, actor: str) -> FeaturePlan:
        """Bring the box to what is defined, all of it or none; what it did.

        Raises Conflict where the state is not the one that a plan's `base` stands for, and InvalidInput that names the
        definition for whatever is wrong with one.
        """
        done = self._db.together(lambda tx: self._carry_out(tx, wanted, base, actor))
        self._defined += 1
        return done

    def _carry_out(self, tx: Tx, wanted: Definitions, base: str | None, actor: str) -> FeaturePlan:
        specs = list(_in_order(wanted, (source.name for source in self.declarations())))
        _check_names(specs)
        now = self._state(tx, specs)
        if base is not None and base != now:
            raise Conflict(
                f"The definitions changed since the plan: {self._last_change(tx, specs)}.",
                hint="Plan again.",
                field="base",
            )
        changes = tuple(self._apply_one(tx, kind, spec, actor) for kind, spec in specs)
        return FeaturePlan(changes=changes, base=now)

    def _apply_one(self, tx: Tx, kind: str, spec: Spec, actor: str) -> PlannedChange:
        before = _kept(tx, kind, spec.name)
        try:
            ref = self._put(spec, actor)
        except MlboxError as err:
            err.message = f"{kind} {spec.name}: {err.message}"
            raise
        after = _kept(tx, kind, spec.name)
        version_before, version = (0 if row is None else row.get("version", 1) for row in (before, after))
        if before is None:
            action = "create"
        elif version != version_before:
            action = "new version"
        else:
            action = "none" if before == after else "describe"
        differences = tuple(_differences(before, after)) if before is not None and after is not None else ()
        return msgspec.convert(
            {"kind": kind, "name": spec.name, "action": action, "ref": ref, "differences": differences}, PlannedChange
        )

    def _put(self, spec: Spec, actor: str) -> str:
        """Keep one definition; how it is referred to."""
        if isinstance(spec, SourceSpec):
            return self.add_source(
                spec.name, spec.columns, spec.event_time, spec.arrival_time, folder=spec.folder, actor=actor
            ).name
        if isinstance(spec, Entity):
            return self.apply_entity(spec, actor=actor).name
        if isinstance(spec, ViewSpec):
            return self.apply_view(spec, actor=actor).ref
        if isinstance(spec, TransformSpec):
            return self.apply_transform(spec, actor=actor).ref
        return self.apply_service(spec.name, spec.features, actor=actor).ref

    def _with_alike(self, changes: Sequence[PlannedChange], wanted: Definitions) -> Iterator[PlannedChange]:
        """The changes with what of them repeats features that are there, or that come before them in the plan."""
        specs = {view.name: self.pinned(view) for view in wanted.views}
        before = list[FeatureView]()
        end = time.monotonic() + ALIKE_SECONDS
        for change in changes:
            if change.kind != "view" or change.action not in ("create", "new version"):
                yield change
                continue
            spec = specs[change.name]
            found = find_alike(self, spec, beside=before, seconds=min(SECONDS, end - time.monotonic()))
            words = tuple(f"{spec.name}:{one.feature} repeats {one.other} ({one.why})" for one in found)
            before.append(planned_view(spec, change.ref, self._clock.real()))
            yield msgspec.structs.replace(change, alike=words)

    @staticmethod
    def _state(tx: Tx, specs: Sequence[tuple[str, Spec]]) -> str:
        rows = [[kind, spec.name, _kept(tx, kind, spec.name)] for kind, spec in specs]
        return hashlib.sha256(msgspec.json.encode(rows)).hexdigest()[:32]

    @staticmethod
    def _last_change(tx: Tx, specs: Sequence[tuple[str, Spec]]) -> str:
        """The last thing that happened to any of them, in words."""
        patterns = {f"{'source' if kind == 'source' else 'view'}:{spec.name}" for kind, spec in specs}
        patterns |= {f"service:{spec.name}" for kind, spec in specs if kind == "service"}
        rows = tx.all("SELECT subject, actor FROM event ORDER BY seq DESC LIMIT 1000")
        for row in rows:
            if row["subject"].partition("@")[0] in patterns:
                return f"{row['actor']} changed {row['subject'].partition(':')[2]}"
        return "something that they name is another"


def _in_order(wanted: Definitions, declared: Iterable[str]) -> Iterator[tuple[str, Spec]]:
    """Each definition after those that it may name."""
    yield from (("source", one) for one in wanted.sources)
    yield from (("entity", one) for one in wanted.entities)
    yield from (
        ("view", one) for one in _views_in_order(wanted.views, {*declared, *(one.name for one in wanted.sources)})
    )
    yield from (("transform", one) for one in wanted.transforms)
    yield from (("service", one) for one in wanted.services)


def _views_in_order(views: Sequence[ViewSpec], sources: Set[str]) -> list[ViewSpec]:
    """Views after those that they read; raises InvalidInput for a circle. A name that a source has means the source."""
    waiting, done = list(views), list[ViewSpec]()
    while waiting:
        names = {view.name for view in waiting} - sources
        ready = [view for view in waiting if not any(name in names and name != view.name for name in view.sources)]
        if not ready:
            circle = " and ".join(sorted(view.name for view in waiting))
            raise InvalidInput(
                f"{circle} read one another.", hint="Let one of them read sources only.", field="sources"
            )
        done += ready
        waiting = [view for view in waiting if view not in ready]
    return done


def _check_names(specs: Sequence[tuple[str, Spec]]) -> None:
    if len(specs) > MAX_DEFINITIONS:
        raise InvalidInput(
            f"{len(specs):,} definitions are too many at once.",
            hint=f"Send {MAX_DEFINITIONS:,} at most.",
            field="views",
        )
    seen: set[tuple[str, str]] = set()
    for kind, spec in specs:
        if (kind, spec.name) in seen:
            raise InvalidInput(f"The {kind} {spec.name!r} is defined twice.", hint="Keep one.", field=f"{kind}s")
        seen.add((kind, spec.name))


def _kept(tx: Tx, kind: str, name: str) -> dict[str, Any] | None:
    """What is kept of a definition, of its latest version where there are some, without who made it and when."""
    newest = " ORDER BY version DESC LIMIT 1" if kind in _VERSIONED else ""
    row = tx.one(f"SELECT * FROM {_TABLES[kind]} WHERE name = ?{newest}", (name,))
    if row is None:
        return None
    return {key: row[key] for key in row.keys() if key not in ("created_by", "created_us")}  # noqa: SIM118 — sqlite3.Row


# -- differences ---------------------------------------------------------------------------------------------------------------

_LISTS = ("join_keys", "features", "columns", "inputs", "outputs")


def _differences(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    """What is another, in words; code by its lines."""
    old, new = (_fields(row) for row in (before, after))
    for name in new:
        a, b = old.get(name), new[name]
        if a == b:
            continue
        if name in ("sql", "code"):
            yield from _lines(name, str(a), str(b))
        elif name in _LISTS and not (a and isinstance(a[0], str)):
            yield from _columns(name, a or [], b or [])
        else:
            yield f"{name}: {_text(a)} -> {_text(b)}"


def _fields(row: dict[str, Any]) -> dict[str, Any]:
    found = {name: value for name, value in row.items() if name not in ("name", "version", "digest", "spec")}
    if "spec" in row:
        found |= msgspec.json.decode(row["spec"])
    return {
        name: msgspec.json.decode(value) if name in ("columns", "features") and isinstance(value, str) else value
        for name, value in found.items()
    }


def _lines(name: str, before: str, after: str) -> Iterator[str]:
    yield f"{name}:"
    for line in difflib.unified_diff(before.strip().splitlines(), after.strip().splitlines(), lineterm="", n=1):
        if not line.startswith(("---", "+++", "@@")):
            yield f"  {line}"


def _columns(name: str, before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]]) -> Iterator[str]:
    old, new = ({one["name"]: one for one in some} for some in (before, after))
    noun = name.removesuffix("s").replace("_", " ")
    for key in old.keys() - new.keys():
        yield f"{noun} {key} goes"
    for key, one in new.items():
        if key not in old:
            yield f"{noun} {key} {one.get('dtype', '')} comes"
        elif one != old[key]:
            for field in one:
                if one[field] != old[key].get(field):
                    yield f"{noun} {key}: {field} {_text(old[key].get(field))} -> {_text(one[field])}"
    if list(old) != list(new) and set(old) == set(new):
        yield f"{name}: another order"


def _text(value: Any) -> str:
    return value if isinstance(value, str) and value else msgspec.json.encode(value).decode()

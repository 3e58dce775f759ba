"""The definitions of the feature store: what is called what, and which version of it is meant.

A changed definition of a view (keys, types, SQL, sources, TTL) is a new version, and the old one keeps serving the models that
name it; a changed text is not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import get_args

import msgspec

from mlbox.clock import from_us
from mlbox.errors import AlreadyExists, Conflict, InvalidInput, NotFound, suggest
from mlbox.records import Column, DType, Entity, FeatureService, FeatureView, Record, Source, ViewSpec, check_name
from mlbox.store.db import Database, Row, Tx
from mlbox.store.features.folders import Folders

RESERVED = ("event_time", "arrival_time")
MAX_TTL_SECONDS = 100 * 366 * 86_400
ALL = -1
"""As a limit: no limit."""
_PAGE = "SELECT * FROM {0} WHERE (name, version) > (?, ?) AND visible('{0}', name) ORDER BY name, version LIMIT ?"


class Catalog:
    """Sources, views and services by name."""

    def __init__(self, db: Database, *, max_sql: int, folders: Folders | None = None) -> None:
        self._db = db
        self.folders = folders or Folders()
        self._max_sql = max_sql
        self._defined = 0
        """Counts changes of what names mean, once each is on disk; in the middle of an apply it may be ahead."""

    # -- sources ----------------------------------------------------------------------------------------------------

    def add_source(
        self,
        name: str,
        columns: Sequence[Column],
        event_time: str,
        arrival_time: str | None,
        *,
        folder: str = "",
        actor: str,
    ) -> Source:
        """Declare an append-only table; the same declaration again changes nothing, another folder is noted."""
        check_name(name)
        if folder:
            self.folders.check(folder)
        _check_columns(columns, "columns")
        times = {column.name for column in columns if column.dtype == "TIMESTAMP"}
        for field, given in (("event_time", event_time), ("arrival_time", arrival_time)):
            if given is not None and given not in times:
                raise InvalidInput(
                    f"{given!r} is no TIMESTAMP column of {name}.", hint="Name one of its columns.", field=field
                )
        text = msgspec.json.encode(columns).decode()

        def write(tx: Tx) -> None:
            row = tx.one("SELECT * FROM source WHERE name = ?", (name,))
            if row is not None:
                if (row["columns"], row["event_time"], row["arrival_time"]) != (text, event_time, arrival_time):
                    raise AlreadyExists(
                        f"The source {name!r} exists with other columns.",
                        hint="Give the new one a new name.",
                        field="name",
                    )
                if row["folder"] != folder:
                    tx.run("UPDATE source SET folder = ? WHERE name = ?", (folder, name))
                    tx.emit("source.described", f"source:{name}", actor, folder=folder)
                return
            _check_capitals(tx, "source", name)
            tx.run("INSERT INTO source VALUES (?,?,?,?,?,?)", (name, text, event_time, arrival_time, tx.now_us, folder))
            tx.emit("source.created", f"source:{name}", actor)

        self._db.write(write)
        return self.declared(name)

    def declarations(self, *, limit: int = ALL, after: str | None = None) -> list[Source]:
        """Sources by name as they were declared, without their number of rows, from the one after `after`."""
        rows = self._db.all(
            "SELECT * FROM source WHERE name > ? AND visible('source', name) ORDER BY name LIMIT ?",
            (after or "", limit),
        )
        return [_source(row) for row in rows]

    def declared(self, name: str) -> Source:
        """One source as it was declared, without its number of rows; raises NotFound."""
        row = self._db.one("SELECT * FROM source WHERE name = ? AND visible('source', name)", (name,))
        if row is None:
            raise self._missing("source", name, "SELECT name FROM source WHERE visible('source', name)")
        return _source(row)

    def note_append(self, name: str, rows: int, *, actor: str) -> None:
        """Write into the audit log that rows were added."""
        self._db.write(lambda tx: tx.emit("source.appended", f"source:{name}", actor, rows=rows))

    def note_refused(self, name: str, path: str, reason: str) -> None:
        """Write into the audit log that a file of a watched folder was not taken."""
        self._db.write(
            lambda tx: tx.emit("source.file_refused", f"source:{name}", "mlbox", path=path, reason=reason[:500])
        )

    def note_materialized(self, view: str | None, rows: Mapping[str, int], *, actor: str) -> None:
        """Write into the audit log that the online store was brought up to date, with the rows of each view."""
        given = {"rows": sum(rows.values()), "views": {ref: count for ref, count in rows.items() if count}}
        self._db.write(lambda tx: tx.emit("view.materialized", f"view:{view or '*'}", actor, **given))

    # -- entities ---------------------------------------------------------------------------------------------------

    def apply_entity(self, entity: Entity, *, actor: str) -> Entity:
        """Name join keys; they cannot change while a view names the entity."""
        check_name(entity.name)
        _check_columns(entity.join_keys, "join_keys")
        text = entity.to_json().decode()

        def write(tx: Tx) -> None:
            row = tx.one("SELECT spec FROM entity WHERE name = ?", (entity.name,))
            if row is not None and row["spec"] == text:
                return
            users = [view.ref for view in self.views() if view.entity == entity.name]
            if row is not None and users and _kinds(_entity(row).join_keys) != _kinds(entity.join_keys):
                raise Conflict(
                    f"The join keys of {entity.name} cannot change: {users[-1]} names it.",
                    hint="Define another entity.",
                    field="join_keys",
                )
            tx.run(
                "INSERT INTO entity VALUES (?,?,?,?) ON CONFLICT (name) DO UPDATE SET spec = excluded.spec",
                (entity.name, text, actor, tx.now_us),
            )
            tx.emit("entity.applied", f"view:{entity.name}", actor)

        self._db.write(write)
        return entity

    def entities(self) -> list[Entity]:
        """All entities by name."""
        rows = self._db.all("SELECT spec FROM entity WHERE visible('view', name) ORDER BY name")
        return [_entity(row) for row in rows]

    def entity(self, name: str) -> Entity:
        """One entity; raises NotFound."""
        row = self._db.one("SELECT spec FROM entity WHERE name = ? AND visible('view', name)", (name,))
        if row is None:
            raise self._missing("entity", name, "SELECT name FROM entity WHERE visible('view', name)")
        return _entity(row)

    def _check_entity(self, spec: ViewSpec) -> None:
        if not spec.entity:
            return
        keys = self.entity(spec.entity).join_keys
        if _kinds(keys) != _kinds(spec.join_keys):
            raise InvalidInput(
                f"The join keys of {spec.entity} are {', '.join(f'{k.name} {k.dtype}' for k in keys)}.",
                hint="Give the view the same, or another entity.",
                field="join_keys",
            )

    # -- views ------------------------------------------------------------------------------------------------------

    def check_view(self, spec: ViewSpec) -> None:
        """A view's names, types and sources make sense; raises InvalidInput with the field."""
        check_name(spec.name)
        _check_columns(spec.join_keys, "join_keys")
        _check_columns(spec.features, "features")
        both = [column.name.lower() for column in (*spec.join_keys, *spec.features)]
        twice = sorted({name for name in both if both.count(name) > 1 or name in RESERVED})
        if twice:
            raise InvalidInput(f"The name {twice[0]!r} is taken.", hint="Give each column its own.", field="features")
        if spec.ttl_seconds is not None and not 0 < spec.ttl_seconds <= MAX_TTL_SECONDS:
            raise InvalidInput(
                f"A TTL of {spec.ttl_seconds} s is not between 1 s and 100 years.",
                hint="Leave it out for any age.",
                field="ttl_seconds",
            )
        if len(spec.sql.encode()) > self._max_sql:
            raise InvalidInput(
                f"The SQL is longer than {self._max_sql:,} bytes.",
                hint="Split the view, or raise the setting max_sql.",
                field="sql",
            )
        if (spec.function is None) == (not spec.sql):
            raise InvalidInput(
                "The view has neither SQL nor a function."
                if spec.function is None
                else "The view has SQL and a function.",
                hint="Give one of them.",
                field="sql",
            )
        self._check_entity(spec)
        for name in spec.sources:
            self.view(name) if "@" in name else self.declared(name)
        called = [split_ref(name)[0].lower() for name in spec.sources]
        again = next((name for name in called if called.count(name) > 1), None)
        if again is not None:
            raise InvalidInput(f"Two of the sources are called {again!r}.", hint="Read one of them.", field="sources")
        read = [("view", split_ref(name)[0]) if "@" in name else ("source", name) for name in spec.sources]
        self._db.privacy.shelter("view", spec.name, read)

    def pinned(self, spec: ViewSpec) -> ViewSpec:
        """The same view with a version for each view that it reads: its rows do not change when that one does."""
        declared = {source.name for source in self.declarations()}
        sources = tuple(
            name if name in declared or "@" in name or not self.has_view(name) else self.view(name).ref
            for name in spec.sources
        )
        return msgspec.structs.replace(spec, sources=sources)

    def has_view(self, name: str) -> bool:
        """Whether there is a view of this name that may be seen."""
        return self._db.one("SELECT 1 FROM view WHERE name = ? AND visible('view', name)", (name,)) is not None

    def save_view(self, spec: ViewSpec, *, actor: str) -> FeatureView:
        """Keep a checked view: the same definition is the same version."""
        digest = digest_of(spec)
        text = spec.to_json().decode()

        def write(tx: Tx) -> int:
            last = tx.one("SELECT * FROM view WHERE name = ? ORDER BY version DESC LIMIT 1", (spec.name,))
            if last is not None and last["digest"] == digest:
                same: int = last["version"]
                if last["spec"] != text:
                    tx.run("UPDATE view SET spec = ? WHERE name = ? AND version = ?", (text, spec.name, same))
                    tx.emit("view.described", f"view:{spec.name}@v{same}", actor)
                return same
            version = (last["version"] if last else 0) + 1
            _check_capitals(tx, "view", spec.name)
            tx.run("INSERT INTO view VALUES (?,?,?,?,?,?)", (spec.name, version, digest, text, actor, tx.now_us))
            tx.emit("view.applied", f"view:{spec.name}@v{version}", actor)
            return version

        version = self._db.write(write)
        self._defined += 1
        return self.view(f"{spec.name}@v{version}")

    def views(self, *, limit: int = ALL, after: str | None = None) -> list[FeatureView]:
        """All versions of all views by name and version, from the one after the reference `after`."""
        return [_view(row) for row in self._db.all(_PAGE.format("view"), (*_position(after), limit))]

    def view(self, ref: str) -> FeatureView:
        """`name@vN`, or the latest version of `name`; raises NotFound."""
        name, version = split_ref(ref)
        row = self._db.one(
            "SELECT * FROM view WHERE name = :name AND visible('view', name) AND (:version IS NULL OR version = :version)"
            " ORDER BY version DESC LIMIT 1",
            {"name": name, "version": version},
        )
        if row is None:
            raise self._missing("view", ref, "SELECT DISTINCT name FROM view WHERE visible('view', name)")
        return _view(row)

    # -- services and references ------------------------------------------------------------------------------------

    def apply_service(self, name: str, features: Sequence[str], *, actor: str) -> FeatureService:
        """Bundle features under a name; the same bundle is the same version."""
        check_name(name)
        full = self.resolve(features)
        self._db.privacy.shelter("service", name, [("view", split_ref(ref.partition(":")[0])[0]) for ref in full])
        text = msgspec.json.encode(full).decode()

        def write(tx: Tx) -> int:
            last = tx.one("SELECT * FROM service WHERE name = ? ORDER BY version DESC LIMIT 1", (name,))
            if last is not None and last["features"] == text:
                same: int = last["version"]
                return same
            version = (last["version"] if last else 0) + 1
            tx.run("INSERT INTO service VALUES (?,?,?,?,?)", (name, version, text, actor, tx.now_us))
            tx.emit("service.applied", f"service:{name}@v{version}", actor, features=full)
            return version

        version = self._db.write(write)
        self._defined += 1
        return self.service(f"{name}@v{version}")

    def services(self, *, limit: int = ALL, after: str | None = None) -> list[FeatureService]:
        """All versions of all services by name and version, from the one after the reference `after`."""
        return [_service(row) for row in self._db.all(_PAGE.format("service"), (*_position(after), limit))]

    def service(self, ref: str) -> FeatureService:
        """`name@vN`, or the latest version of `name`; raises NotFound."""
        name, version = split_ref(ref)
        row = self._db.one(
            "SELECT * FROM service WHERE name = :name AND visible('service', name)"
            " AND (:version IS NULL OR version = :version)"
            " ORDER BY version DESC LIMIT 1",
            {"name": name, "version": version},
        )
        if row is None:
            raise self._missing(
                "feature service", ref, "SELECT DISTINCT name FROM service WHERE visible('service', name)"
            )
        return _service(row)

    def resolve(self, refs: Sequence[str]) -> tuple[str, ...]:
        """Full references `view@vN:feature`, each once; one without a colon is a service and stands for its features."""
        if not refs:
            raise InvalidInput("No feature is named.", hint="Name view:feature, or a service.", field="features")
        full: list[str] = []
        own: list[str] = []
        for ref in refs:
            if ":" not in ref:
                full.extend(self.service(ref).features)
                continue
            view_ref, _, feature = ref.partition(":")
            view = self.view(view_ref)
            names = [column.name for column in view.features]
            if feature not in names:
                raise InvalidInput(
                    f"The view {view.ref} has no feature {feature!r}.", hint=suggest(feature, names), field="features"
                )
            own.append(f"{view.ref}:{feature}")
            full.append(own[-1])
        check_once(own)
        return tuple(dict.fromkeys(full))

    def _missing(self, noun: str, name: str, names_sql: str) -> NotFound:
        names = [row["name"] for row in self._db.all(names_sql)]
        bare, version = split_ref(name)
        hint = suggest(bare, names)
        if version is not None and bare in names:
            hint = f"There is {bare}, and no version {version} of it."
        return NotFound(f"There is no {noun} {name[:200]!r}.", hint=hint, field=noun)


def check_once(features: Sequence[str]) -> None:
    """Raise InvalidInput for a feature that is named twice; that a service has it as well is no matter."""
    twice = next((ref for ref in features if features.count(ref) > 1), None)
    if twice is not None:
        raise InvalidInput(f"{twice} is named twice.", hint="Name each feature once.", field="features")


def _position(ref: str | None) -> tuple[str, int]:
    """Where a page after a reference begins."""
    name, version = split_ref(ref) if ref else ("", None)
    return name, version or 0


def split_ref(ref: str) -> tuple[str, int | None]:
    """`name@vN` as name and number; `name` alone has no number."""
    name, at, version = ref.partition("@v")
    if at and not (version.isascii() and version.isdigit() and len(version) < 10):
        raise InvalidInput(f"{ref[:200]!r} is no reference.", hint="Write NAME or NAME@vN.", field="ref")
    return name, int(version) if at else None


def _check_capitals(tx: Tx, table: str, name: str) -> None:
    """DuckDB takes names that differ in capitals only for the same: two such sources would share their rows."""
    row = tx.one(f"SELECT name FROM {table} WHERE name = ? COLLATE NOCASE AND name <> ?", (name, name))
    if row is not None:
        raise AlreadyExists(
            f"The {table} {row['name']!r} differs from {name!r} in capitals only.", hint="Use its name.", field="name"
        )


def _check_columns(columns: Sequence[Column], field: str) -> None:
    if not columns:
        raise InvalidInput(f"{field} is empty.", hint="Name at least one column.", field=field)
    for column in columns:
        check_name(column.name, field=field)
        if column.dtype not in get_args(DType):
            raise InvalidInput(
                f"{column.dtype!r} is no type.", hint=f"One of {', '.join(get_args(DType))}.", field=field
            )
    names = [column.name.lower() for column in columns]
    if len(set(names)) < len(names):
        raise InvalidInput(
            f"{field} names a column twice.", hint="Name each once; capitals make no difference.", field=field
        )


class _Defining(Record, frozen=True, kw_only=True):
    """What makes a version, as it has always been hashed: everything but the words for people, and when it is computed."""

    name: str
    join_keys: tuple[Column, ...]
    features: tuple[Column, ...]
    sql: str
    sources: tuple[str, ...]
    ttl_seconds: int | None
    owner: str = ""
    description: str = ""
    tags: dict[str, str] = {}


def digest_of(spec: ViewSpec) -> str:
    """The digest that two specifications share when they are one version."""
    bare = _Defining(
        name=spec.name,
        join_keys=tuple(Column(name=c.name, dtype=c.dtype) for c in spec.join_keys),
        features=tuple(Column(name=c.name, dtype=c.dtype) for c in spec.features),
        sql=spec.sql,
        sources=spec.sources,
        ttl_seconds=spec.ttl_seconds,
    )
    function = spec.function
    of_function = [function.name, function.file, function.code, function.window_seconds] if function else []
    return hashlib.sha256(bare.to_json() + (msgspec.json.encode(of_function) if function else b"")).hexdigest()


def _kinds(columns: Sequence[Column]) -> list[tuple[str, str]]:
    return [(column.name, column.dtype) for column in columns]


def _entity(row: Row) -> Entity:
    return msgspec.json.decode(row["spec"], type=Entity)


def _source(row: Row) -> Source:
    return Source(
        name=row["name"],
        columns=msgspec.json.decode(row["columns"], type=tuple[Column, ...]),
        event_time=row["event_time"],
        arrival_time=row["arrival_time"],
        folder=row["folder"],
        created_at=from_us(row["created_us"]),
    )


def _view(row: Row) -> FeatureView:
    spec = msgspec.json.decode(row["spec"], type=ViewSpec)
    return FeatureView(
        **msgspec.structs.asdict(spec),
        version=row["version"],
        digest=row["digest"],
        created_by=row["created_by"],
        created_at=from_us(row["created_us"]),
    )


def _service(row: Row) -> FeatureService:
    return FeatureService(
        name=row["name"],
        version=row["version"],
        features=tuple(msgspec.json.decode(row["features"])),
        created_by=row["created_by"],
        created_at=from_us(row["created_us"]),
    )

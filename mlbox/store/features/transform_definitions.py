"""On-demand transforms as they are defined: kept as views are, compiled before they are kept, and found by reference.

A reference `name@vN:output` may stand wherever a view's feature may. How transforms are applied is in `ondemand`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import msgspec

from mlbox.clock import from_us
from mlbox.errors import AlreadyExists, InvalidInput, suggest
from mlbox.records import Column, DType, Transform, TransformInput, TransformSpec, ViewSpec, check_name
from mlbox.store.db import Row, Tx
from mlbox.store.features.catalog import ALL, check_once
from mlbox.store.features.quality import Screened
from mlbox.store.features.transforms import compile_transform

MAX_COLUMNS = 256
MOST_KEPT = 1000
_NAMES = "SELECT DISTINCT name FROM transform WHERE visible('view', name)"


class TransformDefinitions(Screened):
    """The feature store, which knows transforms by their names."""

    _resolved: dict[tuple[str, ...], tuple[int, tuple[str, ...]]]
    """Full references, with the state of the definitions that they were found in."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._resolved = {}

    def apply_transform(self, spec: TransformSpec, *, actor: str) -> Transform:
        """Keep a transform, after it was compiled; the same function of the same inputs is the same version."""
        spec = self.checked_transform(spec)
        program = compile_transform(spec.code, columns_of(spec), spec.outputs)
        features = [entry.feature for entry in spec.inputs]
        digest = hashlib.sha256(msgspec.json.encode([program.digest, features])).hexdigest()
        text = spec.to_json().decode()

        def write(tx: Tx) -> int:
            _check_free(tx, "view", spec.name)
            last = tx.one("SELECT * FROM transform WHERE name = ? ORDER BY version DESC LIMIT 1", (spec.name,))
            if last is not None and last["digest"] == digest:
                same: int = last["version"]
                if last["spec"] != text:
                    set_text = "UPDATE transform SET spec = ? WHERE name = ? AND version = ?"
                    tx.run(set_text, (text, spec.name, same))
                    tx.emit("view.described", f"view:{spec.name}@v{same}", actor)
                return same
            version = (last["version"] if last else 0) + 1
            tx.run("INSERT INTO transform VALUES (?,?,?,?,?,?)", (spec.name, version, digest, text, actor, tx.now_us))
            tx.emit("view.applied", f"view:{spec.name}@v{version}", actor, transform=True)
            return version

        version = self._db.write(write)
        self._defined += 1
        return self.transform(f"{spec.name}@v{version}")

    def checked_transform(self, spec: TransformSpec) -> TransformSpec:
        """The same with full references and the types of its inputs; raises InvalidInput naming the field."""
        check_name(spec.name)
        _check_names([entry.name for entry in spec.inputs], "inputs")
        _check_names([column.name for column in spec.outputs], "outputs")
        if not spec.outputs:
            raise InvalidInput("The transform has no outputs.", hint="Declare name and type of each.", field="outputs")
        for column in spec.outputs:
            _check_type(column.dtype, "outputs")
        spec = msgspec.structs.replace(spec, inputs=tuple(self._checked_input(entry) for entry in spec.inputs))
        views = {entry.feature.partition("@")[0] for entry in spec.inputs if entry.feature}
        self._db.privacy.shelter("view", spec.name, [("view", view) for view in sorted(views)])
        return spec

    def _checked_input(self, entry: TransformInput) -> TransformInput:
        if entry.feature is None:
            if entry.dtype is None:
                raise InvalidInput(
                    f"The input {entry.name!r} has neither a feature nor a type.",
                    hint="Give feature = VIEW:FEATURE, or dtype for a value that comes with the request.",
                    field="inputs",
                )
            _check_type(entry.dtype, "inputs")
            return entry
        (full,) = super().resolve([entry.feature]) if ":" in entry.feature else ("",)
        if not full:
            raise InvalidInput(f"{entry.feature!r} is no feature.", hint="Write VIEW:FEATURE.", field="inputs")
        view, _, feature = full.partition(":")
        dtype = next(column.dtype for column in self.view(view).features if column.name == feature)
        if entry.dtype not in (None, dtype):
            raise InvalidInput(f"{full} is {dtype}, not {entry.dtype}.", hint="Leave the type out.", field="inputs")
        return TransformInput(name=entry.name, dtype=dtype, feature=full)

    def transforms(self, *, limit: int = ALL, after: str | None = None) -> list[Transform]:
        """All versions of all transforms by name and version, from the one after the reference `after`."""
        name, _, version = (after or "").partition("@v")
        rows = self._db.all(
            "SELECT * FROM transform WHERE (name, version) > (?, ?) AND visible('view', name)"
            " ORDER BY name, version LIMIT ?",
            (name, int(version) if version.isdecimal() else 0, limit),
        )
        return [_transform(row) for row in rows]

    def transform(self, ref: str) -> Transform:
        """`name@vN`, or the latest version of `name`; raises NotFound."""
        found = self._find(ref)
        if found is None:
            raise self._missing("transform", ref, _NAMES)
        return found

    def is_transform(self, ref: str) -> bool:
        """True when a reference, with or without a version, is of a transform that may be seen."""
        return self._find(ref) is not None

    def _find(self, ref: str) -> Transform | None:
        name, at, version = ref.partition("@v")
        if at and not (version.isascii() and version.isdigit() and len(version) < 10):
            return None
        row = self._db.one(
            "SELECT * FROM transform WHERE name = :name AND visible('view', name)"
            " AND (:version IS NULL OR version = :version) ORDER BY version DESC LIMIT 1",
            {"name": name, "version": int(version) if at else None},
        )
        return _transform(row) if row is not None else None

    def check_view(self, spec: ViewSpec) -> None:
        """As `Catalog.check_view`; a view may not have a transform's name."""
        if self._db.one("SELECT 1 FROM transform WHERE name = ? COLLATE NOCASE", (spec.name,)) is not None:
            raise AlreadyExists(f"{spec.name!r} is a transform.", hint="Choose another name.", field="name")
        super().check_view(spec)

    def resolve(self, refs: Sequence[str]) -> tuple[str, ...]:
        """Full references, those of transforms among them; a reference without a colon is a service.

        Kept until something is defined: looking names up takes ten times as long as reading the values.
        """
        key, defined = tuple(refs), self._defined
        kept = self._resolved.get(key)
        if kept is None or kept[0] != defined or self._db.is_joined or not self._may_name(key):
            kept = (defined, self._resolve(key))
            if not self._db.is_joined:
                if len(self._resolved) >= MOST_KEPT:
                    self._resolved.clear()
                self._resolved[key] = kept
        return kept[1]

    def _may_name(self, refs: Sequence[str]) -> bool:
        visible = self._db.privacy.visible
        named = {ref.partition(":")[0]: "view" if ":" in ref else "service" for ref in refs}
        return all(visible(kind, name.partition("@")[0]) for name, kind in named.items())

    def _resolve(self, refs: Sequence[str]) -> tuple[str, ...]:
        names = {ref.partition(":")[0] for ref in refs if ":" in ref}
        known = {name: one for name in names if (one := self._find(name)) is not None}
        full = [_output_of(ref, known) for ref in refs]
        if all(given is None for given in full):
            return super().resolve(refs)
        found: list[str] = []
        own: list[str] = []
        for ref, of_transform in zip(refs, full, strict=True):
            these = (of_transform,) if of_transform else self._resolve([ref])
            found.extend(these)
            own.extend(these if ":" in ref else ())
        check_once(own)
        return tuple(dict.fromkeys(found))


def _output_of(ref: str, known: Mapping[str, Transform]) -> str | None:
    """The full reference of a transform's output; None for what is no transform's."""
    name, _, output = ref.partition(":")
    found = known.get(name)
    if found is None:
        return None
    names = [column.name for column in found.outputs]
    if output not in names:
        raise InvalidInput(
            f"The transform {found.ref} has no output {output!r}.", hint=suggest(output, names), field="features"
        )
    return f"{found.ref}:{output}"


def columns_of(spec: TransformSpec | Transform) -> tuple[Column, ...]:
    """The inputs as columns; a checked definition has every type."""
    return tuple(Column(name=entry.name, dtype=entry.dtype) for entry in spec.inputs if entry.dtype is not None)


def _check_names(names: Sequence[str], field: str) -> None:
    for name in names:
        if not name.isidentifier() or not name.isascii() or len(name) > 100:
            raise InvalidInput(f"{name[:80]!r} is no name in Python.", hint="Use letters, digits and _.", field=field)
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InvalidInput(f"{twice!r} is there twice.", hint="Name each once.", field=field)
    if len(names) > MAX_COLUMNS:
        raise InvalidInput(f"There are more than {MAX_COLUMNS}.", hint="Split the transform.", field=field)


def _check_type(dtype: str, field: str) -> None:
    if dtype not in get_args(DType):
        raise InvalidInput(f"{dtype[:40]!r} is no type.", hint=f"One of {', '.join(get_args(DType))}.", field=field)


def _check_free(tx: Tx, table: str, name: str) -> None:
    if tx.one(f"SELECT 1 FROM {table} WHERE name = ? COLLATE NOCASE", (name,)) is not None:
        raise AlreadyExists(f"{name!r} is a view.", hint="Choose another name.", field="name")


def _transform(row: Row) -> Transform:
    spec = msgspec.json.decode(row["spec"], type=TransformSpec)
    facts = {name: getattr(spec, name) for name in spec.__struct_fields__}
    return Transform(
        **facts,
        version=row["version"],
        digest=row["digest"],
        created_by=row["created_by"],
        created_at=from_us(row["created_us"]),
    )

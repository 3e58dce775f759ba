"""Features defined in Python, for `mlbox feature plan` and `mlbox feature apply`.

    from mlbox.define import Entity, FeatureService, FeatureView, Source, on_demand

    customer = Entity("customer", keys={"who": str})
    sales = Source("sales", columns={"who": str, "amount": float, "bought": datetime}, event_time="bought")
    spend = FeatureView(
        "spend",
        entity=customer,
        features={"total": float},
        sources=[sales],
        sql="SELECT who, bought AS event_time, sum(amount) OVER (...) AS total FROM sales",
        ttl=timedelta(days=7),
        schedule="upstream",
    )

    @on_demand(inputs={"total": "spend:total", "limit": float}, outputs={"share": float})
    def share(total, limit):
        return total / limit

    churn = FeatureService("churn", [spend["total"], share["share"]])

The file runs on your own machine, and what its names hold is sent. Nothing of the server is loaded.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from mlbox import records
from mlbox.errors import InvalidInput
from mlbox.records import Column, TransformInput
from mlbox.sdk.snapshot import pack, survey

Type = type | str
Columns = Mapping[str, Type] | Sequence[Column]
_TYPES: dict[type, str] = {bool: "BOOL", int: "INT64", float: "FP64", str: "STRING", datetime: "TIMESTAMP"}


def dtype(kind: Type) -> Any:
    """A Python type, or the name of a type, as a dtype; raises InvalidInput."""
    found = _TYPES.get(kind) if isinstance(kind, type) else str(kind).upper()
    if found not in _TYPES.values():
        raise InvalidInput(f"{kind!r} is no type.", hint="One of bool, int, float, str, datetime.", field="columns")
    return found


def columns(given: Columns) -> tuple[Column, ...]:
    """Columns as `{name: type}`, or as they are."""
    if isinstance(given, Mapping):
        return tuple(Column(name=name, dtype=dtype(kind)) for name, kind in given.items())
    return tuple(given)


def seconds(given: timedelta | int | None) -> int | None:
    """A length of time in seconds."""
    return round(given.total_seconds()) if isinstance(given, timedelta) else given


def feature(name: str, kind: Type, *, unit: str = "", description: str = "") -> Column:
    """A feature with its unit and description."""
    return Column(name=name, dtype=dtype(kind), unit=unit, description=description)


@dataclass(frozen=True)
class Entity:
    """What features are about: a name for join keys."""

    name: str
    keys: Columns
    owner: str = field(default="", kw_only=True)
    description: str = field(default="", kw_only=True)
    tags: Mapping[str, str] = field(default_factory=dict, kw_only=True)

    def spec(self) -> records.Entity:
        """As the box takes it."""
        return records.Entity(
            name=self.name,
            join_keys=columns(self.keys),
            owner=self.owner,
            description=self.description,
            tags=dict(self.tags),
        )


@dataclass(frozen=True)
class Source:
    """An append-only table of what happened."""

    name: str
    columns: Columns = field(kw_only=True)
    event_time: str = field(kw_only=True)
    arrival_time: str | None = field(default=None, kw_only=True)
    folder: str = field(default="", kw_only=True)

    def spec(self) -> records.SourceSpec:
        """As the box takes it."""
        return records.SourceSpec(
            name=self.name,
            columns=columns(self.columns),
            event_time=self.event_time,
            arrival_time=self.arrival_time,
            folder=self.folder,
        )


@dataclass(frozen=True)
class FeatureView:
    """Features of an entity, computed by SQL over sources and other views."""

    name: str
    features: Columns = field(kw_only=True)
    sql: str = field(kw_only=True)
    sources: Sequence[Source | FeatureView | View | str] = field(kw_only=True)
    entity: Entity | str | None = field(default=None, kw_only=True)
    keys: Columns = field(default=(), kw_only=True)
    """Join keys, where there is no entity."""
    ttl: timedelta | int | None = field(default=None, kw_only=True)
    schedule: str = field(default="", kw_only=True)
    stale_after: timedelta | int | None = field(default=None, kw_only=True)
    owner: str = field(default="", kw_only=True)
    description: str = field(default="", kw_only=True)
    tags: Mapping[str, str] = field(default_factory=dict, kw_only=True)

    def __getitem__(self, name: str) -> str:
        """One of its features, as a service or a transform refers to it."""
        return _one_of(self.name, name, columns(self.features))

    def spec(self) -> records.ViewSpec:
        """As the box takes it."""
        keys = columns(self.keys) or (columns(self.entity.keys) if isinstance(self.entity, Entity) else ())
        return records.ViewSpec(
            name=self.name,
            join_keys=keys,
            features=columns(self.features),
            sql=textwrap.dedent(self.sql).strip(),
            sources=tuple(one if isinstance(one, str) else one.name for one in self.sources),
            ttl_seconds=seconds(self.ttl),
            entity=self.entity.name if isinstance(self.entity, Entity) else self.entity or "",
            schedule=self.schedule,
            stale_after_seconds=seconds(self.stale_after),
            owner=self.owner,
            description=self.description,
            tags=dict(self.tags),
        )


@dataclass(frozen=True)
class OnDemand:
    """A function of features and of what comes with a request; still a function, to be called and tested."""

    function: Callable[..., Any]
    inputs: Mapping[str, Type]
    outputs: Columns
    name: str
    owner: str = ""
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, *values: Any, **named: Any) -> Any:
        """As the function itself."""
        return self.function(*values, **named)

    def __getitem__(self, name: str) -> str:
        """One of its outputs, as a service refers to it."""
        return _one_of(self.name, name, columns(self.outputs))

    def spec(self) -> records.TransformSpec:
        """As the box takes it: with the function's code, without its decorators."""
        lines = textwrap.dedent(inspect.getsource(self.function)).splitlines()
        start = next(number for number, line in enumerate(lines) if line.startswith("def "))
        return records.TransformSpec(
            name=self.name,
            inputs=tuple(_input(name, kind) for name, kind in self.inputs.items()),
            outputs=columns(self.outputs),
            code="\n".join(lines[start:]),
            owner=self.owner,
            description=self.description or (inspect.getdoc(self.function) or "").partition("\n")[0],
            tags=dict(self.tags),
        )


def on_demand(
    *,
    inputs: Mapping[str, Type],
    outputs: Columns,
    name: str | None = None,
    owner: str = "",
    description: str = "",
    tags: Mapping[str, str] | None = None,
) -> Callable[[Callable[..., Any]], OnDemand]:
    """Make a function a transform: `inputs` is `view:feature`, or a type for what comes with the request, by argument."""

    def decorate(function: Callable[..., Any]) -> OnDemand:
        return OnDemand(function, inputs, outputs, name or function.__name__, owner, description, tags or {})

    return decorate


@dataclass(frozen=True)
class View:
    """A view in free Python, which runs as a job; still a function, to be called and tested."""

    function: Callable[..., Any]
    name: str
    features: Columns
    sources: Sequence[Source | FeatureView | View | str]
    entity: Entity | str | None = None
    keys: Columns = ()
    ttl: timedelta | int | None = None
    window: timedelta | int | None = None
    schedule: str = ""
    stale_after: timedelta | int | None = None
    team: str = "everyone"
    gpus: float = 0
    cpus: float = 1
    memory_gb: float = 4
    timeout: timedelta | int | None = None
    owner: str = ""
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, *values: Any, **named: Any) -> Any:
        """As the function itself."""
        return self.function(*values, **named)

    def __getitem__(self, name: str) -> str:
        """One of its features, as a service or a transform refers to it."""
        return _one_of(self.name, name, columns(self.features))

    def spec(self) -> records.ViewSpec:
        """As the box takes it: with the code in the folder of its file, which is sent when it is applied."""
        sources = tuple(one if isinstance(one, str) else one.name for one in self.sources)
        self._check_parameters([name.partition("@")[0] for name in sources])
        file = Path(inspect.getsourcefile(self.function) or "").resolve()
        snapshot, code = keep_code(file.parent)
        entity = self.entity
        return records.ViewSpec(
            name=self.name,
            join_keys=columns(self.keys) or (columns(entity.keys) if isinstance(entity, Entity) else ()),
            features=columns(self.features),
            function=records.ViewFunction(
                name=self.function.__name__,
                file=file.name,
                snapshot=snapshot,
                code=code,
                text=text_of(self.function),
                window_seconds=seconds(self.window),
                team=self.team,
                gpus=self.gpus,
                cpus=self.cpus,
                memory_gb=self.memory_gb,
                timeout_seconds=seconds(self.timeout),
            ),
            sources=sources,
            ttl_seconds=seconds(self.ttl),
            entity=entity.name if isinstance(entity, Entity) else entity or "",
            schedule=self.schedule,
            stale_after_seconds=seconds(self.stale_after),
            owner=self.owner,
            description=self.description or (inspect.getdoc(self.function) or "").partition("\n")[0],
            tags=dict(self.tags),
        )

    def _check_parameters(self, sources: Sequence[str]) -> None:
        found = list(inspect.signature(self.function).parameters)
        if sorted(found) != sorted(sources):
            raise InvalidInput(
                f"The function of {self.name} takes {', '.join(found) or 'nothing'}, and its sources are"
                f" {', '.join(sources) or 'none'}.",
                hint="Call each parameter as the source that it takes.",
                field="sources",
            )


def text_of(function: Callable[..., Any]) -> str:
    """A digest of what a function does by itself: of its text without name, decorators, docstring, comments and layout."""
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return hashlib.sha256("\n".join(ast.dump(one) for one in (node.args, *body)).encode()).hexdigest()


def view(
    *,
    features: Columns,
    sources: Sequence[Source | FeatureView | View | str],
    name: str | None = None,
    **more: Any,
) -> Callable[[Callable[..., Any]], View]:
    """Make a function a view that runs as a job: it takes a `pyarrow.Table` for each source, by name, and returns rows.

    The rows (a table, a DataFrame, columns by name or a list of dicts) have the join keys, the features, `event_time` and, where
    a row became known at another time than that of the run, `arrival_time`. `window` says how far back the sources are read; the
    others are as for `FeatureView`, and for jobs.
    """

    def decorate(function: Callable[..., Any]) -> View:
        return View(function, name or function.__name__, features, sources, **more)

    return decorate


CODE: dict[str, bytes] = {}
"""The code of the views in free Python that were looked at, by SHA-256: whoever applies them sends it."""


def keep_code(folder: Path) -> tuple[str, str]:
    """Pack a folder's code; its SHA-256, and a digest of its Python files, which is what makes another version of its views."""
    code = survey(folder)
    with pack(code) as file:
        content = file.read()
    sha256 = hashlib.sha256(content).hexdigest()
    CODE[sha256] = content
    digest = hashlib.sha256()
    for name in sorted(name for name in code.sizes if name.endswith(".py")):
        digest.update(f"{name}\0{hashlib.sha256((folder / name).read_bytes()).hexdigest()}\0".encode())
    return sha256, digest.hexdigest()


@dataclass(frozen=True)
class FeatureService:
    """Features under one name, which models depend on."""

    name: str
    features: Sequence[str]

    def spec(self) -> records.ServiceSpec:
        """As the box takes it."""
        return records.ServiceSpec(name=self.name, features=tuple(self.features))


Definition = Entity | Source | FeatureView | View | OnDemand | FeatureService
_KINDS: dict[str, Any] = {
    "entities": Entity,
    "sources": Source,
    "views": (FeatureView, View),
    "transforms": OnDemand,
    "services": FeatureService,
}


def found_in(values: Iterable[Any]) -> dict[str, list[Any]]:
    """The specifications among values, and in lists and tuples of them, by kind; each once, however many names it has."""
    found: dict[str, list[Any]] = {kind: [] for kind in _KINDS}
    seen: set[int] = set()

    def look(value: Any) -> None:
        if isinstance(value, list | tuple):
            for one in value:
                look(one)
        elif id(value) not in seen:
            seen.add(id(value))
            for kind, cls in _KINDS.items():
                if isinstance(value, cls):
                    found[kind].append(value.spec())

    for value in values:
        look(value)
    return found


def _input(name: str, kind: Type) -> TransformInput:
    if isinstance(kind, str) and ":" in kind:
        return TransformInput(name=name, feature=kind)
    return TransformInput(name=name, dtype=dtype(kind))


def _one_of(owner: str, name: str, known: Sequence[Column]) -> str:
    if name not in [column.name for column in known]:
        raise InvalidInput(
            f"{owner} has no feature {name!r}.", hint=f"It has {', '.join(c.name for c in known)}.", field="features"
        )
    return f"{owner}:{name}"

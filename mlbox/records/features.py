"""Sources, feature views, services and transforms."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from mlbox.records.base import Record

DType = Literal["BOOL", "INT64", "FP64", "STRING", "TIMESTAMP"]


class Column(Record, frozen=True, kw_only=True):
    """A named, typed column; `unit` and `description` are for people."""

    name: str
    dtype: DType
    unit: str = ""
    description: str = ""


FILE_FORMATS = {".parquet": "parquet", ".csv": "csv", ".arrow": "arrow", ".arrows": "arrow", ".feather": "arrow"}
"""What a file of rows holds, by the end of its name."""


class Source(Record, frozen=True, kw_only=True):
    """An append-only table of the offline store with an event time and an arrival time per row."""

    name: str
    columns: tuple[Column, ...]
    event_time: str
    arrival_time: str | None = None
    """Column that says when a row became known; None means at its event time."""
    folder: str = ""
    """Files that it is fed from as they appear, such as `landing/orders/*.parquet`, in a folder that the operator named."""
    rows: int = 0
    created_at: datetime


class ViewFunction(Record, frozen=True, kw_only=True):
    """A function in free Python that yields a view's rows, and the job that it runs in."""

    name: str
    file: str
    """Where it is below the snapshot's root."""
    snapshot: str
    """SHA-256 of the uploaded tar.gz of the code."""
    code: str
    """Digest of the Python files in it: other code is another version of the view."""
    text: str = ""
    """Digest of the function alone, which is the same where only its name, its docstring or its layout differ."""
    window_seconds: int | None = None
    """How far back it reads its sources; None for all that they have."""
    team: str = "everyone"
    gpus: float = 0
    cpus: float = 1
    memory_gb: float = 4
    timeout_seconds: float | None = None


class Computation(Record, frozen=True, kw_only=True):
    """One run of a view's function."""

    job_id: str
    view: str
    as_of: datetime
    """It sees what was known at this moment, in domain time."""
    asked_by: str
    rows: int | None = None
    """How many rows it brought that were not there yet; None before it did."""


class FeatureView(Record, frozen=True, kw_only=True):
    """Features of one entity, computed by SQL over sources. A changed definition is a new version."""

    name: str
    version: int
    join_keys: tuple[Column, ...]
    features: tuple[Column, ...]
    sql: str = ""
    function: ViewFunction | None = None
    """Instead of SQL: free Python, which runs as a job."""
    sources: tuple[str, ...]
    ttl_seconds: int | None = None
    """Oldest age at which a value still counts, the boundary included; None means any age."""
    owner: str = ""
    description: str = ""
    tags: dict[str, str] = {}
    entity: str = ""
    schedule: str = ""
    stale_after_seconds: int | None = None
    digest: str = ""
    created_by: str
    created_at: datetime

    @property
    def ref(self) -> str:
        """`name@vN`."""
        return f"{self.name}@v{self.version}"


class ViewSpec(Record, frozen=True, kw_only=True):
    """What a feature view is to be."""

    name: str
    join_keys: tuple[Column, ...]
    features: tuple[Column, ...]
    sql: str = ""
    """One SELECT over the sources: the join keys, the features, `event_time` and, if it differs, `arrival_time`."""
    function: ViewFunction | None = None
    """Instead of SQL: free Python, which runs as a job."""
    sources: tuple[str, ...]
    """Sources, and views: `view` stands for its latest version, `view@vN` for one."""
    ttl_seconds: int | None = None
    owner: str = ""
    description: str = ""
    tags: dict[str, str] = {}
    entity: str = ""
    """A defined entity, whose join keys these must be."""
    schedule: str = ""
    """When to bring it up to date: a cron expression of five fields in UTC, or `upstream`, when its sources changed."""
    stale_after_seconds: int | None = None
    """How long it may be without being brought up to date before that is an event and an alert."""


class Entity(Record, frozen=True, kw_only=True):
    """What features are about: a name for join keys."""

    name: str
    join_keys: tuple[Column, ...]
    owner: str = ""
    description: str = ""
    tags: dict[str, str] = {}


class Freshness(Record, frozen=True, kw_only=True):
    """How up to date a view version is."""

    view: str
    schedule: str = ""
    rows: int = 0
    """Of its history."""
    entities: int = 0
    """Online, as far as they come from its history."""
    latest_event: datetime | None = None
    updated_at: datetime | None = None
    """When it was last brought up to date, in domain time."""
    next_at: datetime | None = None
    """When its schedule asks for it next, in real time."""
    stale: bool = False
    error: str = ""
    """Why it could not be brought up to date the last time."""


Status = Literal["PRESENT", "NULL", "NOT_FOUND", "OUTSIDE_MAX_AGE"]
"""How a value was found online: it is there; it is there and null; the entity is unknown; it is older than its view's TTL."""


class OnlineRow(Record, frozen=True, kw_only=True):
    """One entity's features, by full reference, how each was found, and when what it tells of happened."""

    values: dict[str, float | int | str | bool | None]
    statuses: dict[str, Status]
    event_times: dict[str, datetime | None] = {}
    """None for an entity that is unknown, and for what a transform made."""


class Pushed(Record, frozen=True, kw_only=True):
    """What became of pushed rows: how many went into the source, were held back, and are online, by entity and view."""

    rows: int
    quarantined: int = 0
    online: int = 0


class FeatureService(Record, frozen=True, kw_only=True):
    """A named bundle of features that models depend on, by view version: `view@vN:feature`."""

    name: str
    version: int
    features: tuple[str, ...]
    created_by: str
    created_at: datetime

    @property
    def ref(self) -> str:
        """`name@vN`."""
        return f"{self.name}@v{self.version}"


class Expectation(Record, frozen=True, kw_only=True):
    """What is expected of a column's values; null is allowed unless `max_nulls` says otherwise."""

    column: str
    dtype: DType | None = None
    """A type that the value can be read as without loss: a text that is a number, a float that is whole."""
    min: int | float | str | None = None
    """Least value, itself included; a time as ISO 8601."""
    max: int | float | str | None = None
    values: tuple[str, ...] = ()
    """All values that a text may have; none means any."""
    pattern: str = ""
    """Regular expression (RE2) that the whole text matches."""
    max_nulls: float | None = None
    """Greatest share of nulls in one load, 0 to 1; above it every row with a null is held back."""


class Quarantined(Record, frozen=True, kw_only=True):
    """A row that was held back, with what it broke."""

    id: int
    at: datetime
    by: str
    reasons: tuple[str, ...]
    values: dict[str, Any]


class Quality(Record, frozen=True, kw_only=True):
    """A source's expectations, and what they held back."""

    source: str
    expectations: tuple[Expectation, ...]
    quarantined: int
    reasons: dict[str, int]
    """How many rows of the quarantine broke each rule; a row may have broken several."""


class TransformInput(Record, frozen=True, kw_only=True):
    """What a transform takes: a feature of a view, or a value that comes with the request."""

    name: str
    dtype: DType | None = None
    """Of a value that comes with the request; a feature has its own."""
    feature: str | None = None
    """`view:feature`; None means with the request, and in training as a column of the rows."""


class TransformSpec(Record, frozen=True, kw_only=True):
    """What an on-demand transform is to be: one function of its inputs, in a checked subset of Python."""

    name: str
    inputs: tuple[TransformInput, ...]
    outputs: tuple[Column, ...]
    code: str
    owner: str = ""
    description: str = ""
    tags: dict[str, str] = {}


class Transform(Record, frozen=True, kw_only=True):
    """One version of an on-demand transform; its outputs are features, `name@vN:output`."""

    name: str
    version: int
    inputs: tuple[TransformInput, ...]
    outputs: tuple[Column, ...]
    code: str
    owner: str = ""
    description: str = ""
    tags: dict[str, str] = {}
    digest: str = ""
    created_by: str
    created_at: datetime

    @property
    def ref(self) -> str:
        """`name@vN`."""
        return f"{self.name}@v{self.version}"


class FeatureHit(Record, frozen=True, kw_only=True):
    """A feature that a search of the catalogue found: of a view, or of a transform."""

    ref: str
    kind: Literal["view", "transform"]
    dtype: DType
    entity: tuple[str, ...]
    """The join keys that it is asked with, by name."""
    team: str
    owner: str = ""
    unit: str = ""
    description: str = ""
    about: str = ""
    """What the view or transform is described as."""
    tags: dict[str, str] = {}
    cursor: str
    """The next page comes after it."""


OriginKind = Literal["labels", "label source", "code", "job", "run", "prediction", "label"]
"""What the lineage of a prediction has besides."""


class LineageNode(Record, frozen=True, kw_only=True):
    """Something that features come from, or that uses them."""

    id: str
    """`kind:name`."""
    kind: Literal["source", "view", "transform", "service", "dataset", "model", "endpoint"] | OriginKind
    name: str
    features: tuple[str, ...] = ()
    """Of the view that was asked about, those that it takes."""


class FeatureLineage(Record, frozen=True, kw_only=True):
    """What a view version comes from and what uses it, as far as whoever asks may see it."""

    ref: str
    nodes: tuple[LineageNode, ...]
    edges: tuple[tuple[str, str], ...]
    """Ids, each from what is used to what uses it."""
    cut: bool = False
    """There is more than is shown."""


class Distribution(Record, frozen=True, kw_only=True):
    """How the values of one feature are spread over some rows. What does not fit its type is None or empty."""

    feature: str
    dtype: DType
    rows: int
    nulls: int
    min: float | None = None
    max: float | None = None
    mean: float | None = None
    """Of numbers, without NaN; times are seconds since 1970."""
    quantiles: dict[str, float] = {}
    """`q05`, `q25`, `q50`, `q75`, `q95`."""
    distinct: int | None = None
    """About how many different texts there are."""
    edges: tuple[float, ...] = ()
    """Where the bins of the histogram begin, and where the last one ends."""
    counts: tuple[int, ...] = ()
    """Values in each bin; the first and the last also hold what lies beyond."""
    top: tuple[tuple[str, int], ...] = ()
    """The most frequent categories, each with its rows."""

    @property
    def null_share(self) -> float | None:
        """Of 0..1; None without rows."""
        return self.nulls / self.rows if self.rows else None


class Trained(Record, frozen=True, kw_only=True):
    """A feature as one dataset version has it: with the bins of today, where its files were read for it."""

    dataset: str
    created_at: datetime
    models: tuple[str, ...] = ()
    """Model versions that were trained on it."""
    distribution: Distribution


class ViewProfile(Record, frozen=True, kw_only=True):
    """How the values of a view version are spread now, and how they were at each training."""

    ref: str
    built: bool
    """Whether its rows were ever computed."""
    rows: int
    """All rows of its history."""
    sampled: int
    """Rows that the figures are of."""
    features: tuple[Distribution, ...]
    trainings: tuple[Trained, ...] = ()


class SourceSpec(Record, frozen=True, kw_only=True):
    """What a source is to be."""

    name: str
    columns: tuple[Column, ...]
    event_time: str
    arrival_time: str | None = None
    folder: str = ""


class SourceFile(Record, frozen=True, kw_only=True):
    """A file of a watched folder: taken, with how many rows, or refused, with the reason."""

    path: str
    size: int
    rows: int = 0
    taken_at: datetime | None = None
    error: str = ""


class ServiceSpec(Record, frozen=True, kw_only=True):
    """What a feature service is to be: features to bundle under a name, as references or other services."""

    name: str
    features: tuple[str, ...]


class Definitions(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Definitions of the feature store that are planned and applied as one."""

    sources: tuple[SourceSpec, ...] = ()
    entities: tuple[Entity, ...] = ()
    views: tuple[ViewSpec, ...] = ()
    transforms: tuple[TransformSpec, ...] = ()
    services: tuple[ServiceSpec, ...] = ()


class PlannedChange(Record, frozen=True, kw_only=True):
    """What becomes of one definition."""

    kind: Literal["source", "entity", "view", "transform", "service"]
    name: str
    action: Literal["create", "new version", "describe", "none"]
    ref: str
    """What it is called afterwards."""
    differences: tuple[str, ...] = ()
    """In words, and the lines of code that go and come."""
    touches: tuple[str, ...] = ()
    """What uses the version before: services, datasets, models, endpoints. They stay with it."""
    alike: tuple[str, ...] = ()
    """Features that there are already and that these repeat."""


class FeaturePlan(Record, frozen=True, kw_only=True):
    """What applying definitions does, or did."""

    changes: tuple[PlannedChange, ...]
    base: str
    """Stands for the state that was planned for: given to `apply`, it refuses where another apply came between."""

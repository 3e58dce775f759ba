"""What client and server both know: plain, immutable records.

Times are UTC datetimes (ISO 8601 in JSON); ids are 32 hex digits that sort by age; sizes are bytes; durations carry their
unit in the name.

The spine of the platform, each naming the one before:

    DatasetVersion -> Run -> ModelVersion -> Promotion -> Prediction
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from mlbox.errors import InvalidInput

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,255}")
_longest_name = 256


def limit_names(longest: int) -> None:
    """From here on this process takes names of at most so many characters, 256 at the most: the setting max_name."""
    global _longest_name
    _longest_name = longest


def check_name(name: str, *, field: str = "name") -> str:
    """A name that is safe in a path, a URL and a metric label; raises InvalidInput with the field otherwise."""
    if not NAME.fullmatch(name):
        raise InvalidInput(
            f"{name[:80]!r} is not a valid {field}.",
            hint="Use 1 to 256 letters, digits, '.', '_' and '-', beginning with a letter or digit.",
            field=field,
        )
    if len(name) > _longest_name:
        raise InvalidInput(
            f"The {field} {name[:80]!r} is longer than {_longest_name} characters.",
            hint="Choose a shorter one; the setting max_name says how long it may be.",
            field=field,
        )
    return name


def html_table(facts: Mapping[str, Any]) -> str:
    """Facts by name as a small HTML table: what a notebook shows of a record."""
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(str(fact))}</td></tr>" for name, fact in facts.items()
    )
    return f"<table>{rows}</table>"


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all records."""

    def to_json(self) -> bytes:
        """The record as JSON."""
        return msgspec.json.encode(self)

    def _repr_html_(self) -> str:
        """What a notebook shows: every field that says something."""
        facts = {name: getattr(self, name) for name in self.__struct_fields__}
        return html_table({name: fact for name, fact in facts.items() if fact not in (None, "", (), {})})


class Event(Record, frozen=True, kw_only=True):
    """One thing that happened: an audit row, a live update, a cause for an alert."""

    id: str
    type: str
    subject: str
    """Noun and id, such as `model:fraud/3` or `job:0198...`."""
    actor: str
    at: datetime
    domain_at: datetime
    data: dict[str, Any]


class ChainReport(Record, frozen=True, kw_only=True):
    """What the verification of one room's audit log found."""

    room: str
    events: int
    """How many are as they were written."""
    head: str
    """Number and hash of the last of these: keep it elsewhere, and verify against it later."""
    problem: str = ""
    """What is wrong first; nothing where the log is whole."""


# -- access -------------------------------------------------------------------------------------------------------------

Role = Literal["viewer", "member", "approver", "admin"]
AccountKind = Literal["person", "service"]
"""A service has tokens only: no password, no browser session."""


class User(Record, frozen=True, kw_only=True):
    """A person or a service that may hold tokens."""

    id: str
    name: str
    role: Role
    created_at: datetime
    kind: AccountKind = "person"
    disabled_at: datetime | None = None
    """Since when none of its credentials work."""


class Identity(Record, frozen=True, kw_only=True):
    """A person of a sign-in provider, and whose account they use."""

    user: str
    issuer: str
    subject: str
    created_at: datetime


class Account(User, frozen=True, kw_only=True):
    """One's own account: what `GET /api/v1/account` answers."""

    has_password: bool
    password_min: int
    """Fewest characters of a new one."""


class BrowserSession(Record, frozen=True, kw_only=True):
    """A signed-in browser of one's own, without its secret."""

    id: str
    created_at: datetime
    seen_at: datetime
    """To the minute."""
    expires_at: datetime
    """When it ends if it is not used."""
    address: str = ""
    agent: str = ""
    """What the browser called itself when it signed in."""
    token: str | None = None
    """The name of the token that it was signed in with, and ends with."""
    current: bool = False
    """True for the session that asks."""


class Token(Record, frozen=True, kw_only=True):
    """A bearer token, without its secret."""

    id: str
    user: str
    name: str
    role: Role
    """The most that it may do in any team; its user may do less, and then it may not either."""
    created_at: datetime
    expires_at: datetime | None = None
    used_at: datetime | None = None
    """To the minute."""
    job_id: str | None = None
    """Set on the short-lived token of a job, which may act for that job only."""


class NewToken(Token, frozen=True, kw_only=True):
    """What `POST /api/v1/tokens` answers: the token and, this once, its secret."""

    secret: str


class Principal(Record, frozen=True, kw_only=True):
    """Who is asking, as authentication found it."""

    name: str
    role: Role
    """In the team `everyone`, and no higher than the token's."""
    token_id: str | None = None
    job_id: str | None = None
    ceiling: Role = "admin"
    """The most that the token may do in any team."""


class WhoAmI(Principal, frozen=True, kw_only=True):
    """What `GET /api/v1/whoami` answers."""

    teams: dict[str, Role] = {}
    """The asker's role in each team, apart from `everyone`."""


class Member(Record, frozen=True, kw_only=True):
    """A user in a team."""

    user: str
    role: Role


class Team(Record, frozen=True, kw_only=True):
    """A team and its members; it owns what has a name that begins with its own and a dot."""

    name: str
    created_at: datetime | None = None
    """None for `everyone`, which is there from the start."""
    members: tuple[Member, ...] = ()


Kind = Literal["experiment", "source", "view", "service", "label", "dataset", "model"]
"""What a team can own and make private. A run goes with its experiment; versions, promotions, predictions with their model."""


# -- tracking -----------------------------------------------------------------------------------------------------------

RunStatus = Literal["SCHEDULED", "RUNNING", "FINISHED", "FAILED", "KILLED"]
MAX_KEY = 256
"""Characters in the name of a metric, a parameter, a tag or a run."""
MAX_STEP = 2**63 - 1


def check_point(key: str, step: int) -> None:
    """A metric's name and step fit the store; raises InvalidInput with the field otherwise."""
    if not 0 < len(key) <= MAX_KEY:
        raise InvalidInput(
            f"A metric's name has {len(key)} characters.", hint=f"Use 1 to {MAX_KEY}.", field="metrics.key"
        )
    if abs(step) > MAX_STEP:
        raise InvalidInput(f"The step {step} does not fit 64 bits.", hint="Count in steps.", field="metrics.step")


class Experiment(Record, frozen=True, kw_only=True):
    """A named group of runs."""

    id: str
    """A number; the experiment `Default` is 0."""
    name: str
    created_at: datetime
    updated_at: datetime | None = None
    deleted_at: datetime | None = None
    """When it was deleted, softly, if it was."""
    tags: dict[str, str] = {}


class Metric(Record, frozen=True, kw_only=True):
    """One measured value of a run."""

    key: str
    value: float | None
    """None over the API when it is NaN or infinite, which JSON does not have."""
    step: int
    at: datetime


class Run(Record, frozen=True, kw_only=True):
    """One execution of training code and everything recorded of it."""

    id: str
    experiment_id: str
    name: str
    user: str
    status: RunStatus
    started_at: datetime
    ended_at: datetime | None = None
    job_id: str | None = None
    dataset: str | None = None
    """`NAME@vN` of the dataset version that it trained on."""
    git_commit: str | None = None
    params: dict[str, str] = {}
    tags: dict[str, str] = {}
    metrics: dict[str, Metric] = {}
    """The last value of each metric."""
    extremes: dict[str, tuple[float, float]] = {}
    """The least and the greatest value of each metric that has a number at all."""
    deleted_at: datetime | None = None
    """When it was deleted, softly, if it was."""


class RunArtifact(Record, frozen=True, kw_only=True):
    """A file of a run, by its path."""

    path: str
    sha256: str
    size: int


class DatasetInput(Record, frozen=True, kw_only=True):
    """Data that a run says it read, wherever it is; one that names a dataset version of the box is `Run.dataset`."""

    name: str
    digest: str
    source_type: str = ""
    source: str = ""
    schema: str = ""
    profile: str = ""
    tags: dict[str, str] = {}


class RunModel(Record, frozen=True, kw_only=True):
    """A logged model that a run read (`input`) or made (`output`), at a step."""

    model_id: str
    role: Literal["input", "output"]
    step: int = 0


LoggedModelStatus = Literal["PENDING", "READY", "FAILED"]


class ModelMetric(Record, frozen=True, kw_only=True):
    """The last value of a metric that a run measured of a logged model, on a dataset if it said so."""

    key: str
    value: float
    step: int
    at: datetime
    run_id: str
    dataset_name: str = ""
    dataset_digest: str = ""


class LoggedModel(Record, frozen=True, kw_only=True):
    """A model that a run logged, before or without registration. Its id is `m-` and 32 hexadecimal digits."""

    id: str
    experiment_id: str
    name: str
    type: str = ""
    status: LoggedModelStatus
    message: str = ""
    run_id: str | None = None
    user: str = ""
    created_at: datetime
    updated_at: datetime
    params: dict[str, str] = {}
    tags: dict[str, str] = {}
    metrics: tuple[ModelMetric, ...] = ()


# -- features, datasets, labels -----------------------------------------------------------------------------------------

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


class Webhook(Record, frozen=True, kw_only=True):
    """An address that is told what happens to registered models."""

    id: str
    name: str
    url: str
    events: tuple[str, ...]
    """MLflow's names, such as model_version.created."""
    description: str = ""
    signed: bool = False
    active: bool = True
    owner: str = ""
    """It is told only of what this user may know of."""
    status: str = ""
    """What was answered last."""
    tries: int = 0
    """How often the next event was tried."""
    lost: int = 0
    """Events that were tried too often."""
    created_at: datetime
    updated_at: datetime


class Delivery(Record, frozen=True, kw_only=True):
    """One message to one address."""

    id: str
    address: str
    """Of a URL only its host: the rest is often a secret."""
    text: str
    created_at: datetime
    state: Literal["due", "delivered", "gave_up"]
    tries: int
    status: str = ""
    """What was answered last."""
    next_at: datetime | None = None


class Deleted(Record, frozen=True, kw_only=True):
    """Something that was deleted and can be taken back."""

    id: str
    """`KIND:ID`; a kind is run, experiment, logged-model, model, version or dataset."""
    name: str
    owner: str
    """The experiment, model or dataset that it belongs to, which says whose it is."""
    deleted_at: datetime
    deleted_by: str = ""
    goes_at: datetime
    """When the retention is over; the next collection after it removes it for good."""
    place: str
    """`after` of the next page."""


class Collected(Record, frozen=True, kw_only=True):
    """What a collection removed for good, or would remove."""

    runs: int
    experiments: int
    logged_models: int
    versions: int
    """Deleted versions whose files went; who made and approved them stays known."""
    datasets: int = 0
    """Dataset versions whose files went."""
    files: int
    bytes: int
    """Freed on disk."""
    dry_run: bool
    cutoff: datetime
    """What was deleted before went."""


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


class LineageNode(Record, frozen=True, kw_only=True):
    """Something that features come from, or that uses them."""

    id: str
    """`kind:name`."""
    kind: Literal["source", "view", "transform", "service", "dataset", "model", "endpoint"]
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


SourceKind = Literal["feedback", "annotation", "delayed", "suggestion"]
"""Who claims: users who say so, people asked to look, outcomes that come in later, a model. A suggestion never is the truth."""
LabelPolicy = Literal["latest", "priority", "majority", "weighted"]
"""Which claim counts: the last; of the most trusted source; what most say; what most say by weight. A tie is unresolved."""


class LabelSource(Record, frozen=True, kw_only=True):
    """Where labels come from."""

    name: str
    kind: SourceKind = "delayed"
    weight: Annotated[float, Meta(gt=0, le=1e9)] = 1.0
    """Of each of its votes, under the policy `weighted`."""
    fields: dict[str, str] = {}
    """Where a webhook's body has each column of a label: JSON pointers, such as `/customer/id`."""
    each: str = ""
    """The pointer to a list of events in the body, which `fields` are looked up in; none: the body itself."""


class LabelSet(Record, frozen=True, kw_only=True):
    """Outcomes by entity and time, as several sources claim them; every claim is kept."""

    name: str
    keys: tuple[Column, ...]
    value: Column
    classes: tuple[str | int | bool, ...] = ()
    """All that a value may be; empty for anything in range."""
    minimum: float | None = None
    maximum: float | None = None
    sources: tuple[LabelSource, ...] = ()
    """The most trusted first; none stands for one named `upload`."""
    policy: LabelPolicy = "latest"
    policy_version: int = 1
    """Counts the changes of policy and sources; the server's."""
    entities: str = ""
    """A source whose rows say which entities there are; a label of another is held back."""
    horizon_seconds: Annotated[float, Meta(gt=0, le=1e10)] | None = None
    """How far after a prediction its event may be, where the prediction does not say which one it is about; None: any."""
    published: str = ""
    """The source that what counts is written to; the server's."""
    description: str = ""
    rows: int = 0
    created_at: datetime | None = None

    @property
    def policy_ref(self) -> str:
        """As a dataset names it: `majority@2`."""
        return f"{self.policy}@{self.policy_version}"


class Labelled(Record, frozen=True, kw_only=True):
    """What became of labels: how many are new, were there already, and are held back."""

    rows: int
    duplicates: int = 0
    quarantined: int = 0

    def __add__(self, other: Labelled) -> Labelled:
        return Labelled(
            rows=self.rows + other.rows,
            duplicates=self.duplicates + other.duplicates,
            quarantined=self.quarantined + other.quarantined,
        )


class HeldLabel(Record, frozen=True, kw_only=True):
    """A label that was held back, as it was sent, and why."""

    id: int
    source: str
    row: dict[str, Any]
    reasons: tuple[str, ...]
    by: str
    at: datetime


class Claim(Record, frozen=True, kw_only=True):
    """What a source says of an item: its last word, or that of one of its annotators."""

    source: str
    annotator: str | None = None
    value: str | int | float | bool
    claimed_at: datetime


class LabelItem(Record, frozen=True, kw_only=True):
    """Something that labels are about: an entity at a time; what is claimed of it, and what counts, if that is decided."""

    keys: dict[str, Any]
    event_time: datetime
    value: str | int | float | bool | None = None
    claims: tuple[Claim, ...] = ()


class SourceCounts(Record, frozen=True, kw_only=True):
    """The labels of one source that arrived on a day, and how long after their events they were known."""

    source: str
    day: str
    rows: int
    delay_seconds: float
    """The median."""
    late_seconds: float
    """The 95th percentile."""


class Agreement(Record, frozen=True, kw_only=True):
    """How far those who label agree, each item of two or more claims counted once; 1 is always, 0 as if by chance."""

    items: int
    raters: int
    krippendorff_alpha: float | None
    fleiss_kappa: float | None
    """None unless all items have the same number of claims."""
    cohen_kappa: dict[str, float | None]
    """For each pair `a | b` of raters that share items."""
    by_rater: dict[str, float]
    """Share of an annotator's claims that are what the others of the item say."""
    by_class: dict[str, float | None]
    """Krippendorff's alpha of each class against all others."""
    confusion: dict[str, dict[str, dict[str, int]]]
    """For each pair of sources `a | b`: what a says, then what b says, then how often."""


class DataFile(Record, frozen=True, kw_only=True):
    """One file of a dataset version."""

    path: str
    sha256: str
    size: int
    rows: int
    """0 where it is no table."""
    md5: str = ""
    """As DVC names it."""
    split: str = ""
    """Which part of the version it belongs to, such as train."""


class SplitPart(Record, frozen=True, kw_only=True):
    """One part of a split: so large a share of the entities, or the rows before a moment."""

    name: str
    share: Annotated[float, Meta(gt=0, le=1)] | None = None
    until: datetime | None = None


class DatasetSplit(Record, frozen=True, kw_only=True):
    """How rows are divided: by a hash of an entity's keys, so that all its rows are together, or by their event time."""

    by: Literal["hash", "time"]
    parts: tuple[SplitPart, ...]
    keys: tuple[str, ...] = ()


class VerifiedFile(Record, frozen=True, kw_only=True):
    """A file of a dataset version that was read again; what is wrong with it, if anything."""

    path: str
    error: str = ""


class DatasetVersion(Record, frozen=True, kw_only=True):
    """An immutable, named, hashed table of training rows."""

    id: str
    name: str
    version: int
    hash: str
    """SHA-256 over the sorted manifest of the files' hashes."""
    files: tuple[DataFile, ...]
    columns: tuple[Column, ...]
    rows: int
    query: str
    parameters: dict[str, Any] = {}
    feature_service: str | None = None
    views: tuple[str, ...] = ()
    label_set: str | None = None
    event_from: datetime | None = None
    event_to: datetime | None = None
    as_of: datetime | None = None
    """Arrival cut-off: nothing that became known later is in it."""
    label_policy: str | None = None
    """Which labels counted, such as `majority@2`."""
    backfilled: bool = False
    """Whether labels are in it whose times nobody but a declared backfill vouches for."""
    split: DatasetSplit | None = None
    parents: tuple[str, ...] = ()
    """Dataset versions that it was made from."""
    run_id: str | None = None
    job_id: str | None = None
    git_commit: str | None = None
    git_dirty: bool = False
    """Whether the code that made it had changes that are in no commit."""
    description: str = ""
    tags: dict[str, str] = {}
    """May change; all else may not."""
    statistics: dict[str, dict[str, Any]] = {}
    """Per column: nulls, min, max, mean, quantiles, histogram; of text the most frequent values."""
    software: dict[str, str] = {}
    created_by: str
    created_at: datetime

    @property
    def ref(self) -> str:
        """`name@vN`."""
        return f"{self.name}@v{self.version}"


class ChangedRow(Record, frozen=True, kw_only=True):
    """A row that two dataset versions have, and its values that are not the same: before and after."""

    key: dict[str, Any]
    values: dict[str, tuple[Any, Any]]


class DatasetDiff(Record, frozen=True, kw_only=True):
    """What two dataset versions have different. Pairs are before and after."""

    before: str
    after: str
    columns_added: tuple[str, ...] = ()
    columns_removed: tuple[str, ...] = ()
    columns_changed: dict[str, tuple[str, str]] = {}
    statistics: dict[str, dict[str, tuple[Any, Any]]] = {}
    """Of columns of both, what moved."""
    keys: tuple[str, ...] = ()
    """What names a row; none where rows were compared as a whole."""
    rows: tuple[int, int] = (0, 0)
    added: int = 0
    removed: int = 0
    changed: int = 0
    changed_by_column: dict[str, int] = {}
    """Of the changed rows, at most the first 100,000."""
    examples_added: tuple[dict[str, Any], ...] = ()
    examples_removed: tuple[dict[str, Any], ...] = ()
    examples_changed: tuple[ChangedRow, ...] = ()


# -- jobs ---------------------------------------------------------------------------------------------------------------

Priority = Literal["low", "normal", "high", "urgent"]
JobState = Literal[
    "queued", "starting", "running", "stopping", "preempted", "succeeded", "failed", "stopped", "timed_out", "lost"
]
JobPhase = Literal["pending", "running", "succeeded", "failed"]
PHASES: dict[JobState, JobPhase] = {
    "queued": "pending",
    "preempted": "pending",
    "starting": "running",
    "running": "running",
    "stopping": "running",
    "succeeded": "succeeded",
    "failed": "failed",
    "stopped": "failed",
    "timed_out": "failed",
    "lost": "failed",
}
"""What a state comes down to, for those who only want to know whether to wait, look or mend."""
StopCause = Literal["user", "preempted", "diverged"]
"""Why a job is being ended before its time."""


class DivergenceRule(Record, frozen=True, kw_only=True):
    """A condition on a metric that a run logs, and what follows."""

    kind: Literal["nonfinite", "no_better", "above"]
    metric: str = ""
    """Empty for every metric, which only `nonfinite` allows."""
    steps: int = 0
    """`no_better`: for how many steps there was no better value."""
    bound: float = 0.0
    """`above`: the largest value that is still well."""
    higher_is_better: bool = False
    action: Literal["notify", "stop"] = "notify"


class JobSpec(Record, frozen=True, kw_only=True):
    """What a user asks for."""

    command: tuple[str, ...]
    name: str = ""
    team: str = "everyone"
    """Whose job it is: its members see it, and its quota pays for it."""
    env: dict[str, str] = {}
    secrets: dict[str, str] = {}
    """By environment variable, the secret that it gets: NAME or TEAM/NAME, never a value."""
    snapshot: str | None = None
    """SHA-256 of the uploaded tar.gz of the code: unpacked into the attempt's working directory."""
    workdir: str = ""
    """The folder below the snapshot's root that the command runs in."""
    gpus: float | None = None
    """Whole GPUs, or a share of one such as 0.5. What is not said here, or of CPUs and memory, the box decides at submit."""
    gpu_memory_gb: float = 0
    """GPU memory that it asks for instead of a share."""
    cpus: float | None = None
    memory_gb: float | None = None
    image: str = ""
    """A container image to run in, where the box has podman or docker."""
    procs: int = 1
    """Ranks on the box, as torchrun counts them; a dead one ends the attempt."""
    environment: str = ""
    """The SHA-256 of the lock or requirements that its Python environment is built from; empty for the box's own."""
    queue: str = ""
    """Empty for the default one."""
    priority: Priority = "normal"
    retries: int | None = None
    retry_exit_codes: tuple[int, ...] = ()
    """The exit codes after which it is tried again; empty for every one but 0."""
    timeout_seconds: float | None = None
    grace_seconds: float | None = None
    """Seconds between SIGTERM and SIGKILL; the box's own when not given."""
    checkpoints: bool = False
    """It saves its progress to MLBOX_CHECKPOINT_DIR and resumes from there: cheap to preempt, and fit for a time-sliced queue."""
    hyperparameters: dict[str, str] = {}
    datasets: tuple[str, ...] = ()
    experiment: str = ""
    tags: dict[str, str] = {}
    notify: tuple[str, ...] = ()
    """Addresses that are told of its end, failure, divergence and preemption."""
    rules: tuple[DivergenceRule, ...] | None = None
    """When its metrics say that it is of no use; None for the default, which notifies of a NaN or infinite value."""
    seed: int | None = None
    """Of its random numbers, in MLBOX_SEED; drawn at submit where it was not said, so that it can be repeated."""
    git_commit: str | None = None
    git_diff: str | None = None
    """SHA-256 of what differs from the commit, as a patch."""


class Secret(Record, frozen=True, kw_only=True):
    """A secret for jobs; its value is never shown."""

    team: str
    name: str
    set_by: str
    set_at: datetime
    used_at: datetime | None = None
    """When a job last got it."""
    usable: bool = True
    """False when the key that it was encrypted with is lost: then it must be set again."""


class Attempt(Record, frozen=True, kw_only=True):
    """One execution of a job's command."""

    number: int
    started_at: datetime
    ended_at: datetime | None = None
    exit_code: int | None = None
    pid: int | None = None
    gpus: tuple[int, ...] = ()
    devices: tuple[str, ...] = ()
    """The UUIDs of its GPUs."""
    gpu_count: float = 0.0
    """How many GPUs it is charged for: 0.5 for half of one."""
    yields_to: tuple[str, ...] = ()
    """It fills a gap until one of these jobs, which wait for its GPUs, can start."""
    outcome: JobState | None = None
    """How it ended: as the job did, or `failed` or `preempted` where the job goes on."""
    ran_on: dict[str, str] = {}
    """The machine and the Python that it ran on."""
    reason: str = ""


class Job(Record, frozen=True, kw_only=True):
    """A submitted command, its place in the queue and its attempts."""

    id: str
    user: str
    spec: JobSpec
    state: JobState
    created_at: datetime
    run_id: str | None = None
    ended_at: datetime | None = None
    exit_code: int | None = None
    reason: str = ""
    """Why it waits or how it ended, in words."""
    not_before: datetime | None = None
    queued_at: datetime | None = None
    """Since when it waits, if that is not since it was submitted."""
    promised: bool = False
    """Others give way to it, and it has not started yet."""
    stop_cause: StopCause | None = None
    """Why it is `stopping`, or was ended."""
    attempts: tuple[Attempt, ...] = ()

    @property
    def phase(self) -> JobPhase:
        """What its state comes down to."""
        return PHASES[self.state]


class CronTrigger(Record, frozen=True, kw_only=True):
    """What happens on the box that asks for a job: a new version of a dataset, or an alert of a model."""

    kind: Literal["dataset", "alert"]
    name: str
    """The dataset's, or the model's."""


class CronSpec(Record, frozen=True, kw_only=True):
    """A job that is submitted again and again: by time, or when something happens."""

    name: str
    job: JobSpec
    schedule: str = ""
    """A cron expression of five fields; empty for one that only `on` asks for."""
    timezone: str = "UTC"
    on: CronTrigger | None = None
    misfire: Literal["once", "skip"] = "once"
    """Of times that nobody was there for: submit one job for all of them, or none."""
    misfire_seconds: int = 86_400
    """What is later than this is not made up for."""
    overlap: Literal["skip", "queue", "replace"] = "skip"
    """While its last job has not ended: do nothing, submit another all the same, or stop the last one first."""


class Cron(Record, frozen=True, kw_only=True):
    """A cron, and what became of it so far."""

    id: str
    owner: str
    """In whose name its jobs are submitted."""
    spec: CronSpec
    created_at: datetime
    paused: bool = False
    next_at: datetime | None = None
    last_at: datetime | None = None
    last_job: str | None = None
    last_outcome: str = ""
    """What the last time came to, in words."""


class Firing(Record, frozen=True, kw_only=True):
    """One time that a cron asked for its job."""

    cause: str
    at: datetime
    job_id: str | None = None
    outcome: Literal["due", "submitted", "skipped", "refused"]
    reason: str = ""


class JobPlan(Record, frozen=True, kw_only=True):
    """What would come of submitting a job now; nothing has."""

    spec: JobSpec
    """With what was not said filled in."""
    starts_now: bool
    gpus: tuple[int, ...] = ()
    """On which it would start."""
    expected_at: datetime | None = None
    """When it starts at the latest; None where nobody knows."""
    words: str = ""
    """Why it would wait."""


class Rerun(Record, frozen=True, kw_only=True):
    """A job that was submitted again as it was."""

    job: Job
    differs: tuple[str, ...] = ()
    """What is not as it was when it last ran, in words."""


class Outlook(Record, frozen=True, kw_only=True):
    """How a job stands to the others."""

    words: str = ""
    """What it waits for."""
    expected_at: datetime | None = None
    """When it starts at the latest; None where nobody knows."""
    held_up: tuple[str, ...] = ()
    """The jobs that wait for what it holds, first in line first: those that may be known."""
    held_up_in_all: int = 0


class QueueEntry(Record, frozen=True, kw_only=True):
    """A job that waits or runs: of another team's only team, state, GPUs and expected end."""

    team: str
    state: JobState
    gpus: float
    expected_end: datetime | None = None
    """When its time limit ends it at the latest; None for a job without one, or that waits."""
    id: str | None = None
    user: str | None = None
    name: str | None = None
    reason: str | None = None


class Gpu(Record, frozen=True, kw_only=True):
    """A GPU or a MIG device that jobs may be bound to, and what it does now."""

    uuid: str
    """What a job is bound to, whatever the order in which drivers count."""
    index: int
    """The driver's number of it; a MIG device has its GPU's."""
    mig: int | None = None
    """The number of a MIG device on its GPU."""
    name: str = ""
    memory_gb: float = 0.0
    """GiB, as all memory here; 0 where it is not known."""
    virtual: bool = False
    """Declared in the settings to try a policy: there is no such device."""
    taken_by: str = ""
    """Who else uses it, in words: it is left alone until it is free."""
    reserved_gb: float = 0.0
    """Memory that served models hold."""
    held: float = 0.0
    """How much of it jobs hold, of 1."""
    jobs: tuple[str, ...] = ()
    """The jobs that hold it or a part, as far as whoever asks may know of them."""
    utilization_percentage: float | None = None
    memory_used_gb: float | None = None
    power_watts: float | None = None
    temperature_celsius: float | None = None

    @property
    def label(self) -> str:
        """What people call it: 0, MIG device 1 of GPU 0 is 0:1, and a virtual one says that it is."""
        number = f"{self.index}" if self.mig is None else f"{self.index}:{self.mig}"
        return f"{number} (virtual)" if self.virtual else number

    @property
    def state(self) -> str:
        """Who has it, in words."""
        if self.taken_by:
            return f"taken: {self.taken_by}"
        return "in use" if self.jobs or self.held else "free"


class JobQueue(Record, frozen=True, kw_only=True):
    """A line of jobs of one kind."""

    name: str
    weight: float = 1.0
    """Of two queues that are full, one of weight 3 gets three times the GPU time of one of weight 1."""
    max_gpus: float | None = None
    """Most GPUs that its jobs hold together."""
    max_running: int | None = None
    """Most jobs of it that run at a time."""
    slice_minutes: float | None = None
    """Time-sliced: jobs that checkpoint take turns of at least so long; None where each runs to its end."""
    waiting: int = 0
    running: int = 0


class TeamQuota(Record, frozen=True, kw_only=True):
    """How many GPUs a team may hold, always or in some windows of the week."""

    team: str
    name: str = "default"
    """A team may have several, for different windows."""
    gpus: float | None = None
    share: float | None = None
    """Of the box's GPUs, 0 to 1, where `gpus` is not said."""
    windows: tuple[str, ...] = ()
    """Such as `mon-fri 09:00-18:00`; none means always."""
    zone: str = "UTC"
    """The time zone of the windows, such as Europe/Berlin."""
    borrowable: bool = False
    """May be passed while nobody else waits for the GPUs; what passes it is the first to give way."""
    open_until: datetime | None = None
    """Until when it counts, if it counts now and not always."""
    counts: bool = True
    """Whether it counts now."""


class TeamWeight(Record, frozen=True, kw_only=True):
    """How much of the box a team gets beside others, where all of them have work."""

    team: str
    weight: float = 1.0


class UsageRow(Record, frozen=True, kw_only=True):
    """What someone's jobs have used in a period; without a user, all of a team whose members' jobs whoever asks may not see."""

    team: str
    user: str | None = None
    gpu_hours: float
    cpu_hours: float
    jobs: int
    """How many of them had a part of it."""


# -- registry -----------------------------------------------------------------------------------------------------------

Stage = Literal["None", "Staging", "Production", "Archived"]
ModelFormat = Literal["onnx", "other"]
Lineage = Literal["recorded", "declared"]
"""Recorded: a job of this box trained it, and mlbox saw its code, data and environment. Declared: a client says so."""


class TensorSpec(Record, frozen=True, kw_only=True):
    """A named tensor; -1 is a free dimension, dtype is one of the Open Inference Protocol's."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class Model(Record, frozen=True, kw_only=True):
    """A named line of versions."""

    id: str
    name: str
    owner: str
    purpose: str = ""
    created_at: datetime
    updated_at: datetime | None = None
    expires_at: datetime | None = None
    """When someone must look at it again; by default its policy's lifetime after the first approval."""
    tags: dict[str, str] = {}
    aliases: dict[str, int] = {}
    stages: dict[str, int] = {}
    """Latest version in each stage."""


class ModelVersion(Record, frozen=True, kw_only=True):
    """A trained artifact and where it came from."""

    id: str
    model: str
    version: int
    stage: Stage
    format: ModelFormat = "onnx"
    run_id: str | None
    job_id: str | None = None
    dataset: str | None = None
    """`NAME@vN` of the dataset version that it was trained on."""
    dataset_hash: str | None = None
    """Its content hash: an approval is for this data and no other."""
    feature_service: str | None = None
    features: tuple[str, ...] = ()
    """Feature references in the order of the input tensor's columns."""
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    artifact: str | None = None
    """SHA-256 of the ONNX file in the artifact store."""
    size: int = 0
    reference: str | None = None
    """SHA-256 of the training sample that drift is measured against."""
    sample: str | None = None
    """SHA-256 of an .npz with `inputs` and `outputs` of the source model: what parity is measured on."""
    metrics: dict[str, float] = {}
    git_commit: str | None = None
    trained_by: str
    submitted_by: str
    description: str = ""
    tags: dict[str, str] = {}
    aliases: tuple[str, ...] = ()
    created_at: datetime
    updated_at: datetime | None = None
    source: str | None = None
    """Where its files came from, as whoever registered it wrote it."""
    run_link: str = ""
    logged_model: str | None = None
    """MLflow's id of the logged model that it was registered from."""
    lineage: Lineage = "recorded"
    unservable: str = ""
    """Why it cannot be served, in words; empty for what can."""

    @property
    def ref(self) -> str:
        """`model/N`."""
        return f"{self.model}/{self.version}"

    @property
    def servable(self) -> bool:
        """True for what mlbox can serve: an ONNX file whose columns have names."""
        return self.format == "onnx"

    @property
    def flags(self) -> tuple[str, ...]:
        """What does not fit together, in words."""
        claimed = self.tags.get("dataset_version")
        if claimed is None or claimed == self.dataset:
            return ()
        if self.dataset is None:
            return (f"The tag dataset_version says {claimed!r:.80}, which names no dataset version of this box.",)
        return (f"The tag dataset_version says {claimed!r:.80}, and the run trained on {self.dataset}.",)


class Tenure(Record, frozen=True, kw_only=True):
    """How long a version was in a stage or under an alias, who put it there and why, and who approved."""

    kind: Literal["stage", "alias"]
    name: str
    """Of the stage or the alias."""
    version: int
    since: datetime
    until: datetime | None = None
    """None for what still holds."""
    by: str
    reason: str = ""
    approved_by: tuple[str, ...] = ()
    promotion: str | None = None


class GateResult(Record, frozen=True, kw_only=True):
    """What one automatic gate required and measured."""

    gate: str
    passed: bool
    required: str
    measured: str
    at: datetime


PromotionState = Literal[
    "testing", "rejected", "shadow", "waiting_approval", "canary", "completed", "rolled_back", "withdrawn"
]


class Approval(Record, frozen=True, kw_only=True):
    """One person's decision about a promotion."""

    approver: str
    decision: Literal["approve", "reject"]
    comment: str
    at: datetime


class RampStep(Record, frozen=True, kw_only=True):
    """A share of traffic, how long it must hold and how many predictions it must see before the next step."""

    percent: float
    hold_seconds: float
    min_predictions: int = 0


class PromotionPolicy(Record, frozen=True, kw_only=True):
    """What a model's versions must pass. The defaults are the house's; `label` marks a policy that is not for real use."""

    revision: int = 1
    label: str = ""
    metric: str = "auc"
    higher_is_better: bool = True
    minimum: float | None = None
    margin: float = 0.0
    """How much worse than the champion a candidate may be."""
    max_artifact_bytes: int = 2 * 1024**3
    max_latency_ms_p95: float = 50.0
    parity_tolerance: float = 1e-3
    shadow_seconds: float = 24 * 3600
    shadow_min_predictions: int = 1000
    steps: tuple[RampStep, ...] = (
        RampStep(percent=5, hold_seconds=24 * 3600, min_predictions=1000),
        RampStep(percent=25, hold_seconds=24 * 3600, min_predictions=1000),
        RampStep(percent=100, hold_seconds=0),
    )
    max_error_rate: float = 0.01
    max_latency_ratio: float = 1.5
    lifetime_days: float = 365
    """How long after its first approval a model must be looked at again, where nobody said otherwise."""
    unserved: Literal["approval", "gates"] = "approval"
    """What a version that mlbox cannot serve needs: an approval, or also the gates on lineage, metric and facts."""


class Promotion(Record, frozen=True, kw_only=True):
    """One version's way to Production: gates, shadow, approval, canary. It is the deployment that a prediction names."""

    id: str
    model: str
    version: int
    champion: int | None
    """The version in Production when it began, which it must not be worse than; None for a model's first."""
    state: PromotionState
    requested_by: str
    created_at: datetime
    state_since: datetime
    """Domain time at which the present state, or canary step, began: holds count from it."""
    policy: PromotionPolicy
    step: int = -1
    """Index of the policy's ramp step while in canary; -1 before."""
    gates: tuple[GateResult, ...] = ()
    approvals: tuple[Approval, ...] = ()
    reason: str = ""

    @property
    def percent(self) -> float:
        """Share of traffic that the candidate takes now."""
        return self.policy.steps[self.step].percent if self.state == "canary" else 0.0


class Endpoint(Record, frozen=True, kw_only=True):
    """What serves under a model's name: the champion, and the candidate that has or shadows traffic."""

    model: str
    champion: int
    candidate: int | None = None
    promotion: str | None = None
    state: PromotionState | None = None
    percent: float = 0.0
    """Share of traffic that the candidate answers."""
    standing: str = ""
    """What the candidate waits for, in words."""
    champion_predictions: int = 0
    champion_errors: int = 0
    champion_p95_ms: float | None = None
    candidate_predictions: int = 0
    candidate_errors: int = 0
    candidate_p95_ms: float | None = None


# -- serving ------------------------------------------------------------------------------------------------------------

ServeRole = Literal["champion", "canary", "control", "shadow"]


class Prediction(Record, frozen=True, kw_only=True):
    """One served row, as the prediction log keeps it."""

    id: str
    model: str
    version: int
    role: ServeRole
    at: datetime
    domain_at: datetime
    caller: str
    entity: dict[str, Any]
    features: dict[str, float | None]
    score: float | None
    """None over the API when it is no finite number, which JSON does not have."""
    latency_ms: float


# -- monitoring ---------------------------------------------------------------------------------------------------------

Verdict = Literal["not_enough_data", "ok", "investigate", "alert"]


class DriftResult(Record, frozen=True, kw_only=True):
    """Two-sample Kolmogorov-Smirnov test of one feature, served against training."""

    model: str
    version: int
    feature: str
    statistic: float | None
    """D in 0..1; None when there is not enough data."""
    p_value: float | None
    verdict: Verdict
    reference_rows: int
    current_rows: int
    reference_missing: int
    current_missing: int
    missing_risen: bool = False
    """True when the share of missing values is more than 0.1 above that of the reference."""
    at: datetime


class DriftSummary(Record, frozen=True, kw_only=True):
    """The last drift check of a model that serves; without one, `checked_at` is None."""

    model: str
    version: int
    """The one in Production now; the check may have been of a former one."""
    checked_at: datetime | None = None
    features: int = 0
    drifting: int = 0
    """Features whose verdict is alert."""
    missing_risen: int = 0
    worst_feature: str | None = None
    worst_statistic: float | None = None


class LabelLag(Record, frozen=True, kw_only=True):
    """How many predictions had their label within a lag, of those that are at least so old."""

    lag_seconds: float
    predictions: int
    labelled: int
    share: float | None
    """None while no prediction is so old."""


class LivePerformance(Record, frozen=True, kw_only=True):
    """How one version in one role did, by the labels that are known so far; a prediction without one says nothing."""

    model: str
    version: int
    role: ServeRole
    label_set: str
    start: datetime | None = None
    """Of the span of domain time that the predictions are of; None: since the first."""
    end: datetime | None = None
    predictions: int
    labelled: int
    coverage: float
    """Share of the predictions that have a label."""
    tied: int = 0
    """Predictions whose label waits for a review."""
    maturity: tuple[LabelLag, ...] = ()
    metrics: dict[str, float | None] = {}
    """By the kind of label: auc, log_loss, brier, accuracy; mae, rmse, r2. None where there is none, as the AUC of one class."""
    measured: int = 0
    """Labelled predictions that the metrics are over: the newest, where there are very many."""
    training: dict[str, float] = {}
    """The same metrics as the version's run measured them."""


class SkewResult(Record, frozen=True, kw_only=True):
    """How much of what a model was served of one feature is what the offline history says of the same moments."""

    model: str
    feature: str
    rows: int
    """Served values that could be computed anew."""
    equal: int
    share: float | None
    """Of equal values, 0 to 1; None when there are too few to say."""
    verdict: Literal["not_enough_data", "ok", "alert"]
    entity: dict[str, Any] | None = None
    """The latest that differs, with its moment, what was served and what the history says; numbers that JSON lacks as null."""
    moment: datetime | None = None
    served: float | None = None
    recomputed: float | None = None
    at: datetime


AlertState = Literal["firing", "resolved"]


class Alert(Record, frozen=True, kw_only=True):
    """A condition that a person should know of."""

    id: str
    name: str
    labels: dict[str, str]
    state: AlertState
    summary: str
    value: float | None
    fired_at: datetime
    resolved_at: datetime | None = None

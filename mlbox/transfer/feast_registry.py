"""The messages of Feast's registry file, `feast.core.Registry` and what is in it: the fields that a definition can come from.

Numbers and names are those of Feast's own `.proto` files, 0.67; a test compares them with an installed Feast.
"""

from __future__ import annotations

import msgspec

from mlbox.transfer.protobuf import Field, Message


class Duration(Message):
    """A length of time."""

    seconds: int = 0
    nanos: int = 0
    wire = {1: Field("seconds", "number"), 2: Field("nanos", "number")}


class FeatureSpecV2(Message):
    """A field of a schema."""

    name: str = ""
    value_type: int = 0
    tags: dict[str, str] = {}
    description: str = ""
    wire = {
        1: Field("name", "text"),
        2: Field("value_type", "number"),
        3: Field("tags", "pairs"),
        4: Field("description", "text"),
    }


class EntitySpecV2(Message):
    """What features are about; it has one join key."""

    name: str = ""
    project: str = ""
    value_type: int = 0
    description: str = ""
    join_key: str = ""
    tags: dict[str, str] = {}
    owner: str = ""
    wire = {
        1: Field("name", "text"),
        2: Field("value_type", "number"),
        3: Field("description", "text"),
        4: Field("join_key", "text"),
        8: Field("tags", "pairs"),
        9: Field("project", "text"),
        10: Field("owner", "text"),
    }


class Entity(Message):
    """An entity as it is kept."""

    spec: EntitySpecV2 = msgspec.field(default_factory=EntitySpecV2)
    wire = {1: Field("spec", EntitySpecV2)}


class FileOptions(Message):
    """Where a file is."""

    uri: str = ""
    wire = {2: Field("uri", "text")}


class TableOptions(Message):
    """What a source of a warehouse reads; the first fields of all of them are these."""

    table: str = ""
    query: str = ""
    wire = {1: Field("table", "text"), 2: Field("query", "text")}


class RequestDataOptions(Message):
    """What comes with a request."""

    schema: list[FeatureSpecV2] = []
    wire = {3: Field("schema", FeatureSpecV2, many=True)}


class DataSource(Message):
    """Where rows come from."""

    name: str = ""
    project: str = ""
    type: int = 0
    description: str = ""
    tags: dict[str, str] = {}
    owner: str = ""
    field_mapping: dict[str, str] = {}
    """From a column of the data to the name that views use."""
    timestamp_field: str = ""
    created_timestamp_column: str = ""
    date_partition_column: str = ""
    batch_source: DataSource | None = None
    file_options: FileOptions | None = None
    bigquery_options: TableOptions | None = None
    redshift_options: TableOptions | None = None
    snowflake_options: TableOptions | None = None
    spark_options: TableOptions | None = None
    trino_options: TableOptions | None = None
    athena_options: TableOptions | None = None
    request_data_options: RequestDataOptions | None = None
    wire = {
        1: Field("type", "number"),
        2: Field("field_mapping", "pairs"),
        3: Field("timestamp_field", "text"),
        4: Field("date_partition_column", "text"),
        5: Field("created_timestamp_column", "text"),
        11: Field("file_options", FileOptions),
        12: Field("bigquery_options", TableOptions),
        15: Field("redshift_options", TableOptions),
        18: Field("request_data_options", RequestDataOptions),
        19: Field("snowflake_options", TableOptions),
        20: Field("name", "text"),
        21: Field("project", "text"),
        23: Field("description", "text"),
        24: Field("tags", "pairs"),
        25: Field("owner", "text"),
        27: Field("spark_options", TableOptions),
        30: Field("trino_options", TableOptions),
        35: Field("athena_options", TableOptions),
    }


DataSource.wire[26] = Field("batch_source", DataSource)


class UserDefinedFunction(Message):
    """A function's name and text; what Feast pickled of it is not read."""

    name: str = ""
    body_text: str = ""
    wire = {1: Field("name", "text"), 3: Field("body_text", "text")}


class FeatureTransformationV2(Message):
    """How a view computes."""

    user_defined_function: UserDefinedFunction | None = None
    wire = {1: Field("user_defined_function", UserDefinedFunction)}


class Aggregation(Message):
    """An aggregate over a window."""

    column: str = ""
    function: str = ""
    time_window: Duration | None = None
    wire = {1: Field("column", "text"), 2: Field("function", "text"), 3: Field("time_window", Duration)}


class AnyViewSpec(Message):
    """What feature views of every kind have."""

    name: str = ""
    project: str = ""
    entities: list[str] = []
    features: list[FeatureSpecV2] = []
    entity_columns: list[FeatureSpecV2] = []
    description: str = ""
    tags: dict[str, str] = {}
    owner: str = ""
    org: str = ""
    ttl: Duration | None = None
    batch_source: DataSource | None = None
    stream_source: DataSource | None = None
    online: bool = False
    disabled: bool = False
    source_views: int = 0
    user_defined_function: UserDefinedFunction | None = None
    feature_transformation: FeatureTransformationV2 | None = None
    aggregations: list[Aggregation] = []


class FeatureViewSpec(AnyViewSpec):
    """A feature view, a batch feature view included."""

    wire = {
        1: Field("name", "text"),
        2: Field("project", "text"),
        3: Field("entities", "text", many=True),
        4: Field("features", FeatureSpecV2, many=True),
        5: Field("tags", "pairs"),
        6: Field("ttl", Duration),
        7: Field("batch_source", DataSource),
        8: Field("online", "flag"),
        9: Field("stream_source", DataSource),
        10: Field("description", "text"),
        11: Field("owner", "text"),
        12: Field("entity_columns", FeatureSpecV2, many=True),
        14: Field("source_views", "present"),
        15: Field("feature_transformation", FeatureTransformationV2),
        19: Field("org", "text"),
        20: Field("disabled", "flag"),
    }


class StreamFeatureViewSpec(AnyViewSpec):
    """A stream feature view."""

    wire = {
        1: Field("name", "text"),
        2: Field("project", "text"),
        3: Field("entities", "text", many=True),
        4: Field("features", FeatureSpecV2, many=True),
        5: Field("entity_columns", FeatureSpecV2, many=True),
        6: Field("description", "text"),
        7: Field("tags", "pairs"),
        8: Field("owner", "text"),
        9: Field("ttl", Duration),
        10: Field("batch_source", DataSource),
        11: Field("stream_source", DataSource),
        12: Field("online", "flag"),
        13: Field("user_defined_function", UserDefinedFunction),
        15: Field("aggregations", Aggregation, many=True),
        17: Field("feature_transformation", FeatureTransformationV2),
        22: Field("org", "text"),
        23: Field("disabled", "flag"),
    }


class FeatureView(Message):
    """A feature view as it is kept."""

    spec: FeatureViewSpec = msgspec.field(default_factory=FeatureViewSpec)
    wire = {1: Field("spec", FeatureViewSpec)}


class StreamFeatureView(Message):
    """A stream feature view as it is kept."""

    spec: StreamFeatureViewSpec = msgspec.field(default_factory=StreamFeatureViewSpec)
    wire = {1: Field("spec", StreamFeatureViewSpec)}


class FeatureViewProjection(Message):
    """Some features of a view, under another name or with other join keys."""

    feature_view_name: str = ""
    feature_view_name_alias: str = ""
    feature_columns: list[FeatureSpecV2] = []
    join_key_map: dict[str, str] = {}
    """From a join key of the view to the name that a question uses."""
    version_tag: int = 0
    wire = {
        1: Field("feature_view_name", "text"),
        2: Field("feature_columns", FeatureSpecV2, many=True),
        3: Field("feature_view_name_alias", "text"),
        4: Field("join_key_map", "pairs"),
        10: Field("version_tag", "number"),
    }


class OnDemandSource(Message):
    """What an on-demand view is computed from: one of these."""

    feature_view: FeatureView | None = None
    request_data_source: DataSource | None = None
    feature_view_projection: FeatureViewProjection | None = None
    wire = {
        1: Field("feature_view", FeatureView),
        2: Field("request_data_source", DataSource),
        3: Field("feature_view_projection", FeatureViewProjection),
    }


class SourcesEntry(Message):
    """An entry of the map of an on-demand view's sources."""

    key: str = ""
    value: OnDemandSource = msgspec.field(default_factory=OnDemandSource)
    wire = {1: Field("key", "text"), 2: Field("value", OnDemandSource)}


class OnDemandFeatureViewSpec(Message):
    """A function of features and of what comes with a request."""

    name: str = ""
    project: str = ""
    features: list[FeatureSpecV2] = []
    sources: list[SourcesEntry] = []
    user_defined_function: UserDefinedFunction | None = None
    feature_transformation: FeatureTransformationV2 | None = None
    wire = {
        1: Field("name", "text"),
        2: Field("project", "text"),
        3: Field("features", FeatureSpecV2, many=True),
        4: Field("sources", SourcesEntry, many=True),
        5: Field("user_defined_function", UserDefinedFunction),
        10: Field("feature_transformation", FeatureTransformationV2),
    }


class OnDemandFeatureView(Message):
    """An on-demand view as it is kept."""

    spec: OnDemandFeatureViewSpec = msgspec.field(default_factory=OnDemandFeatureViewSpec)
    wire = {1: Field("spec", OnDemandFeatureViewSpec)}


class FeatureServiceSpec(Message):
    """Features under a name."""

    name: str = ""
    project: str = ""
    features: list[FeatureViewProjection] = []
    tags: dict[str, str] = {}
    description: str = ""
    owner: str = ""
    logging_config: int = 0
    wire = {
        1: Field("name", "text"),
        2: Field("project", "text"),
        3: Field("features", FeatureViewProjection, many=True),
        4: Field("tags", "pairs"),
        5: Field("description", "text"),
        6: Field("owner", "text"),
        7: Field("logging_config", "present"),
    }


class FeatureService(Message):
    """A feature service as it is kept."""

    spec: FeatureServiceSpec = msgspec.field(default_factory=FeatureServiceSpec)
    wire = {1: Field("spec", FeatureServiceSpec)}


class NamedSpec(Message):
    """Of what has no counterpart, its name; label views, saved datasets and permissions begin alike."""

    name: str = ""
    project: str = ""
    wire = {1: Field("name", "text"), 2: Field("project", "text")}


class Named(Message):
    """Something without a counterpart as it is kept."""

    spec: NamedSpec = msgspec.field(default_factory=NamedSpec)
    wire = {1: Field("spec", NamedSpec)}


class ValidationReference(Message):
    """A profile to check a dataset against, by name."""

    name: str = ""
    project: str = ""
    wire = {1: Field("name", "text"), 3: Field("project", "text")}


class FeatureTableSpec(Message):
    """What feature views were called before Feast 0.20, by name."""

    name: str = ""
    project: str = ""
    wire = {1: Field("name", "text"), 9: Field("project", "text")}


class FeatureTable(Message):
    """A feature table as it is kept."""

    spec: FeatureTableSpec = msgspec.field(default_factory=FeatureTableSpec)
    wire = {1: Field("spec", FeatureTableSpec)}


class ProjectSpec(Message):
    """A project."""

    name: str = ""
    wire = {1: Field("name", "text")}


class Project(Message):
    """A project as it is kept."""

    spec: ProjectSpec = msgspec.field(default_factory=ProjectSpec)
    wire = {1: Field("spec", ProjectSpec)}


class FeatureViewVersionHistory(Message):
    """The versions that views have had."""

    records: int = 0
    wire = {1: Field("records", "present")}


class Registry(Message):
    """Everything that a registry file has."""

    entities: list[Entity] = []
    feature_tables: list[FeatureTable] = []
    feature_views: list[FeatureView] = []
    data_sources: list[DataSource] = []
    on_demand_feature_views: list[OnDemandFeatureView] = []
    stream_feature_views: list[StreamFeatureView] = []
    feature_services: list[FeatureService] = []
    saved_datasets: list[Named] = []
    validation_references: list[ValidationReference] = []
    permissions: list[Named] = []
    projects: list[Project] = []
    label_views: list[Named] = []
    feature_view_version_history: FeatureViewVersionHistory | None = None
    wire = {
        1: Field("entities", Entity, many=True),
        2: Field("feature_tables", FeatureTable, many=True),
        6: Field("feature_views", FeatureView, many=True),
        7: Field("feature_services", FeatureService, many=True),
        8: Field("on_demand_feature_views", OnDemandFeatureView, many=True),
        11: Field("saved_datasets", Named, many=True),
        12: Field("data_sources", DataSource, many=True),
        13: Field("validation_references", ValidationReference, many=True),
        14: Field("stream_feature_views", StreamFeatureView, many=True),
        16: Field("permissions", Named, many=True),
        17: Field("projects", Project, many=True),
        18: Field("feature_view_version_history", FeatureViewVersionHistory),
        19: Field("label_views", Named, many=True),
    }

"""Whatever a registry holds, what comes of it is a definition file that reads back, or one error; nothing is lost unsaid."""

from __future__ import annotations

import tempfile
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlbox.cli.definitions import read
from mlbox.errors import InvalidInput
from mlbox.records import Definitions
from mlbox.store.features.definitions import FeatureDefinitions
from mlbox.transfer import feast_registry as feast
from mlbox.transfer.definition_file import as_comment, to_toml
from mlbox.transfer.feast import Imported, convert
from mlbox.transfer.feast_repo import Repository, open_repository, projects
from mlbox.transfer.feast_sql import name_of
from mlbox.transfer.protobuf import Message, read_message
from tests.store.test_definitions import make

REPO = Path(__file__).parents[1] / "cli" / "data" / "feast_repo"
REGISTRY = (REPO / "data" / "registry.db").read_bytes()
words = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
good = st.sampled_from(["a", "b", "c", "order", "n.1"])
bad = st.sampled_from(["A", "B", "event_time", "Arrival_Time", "x y", "__dummy", "", '"']) | words
names = st.integers(0, 9).flatmap(lambda number: bad if number == 9 else good)
numbers = st.integers(0, 50)


def of_registry(registry: feast.Registry, project: str = "p") -> Imported:
    return convert(Repository(registry, project, Path("repo")))


def check(found: Imported) -> None:
    """The file says what was found, and what is left is in lines."""
    text = to_toml(found.definitions) + "".join(as_comment(draft.text) for draft in found.drafts)
    assert all(char == "\n" or char.isprintable() for char in text)
    if any(getattr(found.definitions, kind) for kind in found.definitions.__struct_fields__):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "features.toml").write_text(text, encoding="utf-8")
            assert read([Path(folder) / "features.toml"]) == found.definitions
    else:
        assert tomllib.loads(text) == {}
    known = {one.name: one for one in found.definitions.sources}
    for view in found.definitions.views:
        columns = {column.name for column in known[view.sources[0]].columns}
        assert known[view.sources[0]].event_time in columns
        assert view.features
        assert view.join_keys
    views = {view.name: {one.name for one in view.features} for view in found.definitions.views}
    for service in found.definitions.services:
        for ref in service.features:
            view, _, feature = ref.partition(":")
            assert feature in views[view]


# -- any registry ---------------------------------------------------------------------------------------------------------


MOSTLY = {
    "project": st.sampled_from(["p"] * 9 + ["q"]),
    "value_type": st.sampled_from([2, 3, 4, 5, 6, 7, 8, 32] * 3 + [0, 1, 16, 99, -1]),
    "timestamp_field": st.sampled_from(["at"] * 6 + ["a", "time", ""]),
    "created_timestamp_column": st.sampled_from(["", "", "made", "a"]),
    "type": st.sampled_from([1, 1, 1, 2, 3, 7, 9]),
    "disabled": st.sampled_from([False] * 9 + [True]),
    "source_views": st.sampled_from([0] * 9 + [1]),
    "entities": st.lists(st.sampled_from(["a", "b", "c", "d", "__dummy", "x y"]), min_size=1, max_size=2),
}
"""Values that lead somewhere, by field; of a field that is not here, anything."""
SELDOM = ("feature_transformation", "user_defined_function", "aggregations")
ALWAYS = (
    *("spec", "name", "project", "entities", "features", "batch_source", "timestamp_field", "value_type", "online"),
    *("feature_view_name", "feature_columns"),
)


def messages(kind: type[Message], depth: int = 0) -> st.SearchStrategy[Any]:
    """Messages of a kind, of which some are as Feast would make them and most are nearly so."""
    plain: dict[str, st.SearchStrategy[Any]] = {}
    for field in kind.wire.values():
        if field.name in MOSTLY:
            plain[field.name] = MOSTLY[field.name]
        elif field.kind == "text":
            plain[field.name] = st.lists(names, max_size=3) if field.many else names
        elif field.kind == "number":
            plain[field.name] = numbers | st.integers(-(2**63), 2**63 - 1)
        elif field.kind == "flag":
            plain[field.name] = st.booleans()
        elif field.kind == "pairs":
            plain[field.name] = st.dictionaries(names, names, max_size=2)
        elif field.kind == "present":
            plain[field.name] = st.integers(0, 2)
        elif depth < 5:
            assert isinstance(field.kind, type)
            inner = messages(field.kind, depth + 1)
            some = (
                st.lists(inner, min_size=field.name in ALWAYS, max_size=1 if field.name in SELDOM else 3)
                if field.many
                else inner
            )
            nothing = st.just([]) if field.many else st.none()
            plain[field.name] = (
                st.integers(0, 9).flatmap(lambda n, a=nothing, b=some: b if n == 9 else a)
                if (field.name in SELDOM)
                else some
            )
    always = {name: plain.pop(name) for name in ALWAYS if name in plain}
    return st.fixed_dictionaries(always, optional=plain).map(lambda values: kind(**values))


REGISTRIES = st.builds(
    feast.Registry,
    entities=st.lists(messages(feast.Entity), min_size=1, max_size=3),
    feature_views=st.lists(messages(feast.FeatureView), min_size=1, max_size=4),
    data_sources=st.lists(messages(feast.DataSource), max_size=3),
    on_demand_feature_views=st.lists(messages(feast.OnDemandFeatureView, 2), max_size=2),
    stream_feature_views=st.lists(messages(feast.StreamFeatureView), max_size=2),
    feature_services=st.lists(messages(feast.FeatureService), min_size=1, max_size=3),
)


@settings(max_examples=40, suppress_health_check=list(HealthCheck), deadline=None)
@given(made=REGISTRIES)
def test_any_registry_becomes_a_file_that_reads_back_and_can_be_planned(
    store: FeatureDefinitions, made: feast.Registry
) -> None:
    found = of_registry(made)
    check(found)
    store.plan(found.definitions)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FeatureDefinitions]:
    """A store for plans: a plan keeps nothing."""
    made, opened = make(tmp_path_factory.mktemp("store"))
    yield made
    for one in reversed(opened):
        one.close()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(REGISTRY) - 1), st.integers(0, 255)), max_size=6), st.integers(0, 9))
def test_any_change_of_a_registry_gives_definitions_or_one_error(changes: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(REGISTRY)
    for at, byte in changes:
        data[at] = byte
    data = data[: len(data) - cut * 1000] if cut < 5 else data
    try:
        registry = read_message(bytes(data), feast.Registry, name="registry.db")
    except InvalidInput:
        return
    for project in projects(registry):
        check(convert(Repository(registry, project, REPO)))


@given(st.binary(max_size=300))
def test_any_file_gives_definitions_or_one_error(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "registry.db"
        path.write_bytes(data)
        try:
            found = convert(open_repository(path))
        except InvalidInput:
            return
        check(found)


# -- what is said -----------------------------------------------------------------------------------------------------------


def source(name: str = "s", **more: Any) -> feast.DataSource:
    given = {"type": 1, "timestamp_field": "at", "file_options": feast.FileOptions(uri=f"{name}.parquet")} | more
    return feast.DataSource(name=name, project="p", **given)


def view(name: str = "v", **more: Any) -> feast.FeatureView:
    given = {
        "entities": ["who"],
        "entity_columns": [feast.FeatureSpecV2(name="who", value_type=2)],
        "features": [feast.FeatureSpecV2(name="x", value_type=5)],
        "batch_source": source(),
        "online": True,
    } | more
    return feast.FeatureView(spec=feast.FeatureViewSpec(name=name, project="p", **given))


def registry(*views: feast.FeatureView, **more: Any) -> feast.Registry:
    entities = [feast.Entity(spec=feast.EntitySpecV2(name="who", project="p", value_type=2))]
    return feast.Registry(entities=entities, feature_views=list(views), **more)


FUNCTION = feast.FeatureTransformationV2(
    user_defined_function=feast.UserDefinedFunction(name="f", body_text="def f(df):\n\treturn df\x1b[2J")
)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"disabled": True}, "view v: it is disabled; enable it, and import again"),
        ({"source_views": 1}, "view v: it reads other views; write it as SQL over them"),
        ({"feature_transformation": FUNCTION}, "view v: it computes; write it as SQL, or as a job that pushes"),
        ({"batch_source": None}, "view v: it has no source of its own"),
        (
            {"batch_source": source(timestamp_field="")},
            "view v: of its source s, it does not say when its rows happened",
        ),
        ({"entity_columns": [feast.FeatureSpecV2(name="who", value_type=1)]}, "view v: its key who is BYTES"),
        ({"features": [feast.FeatureSpecV2(name="x", value_type=99)]}, "view v: feature x: there is no type 99 here"),
        (
            {"features": [feast.FeatureSpecV2(name="event_time", value_type=5)]},
            "view v: feature 'event_time': the name is",
        ),
        ({"features": []}, "view v: none of its features can be kept"),
    ],
)
def test_a_view_that_does_not_come_over_says_why(changed: dict[str, Any], says: str) -> None:
    found = of_registry(registry(view(**changed)))
    assert found.definitions.views == ()
    assert any(line.startswith(says) for line in found.left), found.left


def test_a_views_function_is_shown_and_never_obeyed() -> None:
    found = of_registry(registry(view(feature_transformation=FUNCTION)))
    (draft,) = found.drafts
    assert "#     return df [2J\n" in as_comment(draft.text)


def test_what_has_no_counterpart_is_named() -> None:
    named = feast.Named(spec=feast.NamedSpec(name="n", project="p"))
    found = of_registry(
        registry(
            view(org="o", ttl=feast.Duration(seconds=-1)),
            feature_tables=[feast.FeatureTable(spec=feast.FeatureTableSpec(name="n", project="p"))],
            label_views=[named],
            saved_datasets=[named],
            permissions=[named],
            validation_references=[feast.ValidationReference(name="n", project="p")],
            data_sources=[source("unread"), source("tagged")],
            feature_services=[feast.FeatureService(spec=feast.FeatureServiceSpec(name="other", project="q"))],
        )
    )
    for noun in ("feature table", "label view", "saved dataset", "permission", "validation reference"):
        assert any(line.startswith(f"{noun} n: there is no counterpart; ") for line in found.left), noun
    assert any(line.startswith("source unread: no view reads it") for line in found.left)
    assert "view v: its organisation o has no place; begin its name with a team's and a dot" in found.left
    assert "view v: its TTL of -1 s is not between 1 s and 100 years; its values hold for ever" in found.left
    assert found.notes == ("project q: 1 views and services are of another project; import them with --project",)


@pytest.mark.parametrize(
    ("duration", "seconds"), [((0, 0), None), ((60, 0), 60), ((0, 1), 1), ((60, 500_000_000), 61), ((-5, 0), None)]
)
def test_a_ttl_is_in_whole_seconds(duration: tuple[int, int], seconds: int | None) -> None:
    ttl = feast.Duration(seconds=duration[0], nanos=duration[1])
    (one,) = of_registry(registry(view(ttl=ttl))).definitions.views
    assert one.ttl_seconds == seconds


@pytest.mark.parametrize(
    ("number", "dtype"),
    [
        (2, "STRING"),
        (3, "INT64"),
        (4, "INT64"),
        (5, "FP64"),
        (6, "FP64"),
        (7, "BOOL"),
        (8, "TIMESTAMP"),
        (32, "STRING"),
    ],
)
def test_types_have_their_counterparts(number: int, dtype: str) -> None:
    features = [feast.FeatureSpecV2(name="x", value_type=number)]
    (one,) = of_registry(registry(view(features=features))).definitions.views
    assert one.features[0].dtype == dtype


def test_several_push_sources_over_one_file_are_sources_of_their_own() -> None:
    pushes = [source(name, type=9, batch_source=source(), file_options=None) for name in ("p1", "p2")]
    views = [view(name, stream_source=push) for name, push in zip(("v1", "v2"), pushes, strict=True)]
    found = of_registry(registry(*views, view("v3"), data_sources=[source(), *pushes]))
    assert [(one.name, one.sources) for one in found.definitions.views] == [
        ("v1", ("p1",)),
        ("v2", ("p2",)),
        ("v3", ("s",)),
    ]
    assert found.loads == tuple(f"mlbox source append {name} repo/s.parquet" for name in ("p1", "p2", "s"))


@pytest.mark.parametrize(
    ("changed", "load"),
    [
        ({"file_options": feast.FileOptions(uri="file:///data/my file.parquet")}, "s '/data/my file.parquet'"),
        ({"file_options": feast.FileOptions(uri="gs://b/x")}, "s s.parquet   # first export it: it is gs://b/x"),
        (
            {"type": 2, "file_options": None, "bigquery_options": feast.TableOptions(query="SELECT\n1")},
            "s s.parquet   # first export it: it is bigquery: SELECT 1",
        ),
        ({"type": 6, "file_options": None}, "s s.parquet   # first export it: it is a source of its own kind"),
    ],
)
def test_each_source_says_how_it_is_loaded(changed: dict[str, Any], load: str) -> None:
    (line,) = of_registry(registry(view(batch_source=source(**changed)))).loads
    assert line == f"mlbox source append {load}"


def test_one_column_of_two_types_is_said() -> None:
    other = view("w", features=[feast.FeatureSpecV2(name="x", value_type=4)])
    found = of_registry(registry(view(), other))
    assert "source s: its column x is FP64, and INT64 in the view w; see which one its data fits" in found.left


def test_columns_that_differ_in_capitals_only_are_said() -> None:
    other = view("w", features=[feast.FeatureSpecV2(name="X", value_type=5)])
    found = of_registry(registry(view(), other, view("z", features=[feast.FeatureSpecV2(name="At", value_type=5)])))
    assert [one.name for one in found.definitions.views] == ["v"]
    why = "differs from another of its source s in capitals only; rename one of them"
    assert {f"view w: the column X {why}", f"view z: the column At {why}"} <= set(found.left)


def test_words_of_sql_are_quoted(cursor: Callable[[str], list[tuple[str]]]) -> None:
    words = cursor("SELECT keyword_name FROM duckdb_keywords() WHERE keyword_category <> 'unreserved'")
    for (word,) in words:
        assert name_of(word) in (f'"{word}"', word)
        cursor(f"SELECT {name_of(word)}, {name_of(word)} AS y FROM (SELECT 1 AS {name_of(word)}) AS t")
    assert (name_of('a"b'), name_of("driver_id"), name_of("order")) == ('"a""b"', "driver_id", '"order"')


@pytest.fixture
def cursor() -> Any:
    import duckdb

    connection = duckdb.connect()
    yield lambda sql: connection.execute(sql).fetchall()
    connection.close()


# -- feature_store.yaml -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "project: shop\nregistry: data/registry.db\n",
        "project: 'shop'  # ours\nregistry: \"data/registry.db\" # a file\nonline_store: {type: sqlite}\n",
        "---\n# registry: x\nregistry:\n  registry_type: file\n  path: data/registry.db\n  s3_additional_kwargs:\n"
        "    path: x\nonline_store:\n    path: y\nproject: shop\n",
        "project: $SHOP\nregistry: ${DATA}/registry.db\nlist:\n- a\n- b\n",
    ],
)
def test_what_feature_store_yaml_may_say(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP", "shop")
    monkeypatch.setenv("DATA", "data")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "registry.db").write_bytes(REGISTRY)
    (tmp_path / "feature_store.yaml").write_text(text)
    assert convert(open_repository(tmp_path)).definitions == convert(open_repository(REPO)).definitions


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("project: shop\n", "does not say where its registry is"),
        ("project: shop\nregistry: s3://b/registry.db\n", "The registry is at s3://b/registry.db. Copy it here."),
        ("project: shop\nregistry:\n  registry_type: sql\n  path: x\n", "is of the type 'sql', not a file"),
        ("project: shop\nregistry: {path: x}\n", "Line 2 of"),
        ("{project: shop}\n", "Line 1 of"),
        ("project: shop\nregistry: >\n  x\n", "Line 2 of"),
        ("project: nobody\nregistry: registry.db\n", "has no project 'nobody'. Give --project, one of shop."),
        ("\udcff", "is not UTF-8 at byte 0"),
    ],
)
def test_what_feature_store_yaml_may_not_say(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "registry.db").write_bytes(REGISTRY)
    (tmp_path / "feature_store.yaml").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InvalidInput) as caught:
        open_repository(tmp_path)
    assert says in str(caught.value)


@settings(max_examples=300)
@given(
    st.lists(st.sampled_from(["registry", "project", "path", ":", " ", "  ", "\n", "'", '"', "#", "{", "x", "\t", "-"]))
)
def test_any_yaml_gives_a_repository_or_one_error(parts: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "feature_store.yaml").write_text("".join(parts))
        with pytest.raises(InvalidInput):
            open_repository(Path(folder))


def test_definitions_of_nothing_are_an_empty_file() -> None:
    assert to_toml(Definitions()) == ""

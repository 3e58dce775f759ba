"""Settings: where a value comes from, what is refused, and that flags, variables, file and words agree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mlbox
from mlbox import settings
from mlbox.errors import InvalidInput, MlboxError, StartupError
from mlbox.settings import Settings, load

NAMES = Settings.__struct_fields__


def origin(found: list[settings.Origin], name: str) -> str:
    return next(o.origin for o in found if o.name == name)


def refusal(environ: dict[str, str], file: Path | None = None) -> MlboxError | None:
    try:
        load({}, environ=environ, file=file)
    except MlboxError as err:
        return err
    return None


def write(folder: Path, content: str) -> Path:
    path = folder / "mlbox.toml"
    path.write_text(content)
    return path


def test_without_anything_all_is_default() -> None:
    loaded, origins = load({}, environ={})
    assert loaded == Settings()
    assert [o.name for o in origins] == list(NAMES)
    assert {o.origin for o in origins} == {"default"}


def test_a_flag_beats_a_variable_beats_the_file_beats_the_default(tmp_path: Path) -> None:
    file = write(tmp_path, "port = 1\nhost = 'file'\nthreads = 3\n")
    environ = {"MLBOX_PORT": "2", "MLBOX_HOST": "env"}
    loaded, origins = load({"port": "3", "host": None}, environ=environ, file=file)
    assert (loaded.port, loaded.host, loaded.threads, loaded.gpus) == (3, "env", 3, "auto")
    assert [origin(origins, name) for name in ("port", "host", "threads", "gpus")] == ["flag", "env", "file", "default"]


def test_an_empty_variable_counts_as_not_set() -> None:
    assert load({}, environ={"MLBOX_PORT": ""})[0].port == Settings().port


def test_a_list_is_a_repeated_flag_a_variable_with_commas_or_an_array(tmp_path: Path) -> None:
    file = write(tmp_path, 'allowed_host = ["a", "b"]')
    assert load({}, environ={}, file=file)[0].allowed_host == ("a", "b")
    assert load({}, environ={"MLBOX_ALLOWED_HOST": "a, b,"})[0].allowed_host == ("a", "b")
    assert load({"allowed_host": ["a", "b"]}, environ={})[0].allowed_host == ("a", "b")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", -1),
        ("port", True),
        ("port", 80.5),
        ("port", "80 "),
        ("host", ""),
        ("host", 5),
        ("threads", 0),
        ("log_flush", "nan"),
        ("memory_gb", "inf"),
        ("duckdb_memory", "2TB"),
        ("duckdb_memory", "2GB\nSET x"),
        ("allowed_host", "box"),
        ("max_sql", {"a": 1}),
    ],
)
def test_a_value_out_of_type_or_range_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        load({name: value}, environ={})
    assert caught.value.field == name
    assert settings.flag_name(name) in caught.value.message
    assert settings.kind(name) in caught.value.message


@given(st.dictionaries(st.sampled_from(NAMES), st.text(alphabet=st.characters(exclude_characters="\0"), min_size=1)))
def test_any_text_in_a_variable_is_taken_or_refused(values: dict[str, str]) -> None:
    refused = refusal({settings.env_name(name): value for name, value in values.items()})
    assert refused is None or refused.field in values
    assert refused is None or settings.env_name(refused.field) in refused.message


@given(
    st.dictionaries(st.text(alphabet="abcport_", min_size=1), st.integers() | st.text(alphabet="ab") | st.booleans())
)
def test_any_file_is_taken_or_refused(tmp_path_factory: pytest.TempPathFactory, content: dict[str, Any]) -> None:
    file = write(tmp_path_factory.mktemp("s"), "".join(f"{k} = {json.dumps(v)}\n" for k, v in content.items()))
    refused = refusal({}, file)
    assert refused is None or (isinstance(refused, InvalidInput | StartupError) and refused.hint)


def test_each_setting_says_what_it_is_for_and_what_it_takes() -> None:
    for name in NAMES:
        assert settings.describe(name).endswith("."), name
        assert settings.kind(name), name
        assert settings.default_text(name), name


def test_the_defaults_are_within_their_own_bounds() -> None:
    defaults = {name: getattr(Settings(), name) for name in NAMES}
    assert load(defaults, environ={})[0] == Settings()
    assert msgspec.convert(msgspec.to_builtins(Settings()), Settings) == Settings()


def test_every_setting_does_something() -> None:
    code = "".join(path.read_text() for path in Path(mlbox.__file__).parent.rglob("*.py"))
    idle = [name for name in settings.Settings.__struct_fields__ if f"settings.{name}" not in code]
    assert idle == []


def test_a_variable_that_is_no_text_is_refused_by_name() -> None:
    with pytest.raises(InvalidInput, match="MLBOX_LOG_LEVEL"):
        load({}, environ={"MLBOX_LOG_LEVEL": "\ud800"})


def test_virtual_gpus_are_tables_or_the_text_that_they_come_to(tmp_path: Path) -> None:
    file = write(
        tmp_path, "[[gpus]]\nname = 'A100'\nmemory_gb = 80\ncount = 2\n[[gpus]]\nname = 'L4'\nmemory_gb = 24\n"
    )
    assert load({}, environ={}, file=file)[0].gpus == "virtual:A100=80,A100=80,L4=24"


@pytest.mark.parametrize("table", ["memory_gb = 0", "memory = 80", "name = 'a,b'", "count = 0", "name = 5"])
def test_a_virtual_gpu_that_cannot_be_is_refused(tmp_path: Path, table: str) -> None:
    with pytest.raises(InvalidInput, match=r"\[\[gpus\]\]") as caught:
        load({}, environ={}, file=write(tmp_path, f"[[gpus]]\n{table}\n"))
    assert caught.value.field == "gpus"

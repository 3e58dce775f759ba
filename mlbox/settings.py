"""Every setting, declared once.

A field of `Settings` carries its name, type, default, bounds and help; the environment variable is `MLBOX_` and the name in
capitals. Command-line flags, `mlbox config`, the TOML file and the reference page are all made from this class.
"""

from __future__ import annotations

import difflib
import math
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import msgspec
from msgspec import Meta

from mlbox.errors import InvalidInput, StartupError

ENV_PREFIX = "MLBOX_"
MIB = 1024 * 1024


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The server's settings, validated."""

    data_dir: Annotated[str, Meta(min_length=1, description="Folder that holds everything the server keeps.")] = (
        "mlbox-data"
    )
    host: Annotated[str, Meta(min_length=1, description="Address to listen on.")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="TCP port to listen on; 0 picks a free one.")] = 8265
    allowed_host: Annotated[
        tuple[str, ...],
        Meta(description="Host names, besides localhost and the address listened on, that requests may come in under."),
    ] = ()
    replay_clock: Annotated[
        str,
        Meta(
            description="Start of domain time for replaying the past, e.g. 2013-01-01T00:00Z; only for a new data directory."
        ),
    ] = ""
    max_body: Annotated[int, Meta(ge=1024, description="Largest request body in bytes, artifacts aside.")] = 10 * MIB
    max_artifact: Annotated[int, Meta(ge=1024, description="Largest single artifact in bytes.")] = 4096 * MIB
    max_upload: Annotated[int, Meta(ge=1024, description="Largest upload of rows in bytes, streamed.")] = 1024 * MIB
    upload_seconds: Annotated[
        float, Meta(gt=0, le=3600, description="Most seconds that an upload may take to parse.")
    ] = 120
    upload_memory_mb: Annotated[
        int, Meta(ge=256, description="Most memory in MiB that the parser of an upload may take.")
    ] = 2048
    max_sql: Annotated[int, Meta(ge=256, description="Longest SQL text in bytes.")] = 65536
    duckdb_memory: Annotated[str, Meta(pattern=r"^\d+(MB|GB)$", description="Memory limit of the offline store.")] = (
        "2GB"
    )
    duckdb_temp: Annotated[
        str, Meta(pattern=r"^\d+(MB|GB)$", description="Limit of the offline store's temporary files.")
    ] = "20GB"
    query_seconds: Annotated[
        float, Meta(gt=0, le=86400, description="Most seconds that a query of the offline store may take.")
    ] = 300
    threads: Annotated[int, Meta(ge=1, le=256, description="Threads for blocking store calls.")] = 16
    infer_threads: Annotated[int, Meta(ge=1, le=64, description="Threads that one model's inference may use.")] = 1
    max_models: Annotated[
        int, Meta(ge=1, le=10000, description="Model versions in memory; the longest unused one gives way to another.")
    ] = 64
    gpus: Annotated[
        str,
        Meta(description="GPUs to schedule on: auto asks the driver, none uses no GPU, else indices such as 0,1."),
    ] = "auto"
    cpus: Annotated[int, Meta(ge=0, description="CPUs that jobs may share; 0 means all of the box.")] = 0
    memory_gb: Annotated[
        float, Meta(ge=0, description="Memory in GiB that jobs may share; 0 means all of the box.")
    ] = 0
    job_retries: Annotated[
        int, Meta(ge=0, le=100, description="Retries of a failed job when its submission names none.")
    ] = 0
    job_grace: Annotated[
        float, Meta(ge=0, le=600, description="Seconds between SIGTERM and SIGKILL when a job is stopped.")
    ] = 10
    rollout_seconds: Annotated[
        float, Meta(gt=0, le=3600, description="Seconds between two looks at the candidates in shadow and canary.")
    ] = 5.0
    log_flush: Annotated[
        float, Meta(gt=0, le=10, description="Most seconds of prediction log that are not yet on disk.")
    ] = 1.0
    log_queue: Annotated[
        int, Meta(ge=100, description="Predictions that may wait for the log before drops are counted.")
    ] = 50000
    drift_window: Annotated[int, Meta(ge=100, description="Predictions in the current window of a drift check.")] = (
        10000
    )
    drift_minimum: Annotated[int, Meta(ge=2, description="Fewest values on either side of a drift check.")] = 100
    drift_days: Annotated[float, Meta(gt=0, le=3650, description="Oldest prediction, in days, of a drift check.")] = 30
    drift_seconds: Annotated[
        float,
        Meta(ge=0, description="Seconds between two drift checks of every model; 0, or replay mode: only on demand."),
    ] = 0
    session_hours: Annotated[float, Meta(gt=0, le=8760, description="Hours until an idle browser session ends.")] = 12


class Origin(msgspec.Struct, frozen=True):
    """Where the value of one setting came from: flag, env, file or default."""

    name: str
    value: Any
    origin: str


def env_name(name: str) -> str:
    """The environment variable of a setting."""
    return ENV_PREFIX + name.upper()


def flag_name(name: str) -> str:
    """The command-line flag of a setting."""
    return "--" + name.replace("_", "-")


def describe(name: str) -> str:
    """The help text of a setting."""
    return _meta(name).description or ""


def is_list(name: str) -> bool:
    """True for a setting that takes any number of values: a repeated flag, a variable with commas, a TOML array."""
    return _type(name) not in _KINDS


def metavar(name: str) -> str:
    """What stands for the value in a usage line."""
    return _KINDS.get(_type(name), _KINDS[str])[0]


def kind(name: str) -> str:
    """What values a setting takes, in words."""
    meta = _meta(name)
    words = "list of texts" if is_list(name) else _KINDS[_type(name)][1]
    if meta.pattern:
        return f"{words} such as {default_text(name)}"
    low = f" from {meta.ge:.12g}" if meta.ge is not None else f" above {meta.gt:.12g}" if meta.gt is not None else ""
    high = f" to {meta.le:.12g}" if meta.le is not None else ""
    return f"{words}{low}{high}"


def default_text(name: str) -> str:
    """The default of a setting, as one would write it."""
    return text_of(next(f.default for f in msgspec.structs.fields(Settings) if f.name == name)) or "none"


def text_of(value: Any) -> str:
    """A setting's value as one would write it in a variable."""
    return ",".join(value) if isinstance(value, tuple) else str(value)


_KINDS = {str: ("TEXT", "text"), int: ("N", "whole number"), float: ("X", "number")}


def _type(name: str) -> Any:
    return get_type_hints(Settings)[name]


def _meta(name: str) -> Meta:
    hint = get_type_hints(Settings, include_extras=True)[name]
    return next(meta for meta in get_args(hint) if isinstance(meta, Meta))


def load(
    flags: Mapping[str, Any], *, environ: Mapping[str, str] | None = None, file: Path | None = None
) -> tuple[Settings, list[Origin]]:
    """Settings from flags, then MLBOX_* variables, then a TOML file, then defaults, with each value's origin.

    A flag that is None counts as not given, a variable that is empty as not set. Raises InvalidInput with the setting's
    name for a value out of bounds or an unknown name in the file, and StartupError for a file that cannot be read.
    """
    env = os.environ if environ is None else environ
    from_file = _read_file(file)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for name in Settings.__struct_fields__:
        if flags.get(name) is not None:
            values[name], origins[name] = flags[name], "flag"
        elif env.get(env_name(name), "") != "":
            values[name], origins[name] = _from_text(name, env[env_name(name)]), "env"
        elif name in from_file:
            values[name], origins[name] = from_file[name], "file"
    settings = Settings(**{name: _convert(name, value, origins[name], file) for name, value in values.items()})
    listing = [Origin(n, getattr(settings, n), origins.get(n, "default")) for n in Settings.__struct_fields__]
    return settings, listing


def _from_text(name: str, text: str) -> Any:
    return [part.strip() for part in text.split(",") if part.strip()] if is_list(name) else text


def _convert(name: str, value: Any, origin: str, file: Path | None) -> Any:
    try:
        converted = msgspec.convert(value, get_type_hints(Settings, include_extras=True)[name], strict=False)
        if isinstance(converted, float) and not math.isfinite(converted):
            raise msgspec.ValidationError("not a finite number")
        return converted
    except msgspec.ValidationError as err:
        where = {"flag": f"The flag {flag_name(name)}", "env": f"The variable {env_name(name)}"}
        place = where.get(origin, f"The setting {name} in {file}")
        raise InvalidInput(f"{place} is {value!r}, but takes a {kind(name)}.", hint=describe(name), field=name) from err


def _read_file(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        content = tomllib.loads(file.read_text())
    except OSError as err:
        raise StartupError(f"The settings file {file} cannot be read: {err.strerror}.", hint="Check --config.") from err
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        raise StartupError(f"The settings file {file} is not TOML: {err}.", hint="Mend the file.") from err
    unknown = sorted(set(content) - set(Settings.__struct_fields__))
    if unknown:
        near = difflib.get_close_matches(unknown[0], Settings.__struct_fields__, n=1)
        raise InvalidInput(
            f"The settings file {file} has an unknown setting {unknown[0]!r}.",
            hint=f"Did you mean {near[0]!r}?" if near else "`mlbox config` lists all settings.",
            field=unknown[0],
        )
    return content

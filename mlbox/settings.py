"""Every setting, declared once.

A field of `Settings` carries its name, type, default, bounds and help; the environment variable is `MLBOX_` and the name in
capitals. Command-line flags, `mlbox config`, the TOML file and the reference page are all made from this class.
"""

from __future__ import annotations

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
    max_json_depth: Annotated[int, Meta(ge=4, le=512, description="Deepest nesting of a JSON body.")] = 64
    max_metrics_batch: Annotated[int, Meta(ge=1, description="Most metric points in one request.")] = 1000
    max_sql: Annotated[int, Meta(ge=256, description="Longest SQL text in bytes.")] = 65536
    duckdb_memory: Annotated[str, Meta(pattern=r"^\d+(MB|GB)$", description="Memory limit of the offline store.")] = (
        "2GB"
    )
    duckdb_temp: Annotated[
        str, Meta(pattern=r"^\d+(MB|GB)$", description="Limit of the offline store's temporary files.")
    ] = "20GB"
    threads: Annotated[int, Meta(ge=1, le=256, description="Threads for blocking store calls.")] = 16
    infer_threads: Annotated[int, Meta(ge=1, le=64, description="Threads that one model's inference may use.")] = 1
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
    ] = 2
    job_grace: Annotated[
        float, Meta(ge=0, le=600, description="Seconds between SIGTERM and SIGKILL when a job is stopped.")
    ] = 10
    scheduler_tick: Annotated[float, Meta(gt=0, le=60, description="Seconds between two looks at the queue.")] = 0.5
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
    session_hours: Annotated[float, Meta(gt=0, description="Hours until an idle browser session ends.")] = 12


class Origin(msgspec.Struct, frozen=True):
    """Where the value of one setting came from: flag, env, file or default."""

    name: str
    value: Any
    origin: str


def env_name(name: str) -> str:
    """The environment variable of a setting."""
    return ENV_PREFIX + name.upper()


def describe(name: str) -> str:
    """The help text of a setting."""
    hint = get_type_hints(Settings, include_extras=True)[name]
    return next(meta.description or "" for meta in get_args(hint) if isinstance(meta, Meta))


def load(
    flags: Mapping[str, Any], *, environ: Mapping[str, str] | None = None, file: Path | None = None
) -> tuple[Settings, list[Origin]]:
    """Settings from flags, then MLBOX_* variables, then a TOML file, then defaults, with each value's origin.

    A flag that is None counts as not given. Raises InvalidInput with the setting's name for a value out of bounds, and
    StartupError for a file that cannot be read.
    """
    env = os.environ if environ is None else environ
    from_file = _read_file(file)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for name in Settings.__struct_fields__:
        if flags.get(name) is not None:
            values[name], origins[name] = flags[name], "flag"
        elif env.get(env_name(name), "") != "":
            values[name], origins[name] = _from_text(name, env[env_name(name)]), f"env {env_name(name)}"
        elif name in from_file:
            values[name], origins[name] = from_file[name], f"file {file}"
    settings = Settings(**{name: _convert(name, value, origins[name]) for name, value in values.items()})
    listing = [Origin(n, getattr(settings, n), origins.get(n, "default")) for n in Settings.__struct_fields__]
    return settings, listing


def _from_text(name: str, text: str) -> Any:
    hint = get_type_hints(Settings)[name]
    return [part for part in text.split(",") if part] if hint == tuple[str, ...] else text


def _convert(name: str, value: Any, origin: str) -> Any:
    hint = get_type_hints(Settings, include_extras=True)[name]
    try:
        return msgspec.convert(value, hint, strict=False)
    except msgspec.ValidationError as err:
        raise InvalidInput(
            f"The setting {name} (from {origin}) is {value!r}: {err}.", hint=describe(name), field=name
        ) from err


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
        raise InvalidInput(
            f"The settings file {file} has an unknown setting {unknown[0]!r}.",
            hint="`mlbox config` lists all settings.",
            field=unknown[0],
        )
    return content

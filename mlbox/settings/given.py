"""The settings of this start: what flags, variables and a file give, before the defaults."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from mlbox.errors import InvalidInput
from mlbox.settings.declared import Settings
from mlbox.settings.files import read_file
from mlbox.settings.words import describe, env_name, flag_name, hints, is_list, kind


class Origin(msgspec.Struct, frozen=True):
    """Where the value of one setting came from: flag, env, file or default."""

    name: str
    value: Any
    origin: str


def load(
    flags: Mapping[str, Any], *, environ: Mapping[str, str] | None = None, file: Path | None = None
) -> tuple[Settings, list[Origin]]:
    """Settings from flags, then MLBOX_* variables, then a TOML file, then defaults, with each value's origin.

    A flag that is None counts as not given, a variable that is empty as not set. Raises InvalidInput with the setting's
    name for a value out of bounds or an unknown name in the file, and StartupError for a file that cannot be read.
    """
    env = os.environ if environ is None else environ
    from_file = read_file(file)
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
        converted = msgspec.convert(value, hints()[name], strict=False)
        if isinstance(converted, float) and not math.isfinite(converted):
            raise msgspec.ValidationError("not a finite number")
        return converted
    except (msgspec.ValidationError, UnicodeEncodeError) as err:  # a variable may hold bytes that are no UTF-8
        where = {"flag": f"The flag {flag_name(name)}", "env": f"The variable {env_name(name)}"}
        place = where.get(origin, f"The setting {name} in {file}")
        raise InvalidInput(f"{place} is {value!r}, but takes a {kind(name)}.", hint=describe(name), field=name) from err

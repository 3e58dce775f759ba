"""What files say of settings: one in TOML with any of them, and one with a single secret."""

from __future__ import annotations

import stat
import tomllib
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from mlbox.errors import InvalidInput, StartupError, suggest
from mlbox.settings.declared import Settings


class _VirtualGpu(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table [[gpus]] of the settings file."""

    name: Annotated[str, Meta(pattern="^[^,=]{1,80}$")] = "GPU"
    memory_gb: Annotated[float, Meta(gt=0, lt=100_000)] = 80.0
    count: Annotated[int, Meta(ge=1, le=1024)] = 1


def read_file(file: Path | None) -> dict[str, Any]:
    """What a TOML file says of settings, by name; raises InvalidInput for an unknown name, StartupError for no such file."""
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
            hint=suggest(unknown[0], Settings.__struct_fields__, otherwise="`mlbox config` lists all settings."),
            field=unknown[0],
        )
    if isinstance(content.get("gpus"), list):
        content["gpus"] = _virtual_gpus(content["gpus"], file)
    return content


def _virtual_gpus(tables: list[Any], file: Path) -> str:
    """The tables [[gpus]] in the form that a flag and a variable have."""
    try:
        found = msgspec.convert(tables, list[_VirtualGpu])
    except msgspec.ValidationError as err:
        raise InvalidInput(
            f"A table [[gpus]] in {file} is wrong: {err}.",
            hint="Give name (a text without commas) and memory_gb, and count for several alike.",
            field="gpus",
        ) from err
    return "virtual:" + ",".join(f"{gpu.name}={gpu.memory_gb:.12g}" for gpu in found for _ in range(gpu.count))


def secret_in(file: str, name: str) -> str | None:
    """The secret in a file that the setting of this name names, None where it names none; raises StartupError.

    In a file, because a flag would show in the list of processes, and a variable to whoever may read the environment.
    """
    if not file:
        return None
    path = Path(file)
    try:
        mode, secret = stat.S_IMODE(path.stat().st_mode), path.read_text().strip()
    except (OSError, UnicodeDecodeError) as err:
        what = f"cannot be read: {getattr(err, 'strerror', None) or err}"
        raise _bad_secret(name, path, what, "Check it.") from err
    if mode & 0o007:
        what = f"is open to every account of this machine (mode {mode:04o})"
        raise _bad_secret(name, path, what, f"chmod 600 {path}")
    if not secret or not secret.isprintable():
        raise _bad_secret(
            name, path, "is not one line with the secret", "Copy it again from where it was given to you."
        )
    return secret


def _bad_secret(name: str, path: Path, what: str, hint: str) -> StartupError:
    return StartupError(f"The file {name}, {path}, {what}.", hint=hint, field=name)

"""Every setting, declared once.

A field of `Settings` carries its name, type, default, bounds and help; the environment variable is `MLBOX_` and the name in
capitals. Command-line flags, `mlbox config`, the TOML file and the reference page are all made from this class.
"""

from __future__ import annotations

from mlbox.settings.declared import MIB, Settings
from mlbox.settings.files import secret_in
from mlbox.settings.given import Origin, load
from mlbox.settings.words import default_text, describe, env_name, flag_name, is_list, kind, metavar, text_of

__all__ = [
    "MIB",
    "Origin",
    "Settings",
    "default_text",
    "describe",
    "env_name",
    "flag_name",
    "is_list",
    "kind",
    "load",
    "metavar",
    "secret_in",
    "text_of",
]

"""How help names what a command takes: `MODEL...` and `--limit N`, not Python's types."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from typer.core import TyperArgument, TyperOption

WORDS = {int: "N", float: "N", Path: "PATH"}
"""What stands for a value by its type; text else."""


class Argument(TyperArgument):
    """An argument that is written as it is in a usage line: `NAME`, `[NAME]`, `NAME...`."""

    def get_usage_pieces(self, ctx: Any) -> list[str]:
        """The argument in the usage line."""
        name = self._shown()
        return [name if self.required else f"[{name}]"]

    def get_help_record(self, ctx: Any) -> tuple[str, str] | None:
        """The argument's line under Arguments."""
        record = super().get_help_record(ctx)
        return record and (self._shown(), record[1])

    def _shown(self) -> str:
        name = self.metavar or (self.name or "").upper().replace("_", "-")
        return name if self.nargs == 1 else f"{name}..."


def say_plainly(command: Any) -> None:
    """Have a command, and those in it, name arguments and values so."""
    for inner in getattr(command, "commands", {}).values():
        say_plainly(inner)
    for parameter in command.params:
        if isinstance(parameter, TyperArgument):
            parameter.__class__ = Argument  # typer makes them, and has no way to say of which class
        elif isinstance(parameter, TyperOption) and parameter.metavar is None:
            parameter.metavar = _word(parameter)


def _word(option: TyperOption) -> str | None:
    kind = option.type_descriptor
    if option.is_flag or kind.is_choice:
        return None
    element = next(iter(get_args(kind.annotation)), kind.annotation) if kind.is_list else kind.annotation
    return WORDS.get(element, "TEXT")

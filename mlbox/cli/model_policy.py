"""`mlbox model policy`: what a model's versions must pass."""

from __future__ import annotations

import shlex
import tomllib
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from mlbox.cli.context import connect
from mlbox.cli.output import Output, OutputOption, show_one
from mlbox.client import Client
from mlbox.errors import InvalidInput
from mlbox.records import PromotionPolicy

COMMANDS = ("test", "integration")
SHA256 = 64


def register(app: typer.Typer) -> None:
    """Add the command to `mlbox model`."""
    app.command(epilog="Example: mlbox model policy flight-delay --set policy.toml")(policy)


def policy(
    model: str,
    set_file: Annotated[
        Path | None, typer.Option("--set", help="TOML or JSON file with a new policy; for admins.")
    ] = None,
    output: OutputOption = Output.table,
) -> None:
    """Show or set what a model's versions must pass.

    The code of its commands is the folder that the file names beside it; it is sent, and kept with the policy.
    """
    with connect() as client:
        path = f"/api/v1/models/{model}/policy"
        if set_file is None:
            show_one(client.get(path, PromotionPolicy), output)
            return
        body = _read(set_file, client)
        show_one(msgspec.json.decode(client.request("PUT", path, body=body), type=PromotionPolicy), output)


def _read(path: Path, client: Client) -> PromotionPolicy:
    """A policy out of a file, once the box has the code of its commands; what it does not name has the house's default."""
    try:
        if path.suffix == ".toml":
            found = tomllib.loads(path.read_text())
        else:
            found = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        _as_words(found)
        policy = msgspec.convert(found, type=PromotionPolicy)
    except (OSError, ValueError, msgspec.MsgspecError) as err:
        raise InvalidInput(
            f"{path} holds no policy: {err}.", hint="Begin with `mlbox model policy MODEL -o json`.", field="set"
        ) from err
    odd = [name for name in found if name not in PromotionPolicy.__struct_fields__]
    if odd:
        raise InvalidInput(
            f"{path} has {odd[0]!r}, which a policy does not know.",
            hint="`mlbox model policy MODEL -o json` shows what it knows.",
            field="set",
        )
    return _with_code(policy, path.parent, client)


def _as_words(found: dict[str, Any]) -> None:
    """A command that is written as a line, in words."""
    for gate in COMMANDS:
        command = found.get(gate)
        if isinstance(command, dict) and isinstance(command.get("command"), str):
            command["command"] = shlex.split(command["command"])


def _with_code(policy: PromotionPolicy, folder: Path, client: Client) -> PromotionPolicy:
    """Its commands' code, sent where it is a folder, by its SHA-256."""
    from mlbox.sdk.snapshot import pack, survey

    for gate in COMMANDS:
        command = getattr(policy, gate)
        if command is None or not command.code or _is_sha256(command.code):
            continue
        with pack(survey(folder / command.code)) as packed:
            sent = client.upload("POST", "/api/v1/snapshots", packed, dict[str, Any])
        known = msgspec.structs.replace(command, code=sent["sha256"])
        policy = msgspec.structs.replace(policy, **{gate: known})
    return policy


def _is_sha256(text: str) -> bool:
    return len(text) == SHA256 and all(letter in "0123456789abcdef" for letter in text)

"""`mlbox model policy`: what a model's versions must pass."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
import typer

from mlbox import policy_file
from mlbox.cli.context import connect
from mlbox.cli.output import Output, OutputOption, note, show, show_one
from mlbox.client import Client
from mlbox.errors import InvalidInput, said
from mlbox.records import PolicyPreview, PolicyRevision, PromotionPolicy

SHA256 = 64
HISTORY = ("revision", "set_by", "at", "diff")
BEGIN = "Begin with `mlbox model policy MODEL --toml`."


def register(app: typer.Typer) -> None:
    """Add the command to `mlbox model`."""
    app.command(epilog="Example: mlbox model policy flight-delay --set policy.toml")(policy)


def policy(
    model: str,
    set_file: Annotated[
        Path | None, typer.Option("--set", help="TOML or JSON file with a new policy; for admins.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="With --set: only say what it would change.")] = False,
    revision: Annotated[int | None, typer.Option(help="A former one; 0 is the house's default.")] = None,
    history: Annotated[bool, typer.Option("--history", help="Every revision, newest first.")] = False,
    toml: Annotated[bool, typer.Option("--toml", help="Print it as TOML, such as to change and --set it.")] = False,
    output: OutputOption = Output.table,
) -> None:
    """Show or set what a model's versions must pass.

    The code of its commands is the folder that the file names beside it; it is sent, and kept with the policy.
    """
    path = f"/api/v1/models/{quote(model, safe='')}/policy"
    with connect() as client:
        if history:
            _history(client.get(f"{path}/revisions", list[PolicyRevision], limit=1000), output)
        elif set_file is not None:
            _set(client, path, _read(set_file, client), dry_run, output)
        else:
            found = (
                client.get(path, PromotionPolicy)
                if revision is None
                else client.get(f"{path}/revisions/{revision}", PolicyRevision).policy
            )
            if toml:
                typer.echo(policy_file.write(found), nl=False)
            else:
                show_one(found, output)


def _history(found: list[PolicyRevision], output: Output) -> None:
    if output is not Output.table:
        show(found, HISTORY, output)
        return
    for one in found:
        lines = [f"revision {one.revision}, set by {one.set_by}, {one.at:%Y-%m-%d %H:%M:%SZ}", *one.diff]
        typer.echo("\n  ".join(lines) + "\n")
    if not found:
        note("Nobody set one: the house's default holds.")


def _set(client: Client, path: str, given: PromotionPolicy, dry_run: bool, output: Output) -> None:
    if not dry_run:
        show_one(msgspec.json.decode(client.request("PUT", path, body=given), type=PromotionPolicy), output)
        return
    seen = client.post(f"{path}/preview", PolicyPreview, {"toml": policy_file.write(given)})
    if output is Output.table:
        typer.echo("\n".join(seen.diff or ("Nothing differs.",)))
        for one in seen.effects:
            note(f"Version {one.version} ({one.state.replace('_', ' ')}): {one.words}.")
            if one.anew:
                note("  Proposed again, it would be judged anew by " + "; ".join(one.anew) + ".")
    else:
        show_one(seen, output)


def _read(path: Path, client: Client) -> PromotionPolicy:
    """A policy out of a file, once the box has the code of its commands; what it does not name has the house's default."""
    try:
        text = path.read_text()
        found = (
            policy_file.read(text)
            if path.suffix == ".toml"
            else policy_file.of_plain(msgspec.json.decode(text, type=dict[str, Any]))
        )
    except InvalidInput as err:
        raise InvalidInput(f"{path}: {err.message}", hint=err.hint or BEGIN, field="set") from err
    except (OSError, ValueError, msgspec.MsgspecError) as err:
        raise InvalidInput(f"{path} holds no policy: {said(err)}.", hint=BEGIN, field="set") from err
    return _with_code(found, path.parent, client)


def _with_code(policy: PromotionPolicy, folder: Path, client: Client) -> PromotionPolicy:
    """Its commands' code, sent where it is a folder, by its SHA-256."""
    from mlbox.sdk.snapshot import pack, survey

    for gate in policy_file.COMMANDS:
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

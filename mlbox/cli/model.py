"""`mlbox model`: versions, their way to Production, and what serves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from mlbox.cli.context import connect
from mlbox.cli.output import Output, OutputOption, show, show_one
from mlbox.errors import InvalidInput, NotFound
from mlbox.records import Model, ModelVersion, Promotion, PromotionPolicy

app = typer.Typer(no_args_is_help=True, help="Models: versions, promotion, what serves.")

Ref = Annotated[str, typer.Argument(metavar="MODEL/VERSION", help="For example flight-delay/3.")]
Comment = Annotated[str, typer.Option("--comment", "-m", help="Why; it stays in the record.")]
VERSION_COLUMNS = ("version", "stage", "trained_by", "dataset", "metrics", "created_at")


def split(ref: str) -> tuple[str, int]:
    """`MODEL/VERSION` as its parts; raises InvalidInput."""
    model, _, version = ref.rpartition("/")
    if not model or not version.isdigit():
        raise InvalidInput(f"{ref!r} is not MODEL/VERSION.", hint="For example flight-delay/3.", field="ref")
    return model, int(version)


@app.command("ls", epilog="Example: mlbox model ls -o json")
def ls(output: OutputOption = Output.table) -> None:
    """List models and which version is in which stage."""
    with connect() as client:
        show(client.get("/api/v1/models", list[Model], limit=1000), ("name", "stages", "owner", "purpose"), output)


@app.command(epilog="Example: mlbox model versions flight-delay")
def versions(model: str, output: OutputOption = Output.table) -> None:
    """List a model's versions, newest first."""
    with connect() as client:
        show(client.get(f"/api/v1/models/{model}/versions", list[ModelVersion]), VERSION_COLUMNS, output)


@app.command("show", epilog="Example: mlbox model show flight-delay/3")
def show_version(ref: Ref, output: OutputOption = Output.table) -> None:
    """Show a version and where it came from."""
    model, version = split(ref)
    with connect() as client:
        show_one(client.get(f"/api/v1/models/{model}/versions/{version}", ModelVersion), output)


@app.command(epilog="Example: mlbox model promote flight-delay/3")
def promote(ref: Ref, output: OutputOption = Output.table) -> None:
    """Propose a version: gates, shadow, approval by someone else, canary."""
    model, version = split(ref)
    with connect() as client:
        show_one(client.post(f"/api/v1/models/{model}/versions/{version}/promote", Promotion), output)


@app.command(epilog="Example: mlbox model status flight-delay/3")
def status(ref: Ref, output: OutputOption = Output.table) -> None:
    """Show where a version's promotion stands, gate by gate."""
    with connect() as client:
        promotion = _promotion(ref, client.get("/api/v1/promotions", list[Promotion], model=split(ref)[0]))
    if output is not Output.table:
        show_one(promotion, output)
        return
    show([promotion], ("model", "version", "state", "percent", "state_since", "reason"), output)
    show(promotion.gates, ("gate", "passed", "required", "measured"), output)
    show(promotion.approvals, ("approver", "decision", "comment", "at"), output)


@app.command(epilog="Example: mlbox model approve flight-delay/3 -m 'shadow looks right'")
def approve(ref: Ref, comment: Comment = "") -> None:
    """Approve a promotion that waits; whoever trained, submitted or proposed it is refused."""
    _act(ref, "approve", comment)


@app.command(epilog="Example: mlbox model reject flight-delay/3 -m 'worse on short routes'")
def reject(ref: Ref, comment: Comment = "") -> None:
    """Reject a promotion that waits."""
    _act(ref, "reject", comment)


@app.command(epilog="Example: mlbox model withdraw flight-delay/3")
def withdraw(ref: Ref, comment: Comment = "") -> None:
    """End a promotion that nobody wants any more."""
    _act(ref, "withdraw", comment)


@app.command("rollback", epilog="Example: mlbox model rollback flight-delay/3 -m 'complaints'")
def roll_back(ref: Ref, comment: Comment = "rolled back by hand") -> None:
    """Take a candidate's traffic away at once."""
    _act(ref, "roll-back", comment)


@app.command(epilog="Example: mlbox model archive flight-delay/1")
def archive(ref: Ref) -> None:
    """Take a version out of use."""
    model, version = split(ref)
    with connect() as client:
        found = client.post(f"/api/v1/models/{model}/versions/{version}/archive", ModelVersion)
    typer.echo(f"{found.ref} is {found.stage}.", err=True)


@app.command(epilog="Example: mlbox model policy flight-delay --set policy.json")
def policy(
    model: str,
    set_file: Annotated[Path | None, typer.Option("--set", help="JSON file with a new policy; for admins.")] = None,
    output: OutputOption = Output.table,
) -> None:
    """Show or set what a model's versions must pass."""
    with connect() as client:
        path = f"/api/v1/models/{model}/policy"
        if set_file is None:
            show_one(client.get(path, PromotionPolicy), output)
            return
        body = _read_policy(set_file)
        show_one(msgspec.json.decode(client.request("PUT", path, body=body), type=PromotionPolicy), output)


def _read_policy(path: Path) -> PromotionPolicy:
    try:
        return msgspec.json.decode(path.read_bytes(), type=PromotionPolicy)
    except (OSError, msgspec.MsgspecError) as err:
        raise InvalidInput(
            f"{path} holds no policy: {err}.", hint="Begin with `mlbox model policy MODEL -o json`.", field="set"
        ) from err


def _promotion(ref: str, found: list[Promotion]) -> Promotion:
    """A version's newest promotion."""
    version = split(ref)[1]
    of_version = [promotion for promotion in found if promotion.version == version]
    if not of_version:
        raise NotFound(f"{ref} was never proposed.", hint=f"`mlbox model promote {ref}` does that.", field="ref")
    return of_version[0]


def _act(ref: str, action: str, comment: str) -> None:
    with connect() as client:
        promotion = _promotion(ref, client.get("/api/v1/promotions", list[Promotion], model=split(ref)[0]))
        after = client.post(f"/api/v1/promotions/{promotion.id}/{action}", Promotion, {"comment": comment})
    typer.echo(f"{ref} is {after.state}.", err=True)

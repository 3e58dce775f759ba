"""`mlbox model`: versions, their way to Production, and what serves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated
from urllib.parse import quote

import msgspec
import typer

from mlbox.cli import canary, compare, model_card, model_convert, model_policy, model_score, model_serving, replay
from mlbox.cli.context import connect
from mlbox.cli.output import Output, OutputOption, Row, note, show, show_one
from mlbox.cli.refs import Comment, Ref, act, newest, split, where
from mlbox.records import Endpoint, Model, ModelVersion, Promotion, ShadowFigures, Stage, Tenure

app = typer.Typer(no_args_is_help=True, help="Models: versions, promotion, what serves.")
model_serving.register(app)
model_convert.register(app)
model_score.register(app)
canary.register(app)
compare.register(app)
replay.register(app)
model_card.register(app)
model_policy.register(app)

PROPOSED = ("model", "version", "state", "requested_by", "state_since")
VERSION_COLUMNS = ("version", "stage", "trained_by", "dataset", "metrics", "created_at")


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
        begun = client.post(f"/api/v1/models/{model}/versions/{version}/promote", Promotion)
    show_one(begun, output, columns=PROPOSED if output is Output.table else ())
    note(f"`mlbox model status {ref}` shows how it goes on.")


@app.command(epilog="Example: mlbox model status flight-delay/3")
def status(ref: Ref, output: OutputOption = Output.table) -> None:
    """Show where a version's promotion stands: gates, shadow, approvals, and the guards of its canary."""
    with connect() as client:
        promotion = newest(ref, client.get("/api/v1/promotions", list[Promotion], model=split(ref)[0]))
        if output is not Output.table:
            show_one(promotion, output)
            return
        shadow = client.get(f"/api/v1/promotions/{promotion.id}/shadow", list[ShadowFigures])
        served = client.get("/api/v1/endpoints", list[Endpoint])
    show([promotion], ("model", "version", "state", "percent", "hold", "state_since", "reason"), output)
    jobs = ("job",) if any(gate.job for gate in promotion.gates) else ()
    parts: list[tuple[Sequence[Row], Sequence[str]]] = [
        (promotion.gates, ("gate", "passed", "required", "measured", *jobs)),
        (shadow, canary.SHADOW),
        (promotion.approvals, ("approver", "decision", "comment", "at")),
        ([finding for one in served if one.promotion == promotion.id for finding in one.findings], canary.FINDINGS),
    ]
    for found, columns in parts:
        if found:
            typer.echo()
            show(found, columns, output)


@app.command(epilog="Example: mlbox model approve flight-delay/3 -m 'shadow looks right'")
def approve(ref: Ref, comment: Comment = "") -> None:
    """Approve a version that waits; whoever trained, submitted or proposed it is refused."""
    _decide(ref, "approve", comment)


@app.command(epilog="Example: mlbox model reject flight-delay/3 -m 'worse on short routes'")
def reject(ref: Ref, comment: Comment = "") -> None:
    """Reject a version that waits."""
    _decide(ref, "reject", comment)


@app.command(epilog="Example: mlbox model withdraw flight-delay/3")
def withdraw(ref: Ref, comment: Comment = "") -> None:
    """End a promotion that nobody wants any more."""
    act(ref, "withdraw", comment)


@app.command("rollback", epilog="Example: mlbox model rollback flight-delay/3 -m 'complaints'")
def roll_back(ref: Ref, comment: Comment = "rolled back by hand") -> None:
    """Take a candidate's traffic away at once; or, of an archived version that was in Production, put it back there."""
    model, version = split(ref)
    path = f"/api/v1/models/{model}/versions/{version}"
    with connect() as client:
        if client.get(path, ModelVersion).stage == "Archived":
            found = client.post(f"{path}/reinstate", ModelVersion, {"comment": comment})
            note(f"{found.ref} is in {found.stage} again.")
            return
    act(ref, "roll-back", comment)


@app.command(epilog="Example: mlbox model archive flight-delay/1")
def archive(ref: Ref) -> None:
    """Take a version out of use."""
    model, version = split(ref)
    with connect() as client:
        found = client.post(f"/api/v1/models/{model}/versions/{version}/archive", ModelVersion)
    note(f"{found.ref} is {found.stage}.")


@app.command(epilog="Example: mlbox model stage churn/3 Staging")
def stage(
    ref: Ref,
    target: Annotated[
        Stage, typer.Argument(metavar="STAGE", case_sensitive=False, help="None, Staging, Production or Archived.")
    ],
) -> None:
    """Move a version to another stage, by the rules of its promotion."""
    model, version = split(ref)
    with connect() as client:
        moved = client.post(f"/api/v1/models/{model}/versions/{version}/stage", ModelVersion, {"stage": target})
    note(f"{moved.ref} is {moved.stage}.")


@app.command(epilog="Example: mlbox model history churn --at 2026-03-03")
def history(
    model: str,
    at: Annotated[str, typer.Option(help="A moment such as 2026-03-03T12:00Z, or a day.")] = "",
    output: OutputOption = Output.table,
) -> None:
    """Show which version was in which stage and under which alias, who put it there, and who approved."""
    columns = ("kind", "name", "version", "since", "until", "by", "approved_by", "reason")
    with connect() as client:
        given = {"at": at} if at else {}
        show(client.get(f"/api/v1/models/{model}/history", list[Tenure], **given), columns, output)


@app.command(epilog="Example: mlbox model describe churn --purpose 'to keep customers' --expires 2027-01-01T00:00Z")
def describe(
    model: str,
    purpose: Annotated[str | None, typer.Option(help="What the model is for.")] = None,
    owner: Annotated[str | None, typer.Option(help="Whose it is.")] = None,
    expires: Annotated[str | None, typer.Option(help="When someone must look at it again.")] = None,
    output: OutputOption = Output.table,
) -> None:
    """Set a model's facts, which a promotion asks for."""
    facts = {"purpose": purpose, "owner": owner, "expires_at": expires}
    body = {name: fact for name, fact in facts.items() if fact is not None}
    with connect() as client:
        sent = client.request("PATCH", f"/api/v1/models/{model}", body=body)
    show_one(msgspec.json.decode(sent, type=Model), output)


@app.command(epilog="Example: mlbox model alias churn/3 champion")
def alias(ref: Ref, name: str) -> None:
    """Let a free name stand for a version."""
    model, version = split(ref)
    with connect() as client:
        client.request("PUT", f"/api/v1/models/{model}/aliases/{quote(name, safe='')}", body={"version": version})
    note(f"{model}@{name} is {model}/{version}.")


@app.command(epilog="Example: mlbox model unalias churn champion")
def unalias(model: str, name: str) -> None:
    """Take an alias away."""
    with connect() as client:
        client.request("DELETE", f"/api/v1/models/{model}/aliases/{quote(name, safe='')}")
    note(f"{model} has no alias {name}.")


@app.command(epilog="Example: mlbox model rename churn leavers")
def rename(model: str, new_name: str) -> None:
    """Give a model that does not serve another name."""
    with connect() as client:
        client.post(f"/api/v1/models/{model}/rename", Model, {"name": new_name})
    note(f"{model} is now {new_name}.")


@app.command("rm", epilog="Example: mlbox model rm churn/2")
def remove(what: Annotated[str, typer.Argument(metavar="MODEL[/VERSION]", help="A model, or one version.")]) -> None:
    """Delete a version or a whole model; refused in Production and on the way there."""
    path = f"/api/v1/models/{what}"
    if "/" in what or "@" in what:
        model, version = split(what)
        path = f"/api/v1/models/{model}/versions/{version}"
    with connect() as client:
        client.request("DELETE", path)
    note(f"{what} is deleted.")


def _decide(ref: str, decision: str, comment: str) -> None:
    model, version = split(ref)
    with connect() as client:
        path = f"/api/v1/models/{model}/versions/{version}/{decision}"
        after = client.post(path, Promotion, {"comment": comment})
    note(f"{ref} {where(after)}.")

"""Which role may do what: the one table that every guard uses and that docs/reference/roles.md is generated from.

A role is held in a team, and each role may do what those before it may. What an action is done to belongs to a team (see
`teams`), and the role that counts is the one held there.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from mlbox.records import Role

ROLES: tuple[Role, ...] = ("viewer", "member", "approver", "admin")
"""From least to most."""

Where = Literal["owner", "named", "any", "box"]
"""In which team the role is asked for.

- `owner`: the team that owns what the path names.
- `named`: the team that owns what the body names; the handler asks, and the guard only that it is held somewhere.
- `any`: any team of the asker's.
- `box`: the team `everyone`, which stands for the box itself.
"""


class Action(NamedTuple):
    """One thing that can be done: the least role that may, in which team, and whether a job's token may do it to its own."""

    role: Role
    where: Where
    what: str
    job: bool = False


ACTIONS: dict[str, Action] = {
    # the box
    "box.read": Action("viewer", "any", "see the state of the box, its users and its clocks"),
    "box.whoami": Action("viewer", "any", "see who one is", job=True),
    "box.advance": Action("admin", "box", "move domain time forward"),
    "box.backup": Action("admin", "box", "back up all that the box keeps"),
    "box.collect": Action("admin", "box", "remove what was deleted for good, and free its files"),
    "webhook.read": Action("admin", "box", "see who is told of what happens to models"),
    "webhook.write": Action("admin", "box", "say who is told of what happens to models"),
    "audit.read": Action("viewer", "any", "read the audit log of what one may see"),
    "settings.read": Action("admin", "box", "see what the box runs with and what its stores hold"),
    "adoption.read": Action("admin", "box", "see who is active, and how soon newcomers train and deploy"),
    "audit.verify": Action("admin", "box", "prove that the audit log is whole"),
    "user.create": Action("admin", "box", "add an account"),
    "user.change": Action("admin", "box", "change, disable or sign out another's account"),
    "account.change": Action("viewer", "any", "change one's own account: password, tokens, sessions"),
    "token.create": Action("viewer", "any", "make a token of one's own, no stronger than oneself"),
    "token.create-any": Action("admin", "box", "make a token of anyone's"),
    "token.revoke": Action("viewer", "any", "end a token of one's own"),
    "token.revoke-any": Action("admin", "box", "end anyone's token"),
    "team.read": Action("viewer", "any", "see teams and their members"),
    "team.create": Action("admin", "box", "add or remove a team"),
    "team.change": Action("admin", "owner", "say who is in the team, and in which role"),
    "team.hide": Action("member", "named", "make something of the team's private, or shared again"),
    # data
    "source.read": Action("viewer", "any", "read sources"),
    "source.create": Action("member", "named", "declare a source"),
    "source.append": Action("member", "owner", "append rows to a source"),
    "source.expect": Action("member", "owner", "say what is expected of a source's rows"),
    "view.read": Action("viewer", "any", "read feature views and services, and features online"),
    "view.apply": Action("member", "named", "define a feature view or service"),
    "view.materialize": Action("member", "named", "bring the online store up to date"),
    "view.write": Action("member", "owner", "write a view's rows online"),
    "view.compute": Action("member", "any", "read what a view in free Python is computed from, and feed it", job=True),
    "label.read": Action("viewer", "any", "read label sets"),
    "label.create": Action("member", "named", "make a label set"),
    "label.append": Action("member", "owner", "append labels, and mend what is held back"),
    "label.settle": Action("member", "owner", "settle which of several labels counts"),
    "label.publish": Action("member", "owner", "have what counts of a label set written to a source"),
    "label.backfill": Action("admin", "owner", "bring labels along with the times at which they were known"),
    "dataset.read": Action("viewer", "any", "read datasets", job=True),
    "dataset.create": Action("member", "named", "make a dataset version", job=True),
    "dataset.write": Action("member", "owner", "tag, remove and restore a dataset version"),
    "dvc.read": Action("viewer", "named", "read what was pushed with DVC for everyone, or for the team"),
    "dvc.write": Action("member", "named", "push with DVC"),
    # training
    "experiment.read": Action("viewer", "any", "read experiments"),
    "experiment.create": Action("member", "named", "make an experiment"),
    "experiment.find": Action("viewer", "any", "look one experiment up by its name or id", job=True),
    "experiment.write": Action("member", "named", "rename, tag, delete and restore an experiment"),
    "run.read": Action("viewer", "any", "read runs, their metrics and artifacts", job=True),
    "run.create": Action("member", "named", "start a run"),
    "run.write": Action("member", "owner", "log to a run, and end it", job=True),
    "run.delete": Action("member", "owner", "delete and restore a run"),
    "deleted.read": Action("viewer", "any", "see what was deleted and can be taken back"),
    "deleted.restore": Action("member", "named", "take a deletion back"),
    "snapshot.create": Action("member", "any", "send code"),
    "job.read": Action("viewer", "any", "see the queue, and the jobs of one's teams"),
    "job.submit": Action("member", "named", "submit a job"),
    "cron.read": Action("viewer", "any", "see the crons of one's teams"),
    "cron.add": Action("member", "named", "add a cron, whose jobs are submitted in one's name"),
    "cron.change": Action("member", "owner", "change, pause, resume, fire and remove a cron of one's own"),
    "cron.change-any": Action("admin", "owner", "pause, resume and remove another's cron"),
    "quota.read": Action("viewer", "any", "see queues, quotas, and what each team used"),
    "quota.set": Action("admin", "box", "make queues, and say what teams may hold"),
    "secret.read": Action("viewer", "any", "see which secrets one's teams have, never a value"),
    "secret.set": Action("member", "named", "set a secret of the team's"),
    "secret.remove": Action("member", "owner", "remove a secret of the team's"),
    "secret.use": Action("member", "named", "give a secret of the team's to a job"),
    "secret.rotate": Action("admin", "box", "change the key that secrets are encrypted with"),
    "job.change": Action("member", "owner", "stop or retry a job of one's own"),
    "job.change-any": Action("admin", "owner", "stop or retry another's job"),
    # shipping
    "model.read": Action("viewer", "any", "read models, versions, promotions and what serves"),
    "model.create": Action("member", "named", "make a model"),
    "model.register": Action("member", "owner", "register a version", job=True),
    "model.write": Action("member", "owner", "describe, tag and archive versions"),
    "model.promote": Action("member", "owner", "propose a version, withdraw it, roll it back"),
    "model.approve": Action("approver", "owner", "approve or reject a promotion that is not one's own"),
    "model.configure": Action("member", "owner", "set how a model's requests are joined, queued and limited"),
    "model.release": Action("admin", "owner", "let a version run again that ended its processes"),
    "model.policy": Action("admin", "owner", "set what a model's versions must pass"),
    "model.compare": Action("member", "any", "compare two versions on the same rows"),
    "model.gate": Action("member", "any", "read what a job that runs a gate's command judges", job=True),
    "model.predict": Action("member", "any", "ask a model for predictions"),
    "model.score": Action("member", "owner", "have a dataset scored by a version, in a job"),
    "model.scoring": Action("member", "any", "read what a job that scores a dataset scores with", job=True),
    "model.rehearse": Action("member", "owner", "ask a version in Staging, before it is in Production"),
    "monitor.read": Action("viewer", "any", "read drift, alerts and predictions"),
    "outcome.write": Action("member", "named", "say what came of a model's predictions, in numbers"),
    "prediction.export": Action("member", "owner", "take a model's predictions out, with the keys of their entities"),
    "prediction.holds": Action("member", "any", "see which predictions are held, and what was removed"),
    "prediction.hold": Action("admin", "named", "hold predictions, so that nothing removes them, and end a hold"),
    "prediction.erase": Action("admin", "named", "remove the predictions about an entity"),
    "prediction.keep": Action("admin", "owner", "say how long a model's predictions are kept"),
    "monitor.check": Action("member", "owner", "check drift now"),
    "alert.silence": Action("member", "any", "silence alerts for a while, and end a silence"),
    "alert.configure": Action("admin", "box", "read and write the rules and channels of alerts"),
    "alert.test": Action("admin", "box", "send a test over a channel, and see what became of what was sent"),
}


def lower_of(a: Role, b: Role) -> Role:
    """The role that may do less."""
    return min(a, b, key=ROLES.index)


def at_least(held: Role | None, wanted: Role) -> bool:
    """True when who holds a role may do what takes another."""
    return held is not None and ROLES.index(held) >= ROLES.index(wanted)

"""Events in words: what the audit log and the overview say of each thing that happened."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Any
from urllib.parse import quote

from mlbox.records import Event

PHRASES: dict[str, str] = {
    "user.created": "added the user {name} as {role}",
    "user.disabled": "disabled the account {name}",
    "user.enabled": "enabled the account {name} again",
    "user.link": "made a login link for {name}",
    "user.password": "set the password of {name}",
    "user.password_removed": "took the password of {name} away",
    "user.signed_out": "ended {sessions} sessions of {name}",
    "user.linked": "let {sub} of {issuer} use the account {name}",
    "user.unlinked": "took {sub} of {issuer} off the account {name}",
    "token.created": "made a token for {subject}",
    "token.revoked": "revoked a token of {subject}",
    "team.created": "added the team {name}",
    "team.removed": "took the team {name} away",
    "team.member": "made {user} {role} in {name}",
    "team.left": "took {user} out of {name}",
    "team.hid": "made the {kind} {name} private to its team",
    "team.shared": "shared the {kind} {name} with everyone",
    "queue.set": "set the queue {name}",
    "queue.removed": "took the queue {name} away",
    "quota.set": "set the quota {name}",
    "quota.removed": "took the quota {name} away",
    "quota.weight": "gave the team {name} the weight {weight}",
    "secret.set": "set the secret {team}/{name}",
    "secret.removed": "removed the secret {team}/{name}",
    "secret.used": "gave the secret {team}/{name} to a job",
    "secret.rotated": "changed the key of {secrets} secrets",
    "artifact.broken": "found the file {name} broken on disk",
    "box.backed_up": "backed the box up, {size} bytes",
    "box.collected": "removed {runs} runs and {versions} versions for good, and freed {bytes} bytes in {files} files",
    "predictions.exported": "took predictions of {subject} out, as {form}",
    "predictions.held": "held predictions of {subject}: {reason}",
    "predictions.released": "ended the hold {hold}",
    "predictions.kept": "said how long predictions of {subject} are kept",
    "predictions.sampled": "said which predictions of {subject} are kept: a share of {share}",
    "predictions.aged": "removed {predictions} predictions that were too old",
    "predictions.erasure_asked": "asked for the predictions about {key} to be removed: {reason}",
    "predictions.erased": "removed {predictions} predictions about {key}",
    "predictions.erasure_refused": "did not remove the predictions about {key}, which are under a hold",
    "webhook.created": "added the webhook {name} to {url}",
    "webhook.changed": "changed the webhook {name}",
    "webhook.deleted": "deleted the webhook {name}",
    "webhook.failed": "could not tell the webhook {name} of {event}: {reason}",
    "clock.advanced": "moved domain time to {to}",
    "source.created": "declared the source {name}",
    "source.appended": "added {rows} rows to {name}",
    "source.described": "said which folder feeds {name}",
    "source.file_refused": "did not take {path} into {name}",
    "source.expected": "said what is expected of {name}",
    "source.quarantined": "sent {rows} rows to {name} that are held back",
    "source.resubmitted": "sent held rows of {name} again: {rows} went in, {held} did not",
    "view.applied": "defined the features {name}",
    "view.described": "described the features {name}",
    "entity.applied": "defined the entity {name}",
    "view.asked": "asked for {name} to be computed",
    "view.computed": "computed {name}",
    "view.failed": "could not bring {name} up to date: {error}",
    "view.stale": "{name} was not brought up to date in time",
    "view.materialized": "brought {rows} entities of {name} up to date online",
    "service.applied": "bundled features as {name}",
    "label.created": "declared the labels {name}",
    "label.changed": "changed the labels {name}: {policy}",
    "label.appended": "added {rows} outcomes to {name}",
    "label.backfilled": "brought {rows} outcomes of the past into {name}",
    "label.settled": "settled what {name} is: {value}",
    "label.published": "publishes what counts of {name} as {source}",
    "label.discarded": "discarded {rows} held outcomes of {name}",
    "dataset.tagged": "tagged {name}",
    "dataset.deleted": "removed {name}",
    "dataset.restored": "brought {name} back",
    "dataset.failed": "could not build {name}: {error}",
    "dataset.created": "built {name}: {rows} rows",
    "experiment.created": "began the experiment {name}",
    "experiment.renamed": "renamed the experiment {former} to {name}",
    "experiment.deleted": "deleted the experiment {name}",
    "experiment.restored": "restored the experiment {name}",
    "experiment.removed": "removed the experiment {name} for good",
    "experiment.run_removed": "removed the run {run} of {name} for good",
    "experiment.model_restored": "restored the logged model {model} of {name}",
    "job.submitted": "submitted {name}",
    "job.queued": "put {name} back into the queue",
    "job.starting": "starts {name}",
    "job.running": "runs {name}",
    "job.stopping": "is stopping {name}",
    "job.stopped": "stopped {name}",
    "job.succeeded": "finished {name}: {reason}",
    "job.failed": "saw {name} fail: {reason}",
    "job.timed_out": "ended {name}: it took too long",
    "job.diverged": "saw {name} diverge: {reason}",
    "job.preempted": "stopped {name} for now: {reason}",
    "job.gpu_idle": "saw {name} leave its GPU {gpu} idle for {minutes} minutes",
    "job.lost": "lost {name}: {reason}",
    "cron.added": "has {name} come again by itself",
    "cron.removed": "ended the cron {name}",
    "cron.changed": "changed the cron {name}",
    "cron.paused": "paused the cron {name}",
    "cron.resumed": "let the cron {name} go on",
    "cron.skipped": "left the cron {name} out once: {reason}",
    "cron.refused": "could not submit the job of the cron {name}: {reason}",
    "experiment.model_deleted": "deleted the logged model {model} of {name}",
    "experiment.model_file_deleted": "deleted {path} of the logged model {model} of {name}",
    "run.started": "began the run {name}",
    "run.running": "runs {name}",
    "run.finished": "finished the run {name}",
    "run.failed": "saw the run {name} fail",
    "run.killed": "ended the run {name}",
    "run.artifact": "kept {path} of the run {name}",
    "run.dataset": "said that the run {name} reads {dataset}",
    "run.deleted": "deleted the run {name}",
    "run.restored": "restored the run {name}",
    "run.artifact_deleted": "deleted {path} of the run {name}",
    "model.created": "began the model {name}",
    "model.registered": "registered {name}, trained by {trained_by}",
    "model.stage": "moved {name} to {stage}",
    "model.rolled_back": "took Production back to {name}: {reason}",
    "model.archived": "archived {name}",
    "model.tagged": "tagged {name} with {key}",
    "model.untagged": "took the tag {key} off {name}",
    "model.described": "described {name}",
    "model.renamed": "renamed {former} to {name}",
    "model.deleted": "deleted {name}",
    "model.restored": "restored {name}",
    "model.alias": "lets {alias} stand for {name}",
    "model.unaliased": "took the alias {alias} off {name}",
    "model.linked": "linked {name} to {dataset}",
    "model.card": "wrote {parts} of the card of {name}",
    "model.expiring": "reminds that {name} must be looked at again by {on}",
    "model.expired": "reminds that {name} was to be looked at again by {on}",
    "policy.set": "set the promotion policy of {name}",
    "model.replay": "replays logged traffic on {name}",
    "model.replayed": "replayed logged traffic on {name}: {reason}",
    "model.measured": "measured the {kind} of {name}",
    "model.quarantined": "put {name} in quarantine: {reason}",
    "model.released": "let {name} run again",
    "serving.set": "set how {name} is served",
    "promotion.proposed": "proposed {name} for Production",
    "promotion.command": "runs the {gate} command of {name} as the job {job}",
    "promotion.waiting_traffic": "waits for traffic to replay on {name}: {reason}",
    "promotion.testing": "measures {name}: {reason}",
    "promotion.integration": "put {name} into Staging for its integration command",
    "promotion.shadow": "began the shadow of {name}",
    "promotion.waiting_approval": "asks for someone's approval of {name}",
    "promotion.reminder": "reminds of {name}, which waits for an approval: {reason}",
    "promotion.approved": "approved {name}",
    "promotion.approval": "approved {name}: {reason}",
    "promotion.expired": "let the request for {name} expire: {reason}",
    "promotion.canary": "began the canary of {name}",
    "promotion.step": "gave {name} {percent} % of the traffic",
    "promotion.paused": "paused the canary {name}",
    "promotion.resumed": "let the canary {name} go on",
    "promotion.undecided": "asks for someone's word on the canary {name}: {reason}",
    "promotion.frozen": "froze the canary {name} without traffic",
    "promotion.completed": "put {name} into Production",
    "promotion.rejected": "rejected {name}: {reason}",
    "promotion.rolled_back": "rolled {name} back: {reason}",
    "promotion.withdrawn": "withdrew {name}",
    "drift.checked": "checked {features} features of {name} for drift, the worst has D {worst}",
    "skew.checked": "compared what {name} was served with its history: the lowest share of equal values is {lowest}",
    "alert.fired": "raised an alert: {about} {verb}",
    "alert.resolved": "resolved the alert on {about}",
    "alert.rules": "changed the rules of alerts",
    "outcome.posted": "said what came of predictions of {name}: {rows} numbers",
    "alert.notified": "told the channel {name} of alerts",
    "alert.silenced": "silenced alerts of {about} until {until}: {reason}",
    "alert.unsilenced": "ended a silence of {about}",
}
"""By event type, after the actor's name; a type that is not here is written out as it is."""

VERBS = {
    "training_serving_skew": "is not served as its history has it",
    "feature_missing": "goes missing",
    "model_failing": "fails",
    "predictions_dropped": "is not logged",
    "feature_drift_suspected": "may drift",
}
"""By an alert's name, what it says of a feature."""
PAGES = {
    "model": "/models",
    "job": "/jobs",
    "run": "/runs",
    "dataset": "/datasets",
    "label": "/labels",
    "view": "/features",
}
PAGES |= {"source": "/sources", "user": "/admin", "team": "/teams", "secret": "/secrets"}
PAGES |= {"alert": "/monitoring", "service": "/features", "cron": "/crons", "transform": "/features"}
MOMENT = re.compile(r"\b(\d{4}-\d\d-\d\d)T(\d\d:\d\d)(?::[\d.]+)?Z")
COUNTED = re.compile(r"\{(?!name\b)(?P<field>[a-z_]+)\} (?P<noun>[a-z]+?)(?P<many>ies|s)\b")
"""A number and what it counts, in the phrases above."""
DIGEST = re.compile(r"\b(hmac-sha256:[0-9a-f]{12})[0-9a-f]{52}\b")
NESTED = {"model", "job", "run", "dataset", "label", "view", "transform", "source", "cron"}


class _Lenient(dict[str, Any]):
    """A field that an event does not carry reads as a dash."""

    def __missing__(self, key: str) -> str:
        return "–"


def _words(value: Any) -> Any:
    if isinstance(value, str):
        return DIGEST.sub("\\1…", MOMENT.sub(r"\1 \2 UTC", value))
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def _counted(found: re.Match[str], count: Any) -> str:
    """`1 rows` as `1 row`."""
    if count != 1:
        return found[0]
    return f"1 {found['noun']}{'y' if found['many'] == 'ies' else ''}"


def phrase(event: Event) -> str:
    """What happened, after the actor's name."""
    noun, _, name = event.subject.partition(":")
    if noun in {"job", "run", "cron"}:
        name = str(event.data.get("name") or name[-8:])
    elif name == "*":
        name = f"all {noun}s"
    known = PHRASES.get(event.type)
    if known is None:
        noun_of_type, _, verb = event.type.partition(".")
        return f"{noun_of_type.replace('_', ' ')} {verb.replace('_', ' ')}: {name}"
    fields = {key: _words(value) for key, value in event.data.items()}
    labels = event.data.get("labels") or {}
    about = " of ".join(str(labels[key]) for key in ("feature", "model") if key in labels)
    verb = VERBS.get(event.data.get("name", ""), "drifts")
    known = COUNTED.sub(lambda found: _counted(found, event.data.get(found["field"])), known)
    return known.format_map(_Lenient(fields, name=name, subject=name, about=about, verb=verb)).removesuffix(": ")


OF_A_JOB = {"job.starting", "run.running", "run.started", "run.finished", "run.failed", "run.killed", "token.created"}
"""What a job's own events say as well."""


def without_echo(events: Iterable[Event], limit: int, *, runs: Collection[str]) -> list[tuple[Event, int]]:
    """The first events, those of one kind by one actor in a row as one, with how many they were; `runs` are those of jobs.

    What a job does to its run, and the token that it gets, is left out: its own events tell of it.
    """
    found: list[tuple[Event, int]] = []
    for event in events:
        noun, _, name = event.subject.partition(":")
        if event.type in OF_A_JOB and (noun == "job" or event.data.get("job") or (noun == "run" and name in runs)):
            continue
        if found and (found[-1][0].type, found[-1][0].actor) == (event.type, event.actor):
            found[-1] = (found[-1][0], found[-1][1] + 1)
        elif len(found) == limit:
            break
        else:
            found.append((event, 1))
    return found


def link_of(subject: str) -> str | None:
    """The page of an event's subject, where it has one."""
    noun, _, name = subject.partition(":")
    page = PAGES.get(noun)
    if page is None or noun not in NESTED or name == "*":
        return page
    return f"{page}/{quote(name, safe='/@')}"

"""Whatever a command changes can be done on a page, or it is said here why not: a new command fails this until it is either."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEMPLATES = ROOT / "mlbox" / "web" / "templates"

READS = """
alert deliveries, alert groups, alert ls, alert rules, alert show, alert silences, approvals, audit export, audit ls,
audit show, audit verify, backup ls, backup verify, clock show, config, context ls, cron ls, cron preview, cron show,
dataset diff, dataset export, dataset ls, dataset pull, dataset show, dataset verify, deleted, endpoint log, endpoint
ls, endpoint show, exp ls, exp show, feature freshness, feature get, feature history, feature lineage, feature ls,
feature plan, feature profile, feature search, feature show, gpus, identity ls, job logs, job ls, job ps, job show,
job top, job wait, label agreement, label counts, label held, label ls, label review, label show, lineage prediction,
logs, model compare, model convert, model decisions, model governance, model guards, model history, model ls, model
quarantine, model shadow, model show, model status, model versions, monitor business, monitor concept,
monitor domain, monitor drift, monitor estimate, monitor health, monitor ls, monitor performance, monitor report,
monitor served, monitor show, monitor skew, predictions export, predictions holds, predictions removed, ps, quality
rows, quality show, queue ls, queue show, quota ls, quota show, quota usage, quota weights, run ls, run points, run
show, search, secret ls, show, source files, source ls, source show, status, team ls, team private, token ls, top,
transform ls, transform show, transform try, usage, user ls, wait
"""

ON_A_PAGE = {
    "alert rules --set": ("alerts.html", "/api/v1/alerts/rules/text"),
    "alert silence": ("alerts.html", 'action="/api/v1/silences"'),
    "alert test": ("alerts.html", "/test"),
    "alert unsilence": ("alerts.html", "/api/v1/silences/"),
    "clock advance": ("admin.html", "/api/v1/clock"),
    "cron add": ("cron_form.html", "/api/v1/crons"),
    "cron fire": ("parts.html", "/fire"),
    "cron pause": ("parts.html", "pause"),
    "cron resume": ("parts.html", "resume"),
    "cron rm": ("cron.html", 'data-method="DELETE"'),
    "dataset create": ("new_dataset.html", 'action="/api/v1/datasets"'),
    "dataset restore": ("deleted.html", "/restore"),
    "dataset rm": ("dataset.html", '"DELETE"'),
    "dataset tag": ("dataset.html", "/tags"),
    "dataset upload": ("new_dataset.html", "/api/v1/datasets/{name}/rows"),
    "endpoint predict": ("trial.html", "/predict"),
    "exp rm": ("runs.html", '"DELETE"'),
    "feature apply": ("new_features.html", "/api/v1/features/apply/toml"),
    "feature materialize": ("feature.html", "/api/v1/features/materialize"),
    "feature run": ("feature.html", "/run"),
    "gc": ("deleted.html", "/api/v1/gc"),
    "job retry": ("job.html", "/retry"),
    "job stop": ("job.html", "/stop"),
    "label add": ("label_set.html", "/feedback"),
    "label append": ("label_set.html", "/rows"),
    "label create": ("new_labels.html", 'action="/api/v1/labels"'),
    "label discard": ("label_set.html", "/held/discard"),
    "label import-label-studio": ("label_set.html", "/label-studio"),
    "label publish": ("label_set.html", "/publish"),
    "label resubmit": ("label_set.html", "/held/resubmit"),
    "label settle": ("label_review.html", "/review"),
    "model advance": ("promotion.html", "/advance"),
    "model alias": ("model.html", "/aliases/{alias}"),
    "model approve": ("promotion.html", "/approve"),
    "model archive": ("version.html", '"/stage"'),
    "model bench": ("bench.html", "/bench"),
    "model card": ("card.html", "/card"),
    "model describe": ("model.html", '"PATCH"'),
    "model freeze": ("promotion.html", "/freeze"),
    "model pause": ("promotion.html", "/pause"),
    "model policy": ("policy.html", "/policy/toml"),
    "model promote": ("version.html", "/promote"),
    "model reject": ("promotion.html", "/reject"),
    "model release": ("version.html", "/release"),
    "model rename": ("model.html", "/rename"),
    "model replay": ("version.html", "/replays"),
    "model resume": ("promotion.html", "/resume"),
    "model rm": ("model.html", '"DELETE"'),
    "model rollback": ("promotion.html", "/roll-back"),
    "model score": ("version.html", "/score"),
    "model serving": ("serving_section.html", "/serving"),
    "model stage": ("version.html", '"/stage"'),
    "model unalias": ("model.html", '"DELETE"'),
    "model withdraw": ("promotion.html", "/withdraw"),
    "monitor check": ("health.html", "/check"),
    "monitor post": ("health.html", '"/api/v1/outcomes"'),
    "quality resubmit": ("quality_section.html", "/quarantine/resubmit"),
    "quality set": ("source_forms.html", "/expectations"),
    "queue rm": ("inside.html", '"DELETE"'),
    "queue set": ("inside.html", "/api/v1/queues/{name}"),
    "quota rm": ("inside.html", 'data-method="DELETE"'),
    "quota set": ("inside.html", "/api/v1/quotas/{team}/default"),
    "quota weight": ("inside.html", "/api/v1/team-weights/{team}"),
    "rerun": ("run.html", "/rerun"),
    "restore": ("deleted.html", "/restore"),
    "retry": ("job.html", "/retry"),
    "run rm": ("run.html", '"/api/v1/runs/" ~ run.id, "DELETE"'),
    "secret rm": ("secrets.html", 'data-method="DELETE"'),
    "secret rotate-key": ("secrets.html", "/rotate-key"),
    "secret set": ("secrets.html", "/api/v1/secrets"),
    "source append": ("source.html", "/rows"),
    "source create": ("new_source.html", "/api/v1/sources"),
    "source push": ("source_forms.html", "/push"),
    "stop": ("job.html", "/stop"),
    "submit": ("job_new.html", "/api/v1/jobs"),
    "team add": ("teams.html", "/members/{user}"),
    "team create": ("teams.html", "/api/v1/teams"),
    "team hide": ("teams.html", "/api/v1/private/{kind}/{name}"),
    "team rm": ("teams.html", '"DELETE"'),
    "team share": ("teams.html", "/api/v1/private/"),
    "token create": ("admin.html", "/api/v1/tokens"),
    "token revoke": ("admin.html", "/api/v1/tokens/"),
    "transform apply": ("new_features.html", "/api/v1/features/apply/toml"),
    "user create": ("admin.html", "/api/v1/users"),
    "user disable": ("admin.html", "/state"),
    "user enable": ("admin.html", "/state"),
    "user link": ("admin.html", "/link"),
    "user password": ("account.html", "/password"),
    "user sign-out": ("admin.html", "/sign-out"),
}
"""The template with the form, and a part of it that no other form of that template has."""

HERE = "it is about this machine: its files, its folders, its shell"
OPERATING = "it is an operator's, seldom done, and takes thought: the command's help leads through it"
BY_COMMAND_ONLY = {
    **dict.fromkeys(
        ("serve", "login", "context use", "completion", "export", "run sync", "feature import-feast"), HERE
    ),
    **dict.fromkeys(("import mlflow", "import folder", "dataset import-dvc"), HERE),
    **dict.fromkeys(("predictions rm", "predictions hold", "predictions release", "predictions keep"), OPERATING),
    **dict.fromkeys(
        ("predictions sample", "identity link", "identity unlink", "backup create", "backup restore"), OPERATING
    ),
}
"""And why."""


def commands() -> set[str]:
    """Every command that is no group of others, from the reference, which another test holds to the program."""
    parts = re.split(r"(?m)^## `mlbox ([\w -]+)`$", (ROOT / "docs" / "reference" / "cli.md").read_text())
    return {name for name, body in zip(parts[1::2], parts[2::2], strict=True) if "\nCommands:\n" not in body}


def test_every_command_reads_or_has_a_page_or_a_reason() -> None:
    reads = {name.strip() for name in READS.replace("\n", " ").split(",")}
    changes = {name.partition(" --")[0] for name in ON_A_PAGE}
    known = commands()
    assert len(known) > 150
    assert known - reads - changes - set(BY_COMMAND_ONLY) == set()
    assert (reads | changes | set(BY_COMMAND_ONLY)) - known == set()
    assert set(BY_COMMAND_ONLY) & (reads | changes) == set()


def test_the_page_that_is_named_has_the_form() -> None:
    for name, (template, form) in ON_A_PAGE.items():
        assert form in (TEMPLATES / template).read_text(), (name, template)

"""The `mlbox` command: a table of commands, each loaded only when it is asked for."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any, NamedTuple, NoReturn

import typer
from typer.core import TyperGroup
from typer.main import get_group

from mlbox.cli.helps import say_plainly
from mlbox.errors import MlboxError

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 and the signal's number, as a shell expects."""
TRACEBACK = "MLBOX_TRACEBACK"
COMPLETE = "_MLBOX_COMPLETE"
"""With which a shell asks what may come next."""


class Entry(NamedTuple):
    """One command: its help line here, so that `mlbox --help` loads nothing; `verb` names one command of the module."""

    module: str
    help: str
    verb: str | None = None


COMMANDS = {
    "serve": Entry("serve", "Run the server.", "serve"),
    "login": Entry("login", "Store a box's address and a token, in a file that only you can read.", "login"),
    "status": Entry("status", "Show the box, who you are on it, and its health.", "status"),
    "submit": Entry("submit", "Send the code in a folder to the box and run a command in it.", "submit"),
    "rerun": Entry("submit", "Submit a job again as it was, as a new one, and say what is not as it was.", "rerun"),
    "ps": Entry("job", "List the jobs that wait or run, newest first.", "ps"),
    "gpus": Entry("gpus", "List the GPUs of the box, what they do and who has them.", "gpus"),
    "logs": Entry("job", "Print what a job printed.", "logs"),
    "show": Entry(
        "job", "Show a job: what it runs and asks for, why it waits or who waits for it, and its attempts.", "show"
    ),
    "stop": Entry("job", "Take jobs off the queue, or end them.", "stop"),
    "retry": Entry("job", "Queue ended jobs again, each as another attempt of the same job.", "retry"),
    "wait": Entry("job", "Wait until jobs have ended, and end with the exit code of the first that failed.", "wait"),
    "top": Entry("job", "Show the GPUs, what runs on them and what waits, live in a terminal.", "top"),
    "search": Entry("search", "Find anything that has a name, by words.", "search"),
    "job": Entry("job", "Jobs: list, show, follow, stop, retry, wait."),
    "queue": Entry("queue", "Queues: what waits, and how the lines share the box."),
    "quota": Entry("quota", "Quotas: how many GPUs a team may hold, and when."),
    "usage": Entry("quota", "Show the GPU-hours of each team and person.", "usage"),
    "run": Entry("run", "Runs: what training recorded."),
    "exp": Entry("exp", "Experiments: named groups of runs."),
    "label": Entry("label", "Labels: outcomes that come late, twice and in conflict."),
    "dataset": Entry("dataset", "Dataset versions."),
    "lineage": Entry("lineage", "Where something comes from."),
    "endpoint": Entry("endpoint", "What serves, and predictions."),
    "monitor": Entry("monitor", "What is served: drift, skew, and performance as labels arrive."),
    "predictions": Entry("predictions", "The prediction log: export, hold, erase, keep."),
    "alert": Entry("alert", "Alerts."),
    "audit": Entry("audit", "What happened, and who did it."),
    "feature": Entry("feature", "Feature views and services, and what is known of an entity."),
    "transform": Entry("transform", "On-demand transforms: one function at training and at serving."),
    "quality": Entry("quality", "Expectations of sources, and the rows that broke them."),
    "source": Entry("source", "Append-only tables that features are made of."),
    "model": Entry("model", "Models: versions, promotion, what serves."),
    "approvals": Entry(
        "approvals", "List what waits for a decision, or show all about one version before you decide.", "approvals"
    ),
    "export": Entry("transfer", "Write experiments, runs and models to a folder.", "export"),
    "import": Entry("transfer", "Bring experiments, runs and models from MLflow or another box."),
    "backup": Entry("backup", "Backups: made while the box runs, proven, restored."),
    "cron": Entry("cron", "Crons: jobs that come again, by time or when something happens."),
    "deleted": Entry("deleted", "List what was deleted and can be taken back.", "deleted"),
    "restore": Entry("deleted", "Take a deletion back.", "restore"),
    "gc": Entry("deleted", "Remove for good what was deleted long ago, and free its files.", "gc"),
    "clock": Entry("clock", "Domain time of a box in replay mode."),
    "config": Entry("config", "Print each setting with its value and where it came from.", "config"),
    "context": Entry("context", "Which box the commands talk to."),
    "completion": Entry(
        "completion", "Print a script with which a shell completes commands and options.", "completion"
    ),
    "identity": Entry("identity", "Whose account a person of the sign-in provider uses."),
    "secret": Entry("secret", "Secrets for jobs: set, list by name, remove."),
    "team": Entry("team", "Teams: members, roles, and what is private."),
    "token": Entry("token", "Bearer tokens."),
    "user": Entry("user", "People and services that may sign in."),
}


SECTIONS = (("Commands", "serve"), ("By noun", "job"), ("Administration", "backup"))
"""Under what the root's help lists the commands, and the first of each."""


class Commands(TyperGroup):
    """The root: knows each command by name and help, and loads the one that is called."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        # Stand-ins with a help line: enough to list, to resolve and to suggest.
        self.commands = {name: TyperGroup(name=name, help=entry.help) for name, entry in COMMANDS.items()}

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Every command with the whole of its help line."""
        names = list(COMMANDS)
        begins = [names.index(first) for _, first in SECTIONS]
        for (title, _), begin, end in zip(SECTIONS, begins, [*begins[1:], len(names)], strict=True):
            with formatter.section(title):
                formatter.write_dl([(name, COMMANDS[name].help) for name in names[begin:end]])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The real command behind the stand-in."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, load(name) if name else command, rest


VERBS = {
    "add": ("create",),
    "delete": ("rm", "revoke", "disable"),
    "describe": ("show",),
    "get": ("show",),
    "info": ("show",),
    "list": ("ls",),
    "new": ("create",),
    "remove": ("rm", "revoke", "disable"),
}
"""What people type who know other programs, and what it is called here."""


def load(name: str) -> Any:
    """A command of the table as the object that parses its arguments."""
    entry = COMMANDS[name]
    app: typer.Typer = importlib.import_module(f"mlbox.cli.{entry.module}").app
    app.rich_markup_mode = None  # plain text: importing rich costs more time than the rest of `--help`
    group = get_group(app)
    say_plainly(group)
    return group.commands[entry.verb] if entry.verb else group


app = typer.Typer(
    cls=Commands,
    name="mlbox",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog="Example: mlbox serve, then mlbox login http://127.0.0.1:8265 in another terminal.",
)


def _version(wanted: bool) -> None:
    if wanted:
        from mlbox import __version__

        print(f"mlbox {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the release and exit."
    ),
) -> None:
    """A whole ML platform for one GPU box."""


def main() -> NoReturn:
    """Run the command; whatever goes wrong ends in one line on stderr and the exit code of its kind."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code."""
    if COMPLETE in os.environ:
        importlib.import_module("mlbox.cli.completion").answer()
    try:
        code = app(arguments, prog_name="mlbox", standalone_mode=False)
        sys.stdout.flush()
    except MlboxError as err:
        return _fail(str(err), err.exit_code)
    except typer.TyperException as err:
        return _usage(err)
    except (typer.Abort, KeyboardInterrupt):
        return _fail("interrupted.", INTERRUPTED)
    except BrokenPipeError:
        return _pipe_closed()
    except Exception as err:
        return _bug(err)
    return code if isinstance(code, int) else 0


def _usage(err: typer.TyperException) -> int:
    context = getattr(err, "ctx", None)
    if type(err).__name__ == "NoArgsIsHelpError":
        print(err.format_message(), file=sys.stderr)
        return err.exit_code
    line = err.format_message().rstrip().replace("Value error, ", "")
    if context and (word := _meant(line, context.command)):
        line = f"{line.partition(' Did you mean')[0]} Did you mean '{word}'?"
    stop = "" if line.endswith((".", "?", "!")) else "."
    hint = f" See `{context.command_path} --help`." if context else ""
    return _fail(f"{line}{stop}{hint}", err.exit_code)


def _meant(line: str, group: Any) -> str | None:
    """Our verb for one that other programs have, where a group has it."""
    given = line.removeprefix("No such command '").partition("'")[0]
    if not line.startswith("No such command"):
        return None
    return next((word for word in VERBS.get(given, ()) if word in getattr(group, "commands", ())), None)


def _bug(err: Exception) -> int:
    if os.environ.get(TRACEBACK):
        raise err
    return _fail(f"a fault in mlbox: {type(err).__name__}: {err}. Run it again with {TRACEBACK}=1 and report it.", 1)


def _pipe_closed() -> int:
    from mlbox.cli.output import pipe_closed

    return pipe_closed()


def _fail(message: str, code: int) -> int:
    print(f"mlbox: {' '.join(message.split())}", file=sys.stderr)
    return code

"""`python -m docs.generate`: write the reference pages that follow from the code.

`tests/test_docs.py` fails when one of them lags.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer

from mlbox import errors, settings
from mlbox.cli.main import COMMANDS, INTERRUPTED, app, load
from mlbox.cli.output import PIPE_CLOSED
from mlbox.web import observability

REFERENCE = Path(__file__).parent / "reference"
WIDTH = 100
NOTE = "<!-- Written by `python -m docs.generate`. -->\n\n"
OPENAPI = {"/api/v1/schema", "/api/v1/schema/openapi.json", "/api/v1/schema/{path}"}
"""Routes of litestar's own, which has no words for them."""
EXIT_CODES = {
    0: "done",
    1: "failed: the box, a store or a job",
    2: "usage: a wrong flag, value or input",
    3: "not found",
    4: "not signed in, or not allowed",
    5: "refused by a gate or an approval rule, or in conflict with what is there",
    124: "timed out",
    INTERRUPTED: "interrupted with Ctrl-C",
    PIPE_CLOSED: "whoever read the output has gone",
}


def settings_page() -> str:
    """Every setting."""
    rows = [
        f"| `{name}` | {settings.kind(name)} | {settings.default_text(name)} | {settings.describe(name)} |"
        for name in settings.Settings.__struct_fields__
    ]
    return "\n".join(
        [
            "# Settings\n",
            "A setting comes from its flag, else its variable, else the TOML file named by `--config`, else its default.",
            "The flag of `data_dir` is `--data-dir`, its variable `MLBOX_DATA_DIR`; in the file it is a key at the top level.",
            "A list is a flag given several times, a variable with commas, an array in the file.",
            "`mlbox config` prints each setting with its value and where it came from, and takes the same flags as "
            "`mlbox serve`.\n",
            "| setting | takes | default | what it does |\n|---|---|---|---|",
            *rows,
            "",
        ]
    )


def cli_page() -> str:
    """Every command's help."""
    parts = [
        "# Commands\n",
        "Every command that shows something takes `-o table|json|jsonl|csv|id`: a table for people, every field for programs, "
        "ids for the next command. Data goes to stdout, everything else to stderr. "
        "Exit codes are those of [errors](errors.md).\n",
    ]
    parts += [f"## `{name}`\n\n```text\n{text}\n```\n" for name, text in commands()]
    return "\n".join(parts)


def commands() -> Iterator[tuple[str, str]]:
    """Each command and its help text, groups before what is in them."""
    root = typer.main.get_command(app)
    context = root.context_class(
        root, info_name="mlbox", terminal_width=WIDTH, max_content_width=WIDTH, **root.context_settings
    )
    yield "mlbox", root.get_help(context)
    for name in COMMANDS:
        yield from _helps(load(name), name, context)


def _helps(command: Any, name: str, parent: Any) -> Iterator[tuple[str, str]]:
    context = command.context_class(
        command, info_name=name, parent=parent, terminal_width=WIDTH, max_content_width=WIDTH
    )
    yield context.command_path, command.get_help(context)
    for inner, found in getattr(command, "commands", {}).items():
        if found.hidden:  # what a command was called before
            continue
        yield from _helps(found, inner, context)


def errors_page() -> str:
    """The error tree, and the exit codes."""
    tree = (errors.__doc__ or "").partition("\n\n")[2].rpartition("\n\n")[0]
    return "\n".join(
        [
            "# Errors\n",
            "Every error says what happened and why, what to do next and, for bad input, which field was wrong. "
            "On the command line it is one line on stderr; the native API answers "
            '`{"error": {"code", "message", "hint", "field"}}` with the status below. '
            "Codes are stable; words are not.\n",
            f"```text\n{tree}\n```\n",
            "## Exit codes\n",
            "| code | meaning |\n|---:|---|",
            *(f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.items()),
            "",
        ]
    )


def routes_page() -> str:
    """Every route."""
    rows = [
        f"| {method} | `{path}` | {'anyone' if action == 'public' else f'`{action}`'} | {what} |"
        for path, method, action, what in sorted(routes())
    ]
    return "\n".join(
        [
            "# Routes\n",
            "Every address that the server answers, and the action that a [role](roles.md) must allow. The schema of the "
            "native API is at `/api/v1/schema`. A list takes `limit` and `after`, the id that the page before it ended with.\n"
            "What a native address does not take, in its query or its body, is refused with the nearest that it does.\n",
            "| method | path | action | what it does |\n|---|---|---|---|",
            *rows,
            "",
        ]
    )


def routes() -> Iterator[tuple[str, str, str, str]]:
    """Path, method, action and first docstring line of every handler."""
    from litestar.routes import ASGIRoute, HTTPRoute

    from mlbox.web.app import create_router
    from mlbox.web.box import Box

    with tempfile.TemporaryDirectory() as folder:
        box = Box(settings.Settings(data_dir=f"{folder}/data"), url="http://127.0.0.1")
        try:
            for route in create_router(box).routes:
                path = re.sub(r":\w+}", "}", route.path)
                if isinstance(route, HTTPRoute) and path not in OPENAPI:
                    for handler in route.route_handlers:
                        for method in sorted(set(handler.http_methods) - {"OPTIONS"}):
                            yield path, str(method), handler.opt["action"], _first_line(handler.fn)
                elif isinstance(route, ASGIRoute):
                    yield path, "any", "public", _first_line(route.route_handler.fn)
            yield "/api/v1/schema/openapi.json", "GET", "box.read", "The OpenAPI schema of the native API."
        finally:
            box.close()


def _first_line(handler: Any) -> str:
    return (handler.__doc__ or "").strip().partition("\n")[0].replace("|", "\\|")


WHERE = {
    "owner": "that owns it",
    "named": "that owns it",
    "any": "any",
    "box": "`everyone`",
}


def roles_page() -> str:
    """Every action and who may do it."""
    from mlbox.store.access.roles import ACTIONS, ROLES

    order = sorted(ACTIONS.items(), key=lambda item: item[0])
    marks = {
        name: [" ● " if ROLES.index(role) >= ROLES.index(a.role) else "   " for role in ROLES] for name, a in order
    }
    rows = [
        f"| `{name}` | {a.what} | {' | '.join(marks[name])} | {WHERE[a.where]} | {'its own' if a.job else ''} |"
        for name, a in order
    ]
    return "\n".join(
        [
            "# Roles\n",
            "A role is held in a team, and what something belongs to is said by its name: `vision.flights` is the team vision's, "
            "and what begins with no team's name belongs to `everyone`, the team of all accounts. "
            "An admin in `everyone` is the box's, and an admin in every team. No token may do more than its ceiling.\n",
            "The guards use this very table. [Teams](../explanation/teams.md) says why it is so.\n",
            f"| action | what | {' | '.join(ROLES)} | in the team | a job's token |",
            f"|---|---|{':-:|' * len(ROLES)}---|---|",
            *rows,
            "",
        ]
    )


PAGES: dict[str, Callable[[], str]] = {
    "settings.md": settings_page,
    "cli.md": cli_page,
    "errors.md": errors_page,
    "routes.md": routes_page,
    "roles.md": roles_page,
}


def main() -> None:
    """Write the pages."""
    REFERENCE.mkdir(exist_ok=True)
    for name, page in PAGES.items():
        (REFERENCE / name).write_text(NOTE + page())
    for name, file in observability.FILES.items():
        (REFERENCE / name).write_text(file())


if __name__ == "__main__":
    main()

"""`mlbox feature plan` and `mlbox feature apply`: definition files, as a plan and as done."""

from __future__ import annotations

import runpy
import sys
import tomllib
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from mlbox.cli.context import connect
from mlbox.cli.output import Output, OutputOption, note, show, show_one
from mlbox.definition_text import HINT, KINDS, of_plain
from mlbox.errors import InvalidInput, MlboxError
from mlbox.records import Definitions, FeaturePlan, PlannedChange

if TYPE_CHECKING:
    from mlbox.client import Client

SIGNS = {"create": "+", "new version": "~", "describe": "~", "none": "="}
Files = Annotated[list[Path], typer.Argument(help="Python, TOML or JSON files, or folders of them.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `mlbox feature`."""
    app.command(epilog="Example: mlbox feature plan features.py")(plan)
    app.command(epilog="Example: mlbox feature apply features.py --yes")(apply)


def plan(files: Files, output: OutputOption = Output.table) -> None:
    """Show what applying definition files would change, and what that touches."""
    wanted = read(files)
    with connect(timeout_seconds=600) as client:
        _tell(client.post("/api/v1/features/plan", FeaturePlan, wanted), output)


def apply(
    files: Files,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask. Without a terminal nothing is asked.")] = False,
    output: OutputOption = Output.table,
) -> None:
    """Bring the box to what files define, all of it or none: what is new is made, what changed is a new version."""
    wanted = read(files)
    with connect(timeout_seconds=600) as client:
        _send_code(client, wanted)
        body: dict[str, Any] = {"definitions": wanted}
        if not yes and sys.stdin.isatty():
            found = client.post("/api/v1/features/plan", FeaturePlan, wanted)
            _tell(found, output)
            if all(one.action == "none" for one in found.changes):
                return
            typer.confirm("Apply?", abort=True, err=True)
            body["base"] = found.base
        done = client.post("/api/v1/features/apply", FeaturePlan, body)
        if "base" not in body:
            _tell(done, output)
        if any(one.action != "none" for one in done.changes):
            note("Applied.")


def _send_code(client: Client, wanted: Definitions) -> None:
    """Have the box know the code of views in free Python, before they name it."""
    from mlbox.define import CODE

    for sha256 in {view.function.snapshot for view in wanted.views if view.function is not None}:
        if sha256 in CODE:
            client.send("POST", "/api/v1/snapshots", content=CODE[sha256])


def _tell(found: FeaturePlan, output: Output) -> None:
    if output is Output.json:
        show_one(found, output)
        return
    if output is not Output.table:
        show(found.changes, ("ref", "kind", "action"), output)
        return
    for one in found.changes:
        if one.action != "none":
            typer.echo("\n".join(_lines(one)))
    counts = {action: sum(one.action == action for one in found.changes) for action in SIGNS}
    note(
        f"{counts['create']} to create, {counts['new version']} new versions, {counts['describe']} described,"
        f" {counts['none']} unchanged."
    )


def _lines(change: PlannedChange) -> list[str]:
    lines = [f"{SIGNS[change.action]} {change.kind} {change.ref}"]
    lines += [f"    {line}" for line in change.differences]
    if change.touches:
        lines.append(f"    in use before: {', '.join(change.touches)}")
    lines += [f"    ! {line}" for line in change.alike]
    return lines


# -- files ----------------------------------------------------------------------------------------------------------------


def read(files: list[Path]) -> Definitions:
    """What files define together; raises InvalidInput naming the file, and both of them where a name is there twice."""
    gathered: dict[str, list[Any]] = {kind: [] for kind in KINDS}
    where: dict[tuple[str, str], Path] = {}
    for file in _files(files):
        for kind, specs in _read_one(file).items():
            for spec in specs:
                before = where.setdefault((kind, spec.name), file)
                if before is not file:
                    raise InvalidInput(
                        f"{spec.name!r} of `{kind}` is defined in {before} and in {file}.",
                        hint="Keep one.",
                        field="file",
                    )
            gathered[kind] += specs
    if not any(gathered.values()):
        raise InvalidInput("The files define nothing.", hint="See docs/how-to/define-features.md.", field="file")
    return Definitions(**{kind: tuple(specs) for kind, specs in gathered.items()})


def _files(given: list[Path]) -> list[Path]:
    found: list[Path] = []
    for path in given:
        if path.is_dir():
            inside = [one for one in sorted(path.iterdir()) if one.suffix in (".py", ".toml", ".json")]
            found += [one for one in inside if not one.name.startswith(("_", "test_", "."))]
        else:
            found.append(path)
    return list(dict.fromkeys(found))


def _read_one(file: Path) -> dict[str, list[Any]]:
    if file.suffix == ".py":
        return _run(file)
    try:
        text = file.read_text()
        raw: Any = msgspec.json.decode(text) if file.suffix == ".json" else tomllib.loads(text)
        found = of_plain(raw)
    except OSError as err:
        raise InvalidInput(f"{file} cannot be read: {err.strerror}.", hint="Give another file.", field="file") from err
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.MsgspecError) as err:
        raise InvalidInput(
            f"{file} holds no definitions: {err}.",
            hint=HINT,
            field="file",
        ) from err
    return {kind: list(getattr(found, kind)) for kind in KINDS}


def _run(file: Path) -> dict[str, list[Any]]:
    """What the names of a Python file hold once it has run."""
    from mlbox.define import found_in

    if not file.is_file():
        raise InvalidInput(f"{file} cannot be read: there is no such file.", hint="Give another file.", field="file")
    before = list(sys.path)
    sys.path.insert(0, str(file.resolve().parent))  # its neighbours are importable, as for `python FILE`
    try:
        return found_in(runpy.run_path(str(file), run_name="mlbox_definitions").values())
    except MlboxError as err:
        err.message = f"{file}: {err.message}"
        raise
    except (Exception, SystemExit) as err:
        places = [one for one in traceback.extract_tb(err.__traceback__) if one.filename == str(file)]
        line = f", line {places[-1].lineno}" if places else ""
        said = f"{type(err).__name__}: {err}".rstrip(".: ")
        raise InvalidInput(f"{file}{line}: {said}.", hint="Run it with `python` to see more.", field="file") from err
    finally:
        sys.path[:] = before

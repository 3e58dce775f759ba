"""`mlbox serve`: its flags are the settings."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from mlbox import settings as declared
from mlbox.errors import StartupError
from mlbox.settings import Origin, Settings

app = typer.Typer()

ConfigFile = Annotated[str | None, typer.Option("--config", metavar="FILE", help="TOML file with settings.")]


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command one flag per setting, and `--config`; it is called with `(settings, origins)` and its own options.

    Every flag is text here: the settings themselves convert and check it, with the same words for a flag, a variable and
    a file.
    """

    def wrapped(*, config: str | None, **options: Any) -> None:
        given = {name: options.pop(name) for name in Settings.__struct_fields__}
        flags = {name: value for name, value in given.items() if value is not None and value != []}
        settings, origins = declared.load(flags, file=Path(config) if config else None)
        command(settings, origins, **options)

    _, _, *own = inspect.signature(command, eval_str=True).parameters.values()
    parameters = [_parameter("config", ConfigFile), *(_parameter(n, _flag(n)) for n in Settings.__struct_fields__)]
    parameters += [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
    wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {p.name: p.annotation for p in parameters}
    wrapped.__name__, wrapped.__doc__ = command.__name__, command.__doc__
    return wrapped


def _parameter(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _flag(name: str) -> Any:
    repeated = declared.is_list(name)
    more = " May be given more than once." if repeated else ""
    option = typer.Option(
        f"--{name.replace('_', '-')}",
        metavar=declared.metavar(name),
        help=f"{declared.describe(name)}{more} Default: {declared.default_text(name)}.",
        show_default=False,
    )
    return Annotated[list[str] | None, option] if repeated else Annotated[str | None, option]


@app.command(epilog="Example: mlbox serve --data-dir /srv/mlbox --port 8265")
@with_settings
def serve(settings: Settings, origins: list[Origin]) -> None:
    """Run the server."""
    try:
        from mlbox.web.server import serve as run_server
    except ModuleNotFoundError as err:
        if (err.name or "mlbox").partition(".")[0] == "mlbox":
            raise
        raise StartupError(
            f"The server cannot start, because the package {err.name} is not installed: plain `mlbox` is only the client.",
            hint="pip install 'mlbox[server]'",
        ) from err
    run_server(settings, origins)

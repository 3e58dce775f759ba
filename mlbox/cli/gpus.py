"""`mlbox gpus`: the GPUs of the box."""

from __future__ import annotations

import typer

from mlbox.cli.context import connect
from mlbox.cli.jobtable import SHORT_ID
from mlbox.cli.output import Output, OutputOption, show
from mlbox.records import Gpu

app = typer.Typer(help="The GPUs of the box.")
COLUMNS = (
    *("gpu", "name", "memory_gb", "state", "jobs"),
    *("utilization_percentage", "memory_used_gb", "power_watts", "temperature_celsius", "uuid"),
)


@app.command("gpus", epilog="Example: mlbox gpus -o json")
def gpus(output: OutputOption = Output.table) -> None:
    """List the GPUs of the box, what they do and who has them."""
    with connect() as client:
        found = client.get("/api/v1/gpus", list[Gpu])
    if output is Output.id:
        typer.echo("\n".join(gpu.uuid for gpu in found))
        return
    if output is not Output.table:
        show(found, COLUMNS, output)
        return
    show(
        [
            {
                **{name: getattr(gpu, name, None) for name in COLUMNS},
                "gpu": gpu.label,
                "state": gpu.state,
                "jobs": [job_id[-SHORT_ID:] for job_id in gpu.jobs],
            }
            for gpu in found
        ],
        COLUMNS,
    )

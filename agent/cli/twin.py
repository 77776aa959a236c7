"""`ptychopilot twin build`: a prior from simulated columns."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

twin = typer.Typer(help="Simulated columns, from which campaigns know something before their first electron.")


@twin.callback()
def _group() -> None:
    """Keep `build` a command of its own."""


@twin.command()
def build(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="File of the ensemble; what it holds already is kept.")],
    columns: Annotated[
        Path | None,
        typer.Option(metavar="FILE.yaml", help="Your own columns, as in `study`. Without it: the zoo's, by seed."),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="How many of the zoo; of each of your own.")] = 40,
    first_seed: Annotated[int, typer.Option(min=0, help="Of the first one.")] = 0,
    specimen: Annotated[
        str, typer.Option(metavar="CLASS[,…]", help="layered, light, crystal, amorphous; by turns.")
    ] = "layered,light,crystal,amorphous",
    minutes: Annotated[float | None, typer.Option(min=0, help="Begin no further column after so many.")] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error came from (a traceback).")] = False,
) -> None:
    """Simulate columns and write what their pictures are worth; name the file as `prior` in a campaign.

    What a description of the instrument does not say, such as aberrations and source size, is drawn anew for each. About ten
    seconds of one core a column; a build that was stopped goes on where it ended.
    """
    from agent.cli.terminal import Terminal
    from agent.study.exposures import ExposureError, Simulator
    from agent.twin.build import build as add_columns
    from agent.twin.build import check_path
    from agent.twin.specimens import checked_classes
    from instrument.models import Description

    check_path(out)
    classes = checked_classes(specimen)
    console = Terminal()
    with console.status("starting the simulator") as status, Simulator(columns, count, first_seed) as simulator:
        repeats = 1 if columns is None else count

        def described() -> Iterator[tuple[str, int, Description]]:
            for column in simulator.columns:
                try:
                    description = simulator.describe(column)
                except ExposureError as error:
                    console.print(f"{column.name}: {error}")
                    continue
                for repeat in range(repeats):
                    yield column.name, column.seed if columns is None else first_seed + repeat, description

        added = 0
        for member in add_columns(out, described(), classes, minutes):
            added += 1
            status.update(f"{added} columns added, the last one {member.name} ({member.specimen})")
    console.print(f"{added} columns added to {out.resolve()}; name it as `prior` in a campaign file")

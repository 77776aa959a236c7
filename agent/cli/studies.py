"""`ptychopilot study` and its options. The work is in the modules that it imports."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Subject(StrEnum):
    """What `study` examines."""

    calibration = "calibration"
    score = "score"
    policies = "policies"
    dose = "dose"
    stop = "stop"
    counterfactual = "counterfactual"


def study(
    subject: Annotated[Subject, typer.Argument(help="What to examine.")],
    columns: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.yaml",
            help="A list of {name, seed, specimen: {…}, column: {…}}: fields of the simulator's specimen and column. "
            "Without it: columns drawn from the zoo by seeds from 1000 on.",
        ),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="OUT", help="Also write a record of each acquisition to this file.")
    ] = None,
    doses: Annotated[str | None, typer.Option(metavar="E[,E…]", help="e/Å², instead of the study's own.")] = None,
    steps: Annotated[str | None, typer.Option(metavar="Å[,Å…]", help="Scan steps, instead of the study's own.")] = None,
    defoci: Annotated[
        str | None, typer.Option(metavar="Å[,Å…]", help="Nominal, positive for underfocus; write --defoci=-50,50.")
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help="How many columns are drawn from the zoo.")] = None,
    figures: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Also draw what was measured over what is true (PNG).")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer columns and settings: minutes, not hours.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the study whose records are in OUT, instead of beginning anew.")
    ] = False,
    pool: Annotated[Path | None, typer.Option(metavar="FOLDER", help="policies …: shared acquisitions.")] = None,
    policies: Annotated[str | None, typer.Option(metavar="NAME[,…]", help="policies, dose: only these.")] = None,
    campaign: Annotated[Path | None, typer.Option(metavar="DIR", help="counterfactual: a finished campaign.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="counterfactual: another seed.")] = None,
    electrons: Annotated[float | None, typer.Option(min=0, help="counterfactual: another budget.")] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error came from (a traceback).")] = False,
) -> None:
    """Hold calibration, score or policies against the truth, on simulated columns that you list or the zoo draws.

    calibration: a first acquisition of each column, as a careful operator would begin, calibrated as a campaign would.
    score: a grid of settings on each column, each in two passes and in one (halves drawn from its counts), processed as a
    campaign would, beside the information that the picture really carries.
    policies, dose, stop: what policies recommend after some trials, at several doses, or having stopped, beside the best.
    counterfactual: the choices of a finished campaign made again, by its own policy, seed and budget or by others.
    """
    from agent.cli.comparison import run_comparison
    from agent.cli.counterfactual import run_counterfactual
    from agent.cli.study import numbers, run_study
    from agent.study.plans import Wanted

    if subject is Subject.counterfactual:
        run_counterfactual(campaign, json_file, policies, seed, electrons)
        return
    wanted = Wanted(
        numbers(doses, "--doses", positive=True),
        numbers(steps, "--steps", positive=True),
        numbers(defoci, "--defoci", positive=False),
        quick,
    )
    if subject in (Subject.policies, Subject.dose, Subject.stop):
        run_comparison(subject.value, columns, json_file, wanted, count, figures, pool, policies)
        return
    run_study(subject.value, columns, json_file, wanted, count, figures, resume)

"""`ptychopilot study` and its options. The work is in the modules that it imports."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli.options import FileOptions, grouped

if TYPE_CHECKING:
    from agent.study.plans import Wanted


class Subject(StrEnum):
    """What `study` examines."""

    calibration = "calibration"
    score = "score"
    policies = "policies"
    dose = "dose"
    stop = "stop"
    live_stop = "live-stop"
    counterfactual = "counterfactual"
    tune = "tune"
    seed = "seed"
    replay = "replay"


@grouped
def study(
    subject: Annotated[Subject, typer.Argument(help="What to examine.")],
    stated: FileOptions,
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
    policies: Annotated[str | None, typer.Option(metavar="NAME[,…]", help="policies, dose, tune: only these.")] = None,
    campaign: Annotated[Path | None, typer.Option(metavar="DIR", help="counterfactual: a finished campaign.")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="counterfactual: another seed; seed: of the run; live-stop: first column.")
    ] = None,
    electrons: Annotated[float | None, typer.Option(min=0, help="counterfactual: another budget.")] = None,
    recording: Annotated[
        Path | None, typer.Option(metavar="FILE", help="replay: a 4D data set, as for `reconstruct`.")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error came from (a traceback).")] = False,
) -> None:
    """Hold calibration, score or policies against the truth, on simulated columns that you list or the zoo draws.

    calibration: a first acquisition of each column, calibrated as a campaign would.
    score: a grid of settings on each column, in two passes and in one, beside what the pictures really carry.
    tune: searches for settings of a reconstruction on MoSe2/WS2, ours beside random, Optuna and scikit-optimize.
    seed: the idealised setting of Cao et al. 2022, its method with 200 doses and the truth, ours with one and without.
    policies, dose, stop: what policies recommend after some trials, at several doses, or having stopped.
    live-stop: how often a scan would be stopped rightly and wrongly while it runs, and what that saves (--seed: first column).
    counterfactual: the choices of a finished campaign made again.
    replay: the least dose of a recording that keeps 90 % of its score, judged by counts that were held out of it.
    """
    _conduct(
        subject,
        _wanted(doses, steps, defoci, quick),
        _Asked(
            columns, json_file, count, figures, resume, pool, policies, campaign, seed, electrons, recording, stated
        ),
    )


def _wanted(doses: str | None, steps: str | None, defoci: str | None, quick: bool) -> Wanted:
    """Settings in place of the study's own. Raises BadInputError for what is no list of numbers."""
    from agent.cli.study import numbers
    from agent.study.plans import Wanted

    return Wanted(
        numbers(doses, "--doses", positive=True),
        numbers(steps, "--steps", positive=True),
        numbers(defoci, "--defoci", positive=False),
        quick,
    )


@dataclass(frozen=True)
class _Asked:
    """The options that not every study takes."""

    columns: Path | None
    json_file: Path | None
    count: int | None
    figures: Path | None
    resume: bool
    pool: Path | None
    policies: str | None
    campaign: Path | None
    seed: int | None
    electrons: float | None
    recording: Path | None
    stated: FileOptions


def _conduct(subject: Subject, wanted: Wanted, asked: _Asked) -> None:
    columns, json_file, count, figures, resume, pool, policies, campaign, seed, electrons, recording, stated = (
        getattr(asked, field.name) for field in fields(asked)
    )
    if subject is Subject.counterfactual:
        from agent.cli.counterfactual import run_counterfactual

        run_counterfactual(campaign, json_file, policies, seed, electrons)
    elif subject is Subject.replay:
        from agent.cli.replay_study import run_replay_study

        options = stated.recording()
        run_replay_study(recording, options, json_file, figures, seed or 0, quick=wanted.quick, resume=resume)
    elif subject is Subject.tune:
        from agent.cli.tuning_study import run_tuning_study

        run_tuning_study(columns, json_file, wanted, count, figures, policies, resume)
    elif subject is Subject.seed:
        from agent.cli.seed_study import run_seed_study

        run_seed_study(json_file, wanted, figures, seed or 0)
    elif subject is Subject.live_stop:
        from agent.cli.live_stop_study import run_live_stop_study

        run_live_stop_study(columns, json_file, count, seed, quick=wanted.quick, resume=resume)
    elif subject in (Subject.policies, Subject.dose, Subject.stop):
        from agent.cli.comparison import run_comparison

        run_comparison(subject.value, columns, json_file, wanted, count, figures, pool, policies)
    else:
        from agent.cli.study import run_study

        run_study(subject.value, columns, json_file, wanted, count, figures, resume)

"""`ptychopilot study tune`: what searches for settings of a reconstruction come to, by the truth of its picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from agent.cli.results import check_json, make_writable, say
from agent.cli.terminal import Terminal
from agent.errors import BadInputError, NoResultError, StoppedError
from agent.processing.child import usable_cores
from agent.storage.atomic import atomic_write
from agent.study.exposures import Simulator, listed
from agent.study.plans import Wanted
from agent.study.resume import read_records, write_records
from agent.study.tuning import ARMS, BUDGET, QUICK_BUDGET, SPECIMEN, Compared, TuningRecord, compared, regrets
from agent.study.tuning_page import page
from agent.tuning.trial import Task
from agent.tuning.workers import HereAndNow, LocalWorkers, Workers

FIRST_SEED = 1000
"""Seeds of the zoo from here on are never used for tuning the product."""
COUNTS = {True: 1, False: 10}
"""Quick or not -> columns of the zoo."""
DOSE = 1e4
"""e/Å²."""


def run_tuning_study(
    columns: Path | None,
    json_file: Path | None,
    wanted: Wanted,
    count: int | None,
    figures: Path | None,
    policies: str | None,
    resume: bool,
) -> None:
    """Conduct the study; print its table, write its records after each column and its page at the end.

    Args:
        columns: file that lists them; None: drawn from the zoo by seed, with MoSe₂/WS₂.
        json_file: where the records go.
        wanted: doses, where not the study's own, and whether it is quick.
        count: how many columns are drawn; None: as many as the study takes.
        figures: folder for its page; None: none.
        policies: searches with commas between; None: all.
        resume: whether columns whose records `json_file` has already are left out.

    Raises:
        BadInputError: the file of columns cannot be used, or the records not be written.
        NoResultError: nothing came of it.
        StoppedError: Ctrl-C; what was done is printed and written.
    """
    check_json(json_file)
    if figures is not None:
        make_writable(figures, "--figures")
    arms = _arms(policies)
    console = Terminal()
    records = list(read_records(json_file, TuningRecord)) if resume else []
    done = {(record.column, record.dose) for record in records}
    results: list[Compared] = []
    stopped = False
    number = COUNTS[wanted.quick] if count is None else count
    with (
        listed(columns, SPECIMEN, range(FIRST_SEED, FIRST_SEED + number)) as file,
        console.status("starting the simulator") as status,
        Simulator(file, number, FIRST_SEED) as simulator,
    ):
        budget = QUICK_BUDGET if wanted.quick else BUDGET
        asked = [(column, dose) for column in simulator.columns for dose in wanted.doses or (DOSE,)]
        try:
            for column, dose in asked:
                if (column.name, dose) not in done:
                    results.append(compared(simulator, column, dose, budget, arms, _workers, status.update))
                    records += results[-1].records
                    write_records(json_file, records)
        except KeyboardInterrupt:
            stopped = True
    _show(console, records, json_file)
    if figures is not None and results:
        path = figures / "tune.html"
        atomic_write(path, page(results))
        say(console, f"page:           {path.resolve()}")
    _end(records, len(results), stopped=stopped)


def _end(records: Sequence[TuningRecord], columns: int, *, stopped: bool) -> None:
    """Raises StoppedError or NoResultError where the study ends so."""
    if stopped:
        msg = f"stopped by Ctrl-C after {columns} columns"
        raise StoppedError(msg)
    if not any(record.truth for record in records):
        msg = f"no picture came of it: {records[0].error if records else 'there was no column'}"
        raise NoResultError(msg)


def _arms(policies: str | None) -> tuple[str, ...]:
    """Names of searches. Raises BadInputError for one that is none."""
    arms = ARMS if policies is None else tuple(policies.split(","))
    for arm in arms:
        if arm not in ARMS:
            msg = f"--policies {arm} is unknown; legal: {', '.join(ARMS)}"
            raise BadInputError(msg)
    return arms


def _workers(task: Task) -> Workers:
    cores = usable_cores()
    return HereAndNow(task) if cores == 1 else LocalWorkers(task, cores)


def _show(console: Terminal, records: Sequence[TuningRecord], json_file: Path | None) -> None:
    table = Table(title="Truth lost by what each search recommends, over columns", title_justify="left")
    for heading in ("search", "columns", "median\nregret, %", "worst, %", "whole re-\nconstructions", "s"):
        table.add_column(heading)
    for arm, count, median, worst, cost, seconds in regrets(records):
        table.add_row(arm, str(count), f"{100 * median:.1f}", f"{100 * worst:.1f}", f"{cost:.1f}", f"{seconds:.0f}")
    console.print(table)
    for line in sorted({f"{r.policy}: {r.error}" for r in records if r.error is not None}):
        say(console, line)
    if json_file is not None and records:
        say(console, f"records (JSON): {json_file.resolve()}")

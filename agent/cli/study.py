"""`ptychopilot study`: calibration or score beside the truth, on the columns of a file or of the zoo."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from agent.cli.results import check_json, make_writable, say
from agent.cli.terminal import Terminal
from agent.errors import BadInputError, NoResultError, StoppedError
from agent.plugins import load_attribute
from agent.storage.atomic import atomic_write
from agent.study.calibration import calibration_records
from agent.study.exposures import Exposed, Simulator, StudyColumn, ahead, exposures
from agent.study.plans import Planned, Wanted, calibration_plans, score_plans
from agent.study.records import CalibrationRecord, Key, ScoreRecord
from agent.study.resume import read_records, what_is_left, write_records
from agent.study.score import score_records
from agent.study.tables import calibration_tables, score_tables
from instrument.models import Description

FIRST_SEED = 1000
"""Seeds of the zoo from here on are never used for tuning."""


@dataclass(frozen=True)
class _Study:
    plans: Callable[[int, Description, Wanted], list[Planned]]
    records: Callable[[Iterable[Exposed]], Iterator[Any]]
    tables: Callable[[Sequence[Any]], Iterator[Table]]
    record: type[CalibrationRecord] | type[ScoreRecord]
    figure: str
    """Name of the function that draws it."""
    count: tuple[int, int]
    """Columns of the zoo, in full and quickly."""


_STUDIES = {
    "calibration": _Study(
        calibration_plans, calibration_records, calibration_tables, CalibrationRecord, "calibration_figure", (60, 12)
    ),
    "score": _Study(score_plans, score_records, score_tables, ScoreRecord, "score_figure", (20, 2)),
}


def run_study(
    subject: str,
    columns: Path | None,
    json_file: Path | None,
    wanted: Wanted,
    count: int | None = None,
    figures: Path | None = None,
    resume: bool = False,
) -> None:
    """Conduct a study; print its tables, and write its records after each acquisition.

    Args:
        subject: `calibration` or `score`.
        columns: file that lists them; None: drawn from the zoo by seed.
        json_file: where the records go.
        wanted: settings, where not the study's own.
        count: how many columns are drawn; None: as many as the study takes.
        figures: folder for a picture of it; None: none.
        resume: whether the acquisitions whose records `json_file` has already are left out.

    Raises:
        BadInputError: the file of columns cannot be used, or the records not be written or gone on with.
        NoResultError: no acquisition came to anything.
        StoppedError: Ctrl-C; what was done is printed and written.
    """
    study, console = _STUDIES[subject], Terminal()
    check_json(json_file)
    if figures is not None:
        make_writable(figures, "--figures")
    if count is None:
        count = study.count[wanted.quick]
    records = read_records(json_file, study.record) if resume else []
    done, stopped = {record.key for record in records}, False
    with console.status("starting the simulator") as status, Simulator(columns, count, FIRST_SEED) as simulator:
        total = len(simulator.columns)
        status.update(f"column 1 of {total}: {simulator.columns[0].name}")
        plans = partial(_plans, study, wanted, simulator.columns, done)
        try:
            for record in study.records(ahead(exposures(simulator, plans))):
                if record.key in done:  # of a column that cannot be simulated
                    continue
                records.append(record)
                write_records(json_file, records)
                number = len({r.name for r in records})
                status.update(f"column {number} of {total}: {record.name}, {len(records)} acquisitions so far")
        except KeyboardInterrupt:
            stopped = True
    _show(console, study, records, json_file)
    if figures is not None and records:
        path = figures / f"{subject}.png"
        atomic_write(path, load_attribute(f"agent.study.figures:{study.figure}")(records))
        say(console, f"figure:         {path.resolve()}")
    if stopped:
        msg = f"stopped by Ctrl-C after {len(records)} acquisitions"
        raise StoppedError(msg)
    if all(record.error is not None for record in records):
        msg = f"no acquisition came to anything: {records[0].error if records else 'there was none'}"
        raise NoResultError(msg)


def numbers(text: str | None, option: str, *, positive: bool) -> tuple[float, ...] | None:
    """The numbers of an option, with commas between.

    Args:
        text: as given; None: not given.
        option: its name, for the message.
        positive: whether only numbers above 0 are legal.

    Raises:
        BadInputError: something else than numbers.
    """
    if text is None:
        return None
    legal = "numbers above 0, with commas between" if positive else "numbers, with commas between"
    msg = f"{option} {text} is not possible; legal: {legal}"
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise BadInputError(msg) from error
    if not all(math.isfinite(number) and (number > 0 or not positive) for number in found):
        raise BadInputError(msg)
    return found


def _plans(
    study: _Study,
    wanted: Wanted,
    columns: Sequence[StudyColumn],
    done: Collection[Key],
    number: int,
    description: Description,
) -> list[Planned]:
    return what_is_left(study.plans(number, description, wanted), columns[number], study.record, done)


def _show(
    console: Console, study: _Study, records: Sequence[CalibrationRecord | ScoreRecord], json_file: Path | None
) -> None:
    for table in study.tables(records):
        console.print(table)
    for record in records:
        if record.error is not None:
            say(console, f"{record.name} failed: {record.error}")
    if json_file is not None and records:
        say(console, f"records (JSON): {json_file.resolve()}")

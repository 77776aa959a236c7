"""`ptychopilot study live-stop`: how often a scan would be stopped rightly and wrongly while it runs, and what that saves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from agent.cli.results import check_json, say
from agent.cli.terminal import Terminal
from agent.errors import NoResultError, StoppedError
from agent.storage.atomic import atomic_write
from agent.study.exposures import Simulator
from agent.study.live_stop import LiveRecord, live_records, play
from agent.study.resume import read_records

FIRST_SEED = 2010
"""Columns that no rule was set by; it was on 2000 … 2009."""
COUNTS = {True: 3, False: 10}
"""Quick or not -> columns of the zoo."""


def run_live_stop_study(
    columns: Path | None,
    json_file: Path | None,
    count: int | None,
    first_seed: int | None,
    *,
    quick: bool,
    resume: bool,
) -> None:
    """Conduct the study; print its table and write its records after each acquisition.

    Args:
        columns: file that lists them; None: drawn from the zoo by seed.
        json_file: where the records go.
        count: how many columns are drawn; None: as many as the study takes.
        first_seed: of the columns that are drawn; None: the study's own.
        quick: fewer columns.
        resume: go on with the records in `json_file`.

    Raises:
        BadInputError: the file of columns cannot be used, or the records not be written.
        NoResultError: nothing came of it.
        StoppedError: Ctrl-C; what was done is printed and written.
    """
    check_json(json_file)
    records = read_records(json_file, LiveRecord) if resume else []
    console, stopped = Terminal(), False
    number = COUNTS[quick] if count is None else count
    first = FIRST_SEED if first_seed is None else first_seed
    with console.status("starting the simulator") as status, Simulator(columns, number, first) as simulator:
        try:
            for record in live_records(simulator, {each.key for each in records}):
                records.append(record)
                _write(json_file, records)
                status.update(f"{len(records)} acquisitions, the last one of {record.name}")
        except KeyboardInterrupt:
            stopped = True
    _show(console, records, json_file)
    if stopped:
        msg = f"stopped by Ctrl-C after {len(records)} acquisitions"
        raise StoppedError(msg)
    if not any(record.score is not None for record in records):
        msg = f"no acquisition came to a score: {records[0].error if records else 'there was no column'}"
        raise NoResultError(msg)


def _write(path: Path | None, records: Sequence[LiveRecord]) -> None:
    if path is not None:
        listed = [record.model_dump(mode="json") for record in records]
        atomic_write(path, json.dumps(listed, ensure_ascii=False, indent=1, allow_nan=False) + "\n")


def _show(console: Terminal, records: Sequence[LiveRecord], json_file: Path | None) -> None:
    came = [record for record in records if record.score is not None]
    found = play(came)
    table = Table(title="Scans that would have been stopped, every column's settings in every order", show_header=False)
    rows = (
        ("acquisitions, columns", f"{len(came)}, {len({(r.name, r.seed) for r in came})}"),
        ("scans with a rival", str(found.scans)),
        ("stopped", _share(found.stopped, found.scans)),
        ("stopped though their score would have been the best (false stops)", _share(found.false, found.scans)),
        ("of the scans that would have won", _share(found.false, found.wins)),
        ("stopped though their picture is truly better", _share(found.false_by_truth, found.scans)),
        ("electrons saved, of all scans", f"{found.saved:.1%}"),
        ("truth of the best lost by stopping, mean", f"{found.regret:.2%}"),
    )
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for line in sorted({f"{r.name}: {r.error}" for r in records if r.error is not None}):
        say(console, f"without result: {line}")
    if json_file is not None and records:
        say(console, f"records (JSON): {json_file.resolve()}")


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole} ({part / max(whole, 1):.1%})"

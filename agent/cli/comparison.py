"""`ptychopilot study policies`, `dose` and `stop`: policies against each other by the truth of the picture they end with."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from rich.table import Table

from agent.cli.results import check_json, make_writable, say
from agent.cli.terminal import Terminal
from agent.errors import BadInputError, NoResultError, StoppedError
from agent.plugins import load_attribute
from agent.storage.atomic import atomic_write
from agent.study.comparison import DESIGNS, PEERS, POLICIES, VARIANTS, ComparisonRecord, Design, compare
from agent.study.comparison_summary import summarise
from agent.study.exposures import ExposureError, Simulator, listed
from agent.study.plans import Wanted
from agent.study.pool import Pool
from agent.study.resume import write_records

FIRST_SEED = 1000
COUNTS = {True: 1, False: 10}
"""Quick or not -> columns of the zoo."""
DOSE_SPECIMEN = "2h-mos2"
"""Of the study `dose`, the seed's figure 2."""
POOL_VARIABLE = "PTYCHOPILOT_POOL"


def run_comparison(
    subject: str,
    columns: Path | None,
    json_file: Path | None,
    wanted: Wanted,
    count: int | None,
    figures: Path | None,
    pool: Path | None,
    policies: str | None,
) -> None:
    """Conduct a study; print its table and write its records after each campaign.

    Args:
        subject: `policies`, `dose` or `stop`.
        columns: file that lists them; None: drawn from the zoo by seed.
        json_file: where the records go.
        wanted: doses, where not the study's own, and whether it is quick.
        count: how many columns are drawn; None: as many as the study takes.
        figures: folder for a picture of it; None: none.
        pool: folder of the acquisitions that studies share; None: that of the user's cache.
        policies: names with commas between; None: all.

    Raises:
        BadInputError: the file of columns cannot be used, or the records not be written.
        NoResultError: nothing came of it.
        StoppedError: Ctrl-C; what was done is printed and written, and the pool keeps its acquisitions.
    """
    check_json(json_file)
    if figures is not None:
        make_writable(figures, "--figures")
    console = Terminal()
    design = _design(console, subject, wanted, policies)
    folder = pool or Path(os.environ.get(POOL_VARIABLE, Path.home() / ".cache" / "ptychopilot" / "pool"))
    records: list[ComparisonRecord] = []
    number = COUNTS[wanted.quick] if count is None else count
    zoo = (DOSE_SPECIMEN if subject == "dose" else None, range(FIRST_SEED, FIRST_SEED + number))
    with listed(columns, *zoo) as file, console.status("starting the simulator") as status:
        identity = "zoo" if file is None else hashlib.sha256(file.read_bytes()).hexdigest()[:16]
        with Simulator(file, number, FIRST_SEED) as simulator:
            shared = Pool(folder, simulator, identity)
            try:
                for record in _records(console, simulator, shared, design):
                    records.append(record)
                    write_records(json_file, records)
                    told = f"{record.column}, {record.policy}, {record.dose:g} e/Å²"
                    status.update(f"{told}; {shared.made} acquisitions made for {len(simulator.columns)} columns")
                stopped = False
            except KeyboardInterrupt:
                stopped = True
    _show(console, records, json_file)
    if figures is not None and records:
        path = figures / f"{subject}.png"
        atomic_write(path, load_attribute("agent.study.comparison_figure:regret_figure")(records))
        say(console, f"figure:         {path.resolve()}")
    if stopped:
        msg = f"stopped by Ctrl-C after {len(records)} records; {shared.made} new acquisitions are kept in {folder}"
        raise StoppedError(msg)
    if not any(record.truth for record in records):
        msg = f"no picture came of it: {records[0].error if records else 'there was no column'}"
        raise NoResultError(msg)


def _design(console: Terminal, subject: str, wanted: Wanted, policies: str | None) -> Design:
    """The study's own, with what is wanted in place of it; what is not installed is left out and said to be."""
    design = DESIGNS[subject, wanted.quick]
    named = design.policies if policies is None else tuple(policies.split(","))
    for name in named:
        if name not in (*POLICIES, *VARIANTS, *PEERS) and ":" not in name:
            msg = f"--policies {name} is unknown; legal: {', '.join((*POLICIES, *PEERS))}, or module:attribute"
            raise BadInputError(msg)
    if any(name in PEERS for name in named):
        missing = load_attribute("agent.study.peer_generators:missing")
        why = {name: missing(name) for name in named if name in PEERS}
        for sentence in filter(None, why.values()):
            say(console, sentence)
        named = tuple(name for name in named if why.get(name) is None)
        if not named:
            msg = f"--policies {policies}: none of them is installed"
            raise BadInputError(msg)
    return replace(design, doses=wanted.doses or design.doses, policies=named)


def _records(console: Terminal, simulator: Simulator, pool: Pool, design: Design) -> Iterator[ComparisonRecord]:
    """Of all columns; one that cannot be simulated is left out and said to be."""
    for column in simulator.columns:
        try:
            description = simulator.describe(column)
        except ExposureError as error:
            say(console, f"{column.name} failed: {error}")
            continue
        yield from compare(pool, column, description, design)


def _show(console: Terminal, records: Sequence[ComparisonRecord], json_file: Path | None) -> None:
    table = Table(title="Truth lost by what is recommended, median over columns and seeds (90 % band over columns)")
    for heading in ("policy", "dose", "trials", "electrons\n/ final", "regret, %", "band, %", "truth over\nrandom's"):
        table.add_column(heading)
    for row in summarise(records):
        ratio = "–" if row.over_random is None else f"{row.over_random:.2f}"
        low, high = row.band
        table.add_row(
            row.policy,
            f"{row.dose:g}",
            str(row.budget),
            f"{row.cost:.2f}",
            f"{100 * row.regret:.1f}",
            f"{100 * low:.1f} … {100 * high:.1f}",
            ratio,
        )
    console.print(table)
    failed = sorted({f"{r.policy}: {r.error}" for r in records if r.error is not None and r.budget > 0})
    for line in failed:
        say(console, f"without result: {line}")
    if json_file is not None and records:
        say(console, f"records (JSON): {json_file.resolve()}")

"""`ptychopilot study seed`: the seed's own idealised setting, its method and ours."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from agent.cli.results import check_json, say
from agent.cli.terminal import Terminal
from agent.errors import BadInputError, NoResultError, StoppedError
from agent.study.exposures import Simulator
from agent.study.plans import Wanted
from agent.study.resume import write_records
from agent.study.seed import DESIGNS, ENTRY, SeedDesign, SeedRecord, seed_records, told


def run_seed_study(json_file: Path | None, wanted: Wanted, figures: Path | None, seed: int) -> None:
    """Conduct the study; print its table and write its records after each dose.

    Args:
        json_file: where the records go.
        wanted: doses, where not the study's own, and whether it is quick.
        figures: there are none yet.
        seed: of both methods.

    Raises:
        BadInputError: the records cannot be written, or figures are asked for.
        NoResultError: nothing came of it.
        StoppedError: Ctrl-C; what was done is printed and written.
    """
    check_json(json_file)
    if figures is not None:
        msg = "--figures: the study seed has none; leave it out"
        raise BadInputError(msg)
    design = DESIGNS[wanted.quick]
    design = SeedDesign(wanted.doses or design.doses, design.trials, design.field)
    console, records, stopped = Terminal(), list[SeedRecord](), False
    with tempfile.TemporaryDirectory(prefix="ptychopilot-study-") as folder:
        listed = Path(folder) / "columns.yaml"
        listed.write_text(json.dumps([ENTRY]), encoding="utf-8")
        with console.status("starting the simulator") as status, Simulator(listed, 1, 0) as simulator:
            try:
                for found in seed_records(simulator, simulator.columns[0], design, seed, status.update):
                    records += found
                    write_records(json_file, records)
            except KeyboardInterrupt:
                stopped = True
    _show(console, records, json_file)
    if stopped:
        msg = f"stopped by Ctrl-C after {len(records)} records"
        raise StoppedError(msg)
    if not any(record.truth for record in records):
        msg = "no picture came of it"
        raise NoResultError(msg)


def _show(console: Terminal, records: Sequence[SeedRecord], json_file: Path | None) -> None:
    table = Table(title="The seed's idealised setting", title_justify="left")
    for heading in ("method", "e/Å²", "trials", "electrons\n/ final", "step, Å", "defocus, Å", "truth, bit/Å²"):
        table.add_column(heading)
    for r in records:
        place = ("–", "–") if r.step is None or r.defocus is None else (f"{r.step:.2f}", f"{r.defocus:.0f}")
        truth = "–" if r.truth is None else f"{r.truth:.2f}"
        table.add_row(r.policy, f"{r.dose:g}", str(r.trials), f"{r.electrons / r.final_electrons:.2f}", *place, truth)
    console.print(table)
    for line in told(records):
        say(console, line)
    if json_file is not None and records:
        say(console, f"records (JSON): {json_file.resolve()}")

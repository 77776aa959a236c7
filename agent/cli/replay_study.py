"""`ptychopilot study replay`: how little of a recording's dose keeps 90 % of its score, judged by what was held out of it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.table import Table

from agent.cli.reconstruct import MEASURED, read_file, score_choice, scored_square
from agent.cli.results import check_json, make_writable, say
from agent.cli.terminal import Terminal
from agent.errors import BadInputError, NoResultError, StoppedError
from agent.plugins import load_attribute
from agent.storage.acquisition_file import Acquisition
from agent.storage.atomic import atomic_write
from agent.study.replay import KEPT, QUICK, Least, Replayed, ReplayRecord, least_dose, middle, replay_records
from agent.study.resume import read_records, write_records
from instrument.recordings import RecordingOptions


def run_replay_study(
    recording: Path | None,
    options: RecordingOptions,
    json_file: Path | None,
    figures: Path | None,
    seed: int,
    *,
    quick: bool,
    resume: bool,
) -> None:
    """Conduct the study; print its table and write its records after each acquisition.

    Args:
        recording: a 4D data set, scanned on a raster.
        options: what it does not say.
        json_file: where the records go; pictures lie in a folder beside it.
        figures: folder for a picture of it; None: none.
        seed: of the counts that are drawn.
        quick: whether only its middle is looked at.
        resume: whether to go on with what `json_file` has already.

    Raises:
        BadInputError: there is no recording, or it is no raster in one pass.
        NoResultError: the recording or its held-out half cannot be reconstructed.
        StoppedError: Ctrl-C; what was done is printed and written.
    """
    acquisition, name, notes = _read(recording, options, quick=quick)
    check_json(json_file)
    if figures is not None:
        make_writable(figures, "--figures")
    done = read_records(json_file, ReplayRecord) if resume else []
    scored = scored_square(acquisition.plan.field)
    console, records, stopped = Terminal(), list[ReplayRecord](), False
    with _folder(json_file) as folder, console.status("reading") as status:
        score = score_choice(acquisition.description, scored)
        replayed = Replayed(name, acquisition, scored, score, MEASURED, folder)
        try:
            for record in replay_records(replayed, seed, done, status.update):
                records.append(record)
                write_records(json_file, records)
        except KeyboardInterrupt:
            stopped = True
        found = least_dose(records)
        for note in notes:
            say(console, note)
        _show(console, records, found, json_file)
        if figures is not None and found is not None:
            path = figures / "replay.png"
            atomic_write(path, load_attribute("agent.study.replay_figure:replay_figure")(replayed, records, found))
            say(console, f"figure:         {path.resolve()}")
    if stopped:
        msg = f"stopped by Ctrl-C after {len(records)} acquisitions"
        raise StoppedError(msg)
    if found is None:
        why = next((record.error for record in records if record.error), "the whole recording has no score")
        msg = f"nothing can be judged: {why}"
        raise NoResultError(msg)


def _read(
    recording: Path | None, options: RecordingOptions, *, quick: bool
) -> tuple[Acquisition, str, tuple[str, ...]]:
    """The recording, or the middle of it, with its name and notes."""
    if recording is None:
        msg = "study replay needs --recording FILE, a 4D data set"
        raise BadInputError(msg)
    acquisition, notes = read_file(recording, options, MEASURED)
    plan = acquisition.plan
    if plan.scan_pattern != "raster" or plan.passes != 1:
        msg = f"{recording}: a raster in one pass is expected; give --scan-shape ROWS,COLUMNS where the file does not say it"
        raise BadInputError(msg)
    return middle(acquisition, QUICK) if quick else acquisition, recording.name, notes


@contextmanager
def _folder(json_file: Path | None) -> Iterator[Path]:
    """Where pictures are kept: beside the records, so that a study can go on, or nowhere for long."""
    if json_file is None:
        with tempfile.TemporaryDirectory(prefix="ptychopilot-study-") as scratch:
            yield Path(scratch)
        return
    folder = json_file.with_name(f"{json_file.stem}-pictures")
    folder.mkdir(parents=True, exist_ok=True)
    yield folder


def sentences(found: Least, whole: float) -> list[str]:
    """What the study comes to, in words.

    Args:
        found: by the study.
        whole: score of the whole recording, bit/Å².
    """
    said = []
    if found.quarter is not None:
        enough = "keeps" if found.quarter >= KEPT else "does not suffice: it keeps"
        said.append(
            f"A quarter of the recording's dose {enough} {found.quarter:.0%} of its score of {whole:.3g} bit/Å²."
        )
    if found.measured is None:
        said.append(
            f"None of the acquisitions keeps {KEPT:.0%}; by the recording's own spectrum {found.part:.0%} of its dose would."
        )
        return said
    record = found.measured
    assert record.truth is not None
    said.append(
        f"The least dose measured that keeps {KEPT:.0%} is {record.budget:.3g} of the recording's, at a step of "
        f"{record.step:.4g} Å: {record.truth / whole:.0%}. Between acquisitions {KEPT:.0%} lie at {found.part:.2g} of its dose."
    )
    return said


def _show(console: Terminal, records: Sequence[ReplayRecord], found: Least | None, json_file: Path | None) -> None:
    table = Table(title="Acquisitions of less dose, judged by what was held out", title_justify="left")
    for heading in ("what", "part of\nthe dose", "step, Å", "own score", "± sd", "judged", "of the\nwhole, %", "veto"):
        table.add_column(heading)
    for r in records:
        truth = "–" if r.truth is None else f"{r.truth:.3g}"
        kept = "–" if r.regret is None else f"{100 * (1 - r.regret):.0f}"
        score, sd = ("–" if value is None else f"{value:.3g}" for value in (r.score, r.sd))
        table.add_row(
            r.policy, f"{r.budget:.3g}", f"{r.step:.4g}", score, sd, truth, kept, (r.error or r.veto or "")[:60]
        )
    console.print(table)
    whole = next((r.score for r in records if r.policy == "whole"), None)
    if found is not None and whole is not None:
        for line in sentences(found, whole):
            say(console, line)
    if json_file is not None and records:
        say(console, f"records (JSON): {json_file.resolve()}")

"""`ptychopilot tune`: which settings reconstruct one data set best."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

from pydantic import JsonValue
from rich.table import Table

from agent.cli.options import TuneOptions
from agent.cli.reconstruct import read_file, score_choice, scored_square
from agent.cli.results import check_json, make_writable, say, write_json
from agent.cli.terminal import Terminal
from agent.errors import BadInputError, StoppedError
from agent.formatting import duration, uncertain
from agent.known_geometry import KnownGeometry
from agent.processing.column_state import ColumnState
from agent.processing.process import ProcessingJob, prepare
from agent.reconstruction_choice import ReconstructionChoice
from agent.storage.acquisition_file import Acquisition
from agent.tuning.journal import JOURNAL, read
from agent.tuning.records import Plan, TuningTrial
from agent.tuning.report import changes_text
from agent.tuning.run import Tuned, tune
from agent.tuning.space import space_of
from agent.tuning.standing import gains, ranked, taken
from agent.tuning.trial import Task
from instrument.recordings import RecordingOptions

COLUMN = "column.json"
SEVERAL_COUNTS = 1.5
"""Counts per electron from which on these must not be in both halves."""


def tune_file(
    path: Path,
    out: Path | None,
    options: RecordingOptions,
    choice: ReconstructionChoice,
    geometry: KnownGeometry,
    how: TuneOptions,
    json_file: Path | None,
) -> None:
    """Search settings for one data set; write journal, settings file and report into a folder.

    Args:
        path: of the data set.
        out: folder of the search; None: NAME-tuning beside which the command was called.
        options: what the file lacks or has wrong.
        choice: where the search begins.
        geometry: what is known of the detector and need not be measured.
        how: to search.
        json_file: where the result goes as JSON.

    Raises:
        BadInputError: the file cannot be used, or the folder holds another search.
        NoResultError: not even the start can be reconstructed.
        StoppedError: Ctrl-C; what was found is written.
    """
    console = Terminal()
    check_json(json_file)
    if choice.function is not None:
        msg = f"function {choice.function}: settings of a reconstruction of your own cannot be searched; leave it out"
        raise BadInputError(msg)
    acquisition, notes = read_file(path, options, geometry)
    folder = out or Path(f"{path.stem}-tuning")
    folder.mkdir(parents=True, exist_ok=True)
    make_writable(folder)
    for note in notes:
        say(console, note)
    stopped: StoppedError | None = None
    with console.status("calibrate") as status:
        task = _task(console, acquisition, folder, choice, geometry, how, path)
        result = None
        facts: dict[str, JsonValue] = {"file": path.name, "counts": _fingerprint(acquisition)}
        try:
            search = partial(tune, task, how.plan(), folder, facts, tell=status.update)
            result = search(resume=how.resume, cores=how.cores, dask=how.dask, slurm=how.slurm)
        except StoppedError as error:
            stopped = error
    if result is not None:
        _show(console, task, result)
    if result is not None and json_file is not None:
        write_json(json_file, _content(result, task))
        say(console, f"result (JSON): {json_file.resolve()}")
    if stopped is not None:
        show_search(folder)
        raise stopped


def _task(
    console: Terminal,
    acquisition: Acquisition,
    folder: Path,
    choice: ReconstructionChoice,
    geometry: KnownGeometry,
    how: TuneOptions,
    path: Path,
) -> Task:
    """The data, calibrated, and what is searched; a search that is resumed keeps its calibration."""
    known = folder / COLUMN
    again = how.resume and known.exists()
    scored = scored_square(acquisition.plan.field)
    with tempfile.TemporaryDirectory() as scratch:
        job = ProcessingJob(
            acquisition=path.resolve(),
            output=Path(scratch).resolve() / "none.h5",
            column=known.resolve() if again else None,
            column_output=known.resolve(),
            scored=scored,
            geometry=geometry,
            reconstruction=choice.model_copy(update={"calibrate": choice.calibrate and not again}),
            score=score_choice(acquisition.description, scored),
        )
        cleaned, measured = prepare(acquisition, job)
    for note in (*cleaned.record.sentences(), *measured.notes):
        say(console, note)
    if not again:
        measured.state.save(known)
    state = ColumnState.load(known)
    excess = cleaned.record.counts_per_electron or 0.0
    score = job.score.model_copy(update={"split": "positions"} if excess > SEVERAL_COUNTS else {})
    settings = replace(choice.settings(), refine_optics=(), stop_early=False)
    data = measured.data
    own = data.counts_per_electron <= SEVERAL_COUNTS and data.patterns.dtype.kind == "u"
    wanted = None if how.search is None else [name.strip() for name in how.search.split(",")]
    space = space_of(data, settings, wanted, own_quantities=own)
    middle = choice.calibrate and bool(state.widths)
    return Task(data, settings, space, how.plan().ladder, (scored,), score, how.seed, middle)


def show_search(folder: Path) -> None:
    """Print where the search in a folder stands, whether it goes on or not.

    Args:
        folder: of the search.

    Raises:
        BadInputError: there is none.
    """
    console = Terminal()
    facts, trials = read(folder)
    plan = Plan.model_validate(facts["plan"])
    console.print(_table(trials, len(plan.ladder), dict(trials[0].values) if trials else {}))
    if trials and trials[0].stages:
        number, why = taken(trials, len(plan.ladder))
        say(console, f"best so far: trial {number}; {why}")
    say(console, f"search: {folder.resolve()}")


def is_search(folder: Path) -> bool:
    """Whether a folder is that of a search."""
    return (folder / JOURNAL).exists()


def _table(trials: list[TuningTrial] | tuple[TuningTrial, ...], stages: int, start: dict[str, object]) -> Table:
    table = Table(title="Trials that came farthest", title_justify="left")
    for heading in ("trial", "stage", "held-out counts\nbetter by", "halves, bit/Å²", "changed"):
        table.add_column(heading)
    for number in ranked(trials, stages)[:10]:
        trial = trials[number]
        found = gains(trials, trial.stage).get(number)
        changed = ", ".join(f"{name} {value}" for name, value in trial.values.items() if value != start.get(name))
        table.add_row(
            str(number),
            f"{trial.stage + 1} of {stages}",
            "" if found is None else f"{found.relative:+.2%}",
            "" if trial.score is None else uncertain(trial.score.value, trial.score.sd),
            changed or "(start)",
        )
    return table


def _show(console: Terminal, task: Task, result: Tuned) -> None:
    console.print(_table(result.trials, len(task.ladder), dict(task.space.start)))
    for doubt in result.doubts:
        say(console, doubt)
    lost = [trial for trial in result.trials if trial.error]
    if lost:
        say(console, f"{len(lost)} trials came to nothing or no farther, the first: {lost[0].error}")
    say(console, f"recommended: {changes_text(task, result.trials[result.number].values)}; {result.why}")
    say(console, f"cost:     {result.spent:.1f} whole reconstructions, {duration(result.seconds)}")
    say(console, f"settings: {result.settings.resolve()}")
    say(console, f"report:   {result.report.resolve()}")


def _content(result: Tuned, task: Task) -> dict[str, object]:
    trial = result.trials[result.number]
    found = gains(result.trials, len(task.ladder) - 1).get(result.number)
    return {
        "trial": result.number,
        "values": trial.values,
        "changed": task.space.changed(trial.values),
        "why": result.why,
        "gain": 0.0 if found is None else found.relative,
        "score": None if trial.score is None else trial.score.model_dump(mode="json"),
        "reconstructions": result.spent,
        "seconds": result.seconds,
        "trials": len(result.trials),
        "settings": str(result.settings.resolve()),
        "report": str(result.report.resolve()),
    }


def _fingerprint(acquisition: Acquisition) -> str:
    """Of counts and plan: what a search that is resumed has to be of."""
    mean = acquisition.patterns.sum(axis=0, dtype="float64")
    return hashlib.sha256(mean.tobytes() + acquisition.plan.model_dump_json().encode()).hexdigest()[:16]

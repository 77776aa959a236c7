"""Columns that could have been measured as this one was, simulated while the campaign runs, on cores that nobody needs.

They refine what the policy knows before its next trial (`agent.policy.prior`). How many there are depends on the clock, so their
number is journalled before the policy is asked: the same question is answered with the same columns ever after.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Self

from agent.campaign.session import Session
from agent.errors import BadInputError, StoppedError
from agent.events import Event, PhaseChanged, TrialChanged, TwinChanged
from agent.policy.ensemble import Member, members_in
from agent.processing.child import (
    PROCESSING,
    THREAD_VARIABLES,
    ProcessingError,
    ReconstructionProcess,
    usable_cores,
    worker_threads,
)
from agent.records import CampaignRecord, Trial, TrialState
from agent.twin.refine import PICTURES, TwinJob, TwinPicture, member, specimen_class
from instrument.background import Background

logger = logging.getLogger(__name__)
FILE = "twin.jsonl"
"""In the campaign's folder: a line a column, never changed again."""
PICTURE = "agent.twin.refine:picture"
MOST_COLUMNS = 24
"""Then the ensemble has little weight left, and the campaign other uses for the electricity."""
MOST_PROCESSES = 8
PICTURE_TIMEOUT = 300.0
"""s of a process that gets what others leave."""
_FAILURES = 2
"""After so many the campaign goes on without further columns."""
_PROCESSED = (TrialState.ACQUIRED, TrialState.RECONSTRUCTING)


class DigitalTwin:
    """Simulates columns while the context is open; told of the campaign's events, it knows when cores are idle.

    Args:
        session: whose column it is.
        shared: whether reconstruction processes are shared with other campaigns: then nobody knows which cores are idle.
    """

    def __init__(self, session: Session, *, shared: bool = False) -> None:
        self._session = session
        config, cores = session.config, usable_cores()
        possible = session.journal.facts.processing == PROCESSING and config.reconstruction.function is None
        learns = config.policy == "botorch" and config.prior != "none"
        self._wanted = config.exploration.twin and possible and learns and cores > 1 and not shared
        self._file = session.folder / FILE
        self._columns: list[Member] = []
        self._writing = asyncio.Lock()
        self._calibrated, self._idle = asyncio.Event(), asyncio.Event()
        self._asking = False
        self._failures = 0
        self._begun = 0
        count = min(cores - 1, MOST_PROCESSES) if self._wanted else 0
        spare = max(cores - 1 - worker_threads(), 0)
        self._processes = [
            (ReconstructionProcess(PICTURE, dict.fromkeys(THREAD_VARIABLES, "1"), idle=True), n >= spare)
            for n in range(count)
        ]

    async def __aenter__(self) -> Self:
        self._tasks = Background()
        await self._tasks.__aenter__()
        try:
            self._columns = await asyncio.to_thread(_read, self._file)
            if self._wanted:
                await asyncio.to_thread(_mend, self._file)
        except (BadInputError, OSError) as error:
            self._give_up(str(error))
        self._begun = max((column.seed for column in self._columns), default=0)
        if self._wanted:
            self._session.audience.add(self)
            self._look()
            for process, gated in self._processes:
                self._tasks.create_task(self._simulate(process, gated=gated))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._wanted = False
        await self._tasks.__aexit__(None, None, None)
        for process, _gated in self._processes:
            await process.close()

    def on_event(self, event: Event) -> None:
        """Note whether cores are idle, and whether the column has been measured."""
        if isinstance(event, PhaseChanged) and event.phase != "reconstructing":  # which overlaps the others
            self._asking = event.phase in ("suggesting", "recommending")
        elif isinstance(event, TrialChanged) and event.trial.state is TrialState.SUGGESTED:
            self._asking = False
        if isinstance(event, PhaseChanged | TrialChanged):
            self._look()

    def for_trial(self, number: int) -> tuple[Member, ...]:
        """The columns that a trial is suggested with: those that were journalled for it, else all there are, journalled now.

        Args:
            number: of the trial.
        """
        journal = self._session.journal
        known = journal.facts.twins.get(number)
        count = len(self._columns) if known is None and self._wanted else known or 0
        if count > len(self._columns):
            self._give_up(_lacking(len(self._columns), count, number))
            count = 0
        if count != known and (self._wanted or known):
            journal.write(twins={**journal.facts.twins, number: count})
        return tuple(self._columns[:count])

    def _look(self) -> None:
        """Whether a core is idle, and whether there is something to simulate."""
        book = self._session.book
        if _measured(book) is not None:
            self._calibrated.set()
        busy = self._asking or any(trial.state in _PROCESSED for trial in book) or book.latest("final") is not None
        (self._idle.clear if busy else self._idle.set)()

    async def _simulate(self, process: ReconstructionProcess, *, gated: bool) -> None:
        """One column after the other. Nothing that goes wrong here may reach the campaign."""
        await self._calibrated.wait()
        while self._wanted and len(self._columns) < MOST_COLUMNS:
            try:
                await self._column(process, gated=gated)
            except (ProcessingError, ValueError) as error:
                self._failures += 1
                logger.info("a column of the digital twin was lost: %s", error)
                if self._failures >= _FAILURES:
                    self._give_up(str(error))
            except OSError as error:  # the file may end in half a line now
                self._give_up(str(error))
        await process.close()

    async def _column(self, process: ReconstructionProcess, *, gated: bool) -> None:
        measured, config = _measured(self._session.book), self._session.config
        assert measured is not None
        assert measured.optics is not None
        self._begun += 1
        job = TwinJob(
            description=self._session.journal.facts.description,
            known=measured.optics,
            specimen=specimen_class(config.metadata.specimen, self._begun),
            seed=config.seed,
            number=self._begun,
        )
        pictures = []
        for number in range(PICTURES):
            if gated:
                await self._idle.wait()
            wanted = job.model_copy(update={"picture": number})
            pictures.append(await process.converse(wanted, _take, PICTURE_TIMEOUT))
        column = member(job, pictures)
        async with self._writing:
            await asyncio.to_thread(_append, self._file, column)
            self._columns.append(column)
        self._session.audience.tell(TwinChanged(columns=len(self._columns)))

    def _give_up(self, trouble: str) -> None:
        """Simulate no more; what there is, is used."""
        if self._wanted:
            self._wanted = False
            with suppress(StoppedError, BadInputError):  # whoever needs the journal will find out
                self._session.journal.note("digital twin ends", reason=trouble)
            self._session.audience.tell(TwinChanged(columns=len(self._columns), trouble=trouble))


def twins_of(record: CampaignRecord, trial: Trial) -> tuple[Member, ...]:
    """The columns that a trial of a campaign was suggested with.

    Args:
        record: of the campaign.
        trial: of it.

    Raises:
        BadInputError: they are not there any more.
    """
    count = record.twins.get(trial.number, 0)
    if not count:
        return ()
    columns = _read(Path(record.folder) / FILE)
    if len(columns) < count:
        msg = _lacking(len(columns), count, trial.number)
        raise BadInputError(msg)
    return tuple(columns[:count])


def _lacking(there: int, wanted: int, trial: int) -> str:
    return f"{FILE} holds {there} of the {wanted} columns that trial {trial} was suggested with"


def _measured(trials: Iterable[Trial]) -> Trial | None:
    """The last trial whose optics are known and whose score is trusted."""
    known = [t for t in trials if t.state is TrialState.DONE and t.optics is not None and t.veto is None]
    return known[-1] if known else None


def _take(line: bytes) -> TwinPicture | None:
    """What a process says: the picture, or nothing yet. Raises ProcessingError where there is none."""
    message = json.loads(line)
    if "error" in message or "stopped" in message:
        raise ProcessingError(message.get("error") or message["stopped"])
    return TwinPicture.model_validate(message["result"]) if "result" in message else None


def _read(path: Path) -> list[Member]:
    """The columns of a file, none where there is no file; a line that was not finished does not count. Raises BadInputError."""
    if not path.exists():
        return []
    whole, _, _unfinished = path.read_bytes().rpartition(b"\n")
    return members_in(whole.decode("utf-8", errors="replace"), path)


def _mend(path: Path) -> None:
    """Take away a line that was not finished, so that the next one begins where it should."""
    if path.exists():
        with path.open("r+b") as file:
            file.truncate(file.read().rfind(b"\n") + 1)


def _append(path: Path, column: Member) -> None:
    """On disk before it is used."""
    with path.open("a", encoding="utf-8") as file:
        file.write(column.model_dump_json() + "\n")
        file.flush()
        os.fsync(file.fileno())

"""The queue: one SQLite file (WAL, synchronous=FULL), written by whoever adds and moves jobs and by the one who runs them.

Tables: `instruments` (name, control endpoint), `jobs` (a row for each `agent.facility.jobs.Job`), `history` (changes of state).
That an instrument belongs to one campaign at a time is an index of the file, so that no program can get it wrong.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from agent.config import CampaignConfig
from agent.errors import BadInputError
from agent.facility.jobs import ALIVE, LEASING, NEXT, OPEN, Job, JobState
from agent.storage.journal import utc_now

QUEUE = "queue.sqlite"
CAMPAIGNS = "campaigns"
"""Folder of the campaigns' own folders."""
SCHEMA_VERSION = 1
_LEASING = ", ".join(f"'{state}'" for state in LEASING)
_SCHEMA = f"""
CREATE TABLE instruments (name TEXT PRIMARY KEY, endpoint TEXT NOT NULL) STRICT;
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT, state TEXT NOT NULL, instrument TEXT NOT NULL,
    priority INTEGER NOT NULL, place REAL NOT NULL, name TEXT NOT NULL,
    proposal TEXT NOT NULL, user TEXT NOT NULL, title TEXT NOT NULL,
    config TEXT NOT NULL, directory TEXT NOT NULL, folder TEXT NOT NULL, pid INTEGER,
    restarts INTEGER NOT NULL, release INTEGER NOT NULL, reason TEXT NOT NULL,
    added TEXT NOT NULL, started TEXT NOT NULL, finished TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX one_campaign_for_an_instrument ON jobs (instrument) WHERE state IN ({_LEASING});
CREATE TABLE history (
    number INTEGER PRIMARY KEY AUTOINCREMENT, time TEXT NOT NULL, job INTEGER NOT NULL, state TEXT NOT NULL, reason TEXT NOT NULL
) STRICT;
"""
_ORDER = "ORDER BY priority DESC, place, number"


class Queue:
    """The queue of a facility's folder. Any number of programs may have it open.

    Args:
        folder: of the facility.
        create: begin one where there is none.

    Raises:
        BadInputError: there is no queue, or it cannot be read or written.
    """

    def __init__(self, folder: Path, *, create: bool = False) -> None:
        self.folder = folder.absolute()
        path = self.folder / QUEUE
        if not create and not path.is_file():
            msg = f"{folder} holds no queue (there is no {QUEUE}); `ptychopilot queue add {folder} CAMPAIGN.yaml` begins one"
            raise BadInputError(msg)
        try:
            (self.folder / CAMPAIGNS).mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, timeout=10, isolation_level=None)
            self._connection.row_factory = sqlite3.Row
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._make_tables(path)
        except OSError as error:
            msg = f"{folder}: cannot hold a queue ({error.strerror}); name a folder that is yours"
            raise BadInputError(msg) from error
        except sqlite3.DatabaseError as error:
            msg = f"{path}: damaged, or no queue ({error})"
            raise BadInputError(msg) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def add(
        self,
        config: CampaignConfig,
        *,
        instrument: str,
        directory: Path,
        priority: int = 0,
        user: str = "",
        title: str = "",
    ) -> Job:
        """Put a campaign at the end of those with its priority.

        Args:
            config: of the campaign; its metadata say for which proposal it is.
            instrument: name of the one it is for.
            directory: that relative paths in `config` begin from.
            priority: higher comes first.
            user: whose campaign it is.
            title: of the proposal, or what the campaign is about.
        """
        values = {
            "state": JobState.QUEUED,
            "instrument": instrument,
            "priority": priority,
            "name": config.name,
            "proposal": config.metadata.proposal,
            "user": user or config.metadata.operator,
            "title": title or config.metadata.sample,
            "config": config.model_dump_json(),
            "directory": str(directory.absolute()),
            "added": utc_now(),
        }
        empty = {"folder": "", "restarts": 0, "release": 0, "reason": "", "started": "", "finished": ""}
        with self._transaction():
            (last,) = self._connection.execute("SELECT coalesce(max(place), 0) FROM jobs").fetchone()
            row = values | empty | {"place": last + 1}
            columns, marks = ", ".join(row), ", ".join("?" * len(row))
            number = self._connection.execute(
                f"INSERT INTO jobs ({columns}) VALUES ({marks})", tuple(row.values())
            ).lastrowid
            assert number is not None
            self._note(number, JobState.QUEUED, "")
        return self.job(number)

    def job(self, number: int) -> Job:
        """One job. Raises BadInputError where there is none of that number."""
        row = self._connection.execute("SELECT * FROM jobs WHERE number = ?", (number,)).fetchone()
        if row is None:
            msg = f"{self.folder}: there is no job {number}; `ptychopilot queue list {self.folder} --all` names them"
            raise BadInputError(msg)
        return _job(row)

    def jobs(self, *states: JobState) -> list[Job]:
        """Jobs in the order in which their turn comes.

        Args:
            states: only those in one of these; none: all.
        """
        wanted = states or tuple(JobState)
        marks = ", ".join("?" * len(wanted))
        rows = self._connection.execute(f"SELECT * FROM jobs WHERE state IN ({marks}) {_ORDER}", wanted)
        return [_job(row) for row in rows]

    def next_job(self, instrument: str) -> Job | None:
        """The job whose turn it is on an instrument that nobody has: one that was interrupted, or the first in the queue.

        Args:
            instrument: name.
        """
        leasing = [job for job in self.jobs(*LEASING) if job.instrument == instrument]
        if leasing:
            return leasing[0] if leasing[0].state is JobState.INTERRUPTED else None
        return next((job for job in self.jobs(JobState.QUEUED) if job.instrument == instrument), None)

    def change(self, number: int, state: JobState, reason: str = "", **fields: Any) -> Job:
        """Give a job another state, in one transaction.

        Args:
            number: of the job.
            state: the new one.
            reason: why, where that needs saying.
            fields: of Job that change with it.

        Raises:
            BadInputError: there is no way from its state to that.
        """
        with self._transaction():
            job = self.job(number)
            if state not in NEXT[job.state]:
                legal = ", ".join(NEXT[job.state]) or "it stays so"
                msg = f"job {number} ({job.name}) is {job.state} and cannot become {state} (from there: {legal})"
                raise BadInputError(msg)
            ended = {"finished": "" if state in OPEN else utc_now()}
            self._set(number, {"state": state, "reason": reason, **ended, **fields})
            self._note(number, state, reason)
        return self.job(number)

    def set(self, number: int, **fields: Any) -> None:
        """Write what is not its state.

        Args:
            number: of the job.
            fields: of Job.
        """
        with self._transaction():
            self._set(number, fields)

    def cancel(self, number: int, reason: str = "") -> Job:
        """A person wants no more of a job: one that runs is stopped at once, with the beam off.

        Args:
            number: of the job.
            reason: why.

        Raises:
            BadInputError: it has ended already.
        """
        running = self.job(number).state is JobState.RUNNING
        return self.change(number, JobState.CANCELLING if running else JobState.CANCELLED, reason)

    def resume(self, number: int) -> Job:
        """A person has had a look: a job that is held, has failed or was cancelled goes on, or into the queue again.

        Args:
            number: of the job.

        Raises:
            BadInputError: it needs no such thing.
        """
        held = self.job(number).state is JobState.HELD
        return self.change(number, JobState.INTERRUPTED if held else JobState.QUEUED, release=1, restarts=0)

    def move(self, number: int, *, priority: int | None = None, before: int | None = None) -> Job:
        """Give a queued job another turn.

        Args:
            number: of the job.
            priority: the new one.
            before: number of the job, of the same instrument or another, right before which it comes, with its priority.

        Raises:
            BadInputError: one of the two is not queued.
        """
        with self._transaction():
            for each in filter(None, (number, before)):
                if (job := self.job(each)).state is not JobState.QUEUED:
                    raise BadInputError(f"job {each} is {job.state}; only queued jobs have a turn")
            if priority is not None:
                self._set(number, {"priority": priority})
            if before is not None:
                self._set(number, {"priority": self.job(before).priority})
                order = [job.number for job in self.jobs(JobState.QUEUED) if job.number != number]
                order.insert(order.index(before), number)
                for place, each in enumerate(order, 1):
                    self._set(each, {"place": place})
        return self.job(number)

    def history(self, number: int) -> list[tuple[str, str, str]]:
        """(time, state, reason) of every change of a job, in order."""
        rows = self._connection.execute(
            "SELECT time, state, reason FROM history WHERE job = ? ORDER BY number", (number,)
        )
        return [tuple(row) for row in rows]

    def instruments(self) -> dict[str, str]:
        """Control endpoints by name."""
        return dict(self._connection.execute("SELECT name, endpoint FROM instruments ORDER BY name").fetchall())

    def set_instruments(self, endpoints: Mapping[str, str]) -> None:
        """Say which instruments there are; those that are not named stay.

        Args:
            endpoints: control endpoints by name.
        """
        with self._transaction():
            self._connection.executemany(
                "INSERT INTO instruments VALUES (?, ?) ON CONFLICT(name) DO UPDATE SET endpoint = excluded.endpoint",
                endpoints.items(),
            )

    def _make_tables(self, path: Path) -> None:
        with self._transaction():
            (version,) = self._connection.execute("PRAGMA user_version").fetchone()
            if version == 0:
                self._connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
                for statement in filter(str.strip, _SCHEMA.split(";")):
                    self._connection.execute(statement)
            elif version != SCHEMA_VERSION:
                msg = f"{path}: a queue of version {version}; this program knows version {SCHEMA_VERSION}"
                raise BadInputError(msg)

    def _set(self, number: int, fields: Mapping[str, Any]) -> None:
        columns = ", ".join(f"{name} = ?" for name in fields)
        self._connection.execute(f"UPDATE jobs SET {columns} WHERE number = ?", (*fields.values(), number))

    def _note(self, number: int, state: JobState, reason: str) -> None:
        self._connection.execute(
            "INSERT INTO history (time, job, state, reason) VALUES (?, ?, ?, ?)", (utc_now(), number, state, reason)
        )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise


def _job(row: sqlite3.Row) -> Job:
    return Job.model_validate({**dict(row), "release": bool(row["release"])})


def running_campaign(facility: Path, number: int | None) -> Path:
    """The folder of a campaign that runs now.

    Args:
        facility: its folder.
        number: of the job; None: there is only one.

    Raises:
        BadInputError: it does not run, or there are several.
    """
    with Queue(facility) as queue:
        running = {job.number: job for job in queue.jobs(*ALIVE)}
    if number is None and len(running) == 1:
        (number,) = running
    if number in running:
        return facility / CAMPAIGNS / running[number].folder
    names = ", ".join(f"{job.number} ({job.name} on {job.instrument})" for job in running.values()) or "none"
    asked = "which job? name one with --job" if number is None else f"job {number} does not run now"
    raise BadInputError(f"{facility}: {asked}; running: {names}")

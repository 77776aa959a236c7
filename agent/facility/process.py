"""A campaign in a process of its own: begun or resumed, still there or not, and what became of it.

The process holds a lock on `jobs/NUMBER.lock` as long as it lives, so that a `serve` that is started again knows which
campaigns run on; their exit codes it does not need, because every campaign's end is in its journal.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from agent.config import CampaignConfig
from agent.errors import BadInputError
from agent.facility.jobs import Job, JobState
from agent.facility.queue import CAMPAIGNS
from agent.processing.pool import POOL_AWAY
from agent.storage.journal import is_begun, load_campaign

LAUNCH = (sys.executable, "-c", "import sys; from agent.cli import main; main(sys.argv[1:])")
JOBS = "jobs"
"""Folder of locks, campaign files and of what the processes say."""
SERVE = "ptychopilot serve"
"""In whose name campaigns are stopped when `serve` ends."""
_NOBODY = (f"stopped by {SERVE}", "stopped by SIG", "no instrument answers", POOL_AWAY)
"""How the reasons begin that no person gave, and that may pass by themselves."""
GRACE_S = 60.0
"""s that a campaign may take to stop."""
_SAID = "ptychopilot: "


class CampaignProcess:
    """The process of one job.

    Args:
        facility: its folder.
        job: as it stands.
    """

    def __init__(self, facility: Path, job: Job) -> None:
        self.folder = facility / CAMPAIGNS / job.folder
        self._facility = facility
        self._job = job
        self._process: subprocess.Popen[bytes] | None = None
        self._told: float | None = None
        (facility / JOBS).mkdir(exist_ok=True)
        self._lock, self._log, self._file = (
            facility / JOBS / f"{job.number:04d}.{kind}" for kind in ("lock", "txt", "json")
        )

    def start(self, endpoint: str, options: Sequence[str] = (), launch: Sequence[str] = LAUNCH) -> int:
        """Begin the campaign, or resume it where it has begun.

        Args:
            endpoint: of the instrument.
            options: further ones of `run` and `resume`.
            launch: the command before the verb.

        Returns:
            The process's id.
        """
        if is_begun(self.folder):
            keep = () if self._job.release else ("--keep-safe",)
            words = ["resume", str(self.folder), *keep]
        else:
            config = CampaignConfig.model_validate_json(self._job.config)
            self._file.write_text(config.model_dump_json(indent=1), encoding="utf-8")
            words = ["run", str(self._file), "--out", str(self.folder)]
        words += ["--instrument", endpoint, "--pool", str(self._facility), "--no-progress", *options]
        lock = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    [*launch, *words],
                    cwd=self._job.directory,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(lock,),
                    start_new_session=True,  # it lives on where `serve` dies
                )
        finally:
            os.close(lock)  # the process has it
        return self._process.pid

    def alive(self) -> bool:
        """Whether the process is there, whoever has started it."""
        if self._process is not None and self._process.poll() is None:
            return True
        if not self._lock.exists():
            return False
        lock = os.open(self._lock, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(lock)
        return False

    def terminate(self, pid: int | None) -> None:
        """Stop the campaign at once, with the beam off; to be called until it has ended.

        Args:
            pid: of the process, where another `serve` has started it.
        """
        pid = self._process.pid if self._process is not None else pid
        now = time.monotonic()
        if pid is None or not self.alive():
            return
        if self._told is None:
            self._told, number = now, signal.SIGTERM  # a second one would not let it end in order
        elif now - self._told > GRACE_S:
            number = signal.SIGKILL
        else:
            return
        with suppress(ProcessLookupError):
            os.kill(pid, number)

    def outcome(self) -> tuple[JobState, str]:
        """What became of a running job whose process has ended, and why."""
        if not is_begun(self.folder):
            reason = self._last_words()
            passing = not reason or reason.startswith(_NOBODY)
            return (JobState.INTERRUPTED if passing else JobState.FAILED), reason
        try:
            record = load_campaign(self.folder)
        except BadInputError as error:  # a person has to look what it has exposed
            return JobState.HELD, str(error)
        match record.state:
            case "done":
                return JobState.DONE, ""
            case "failed":
                return JobState.FAILED, record.reason
            case "stopped" if not record.reason.startswith(_NOBODY):
                return JobState.HELD, record.reason
            case _:
                return JobState.INTERRUPTED, record.reason or "its process was killed"

    def _last_words(self) -> str:
        """The error that it has told before there was a journal."""
        try:
            lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return ""
        return next((line.removeprefix(_SAID) for line in reversed(lines) if line.startswith(_SAID)), "")


def unused_folder(facility: Path, job: Job) -> str:
    """A name for the folder of a campaign that has not begun.

    Args:
        facility: its folder.
        job: its number is part of the name.
    """
    for attempt in range(1, 100):
        name = f"{job.name}-{job.number:04d}" + (f"-{attempt}" if attempt > 1 else "")
        folder = facility / CAMPAIGNS / name
        if not folder.exists() or not any(folder.iterdir()):
            return name
    msg = f"{facility / CAMPAIGNS}: job {job.number} was begun a hundred times and never wrote a journal; is the disk full?"
    raise BadInputError(msg)

"""A campaign in the queue: what is asked for, and what has become of it."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from agent.encoding import OsText
from instrument.models import Record


class JobState(StrEnum):
    """The life of a job."""

    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    INTERRUPTED = "interrupted"
    HELD = "held"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


NEXT: dict[JobState, tuple[JobState, ...]] = {
    JobState.QUEUED: (JobState.RUNNING, JobState.CANCELLED),
    JobState.RUNNING: (JobState.DONE, JobState.FAILED, JobState.INTERRUPTED, JobState.HELD, JobState.CANCELLING),
    JobState.CANCELLING: (JobState.CANCELLED, JobState.DONE),
    JobState.INTERRUPTED: (JobState.RUNNING, JobState.CANCELLED),
    JobState.HELD: (JobState.INTERRUPTED, JobState.CANCELLED),
    JobState.DONE: (),
    JobState.FAILED: (JobState.QUEUED,),
    JobState.CANCELLED: (JobState.QUEUED,),
}
"""From each state the legal next ones."""
ALIVE = (JobState.RUNNING, JobState.CANCELLING)
"""There is a process for it."""
LEASING = (*ALIVE, JobState.INTERRUPTED, JobState.HELD)
"""The instrument is its own: the specimen lies there, and the campaign may go on."""
OPEN = (JobState.QUEUED, *LEASING)


class Job(Record):
    """One campaign, as the queue's table has it."""

    number: int
    state: JobState
    instrument: str = Field(description="name of the one it is for")
    priority: int = Field(description="higher comes first")
    place: float = Field(description="among jobs of the same priority; lower comes first")
    name: str = Field(description="of the campaign")
    proposal: str
    user: str
    title: str
    config: str = Field(description="the campaign's configuration, JSON")
    directory: OsText = Field(description="that relative paths in it begin from")
    folder: str = Field(description="the campaign's, below `campaigns`; empty before it has begun")
    pid: int | None = Field(description="of its process")
    restarts: int = Field(description="without a person, since one had a look")
    release: bool = Field(description="a person has resumed it: an instrument in SAFE may be released once")
    reason: str = Field(description="why it is in this state, where that needs saying")
    added: str = Field(description="ISO 8601, UTC")
    started: str
    finished: str

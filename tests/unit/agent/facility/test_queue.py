"""Whose turn it is: priorities, proposals, instruments that belong to one campaign at a time, and what a person may change."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_campaign import config

from agent.errors import BadInputError
from agent.facility.jobs import NEXT, JobState
from agent.facility.queue import QUEUE, Queue
from agent.facility.status import job_messages, queue_message


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    with Queue(tmp_path / "facility", create=True) as opened:
        opened.set_instruments({"titan": "tcp://127.0.0.1:5555", "arm": "tcp://127.0.0.1:5556"})
        yield opened


def put(queue: Queue, name: str = "c", instrument: str = "titan", priority: int = 0) -> int:
    return queue.add(config(name), instrument=instrument, directory=Path("/data"), priority=priority).number


def turns(queue: Queue, instrument: str = "titan") -> list[int]:
    found = []
    while (job := queue.next_job(instrument)) is not None:
        queue.change(job.number, JobState.RUNNING)
        queue.change(job.number, JobState.DONE)
        found.append(job.number)
    return found


def test_higher_priority_comes_first_and_of_equals_who_came_first(queue: Queue) -> None:
    first, second, urgent, other = put(queue), put(queue), put(queue, priority=5), put(queue, instrument="arm")
    assert turns(queue) == [urgent, first, second]
    assert turns(queue, "arm") == [other]


def test_a_job_is_moved_before_another_and_takes_its_priority(queue: Queue) -> None:
    first, second, third, urgent = put(queue), put(queue), put(queue), put(queue, priority=3)
    queue.move(third, before=second)
    queue.move(first, priority=-1)
    queue.move(second, before=urgent)
    assert turns(queue) == [second, urgent, third, first]


def test_an_instrument_belongs_to_one_campaign_until_it_has_ended(queue: Queue) -> None:
    first, second = put(queue), put(queue)
    queue.change(first, JobState.RUNNING)
    assert queue.next_job("titan") is None
    with pytest.raises(sqlite3.IntegrityError):
        queue.change(second, JobState.RUNNING)
    queue.change(first, JobState.HELD, "the instrument is in SAFE")
    assert queue.next_job("titan") is None, "the specimen lies there, and a person has to look"
    queue.resume(first)
    following = queue.next_job("titan")
    assert following is not None
    assert following.number == first, "what has begun goes on first"
    assert following.release
    queue.cancel(first)
    following = queue.next_job("titan")
    assert following is not None
    assert following.number == second


def test_what_is_asked_of_a_job_that_has_ended_is_refused_in_words(queue: Queue) -> None:
    number = put(queue)
    queue.cancel(number)
    with pytest.raises(BadInputError, match=rf"job {number} \(c\) is cancelled and cannot become cancelled"):
        queue.cancel(number)
    with pytest.raises(BadInputError, match="only queued jobs have a turn"):
        queue.move(number, priority=1)
    with pytest.raises(BadInputError, match="there is no job 77"):
        queue.job(77)
    assert queue.resume(number).state is JobState.QUEUED


def test_a_running_job_is_cancelled_by_whoever_runs_it(queue: Queue) -> None:
    number = put(queue)
    queue.change(number, JobState.RUNNING)
    assert queue.cancel(number, "enough").state is JobState.CANCELLING
    assert queue.change(number, JobState.CANCELLED).finished
    assert [state for _, state, _ in queue.history(number)] == ["queued", "running", "cancelling", "cancelled"]


def test_every_state_is_reached_and_what_is_done_stays_done() -> None:
    assert {state for following in NEXT.values() for state in following} == set(JobState)
    assert NEXT[JobState.DONE] == ()


def test_proposal_user_and_title_come_from_the_campaign_unless_they_are_told(queue: Queue) -> None:
    metadata = {"proposal": "P-7", "operator": "Ruska", "sample": "MoS2"}
    own = queue.add(config(**metadata), instrument="titan", directory=Path.cwd())
    told = queue.add(config(**metadata), instrument="titan", directory=Path.cwd(), user="Knoll", title="Moiré")
    assert (own.proposal, own.user, own.title) == ("P-7", "Ruska", "MoS2")
    assert (told.proposal, told.user, told.title) == ("P-7", "Knoll", "Moiré")


def test_who_watches_sees_turns_for_each_instrument_and_the_last_that_ended(queue: Queue) -> None:
    running, first, second, other, gone = put(queue), put(queue), put(queue), put(queue, instrument="arm"), put(queue)
    queue.change(running, JobState.RUNNING, folder="c-0001")
    queue.cancel(gone, "no specimen")
    told = {message.number: message for message in job_messages(queue)}
    assert [told[n].turn for n in (running, first, second, other, gone)] == [None, 1, 2, 1, None]
    assert told[running].folder == "campaigns/c-0001"
    assert told[gone].reason == "no specimen"
    summary = queue_message(queue)
    assert (summary.running, summary.queued, summary.cancelled, summary.instruments) == (1, 3, 1, 2)


def test_two_programs_work_on_one_queue(queue: Queue) -> None:
    with Queue(queue.folder) as second:
        number = put(second)
        queue.change(number, JobState.RUNNING)
        assert second.job(number).state is JobState.RUNNING


def test_a_folder_without_a_queue_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="holds no queue"):
        Queue(tmp_path)
    (tmp_path / QUEUE).write_text("this is no database, and long enough to be looked at " * 20)
    with pytest.raises(BadInputError, match="damaged, or no queue"):
        Queue(tmp_path)

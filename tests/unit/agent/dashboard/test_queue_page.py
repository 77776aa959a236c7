"""The queue's page shows what a facility's folder holds, and the same of what a broker tells."""

from __future__ import annotations

from pathlib import Path

from small_campaign import config

from agent.dashboard.queue_page import queue_html
from agent.dashboard.queue_view import FolderQueue, ToldQueue
from agent.dashboard.sources import BrokerSource, FolderSource
from agent.facility.jobs import JobState
from agent.facility.queue import Queue
from agent.facility.status import job_messages, queue_message
from agent.status.broker import parse_broker


def facility(folder: Path) -> Queue:
    queue = Queue(folder, create=True)
    for number, title in enumerate(("paper", "<script>alert(1)</script>", "gold"), 1):
        queue.add(config(f"c{number}"), instrument="titan", directory=folder, title=title)
    queue.change(1, JobState.RUNNING, folder="c1-0001")
    queue.change(1, JobState.HELD, "the instrument is in SAFE")
    return queue


def test_campaigns_states_and_reasons_are_shown_and_text_of_others_is_never_run(tmp_path: Path) -> None:
    with facility(tmp_path):
        html = queue_html(*FolderQueue(tmp_path).look())
    assert html.index('data-job="1"') < html.index('data-job="2"') < html.index('data-job="3"')
    assert '<b class="bad">held</b>' in html
    assert "the instrument is in SAFE" in html
    assert '<a href="/?campaign=c1-0001">c1</a>' in html
    assert "<script>" not in html
    assert "1 held" in html


def test_over_a_broker_it_is_the_same_and_the_queue_is_taken_for_no_campaign(tmp_path: Path) -> None:
    source = BrokerSource(parse_broker("mqtt://127.0.0.1"))
    root = "emagent/1/site/facility/serve"
    with facility(tmp_path) as queue:
        source._take(f"{root}/queue", queue_message(queue).model_dump_json().encode(), retained=True)
        for message in job_messages(queue):
            source._take(f"{root}/job/{message.number}", message.model_dump_json().encode(), retained=True)
        assert queue_html(*source.queue.look()) == queue_html(*FolderQueue(tmp_path).look())
    source._take(f"{root}/job/3", b"", retained=False)
    assert 'data-job="3"' not in queue_html(*source.queue.look())
    assert source.views == {}


def test_a_facility_folder_shows_its_campaigns_and_its_queue(tmp_path: Path) -> None:
    with facility(tmp_path):
        assert FolderSource(tmp_path).queue is not None
    assert queue_html(*ToldQueue().look()) == '<p class="nothing wide">no queue is seen yet</p>'

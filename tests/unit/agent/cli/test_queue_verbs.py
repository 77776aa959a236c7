"""`ptychopilot queue` as a person at a facility uses it, and `ctl` for a campaign of the queue."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_campaign import config

from agent.cli.app import app
from agent.cli.errors import run_guarded
from agent.facility.jobs import JobState
from agent.facility.queue import Queue

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    raw = config("stripes", proposal="P-1", sample="paper").model_dump(mode="json")
    (tmp_path / "stripes.yaml").write_text(yaml.safe_dump(raw))

    def call(*arguments: str) -> tuple[int, str, str]:
        code = run_guarded(app, list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_campaigns_are_added_shown_moved_and_cancelled(command: Command, tmp_path: Path) -> None:
    add = ("queue", "add", "here", "stripes.yaml", "-i", "titan")
    assert command(*add)[1] == "job 1: stripes on titan, 0 before it\n"
    assert "1 before it" in command(*add, "--user", "Knoll")[1]
    assert "0 before it" in command(*add, "--priority", "5", "--proposal", "P-9")[1]
    assert command("queue", "move", "here", "2", "--before", "1")[1] == "job 2: turn 2 of its instrument\n"
    assert command("queue", "cancel", "here", "1", "--reason", "broken")[1] == "job 1: cancelled\n"
    code, out, _ = command("queue", "list", "here", "--json", "jobs.json")
    assert code == 0
    jobs = json.loads((tmp_path / "jobs.json").read_text())["jobs"]
    assert [(job["number"], job["turn"], job["proposal"]) for job in jobs] == [(3, 1, "P-9"), (2, 2, "P-1")]
    assert "Knoll" in out
    code, out, _ = command("queue", "show", "here", "1")
    assert "broken" in out
    assert "title:     paper" in out


def test_a_held_job_says_what_a_person_can_do(command: Command, tmp_path: Path) -> None:
    command("queue", "add", "here", "stripes.yaml", "-i", "titan")
    with Queue(tmp_path / "here") as queue:
        queue.change(1, JobState.RUNNING, folder="stripes-0001")
        queue.change(1, JobState.HELD, "the instrument is in SAFE")
    out = command("queue", "list", "here")[1]
    assert "job 1 is held: the instrument is in SAFE" in out
    assert "ptychopilot queue resume here 1" in out
    assert command("queue", "resume", "here", "1")[1] == "job 1: interrupted\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("queue", "add", "here", "stripes.yaml"), "which instrument is it for?"),
        (("queue", "list", "nowhere"), "holds no queue"),
        (("queue", "move", "here", "1"), "there is no queue|holds no queue|where to?"),
        (("serve", "here"), "there is no instrument yet"),
        (("serve", "here", "-i", "titan:5555"), "NAME=tcp://HOST:PORT"),
    ],
)
def test_a_mistake_is_one_sentence(command: Command, arguments: tuple[str, ...], says: str) -> None:
    code, _, error = command(*arguments)
    assert code == 2
    assert any(each in error for each in says.split("|")), error
    assert len(error.strip().splitlines()) == 1


def test_an_instrument_that_nobody_serves_is_refused(command: Command, tmp_path: Path) -> None:
    with Queue(tmp_path / "here", create=True) as queue:
        queue.set_instruments({"titan": "tcp://127.0.0.1:5555"})
    assert command("queue", "add", "here", "stripes.yaml")[1] == "job 1: stripes on titan, 0 before it\n"
    code, _, error = command("queue", "add", "here", "stripes.yaml", "-i", "titen")
    assert code == 2
    assert "there is no instrument 'titen'. Name one with --instrument (titan)" in error


def test_ctl_finds_the_campaign_of_a_facility_or_asks_which(command: Command, tmp_path: Path) -> None:
    with Queue(tmp_path / "here", create=True) as queue:
        for number, name in enumerate(("titan", "arm"), 1):
            queue.add(config(f"c{number}"), instrument=name, directory=tmp_path)
            queue.change(number, JobState.RUNNING, folder=f"c{number}-000{number}")
    error = command("ctl", "pause", "--campaign", "here")[2]
    assert "running: 1 (c1 on titan), 2 (c2 on arm)" in error
    error = command("ctl", "pause", "--campaign", "here", "--job", "2")[2]
    assert "campaigns/c2-0002: no agent runs this campaign now" in error

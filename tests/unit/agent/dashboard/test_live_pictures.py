"""The picture of a running scan on the page: there while the scan runs, replaced by the finished one, never a stale one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import examples
import pytest
from small_campaign import config

from agent.dashboard.gallery import live_picture
from agent.dashboard.sources import FolderReader
from agent.dashboard.view import View
from agent.events import CampaignEnded, CampaignStarted, FramesReceived, LivePictureDrawn, TrialChanged
from agent.records import Score, Settings, Suggestion, Trial, TrialState
from agent.status.contract import LARGEST_IMAGE
from agent.status.record_file import StatusRecorder
from agent.status.topics import Translator

PNG = b"\x89PNG\r\n"
FILES = ("live/003-phase.png", "live/003-spectrum.png")


def started(folder: Path) -> CampaignStarted:
    return CampaignStarted(
        campaign="c-1", folder=str(folder), config=config(), description=examples.description(), trials_planned=3
    )


def drawn(received: int = 250, png: bytes = PNG) -> LivePictureDrawn:
    values: dict[str, Any] = {"extent": (9.0, 9.0), "levels": (-0.2, 0.7), "k_edge": 1.5, "files": FILES}
    return LivePictureDrawn(
        trial=3, role="exploration", received=received, total=1000, phase=png, spectrum=png, **values
    )


def trial(state: TrialState) -> TrialChanged:
    suggestion = Suggestion(settings=Settings(step=1.0, defocus=100.0, dose=1e3), source="grid", reason="")
    score = Score(value=1.0, sd=0.1) if state is TrialState.DONE else None
    return TrialChanged(trial=Trial(number=3, role="exploration", state=state, suggestion=suggestion, score=score))


@pytest.mark.parametrize("last", [trial(TrialState.DONE), trial(TrialState.FAILED), CampaignEnded(state="stopped")])
def test_a_page_beside_the_folder_shows_it_until_there_is_a_result(tmp_path: Path, last: Any) -> None:
    recorder, reader, view = StatusRecorder(tmp_path), FolderReader(tmp_path), View("c")
    (tmp_path / "live").mkdir()
    for file in FILES:
        (tmp_path / file).write_bytes(PNG)
    for event in (started(tmp_path), trial(TrialState.ACQUIRING), drawn()):
        recorder.on_event(event)
    reader.read(view, 0.0)
    shown = live_picture(view)
    assert shown is not None
    assert "phase of trial 3 (exploration), 25% of the scan" in shown.phase
    assert "live, not scored yet" in shown.spectrum
    recorder.on_event(last)
    reader.read(view, 0.0)
    assert live_picture(view) is None
    assert view.garbled == 0
    recorder.close()


def test_a_page_that_comes_late_shows_no_picture_whose_file_is_gone(tmp_path: Path) -> None:
    recorder, view = StatusRecorder(tmp_path), View("c")
    for event in (started(tmp_path), drawn()):
        recorder.on_event(event)
    FolderReader(tmp_path).read(view, 0.0)
    assert live_picture(view) is None
    recorder.close()


def test_a_broker_has_pictures_and_message_and_is_told_when_they_are_over() -> None:
    translator, view = Translator("1", lambda: "2026-11-30T12:00:00.000+00:00"), View("c")

    def tell(event: Any) -> None:
        for letter in translator.letters(event):
            payload = letter.payload.encode() if isinstance(letter.payload, str) else letter.payload
            view.take(letter.topic, payload, 0.0)

    for event in (started(Path("/x")), drawn(100), drawn(500)):
        tell(event)
    assert view.live is not None
    assert (view.live.frames, view.live.expected) == (500, 1000)
    tell(drawn(700, PNG + bytes(LARGEST_IMAGE)))
    assert view.images["live-phase"] == PNG, "what is too large is not kept"
    tell(trial(TrialState.DONE))
    assert view.live is None
    assert "live-phase" not in view.images


def test_a_complete_scan_raises_no_alarm_for_missing_frames(tmp_path: Path) -> None:
    recorder, reader, view = StatusRecorder(tmp_path, clock=lambda: 0.0), FolderReader(tmp_path), View("c")
    recorder.on_event(started(tmp_path))
    for received in (900, 1000):  # within half a second
        recorder.on_event(FramesReceived(trial=3, received=received, total=1000))
    recorder.on_event(trial(TrialState.ACQUIRED))
    reader.read(view, 0.0)
    assert not view.alarms
    recorder.close()

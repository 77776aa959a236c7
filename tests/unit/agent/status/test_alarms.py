"""Which alarms stand, and for how long."""

from __future__ import annotations

from typing import Any

import pytest
from examples import description

from agent.config import parse_config
from agent.dashboard.view import View
from agent.events import (
    BudgetChanged,
    CampaignEnded,
    CampaignStarted,
    Event,
    FramesReceived,
    InstrumentChanged,
    SteeringChanged,
    TrialChanged,
)
from agent.records import Settings, Suggestion, Trial
from agent.status.contract import AlarmMessage
from agent.status.topics import Translator

_SUGGESTION = Suggestion(settings=Settings(step=1.0, defocus=100.0, dose=1e3), source="sobol", reason="")


def _standing(*events: Event) -> dict[str, AlarmMessage]:
    """The alarms that a newcomer finds on the broker after some events."""
    raw = {
        "name": "c",
        "electrons": 1e6,
        "area": {"height": 9, "width": 9},
        "exploration": {"height": 9, "width": 9},
        "metadata": {"sample": "paper"},
    }
    started = CampaignStarted(
        campaign="c-1", folder="/data/c", config=parse_config(raw, "test"), description=description(), trials_planned=3
    )
    translator = Translator("0.1.0", lambda: "2026-11-30T12:00:00+00:00")
    found: dict[str, AlarmMessage] = {}
    for event in (started, *events):
        for letter in translator.letters(event):
            if letter.topic.startswith("alarm/"):
                assert letter.retain
                code = letter.topic.removeprefix("alarm/")
                found.pop(code, None)
                if letter.payload:
                    found[code] = AlarmMessage.model_validate_json(letter.payload)
                    assert found[code].code == code
    return found


def _acquired(number: int, received: int) -> list[Event]:
    trial = Trial(number=number, role="exploration", state="acquired", suggestion=_SUGGESTION)
    return [FramesReceived(trial=number, received=received, total=100), TrialChanged(trial=trial)]


def _approval(trial: int | None) -> SteeringChanged:
    return SteeringChanged(autonomy="confirm", paused=False, needs_approval=trial)


SAFE = InstrumentChanged(state="safe", reason="blanked by hand")
WELL = InstrumentChanged(state="well")


@pytest.mark.parametrize(
    ("events", "codes"),
    [
        ([SAFE], {"SAFE"}),
        ([SAFE, WELL], set()),
        (
            [InstrumentChanged(state="suspended", reason="vacuum"), InstrumentChanged(state="unreachable")],
            {"UNREACHABLE"},
        ),
        ([BudgetChanged(spent=8.9e5, budget=1e6)], set()),
        ([BudgetChanged(spent=9.1e5, budget=1e6)], {"DOSE"}),
        (_acquired(1, 97), {"FRAMES"}),
        (_acquired(1, 97) + _acquired(2, 100), set()),
        ([_approval(2)], {"APPROVAL"}),
        ([_approval(2), _approval(None)], set()),
        ([BudgetChanged(spent=9.1e5, budget=1e6), CampaignEnded(state="done")], set()),
        ([_approval(2), SAFE, CampaignEnded(state="stopped", reason="SAFE")], {"SAFE", "ENDED"}),
    ],
)
def test_an_alarm_stands_as_long_as_it_needs_a_person(events: list[Any], codes: set[str]) -> None:
    assert set(_standing(*events)) == codes


def test_an_alarm_says_what_to_do_about_it() -> None:
    alarm = _standing(SAFE)["SAFE"]
    assert (alarm.severity, alarm.text) == ("error", "the instrument is safe: blanked by hand")
    assert "ptychopilot resume /data/c" in alarm.action


def test_alarms_of_the_process_before_are_over_when_a_campaign_is_resumed() -> None:
    raw = {
        "name": "c",
        "electrons": 1e6,
        "area": {"height": 9, "width": 9},
        "exploration": {"height": 9, "width": 9},
    }
    config, view = parse_config(raw, "test"), View("v")

    def process(resumed: bool, *events: Event) -> set[str]:
        """What stands on a page that has read everything since the campaign began."""
        translator = Translator("0.1.0", lambda: "2026-11-30T12:00:00+00:00")
        started = CampaignStarted(
            campaign="c-1",
            folder="/data/c",
            config=config,
            description=description(),
            trials_planned=3,
            resumed=resumed,
        )
        for event in (started, *events):
            for letter in translator.letters(event):
                view.take(letter.topic, str(letter.payload).encode(), 0.0)
        return set(view.alarms)

    safe = InstrumentChanged(state="safe", reason="blanked by hand")
    assert process(False, safe, CampaignEnded(state="stopped", reason="SAFE")) == {"SAFE", "ENDED"}
    assert process(True) == set()
    assert process(True, safe) == {"SAFE"}, "what still holds is told again"

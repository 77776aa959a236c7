"""What needs a person, and for how long: alarms, made of the events of a campaign."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

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
from agent.records import TrialState
from agent.status.contract import Severity

NEARLY_SPENT = 0.9
"""Part of the budget."""


@dataclass(frozen=True)
class Alarm:
    """See `agent.status.contract.AlarmMessage`."""

    severity: Severity
    text: str
    action: str


_INSTRUMENT: dict[str, tuple[str, Severity, str]] = {
    "safe": ("SAFE", "error", "look at the microscope; `ptychopilot resume DIR` releases it and goes on"),
    "suspended": ("SUSPENDED", "warning", "it goes on by itself once the column has been well for a while"),
    "unreachable": ("UNREACHABLE", "error", "look whether the instrument's server runs and the network is there"),
}
"""State of the instrument: code of its alarm, severity, what to do."""


CODES = (*(code for code, _, _ in _INSTRUMENT.values()), "DOSE", "FRAMES", "APPROVAL", "ENDED")
"""Of all alarms that there are."""


class Alarms:
    """Which alarms stand. `changes` tells what an event has raised and cleared."""

    def __init__(self) -> None:
        self._standing: dict[str, Alarm] = {}
        self._folder = "DIR"
        self._frames: FramesReceived | None = None

    def changes(self, event: Event) -> list[tuple[str, Alarm | None]]:
        """Codes with their new alarm; None: it is over."""
        if isinstance(event, CampaignStarted) and event.resumed:
            # Whoever remembers has heard of alarms from the process before this one. What still holds is told again.
            self._folder = event.folder
            self._standing.clear()
            return [(code, None) for code in CODES]
        changed = []
        for code, alarm in self._of(event):
            if alarm != self._standing.get(code):
                changed.append((code, alarm))
                if alarm is None:
                    del self._standing[code]
                else:
                    self._standing[code] = alarm
        return changed

    def _of(self, event: Event) -> Iterator[tuple[str, Alarm | None]]:
        match event:
            case CampaignStarted():
                self._folder = event.folder
                yield from [(code, None) for code in self._standing]
            case InstrumentChanged():
                for state, (code, severity, action) in _INSTRUMENT.items():
                    text = (
                        f"the instrument is {state}: {event.reason}" if event.reason else f"the instrument is {state}"
                    )
                    yield code, Alarm(severity, text, self._with_folder(action)) if event.state == state else None
            case BudgetChanged():
                part = event.spent / event.budget
                text = f"{NEARLY_SPENT:.0%} of the electrons are spent"
                action = "nothing, if the final picture is next; more trials need a campaign of their own"
                yield "DOSE", Alarm("warning", text, action) if part >= NEARLY_SPENT else None
            case FramesReceived():
                self._frames = event
            case TrialChanged() if event.trial.state is TrialState.ACQUIRED:
                yield "FRAMES", self._of_frames(event.trial.number)
            case SteeringChanged():
                text = f"trial {event.needs_approval} waits for approval"
                alarm = Alarm("info", text, "approve or veto it on the dashboard or with `ptychopilot ctl`")
                yield "APPROVAL", alarm if event.needs_approval is not None else None
            case CampaignEnded():
                yield from self._at_the_end(event)
            case _:
                pass

    def _of_frames(self, trial: int) -> Alarm | None:
        frames = self._frames
        if frames is None or frames.trial != trial or frames.received >= frames.total:
            return None
        text = f"trial {trial}: {frames.total - frames.received} of {frames.total} frames are missing"
        return Alarm("warning", text, "look at the network and at the load of the agent's machine")

    def _at_the_end(self, event: CampaignEnded) -> Iterator[tuple[str, Alarm | None]]:
        """What needs nobody any more is over; SAFE is not."""
        kept = () if event.state == "done" else ("SAFE", "UNREACHABLE")
        yield from [(code, None) for code in self._standing if code not in kept]
        if event.state != "done":
            severity: Severity = "error" if event.state == "failed" else "warning"
            action = self._with_folder("`ptychopilot resume DIR` continues")
            yield "ENDED", Alarm(severity, f"the campaign has {event.state}: {event.reason}", action)

    def _with_folder(self, action: str) -> str:
        return action.replace("DIR", self._folder)

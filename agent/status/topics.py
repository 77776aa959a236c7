"""Events of a campaign as the contract's messages (`agent.status.contract`), one topic per subject."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from typing import Literal

from agent.events import (
    BudgetChanged,
    CampaignEnded,
    CampaignStarted,
    Event,
    FramesReceived,
    InstrumentChanged,
    LivePictureDrawn,
    ModelChanged,
    PhaseChanged,
    PicturesDrawn,
    ProposalChanged,
    Recommended,
    ReconstructionProgress,
    SteeringChanged,
    TargetSet,
    TimeLeft,
    TrialChanged,
    TwinChanged,
)
from agent.records import ENDED, ModelView, Trial, TrialState
from agent.status.alarms import Alarm, Alarms
from agent.status.contract import (
    AcquisitionMessage,
    AlarmMessage,
    BeamMessage,
    BestMessage,
    DoseMessage,
    EventMessage,
    LiveMessage,
    Message,
    ModelMessage,
    OptimizerMessage,
    PictureMessage,
    ProposalMessage,
    ReconstructionMessage,
    SessionMessage,
    Severity,
    StateMessage,
    SuggestionMessage,
    TrialMessage,
)
from agent.status.fields import Fields, grid_fields, is_besides, session_fields, trial_fields
from agent.status.leaves import leaf_of
from agent.status.outbox import Letter

_SESSION_BYTES = 8
LIVE_TOPICS = ("image/live-phase", "image/live-spectrum", "live")
"""Pictures first: who hears of them finds them."""


class Translator:
    """Turns events into letters. Remembers only what a flat object needs besides the event itself.

    Args:
        version: of the agent.
        now: current time as ISO 8601, UTC.
    """

    def __init__(self, version: str, now: Callable[[], str]) -> None:
        self._version = version
        self._now = now
        self._sequence = 0
        self._session = secrets.token_hex(_SESSION_BYTES)
        self._campaign = ""
        self._state: Fields = {}
        self._dose: Fields = {"budget": 0.0, "spent": 0.0}
        self._reserved: dict[int, float] = {}
        self._dose_unit: Literal["e/Å²", "counts/Å²"] = "e/Å²"
        self._best: Trial | None = None
        self._scored = 0
        self._planned = 0
        self._besides: set[int] = set()
        self._exposing: bool | None = None
        self._live: int | None = None
        self._alarms = Alarms()

    def letters(self, event: Event) -> list[Letter]:
        """What `event` changes on the broker."""
        alarms = self._alarms.changes(event)
        return [*self._letters(event), *(self._alarm(code, alarm) for code, alarm in alarms)]

    def _letters(self, event: Event) -> list[Letter]:
        match event:
            case CampaignStarted():
                return self._started(event)
            case PhaseChanged() | TimeLeft() | SteeringChanged():
                return self._changed(event)
            case FramesReceived():
                counted = {"trial": event.trial, "frames": event.received, "expected": event.total}
                return [self._letter("acquisition", AcquisitionMessage, counted)]
            case ReconstructionProgress():
                done = {"trial": event.trial, "phase": event.phase, "fraction": round(event.fraction, 4)}
                return [self._letter("reconstruction", ReconstructionMessage, done)]
            case TrialChanged():
                return self._trial(event.trial)
            case BudgetChanged():
                self._dose = {"budget": event.budget, "spent": event.spent}
                return [self._dose_letter()]
            case ModelChanged():
                return [self._optimizer(event.view), self._letter("model", ModelMessage, grid_fields(event.view))]
            case ProposalChanged():
                return [self._proposal(event)]
            case PicturesDrawn():
                return self._pictures(event)
            case LivePictureDrawn():
                return self._live_pictures(event)
            case TargetSet():
                return [self._event("info", "TARGET", f"score to reach: {event.target:.5g} bit/Å² ({event.reason})")]
            case Recommended():
                return [self._event("info", "RECOMMENDED", event.recommendation.reason)]
            case InstrumentChanged():
                severity: Severity = "info" if event.state == "well" else "warning"
                text = f"the instrument is {event.state}{f': {event.reason}' if event.reason else ''}"
                return [self._event(severity, event.state.upper(), text)]
            case TwinChanged():
                text = f"the digital twin simulates no more columns: {event.trouble}"
                return [self._event("warning", "TWIN", text)] if event.trouble else []
            case CampaignEnded():
                return self._ended(event)

    def heartbeat(self) -> Letter:
        """The state again, with the time of now."""
        return self._letter("state", StateMessage, self._state)

    def _started(self, event: CampaignStarted) -> list[Letter]:
        description, config = event.description, event.config
        self._campaign, self._exposing = event.campaign, None
        self._planned = event.trials_planned
        self._besides.clear()
        self._dose_unit = "e/Å²" if description.dose_unit == "e/Å²" else "counts/Å²"
        self._description = description
        self._dose = {"budget": config.electrons, "spent": 0.0}
        self._state = {
            "phase": "connecting",
            "campaign": config.name,
            "n_trials": event.trials_planned,
            "trial": None,
            "role": None,
            "text": "",
            "eta_s": None,
            "since": self._now(),
        }
        session = session_fields(config, description) | {
            "id": event.campaign,
            "session": self._session,
            "folder": event.folder,
            "version": self._version,
            "started": self._now(),
            "resumed": event.resumed,
            "dose_unit": self._dose_unit,
        }
        text = f"campaign {config.name} {'resumed' if event.resumed else 'started'}"
        return [
            self._letter("session", SessionMessage, session),
            self.heartbeat(),
            *self._beam(exposing=False),
            self._dose_letter(),
            self._event("info", "STARTED", text),
        ]

    def _changed(self, event: PhaseChanged | TimeLeft | SteeringChanged) -> list[Letter]:
        if not self._state:
            return []  # before there is a campaign
        if isinstance(event, TimeLeft):
            self._state |= {"eta_s": round(event.seconds, 1)}
            return [self.heartbeat()]
        if isinstance(event, SteeringChanged):
            names = ("autonomy", "paused", "needs_approval", "held")
            self._state |= {name: getattr(event, name) for name in names}
            self._state |= {f"autonomy_{name}": level for name, level in event.parameters.items()}
            self._state |= {"unacknowledged": ", ".join(event.unacknowledged)}
            said = [self._event("info", event.code, event.text, event.needs_approval)] if event.text else []
            return [self.heartbeat(), *said]
        since = self._now() if event.phase != self._state["phase"] else self._state["since"]
        now = {"phase": event.phase, "trial": event.trial, "role": event.role, "text": event.message, "since": since}
        self._state |= now
        return [self.heartbeat(), *self._beam(event.phase == "acquiring")]

    def _beam(self, exposing: bool) -> list[Letter]:
        """Where it has changed."""
        if exposing == self._exposing:
            return []
        self._exposing = exposing
        beam = {
            "blanked": not exposing,
            "current_pa": self._description.beam_current,
            "ht_kv": self._description.voltage / 1e3,
        }
        return [self._letter("beam", BeamMessage, beam)]

    def _dose_letter(self) -> Letter:
        reserved = sum(self._reserved.values())
        remaining = max(self._dose["budget"] - self._dose["spent"] - reserved, 0.0)
        unit = "e" if self._dose_unit == "e/Å²" else "counts"
        return self._letter(
            "dose", DoseMessage, self._dose | {"reserved": reserved, "remaining": remaining, "unit": unit}
        )

    def _trial(self, trial: Trial) -> list[Letter]:
        fields = self._settings(trial) | {"campaign": self._campaign, "role": trial.role, "state": str(trial.state)}
        letters = [
            self._letter(f"trial/{trial.number}", TrialMessage, fields | trial_fields(trial)),
            *self._reserve(trial),
            *self._count(trial),
        ]
        if trial.state == "suggested":
            suggestion = trial.suggestion
            fields = self._settings(trial) | {
                "role": trial.role,
                "predicted": suggestion.predicted,
                "predicted_sd": suggestion.predicted_sd,
                "reason": suggestion.reason,
                "source": suggestion.source,
                "constraint": suggestion.constraint,
                "nearest_trial": suggestion.nearest_trial,
                "improvement": suggestion.improvement,
                "data_share": suggestion.data_share,
                "explore_share": suggestion.explore_share,
                "predicted_by": suggestion.model,
                "rejected": "; ".join(suggestion.rejected_texts()),
            }
            letters.append(self._letter("suggestion", SuggestionMessage, fields))
        elif trial.state in ("failed", "vetoed", "abandoned"):
            text = f"trial {trial.number} {trial.state}: {trial.reason}"
            letters.append(self._event("warning", trial.state.upper(), text, trial.number))
        elif trial.state == "done" and trial.score is not None:
            letters += self._scored_letters(trial)
        if trial.number == self._live and trial.state in ENDED:
            letters += self._no_live_pictures()
        return letters

    def _count(self, trial: Trial) -> list[Letter]:
        """A trial that comes on top of those that were planned."""
        if not is_besides(trial) or trial.number in self._besides or not self._state:
            return []
        self._besides.add(trial.number)
        self._state |= {"n_trials": self._planned + len(self._besides)}
        return [self.heartbeat()]

    def _reserve(self, trial: Trial) -> list[Letter]:
        """The electrons that a trial holds from its reservation until they are booked."""
        open_ = trial.state in (TrialState.RESERVED, TrialState.ACQUIRING) and trial.electrons == 0
        held = trial.plan.electrons if open_ and trial.plan is not None and trial.role != "expert" else 0.0
        if held == self._reserved.get(trial.number, 0.0):
            return []
        self._reserved[trial.number] = held
        if held == 0:
            del self._reserved[trial.number]
        return [self._dose_letter()]

    def _scored_letters(self, trial: Trial) -> list[Letter]:
        assert trial.score is not None
        self._scored += 1
        severity: Severity = "info" if trial.veto is None else "warning"
        letters = [self._event(severity, "SCORED", _scored_text(trial), trial.number)]
        candidate = trial.role != "expert" and trial.veto is None
        if candidate and (self._best is None or _value(trial) > _value(self._best)):
            self._best = trial
            score = {
                "role": trial.role,
                "score": trial.score.value,
                "score_sd": trial.score.sd,
                "halves": trial.score.halves,
                "resolution_a": trial.score.resolution,
            }
            letters.append(self._letter("best", BestMessage, self._settings(trial) | score))
        return letters

    def _proposal(self, event: ProposalChanged) -> Letter:
        if event.settings is None:
            return Letter("proposal", "", qos=1, retain=True)
        wanted = event.settings
        fields = event.model_dump(include={"number", "by", "reason", "electrons", "expires"})
        fields |= {"step_a": wanted.step, "defocus_a": wanted.defocus, "dose": wanted.dose}
        fields["semiangle_mrad"] = wanted.semiangle
        return self._letter("proposal", ProposalMessage, fields)

    def _optimizer(self, view: ModelView) -> Letter:
        believed = [
            (mean, sd)
            for means, sds, legals in zip(view.mean, view.sd, view.legal, strict=True)
            for mean, sd, legal in zip(means, sds, legals, strict=True)
            if legal
        ]
        mean, sd = max(believed, default=(None, None))
        best = self._best.score.value if self._best is not None and self._best.score is not None else None
        expected = {"step": self._scored, "best": best, "expected_final": mean, "expected_final_sd": sd}
        return self._letter("optimizer", OptimizerMessage, expected)

    def _pictures(self, event: PicturesDrawn) -> list[Letter]:
        about = {
            "trial": event.trial,
            "role": event.role,
            "height_a": event.extent[0],
            "width_a": event.extent[1],
            "phase_low_rad": event.levels[0],
            "phase_high_rad": event.levels[1],
            "k_edge_per_a": event.k_edge,
            "resolution_a": event.resolution,
        }
        pictures = {"phase": event.phase, "spectrum": event.spectrum}
        images = [Letter(f"image/{name}", png, qos=0, retain=True) for name, png in pictures.items()]
        return [*images, self._letter("picture", PictureMessage, about)]

    def _live_pictures(self, event: LivePictureDrawn) -> list[Letter]:
        self._live = event.trial
        about = {
            "trial": event.trial,
            "role": event.role,
            "frames": event.received,
            "expected": event.total,
            "height_a": event.extent[0],
            "width_a": event.extent[1],
            "phase_low_rad": event.levels[0],
            "phase_high_rad": event.levels[1],
            "k_edge_per_a": event.k_edge,
            "phase_file": event.files[0],
            "spectrum_file": event.files[1],
        }
        pictures = zip(LIVE_TOPICS, (event.phase, event.spectrum), strict=False)
        images = [Letter(topic, png, qos=0, retain=True) for topic, png in pictures]
        return [*images, self._letter("live", LiveMessage, about)]

    def _no_live_pictures(self) -> list[Letter]:
        told, self._live = self._live is not None, None
        return [Letter(topic, "", qos=1, retain=True) for topic in LIVE_TOPICS if told]

    def _ended(self, event: CampaignEnded) -> list[Letter]:
        self._state |= {"phase": "finished", "trial": None, "role": None, "text": event.reason, "eta_s": 0.0}
        self._state |= {
            "needs_approval": None,
            "held": None,
            "unacknowledged": "",
            "since": self._now(),
            "outcome": event.state,
        }
        severity: Severity = "info" if event.state == "done" else "warning" if event.state == "stopped" else "error"
        return [
            self.heartbeat(),
            *self._beam(exposing=False),
            Letter("suggestion", "", qos=1, retain=True),
            Letter("proposal", "", qos=1, retain=True),
            *self._no_live_pictures(),
            self._event(severity, event.state.upper(), event.reason or f"campaign {event.state}"),
        ]

    def _settings(self, trial: Trial) -> Fields:
        settings = trial.settings
        return {
            "trial": trial.number,
            "step_a": settings.step,
            "defocus_a": settings.defocus,
            "dose": settings.dose,
            "semiangle_mrad": settings.semiangle,
            "dose_unit": self._dose_unit,
        }

    def _alarm(self, code: str, alarm: Alarm | None) -> Letter:
        if alarm is None:
            return Letter(f"alarm/{code}", "", qos=1, retain=True)
        about = {"severity": alarm.severity, "text": alarm.text, "action": alarm.action}
        return self._letter(f"alarm/{code}", AlarmMessage, about | {"code": code, "since": self._now()})

    def _event(self, severity: Severity, code: str, text: str, trial: int | None = None) -> Letter:
        return self._letter("event", EventMessage, {"severity": severity, "code": code, "text": text, "trial": trial})

    def _letter(self, topic: str, model: type[Message], fields: Fields) -> Letter:
        self._sequence += 1
        text = {name: _clean(value) for name, value in fields.items()}
        message = model.model_validate({**text, "ts": self._now(), "seq": self._sequence})
        leaf = leaf_of(topic)
        assert leaf is not None, topic
        payload = json.dumps(message.model_dump(mode="json"), ensure_ascii=False, allow_nan=False)
        return Letter(topic, payload, qos=leaf.qos, retain=leaf.retain)


def _clean(value: object) -> object:
    """A file name in a text may be no text."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _scored_text(trial: Trial) -> str:
    assert trial.score is not None
    text = f"trial {trial.number} ({trial.role}): {trial.score.value:.5g} ± {trial.score.sd:.2g} bit/Å²"
    text += " (halves of one pass)" if trial.score.one_pass else ""
    return text if trial.veto is None else f"{text}, not to be trusted: {trial.veto}"


def _value(trial: Trial) -> float:
    return trial.score.value if trial.score is not None else float("-inf")

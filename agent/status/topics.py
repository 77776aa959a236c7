"""Events of a campaign as flat JSON objects, one topic per subject.

The tree is `emagent/1/<site>/<instrument>/<agent>/<leaf>`; 1 is the contract's major version. Units are suffixes of the
keys: `_a` Å, `_s` s, `_kv` kV, `_pa` pA. Values are numbers, strings, booleans and null, never NaN.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from agent.events import (
    BudgetChanged,
    CampaignEnded,
    CampaignStarted,
    Event,
    FramesReceived,
    ModelChanged,
    PhaseChanged,
    Recommended,
    ReconstructionProgress,
    TargetSet,
    TimeLeft,
    TrialChanged,
)
from agent.records import Trial
from agent.status.outbox import Letter

MAJOR_VERSION = 1
Fields = dict[str, Any]


def topic_root(site: str, instrument: str, agent: str = "ptychopilot") -> str:
    """Root of an agent's topics; characters with a meaning in topics become underscores.

    Args:
        site: the facility's name.
        instrument: its own name, as it describes itself.
        agent: name of the program.

    >>> topic_root("site", "simulated MoS2 / bilayer")
    'emagent/1/site/simulated_MoS2_bilayer/ptychopilot'
    """
    parts = (re.sub(r"[^A-Za-z0-9._-]+", "_", part).strip("_") or "unnamed" for part in (site, instrument, agent))
    return "/".join(("emagent", str(MAJOR_VERSION), *parts))


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
        self._state: Fields = {}
        self._dose_unit = "e/Å²"
        self._best: Trial | None = None
        self._scored = 0

    def letters(self, event: Event) -> list[Letter]:
        """What `event` changes on the broker."""
        match event:
            case CampaignStarted():
                return self._started(event)
            case PhaseChanged() if not self._state:
                return []  # before there is a campaign
            case PhaseChanged():
                self._state |= {"phase": event.phase, "trial": event.trial, "role": event.role, "text": event.message}
                return [self._keep("state", self._state), self._beam(event.phase == "acquiring")]
            case TimeLeft():
                self._state |= {"eta_s": round(event.seconds, 1)}
                return [self._keep("state", self._state)]
            case FramesReceived():
                counted = {"trial": event.trial, "frames": event.received, "expected": event.total}
                return [self._pass("acquisition", counted)]
            case ReconstructionProgress():
                done = {"trial": event.trial, "phase": event.phase, "fraction": round(event.fraction, 4)}
                return [self._pass("reconstruction", done)]
            case TrialChanged():
                return self._trial(event.trial)
            case BudgetChanged():
                left = {"budget": event.budget, "spent": event.spent, "remaining": event.budget - event.spent}
                return [self._keep("dose", left | {"unit": "e" if self._dose_unit == "e/Å²" else "counts"})]
            case ModelChanged():
                return [self._optimizer(event)]
            case TargetSet():
                return [self._event("info", "TARGET", f"score to reach: {event.target:.5g} bit/Å² ({event.reason})")]
            case Recommended():
                return [self._event("info", "RECOMMENDED", event.recommendation.reason)]
            case CampaignEnded():
                return self._ended(event)

    def heartbeat(self) -> Letter:
        """The state again, with the time of now."""
        return self._keep("state", self._state)

    def _started(self, event: CampaignStarted) -> list[Letter]:
        description = event.description
        self._dose_unit = description.dose_unit
        self._description = description
        self._state = {
            "phase": "connecting",
            "campaign": event.config.name,
            "n_trials": event.trials_planned,
            "trial": None,
            "role": None,
            "text": "",
            "eta_s": None,
        }
        session = {
            "id": event.campaign,
            "campaign": event.config.name,
            "folder": event.folder,
            "version": self._version,
            "started": self._now(),
            "resumed": event.resumed,
            "instrument": description.name,
            "goal": event.config.goal.kind,
            "policy": event.config.policy,
            "sample": event.config.metadata.sample,
            "operator": event.config.metadata.operator,
            "proposal": event.config.metadata.proposal,
        }
        text = f"campaign {event.config.name} {'resumed' if event.resumed else 'started'}"
        return [
            self._keep("session", session),
            self._keep("state", self._state),
            self._beam(exposing=False),
            self._event("info", "STARTED", text),
        ]

    def _beam(self, exposing: bool) -> Letter:
        beam = {
            "blanked": not exposing,
            "current_pa": self._description.beam_current,
            "ht_kv": self._description.voltage / 1e3,
        }
        return self._keep("beam", beam)

    def _trial(self, trial: Trial) -> list[Letter]:
        if trial.state == "suggested":
            suggestion = trial.suggestion
            fields = self._settings(trial) | {
                "predicted": suggestion.predicted,
                "predicted_sd": suggestion.predicted_sd,
                "reason": suggestion.reason,
                "source": suggestion.source,
                "constraint": suggestion.constraint,
            }
            return [self._keep("suggestion", fields)]
        if trial.state in ("failed", "vetoed"):
            text = f"trial {trial.number} {trial.state}: {trial.reason}"
            return [self._event("warning", trial.state.upper(), text, trial.number)]
        if trial.state != "done" or trial.score is None:
            return []
        self._scored += 1
        severity = "info" if trial.veto is None else "warning"
        letters = [self._event(severity, "SCORED", self._scored_text(trial), trial.number)]
        candidate = trial.role != "expert" and trial.veto is None
        if candidate and (self._best is None or _value(trial) > _value(self._best)):
            self._best = trial
            score = {
                "score": trial.score.value,
                "score_sd": trial.score.sd,
                "halves": trial.score.halves,
                "resolution_a": trial.score.resolution,
            }
            letters.append(self._keep("best", self._settings(trial) | {"role": trial.role} | score))
        return letters

    def _optimizer(self, event: ModelChanged) -> Letter:
        believed = [
            (mean, sd)
            for means, sds, legals in zip(event.view.mean, event.view.sd, event.view.legal, strict=True)
            for mean, sd, legal in zip(means, sds, legals, strict=True)
            if legal
        ]
        mean, sd = max(believed, default=(None, None))
        best = self._best.score.value if self._best is not None and self._best.score is not None else None
        return self._keep(
            "optimizer", {"step": self._scored, "best": best, "expected_final": mean, "expected_final_sd": sd}
        )

    def _ended(self, event: CampaignEnded) -> list[Letter]:
        self._state |= {"phase": "finished", "trial": None, "role": None, "text": event.reason, "eta_s": 0.0}
        severity = "info" if event.state == "done" else "warning" if event.state == "stopped" else "error"
        return [
            self._keep("state", self._state | {"outcome": event.state}),
            self._beam(exposing=False),
            Letter("suggestion", "", qos=1, retain=True),
            self._event(severity, event.state.upper(), event.reason or f"campaign {event.state}"),
        ]

    def _settings(self, trial: Trial) -> Fields:
        settings = trial.settings
        return {
            "trial": trial.number,
            "step_a": settings.step,
            "defocus_a": settings.defocus,
            "dose": settings.dose,
            "dose_unit": self._dose_unit,
        }

    def _scored_text(self, trial: Trial) -> str:
        assert trial.score is not None
        text = f"trial {trial.number} ({trial.role}): {trial.score.value:.5g} ± {trial.score.sd:.2g} bit/Å²"
        text += " (halves of one pass)" if trial.score.one_pass else ""
        return text if trial.veto is None else f"{text}, not to be trusted: {trial.veto}"

    def _event(self, severity: str, code: str, text: str, trial: int | None = None) -> Letter:
        return self._pass("event", {"severity": severity, "code": code, "text": text, "trial": trial}, qos=1)

    def _keep(self, topic: str, fields: Fields) -> Letter:
        return Letter(topic, self._json(fields), qos=1, retain=True)

    def _pass(self, topic: str, fields: Fields, qos: int = 0) -> Letter:
        return Letter(topic, self._json(fields), qos=qos, retain=False)

    def _json(self, fields: Fields) -> str:
        self._sequence += 1
        text = json.dumps({**fields, "ts": self._now(), "seq": self._sequence}, ensure_ascii=False, allow_nan=False)
        return text.encode("utf-8", "backslashreplace").decode()  # a file name may be no text


def _value(trial: Trial) -> float:
    return trial.score.value if trial.score is not None else float("-inf")

"""What flat messages hold of nested records: a trial, a session, the model's grid."""

from __future__ import annotations

from typing import Any

from agent.config import CampaignConfig
from agent.records import ModelView, Trial, TrialState
from instrument.models import Description

Fields = dict[str, Any]


def is_besides(trial: Trial) -> bool:
    """Whether a trial comes on top of those that were planned: a person refused it or asked for it, or it was lost on its way."""
    if trial.state in (TrialState.VETOED, TrialState.ABANDONED) or trial.suggestion.origin in ("manual", "proposed"):
        return True
    return trial.state is TrialState.FAILED and trial.electrons > 0 and trial.acquisition_file is None


def trial_fields(trial: Trial) -> Fields:
    """What a trial's message holds besides its settings, role and state."""
    found: Fields = {
        "origin": trial.suggestion.origin,
        "electrons": trial.electrons,
        "predicted": trial.suggestion.predicted,
        "predicted_sd": trial.suggestion.predicted_sd,
        "reason": trial.reason or trial.suggestion.reason,
        "defocus_measured_a": trial.defocus_measured,
        "picture_file": trial.reconstruction_file,
        "stopped_at": None if trial.stopped is None else trial.stopped.part,
        "electrons_saved": None if trial.stopped is None else trial.stopped.saved,
    }
    if trial.plan is not None:
        found |= {f"field_{name}_a": getattr(trial.plan.field, name) for name in ("y", "x", "height", "width")}
    if (score := trial.score) is not None:
        found |= {"score": score.value, "score_sd": score.sd, "halves": score.halves, "veto": score.veto}
        found |= {"resolution_a": score.resolution, "deviance": score.deviance}
    if (optics := trial.optics) is not None:
        sd = optics.sd
        found |= {"defocus_measured_sd_a": sd.get("defocus"), "source_size_a": optics.source_size or None}
        if "rotation" in sd:
            found |= {"rotation_rad": optics.rotation, "rotation_sd_rad": sd["rotation"]}
        if "C12" in sd:
            found |= {"astigmatism_a": optics.aberrations.get("C12"), "astigmatism_sd_a": sd["C12"]}
    return found


def session_fields(config: CampaignConfig, description: Description) -> Fields:
    """Who works on what, as far as configuration and instrument say it."""
    return {
        "campaign": config.name,
        "instrument": description.name,
        "goal": config.goal.kind,
        "policy": config.policy,
        "sample": config.metadata.sample,
        "operator": config.metadata.operator,
        "proposal": config.metadata.proposal,
        "k_max_per_a": config.score.k_max,
        "semiangle_mrad": description.semiangle,
        **{f"area_{name}_a": getattr(description.area, name) for name in ("y", "x", "height", "width")},
    }


def grid_fields(view: ModelView) -> Fields:
    """The model's grid row by row, null where settings are illegal."""
    legal = [each for row in view.legal for each in row]

    def flat(rows: tuple[tuple[float, ...], ...]) -> list[float | None]:
        values = (value for row in rows for value in row)
        return [float(f"{value:.5g}") if allowed else None for value, allowed in zip(values, legal, strict=True)]

    return {
        "x_name": view.x_name,
        "y_name": view.y_name,
        "x": list(view.x),
        "y": list(view.y),
        "mean": flat(view.mean),
        "sd": flat(view.sd),
    }

"""How much the reconstructions of a campaign may explain, as held-out counts chose it."""

from __future__ import annotations

from html import escape

from agent.model_record import ChosenModel
from agent.records import CampaignRecord


def model_section(record: CampaignRecord) -> str:
    """What was chosen, by which trial, and the difference that decided, as HTML; nothing where nothing was left to choose.

    Args:
        record: of the campaign.
    """
    first: dict[str, tuple[int, ChosenModel]] = {}
    for trial in record.trials:
        if trial.model is not None:
            first.setdefault(trial.model.model_dump_json(), (trial.number, trial.model))
    if not first:
        return ""
    shown = "".join(f"<dt>From trial {number}</dt><dd>{escape(_parts(model))}</dd>" for number, model in first.values())
    note = (
        "A part is taken where it predicts counts better that the reconstruction was not made from: the change of their "
        "deviance is in 10⁻⁴ per detector pixel, ± 1 sd. Better data are asked again."
    )
    return f"<h2>Model</h2><dl>{shown}</dl><p class='soft'>{escape(note)}</p>"


def _parts(model: ChosenModel) -> str:
    return "; ".join(part.text() for part in model.asked) or "as configured"

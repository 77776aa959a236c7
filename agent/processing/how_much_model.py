"""Which parts of the model the reconstructions of a campaign use: asked of the first good acquisition, and of better ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from agent.model_record import AskedPart, ChosenModel
from agent.processing.column import Measured
from agent.reconstruction import DiffractionData, ReconstructionSettings
from agent.reconstruction_choice import ReconstructionChoice

BETTER, AS_GOOD = 2.0, 0.7
"""Dose over that of the acquisition asked before, from where on another is asked: anyway, and at another defocus."""
OTHER_DEFOCUS = 1.5
"""Depths of focus, λ/α², by which another defocus differs."""
LIKE_DEFOCUS = ("slices", "variations")
"""Parts that make up for a wrong defocus, and are not asked where nobody has measured it."""
MOST_LOOKS = 4
"""Acquisitions of a campaign that are asked at most."""


@dataclass(frozen=True)
class Modelled:
    """An acquisition with the model that it is reconstructed with.

    Attributes:
        data: with what the model says of them.
        settings: of picture and halves.
        depth: Å by which the defocus of `data` is that of a plane above the specimen's middle.
        chosen: None: nothing was left to choose.
    """

    data: DiffractionData
    settings: ReconstructionSettings
    depth: float
    chosen: ChosenModel | None


def with_model(
    measured: Measured,
    choice: ReconstructionChoice,
    dose: float,
    nominal_defocus: float,
    on_progress: Callable[[float], None],
) -> Modelled:
    """Give an acquisition the model that the counts ask for: that of an earlier one, or what itself tells.

    Args:
        measured: with its optics; its state has what an earlier acquisition told.
        choice: of the campaign; what it does not leave free stays.
        dose: e/Å².
        nominal_defocus: set-point, Å.
        on_progress: called with the fraction done.
    """
    settings = replace(choice.settings(), refine_optics=())
    if not choice.chosen or choice.function is not None:
        depth = depth_of(settings, measured) if choice.calibrate else 0.0
        return Modelled(replace(measured.data, defocus=measured.data.defocus + depth), settings, depth, None)
    chosen = measured.state.model
    if _worth_asking(chosen, measured, choice, dose, nominal_defocus):
        chosen = _asked(measured.data, settings, choice, chosen, dose, nominal_defocus, on_progress)
    return Modelled(measured.data, settings, 0.0, None) if chosen is None else applied(chosen, measured.data, settings)


def depth_of(settings: ReconstructionSettings, measured: Measured) -> float:
    """Å from the plane whose defocus was measured, in the middle of the specimen, up to the first slice."""
    return float(settings.depths[-1]) / 2 if measured.state.widths else 0.0


def _worth_asking(
    before: ChosenModel | None, measured: Measured, choice: ReconstructionChoice, dose: float, defocus: float
) -> bool:
    """Whether this acquisition can tell more than those before."""
    if choice.calibrate and not measured.state.widths:
        return False  # a wrong defocus would be made up for by whatever is offered
    if before is None:
        return True
    if before.looks >= MOST_LOOKS:
        return False
    data = measured.data
    other = abs(defocus - before.defocus) > OTHER_DEFOCUS * data.depth_of_focus
    return dose >= BETTER * before.dose or (other and dose >= AS_GOOD * before.dose)


def _asked(
    data: DiffractionData,
    settings: ReconstructionSettings,
    choice: ReconstructionChoice,
    before: ChosenModel | None,
    dose: float,
    defocus: float,
    on_progress: Callable[[float], None],
) -> ChosenModel:
    from agent.reconstruction import choose_model

    free = [part for part in choice.chosen if choice.calibrate or part not in LIKE_DEFOCUS]
    found = choose_model(data, settings, free, on_progress=on_progress)
    return ChosenModel(
        settings=dict(found.settings),
        data={name: value for name, value in found.data.items() if name != "defocus"},
        asked=tuple(
            AskedPart(part=each.part, label=each.label, gain=each.gain, sd=each.sd, taken=each.taken)
            for each in found.tried
        ),
        dose=dose,
        defocus=defocus,
        looks=1 if before is None else before.looks + 1,
        seconds=round(found.seconds, 3),
    )


def applied(chosen: ChosenModel, data: DiffractionData, settings: ReconstructionSettings) -> Modelled:
    """An acquisition with a model that was chosen before.

    Args:
        chosen: by held-out counts.
        data: with its optics.
        settings: as configured.
    """
    changes: dict[str, Any] = dict(chosen.settings)
    settings = replace(settings, **changes)
    # what was measured is the defocus of the specimen's middle, what slices are counted from is their first
    depth = float(settings.depths[-1]) / 2 if changes.get("slices", 1) != 1 else 0.0
    known: dict[str, Any] = dict(chosen.data)
    return Modelled(replace(data, defocus=data.defocus + depth, **known), settings, depth, chosen)

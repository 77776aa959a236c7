"""How much model: which parts a reconstruction may use, chosen by counts that were held out (README, "How much model")."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from agent.reconstruction.calibration.finding import tell
from agent.reconstruction.calibration.held_out import HeldOut, Prediction
from agent.reconstruction.model.data import DiffractionData
from agent.reconstruction.model.settings import PARTS, ReconstructionSettings
from instrument.errors import BadInputError

SIMPLEST: Mapping[str, Any] = {
    "object_type": "phase",
    "slices": 1,
    "background": False,
    "refine_intensity": False,
    "refine_positions": None,
    "probe_modes": 1,
    "variable_modes": 0,
}
"""What a setting is where its part is not taken."""
SURE = 4.0
"""Standard deviations by which a richer model has to predict better; ten of them are asked."""
WORTH = 1e-3
"""Part of the held-out deviance that it has to explain: less is not worth the time of one more wave."""
WORTH_WAITING = 2e-3
"""Deviance per held-out count that positions have to explain, since they hold the probe back for half of the passes."""
PASSES = 7
"""Passes of each reconstruction at most."""
POSITIONS, FEWEST, SHARE = 121, 64, 0.25
"""Positions of each reconstruction at most, and of small scans; part of the scan, so that all together cost about one of it."""
MOST_SLICES, MOST_MODES = 6, 3
THIN = 6.5
"""Å between two layers of a thin crystal."""
DEPTH = 0.5
"""Distance of two slices of a thick specimen, in depths of focus. (With a whole one slices come to lie beside each other.)"""
JITTER = 0.15
"""Å, standard deviation of positions that nothing is known of."""
SPREADS = (0.4, 0.7)
"""Detector pixels."""


class Candidate(NamedTuple):
    """A model that is richer by one part.

    Attributes:
        part: which, a key of `PARTS`.
        label: in words.
        settings: that differ.
        data: attributes of the data that differ, relative to those given.
    """

    part: str
    label: str
    settings: Mapping[str, Any] = {}
    data: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Tried:
    """A part that was asked for.

    Attributes:
        part: a key of `PARTS`.
        label: in words, such as `2 slices 30 Å apart`.
        gain: by how much less the deviance of the held-out counts is with it, per detector pixel.
        sd: its standard deviation.
        taken: whether it is part of the model.
    """

    part: str
    label: str
    gain: float
    sd: float
    taken: bool


@dataclass(frozen=True)
class ModelChoice:
    """What the counts ask for.

    Attributes:
        settings: that differ from those asked with, all of free parts.
        data: attributes of the data that differ.
        tried: every part in the order in which it was asked for last.
        runs: reconstructions made.
        seconds: that took.
    """

    settings: Mapping[str, Any]
    data: Mapping[str, Any]
    tried: tuple[Tried, ...]
    runs: int
    seconds: float


@dataclass
class _Selection:
    """Forward selection: where it stands."""

    held_out: HeldOut
    given: DiffractionData
    settings: ReconstructionSettings
    own_amplitudes: bool
    data: dict[str, Any] = field(default_factory=dict)
    runs: int = 0

    def predicted(self, candidate: Candidate | None = None) -> Prediction | None:
        """The held-out counts under the model so far with one part more; None where there is no such reconstruction."""
        settings, data = self.with_part(candidate)
        if not self.held_out.can_judge(settings):
            return None
        self.runs += 1
        try:
            return self.held_out.predicted(settings, **data)
        except (BadInputError, ArithmeticError):
            if candidate is None:
                raise
            return None

    def like_positions(self) -> tuple[Prediction, ...]:
        """The model so far with what refined positions bring that is no jitter: a probe refined later, a scan that is sheared."""
        self.runs += 2
        sheared = replace(self.settings, refine_positions="linear")
        return (
            self.held_out.predicted(self.settings, probe_waits=True, **self.data),
            self.held_out.predicted(sheared, **self.data),
        )

    def with_part(self, candidate: Candidate | None) -> tuple[ReconstructionSettings, dict[str, Any]]:
        """Settings, and what differs in the data."""
        if candidate is None:
            return self.settings, self.data
        return replace(self.settings, **candidate.settings), {**self.data, **candidate.data}


def choose_model(
    data: DiffractionData,
    settings: ReconstructionSettings,
    free: Collection[str] = tuple(PARTS),
    *,
    n_positions: int = POSITIONS,
    on_progress: Callable[[float], None] | None = None,
) -> ModelChoice:
    """Choose the parts named in `free`, one at a time, each only where it predicts counts better that it was not made from.

    Args:
        data: calibrated; its defocus is that of the specimen's middle.
        settings: of the reconstruction that the choice is for; parts that are not free are as they say.
        free: out of `PARTS`.
        n_positions: positions used at most, the dense square in the middle of the scan.
        on_progress: called with the fraction done.

    Raises:
        BadInputError: the data cannot be reconstructed.
    """
    started = time.perf_counter()
    n_used = min(n_positions, max(FEWEST, int(SHARE * len(data.patterns))))
    simplest = {name: SIMPLEST[name] for part in free for name in PARTS[part] if name in SIMPLEST}
    short = replace(settings, **simplest, **_short(settings))
    here = _Selection(HeldOut(data, n_used, settings.seed), data, short, "amplitude" in free)
    best = here.predicted()
    assert best is not None
    tried: list[Tried] = []
    asked = [part for part in PARTS if part in free]
    for number, part in enumerate(asked):
        best = _climbed(here, part, best, tried)
        tell(on_progress, (number + 1) / len(asked))
    chosen = {name: getattr(here.settings, name) for part in free for name in PARTS[part]}
    tried.sort(key=lambda each: not each.taken)
    return ModelChoice(chosen, here.data, tuple(tried), here.runs, time.perf_counter() - started)


def _climbed(here: _Selection, part: str, best: Prediction, tried: list[Tried]) -> Prediction:
    """More and more of one part, as long as it predicts better; the prediction of the model in the end.

    Args:
        here: changed in place.
        part: which.
        best: prediction of the model so far.
        tried: what was taken is added, or what was not where nothing was.
    """
    taken: Tried | None = None
    while True:
        found = [(each, prediction) for each in _richer(part, here) if (prediction := here.predicted(each)) is not None]
        if not found:
            break
        candidate, prediction = max(found, key=lambda pair: pair[1].gain_over(best)[0])
        gain, sd = prediction.gain_over(best)
        least = WORTH_WAITING * here.held_out.counts if part == "positions" else WORTH * best.deviance
        sure = gain > max(SURE * sd, least)
        if sure and part == "positions":
            gain, sd = min((gain, sd), *(prediction.gain_over(other) for other in here.like_positions()))
            sure = gain > max(SURE * sd, least)
        if not sure and taken is None:
            tried.append(Tried(part, candidate.label, gain, sd, taken=False))
        if not sure:
            break
        # of a ladder the whole gain is told, over the model without the part
        before = 0.0 if taken is None else taken.gain
        taken = Tried(part, candidate.label, before + gain, sd, taken=True)
        here.settings, here.data = here.with_part(candidate)
        best = prediction
    if taken is not None:
        tried.append(taken)
    return best


def _short(settings: ReconstructionSettings) -> dict[str, Any]:
    """What makes reconstructions short and alike."""
    return {
        "padding": 1.0 if settings.padding is None else settings.padding,
        "max_passes": min(settings.max_passes, PASSES),
        "stop_early": False,
        "quantitative": False,
        "regularise": False,
        "refine_optics": (),
    }


def _richer(part: str, here: _Selection) -> list[Candidate]:
    """Models with more of a part than the one so far."""
    now = here.settings
    if part == "amplitude":
        return [] if now.object_type is None else [Candidate(part, "amplitude of the object", {"object_type": None})]
    if part == "slices":
        return _more_slices(here)
    if part == "background":
        return [] if now.background else [Candidate(part, "background", {"background": True})]
    if part == "intensity":
        return (
            []
            if now.refine_intensity
            else [Candidate(part, "an intensity of each pattern", {"refine_intensity": True})]
        )
    if part == "positions":
        return _more_positions(here)
    if part == "spread":
        known = here.data.get("point_spread", here.given.point_spread)
        wider = [value for value in SPREADS if value > known][:1]
        return [
            Candidate(part, f"a detector spread of {value:g} pixels", {}, {"point_spread": value}) for value in wider
        ]
    if part == "modes":
        more = now.probe_modes + 1
        return [] if more > MOST_MODES else [Candidate(part, f"{more} free probe modes", {"probe_modes": more})]
    more = now.variable_modes + 1
    return (
        []
        if more > MOST_MODES
        else [Candidate(part, f"a probe that varies in {more} way{'s' if more > 1 else ''}", {"variable_modes": more})]
    )


def _more_slices(here: _Selection) -> list[Candidate]:
    """Two layers, or half a depth of focus apart; then one more below."""
    now, data = here.settings, here.given
    if now.slices >= MOST_SLICES:
        return []
    if now.slices == 1:
        wanted = [(2, THIN), (2, DEPTH * data.depth_of_focus)]
    else:
        wanted = [(now.slices + 1, float(np.max(now.slice_spacing)))]
    # slices have the amplitudes that follow from their phases, where nobody has said otherwise
    kind = {"object_type": None} if here.own_amplitudes else {}
    return [
        Candidate(
            "slices",
            f"{number} slices {spacing:.3g} Å apart",
            {"slices": number, "slice_spacing": spacing, **kind},
            {"defocus": data.defocus + (number - 1) * spacing / 2},
        )
        for number, spacing in wanted
    ]


def _more_positions(here: _Selection) -> list[Candidate]:
    """A drift of each line, or every position by itself, held by what scan engines miss them by."""
    if here.settings.refine_positions is not None:
        return []
    jitter = here.given.position_jitter or JITTER
    return [
        Candidate("positions", "positions refined line by line", {"refine_positions": "lines"}),
        Candidate(
            "positions", "positions refined one by one", {"refine_positions": "free"}, {"position_jitter": jitter}
        ),
    ]

"""The idealised setting of Cao et al., Sci. Rep. 12, 12284 (2022), as their script has it: their method there, and ours.

Twisted bilayer MoS₂, 80 kV, a coherent probe that is known, a perfect scan and detector, nothing to calibrate. Their method:
expected improvement after 20 random trials, 200 trials, each with the full dose, judged by the truth. Ours: a campaign's policy,
which explores with as many electrons as one final picture takes, and is judged by the product's score.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from pydantic import Field

from agent.aims import AreaOfInterest
from agent.config import CampaignConfig, Exploration, ScoreChoice
from agent.policy import Observation, Problem, make_policy
from agent.processing.process import cleaned_data
from agent.reconstruction import DiffractionData, ReconstructionSettings, reconstruct
from agent.records import Settings
from agent.scoring.halves import judge
from agent.scoring.regions import crop
from agent.scoring.truth import true_information
from agent.search_choice import Search
from agent.storage.acquisition_file import Acquisition
from agent.study.exposures import ExposureError, Simulator, StudyColumn, Truth
from agent.study.plans import SCORED, Planned
from instrument import optics
from instrument.models import AcquisitionPlan, Description, Record, Rectangle

COLUMN = {
    "voltage": 80e3,
    "semiangle": 21.4,
    "defocus_offset": 0.0,
    "defocus_scale": 1.0,
    "aberrations": {},
    "source_size": 0.0,
    "energy_spread": 0.0,
    "jitter": 0.0,
    "drift": 0.0,
    "rotation": 0.0,
    "rotation_error": 0.0,
    "detector_pixels": 128,
    "angular_pixel": 2.61,
    "pixel_area": False,
    "point_spread": 0.0,
    "dead_pixels": 0,
    "hot_pixels": 0,
    "saturation": 65535,
    "max_defocus": 2000.0,
}
"""Of the script: 0.0625 1/Å a pixel, sampled at its centre; the semi-angle of its sister scripts."""
SPECIMEN = {"material": "twisted-mos2", "twist": 30.0, "vacancies": 0.0, "phonon_configurations": 0}
ENTRY = {"name": "seed-2022", "seed": 0, "specimen": SPECIMEN, "column": COLUMN}
STEPS = (0.5, 6.0)
"""Å, searched by both."""
PASSES = 20
SHARE = 0.5
"""Of the electrons that our exploration may take: as much as the final picture."""
TRIALS = 8
"""Of ours at most."""
THEIRS, OURS = "seed, judged by the truth", "ptychopilot"
TRUTH_SD = 0.02
"""Relative, of a truth from one set of counts, as their optimiser is told that its objective is noisy."""
FINAL = 500
"""First place and noise that nobody has explored with."""


class SeedRecord(Record):
    """What a method has taken in the end. Å, e/Å², bit/Å²."""

    study: str = "seed"
    policy: str
    column: str
    seed: int
    dose: float
    budget: int = Field(description="trials allowed")
    trials: int = 0
    electrons: float = Field(default=0.0, description="of all trials")
    final_electrons: float = Field(default=0.0, description="of a final picture")
    step: float | None = None
    defocus: float | None = None
    truth: float | None = Field(default=None, description="of the final picture, with fresh noise")
    oracle: float | None = Field(default=None, description="the larger of both methods' truths")
    regret: float | None = None
    error: str | None = None


@dataclass(frozen=True)
class SeedDesign:
    """What is run.

    Attributes:
        doses: of the final picture, e/Å².
        trials: of their method.
        field: edge of a final picture and of their trials, Å.
    """

    doses: tuple[float, ...]
    trials: int
    field: float


DESIGNS = {True: SeedDesign((1e3,), 30, 24.0), False: SeedDesign((1e3, 1e5), 200, 36.0)}
"""Quick or not -> what is run."""


class Evaluated:
    """Acquisitions of the ideal column, with what is known told to the reconstruction.

    Args:
        simulator: that takes them.
        column: of the simulator's list.
        description: of its microscope.
    """

    def __init__(self, simulator: Simulator, column: StudyColumn, description: Description) -> None:
        self._simulator, self._column, self._description = simulator, column, description
        self._made = 0

    def truth(self, settings: Settings, field: float, noise: int) -> float:
        """Information in the picture at some settings, bit/Å². Raises ExposureError where it cannot be taken."""
        acquisition, told = self._taken(settings, field, noise, passes=1)
        picture = reconstruct(_known(acquisition, told), _settings())
        square = self._scored(noise)
        assert told.phase is not None
        image = crop(picture.phase, picture.origin, picture.pixel_size, square)
        return true_information(image, picture.pixel_size, told.phase, told.pixel, ScoreChoice(field=SCORED))

    def score(self, settings: Settings, field: float, noise: int) -> tuple[float, float, str | None]:
        """The product's score of two passes, its standard deviation, and its veto."""
        acquisition, told = self._taken(settings, field, noise, passes=2)
        choice = ScoreChoice(field=SCORED)
        found = judge(_known(acquisition, told), _settings(), (self._scored(noise),), choice, noise).score
        return found.value, found.sd, found.veto

    def _taken(self, settings: Settings, field: float, noise: int, passes: int) -> tuple[Acquisition, Truth]:
        edge = math.ceil(field / settings.step - 1e-6) * settings.step
        y, x = self._middle(noise)
        plan = AcquisitionPlan(
            id=f"seed-{noise}-{self._made}",
            campaign="study",
            region=f"seed-{noise}",
            field=Rectangle(y=y - edge / 2, x=x - edge / 2, height=edge, width=edge),
            step=settings.step,
            defocus=settings.defocus,
            dose=settings.dose,
            passes=2 if passes == 2 else 1,
        )
        self._made += 1
        return self._simulator.expose(self._column, Planned(plan, self._scored(noise)))

    def _middle(self, noise: int) -> tuple[float, float]:
        """A place of the specimen for each noise, along a golden spiral."""
        area = self._description.area
        angle, part = 2.399963 * noise, math.sqrt((noise % 60) / 60)
        room = [max(length - 60.0, 0.0) / 2 * part for length in (area.height, area.width)]
        return (
            area.y + area.height / 2 + room[0] * math.sin(angle),
            area.x + area.width / 2 + room[1] * math.cos(angle),
        )

    def _scored(self, noise: int) -> Rectangle:
        y, x = self._middle(noise)
        return Rectangle(y=y - SCORED / 2, x=x - SCORED / 2, height=SCORED, width=SCORED)


def seed_records(
    simulator: Simulator,
    column: StudyColumn,
    design: SeedDesign,
    seed: int,
    tell: Callable[[str], None] = lambda sentence: None,
) -> Iterator[list[SeedRecord]]:
    """Both methods at each dose.

    Args:
        simulator: whose list has the ideal column.
        column: that one.
        design: what is run.
        seed: of both methods.
        tell: called with a sentence on where it stands.
    """
    description = simulator.describe(column)
    evaluated = Evaluated(simulator, column, description)
    for dose in design.doses:
        found = [_run(name, evaluated, description, column, design, dose, seed, tell) for name in (THEIRS, OURS)]
        best = max((record.truth or 0.0 for record in found), default=0.0)
        yield [
            record if record.truth is None or not best
            else record.model_copy(update={"oracle": best, "regret": 1 - record.truth / best})
            for record in found
        ]  # fmt: skip


def _run(
    name: str,
    evaluated: Evaluated,
    description: Description,
    column: StudyColumn,
    design: SeedDesign,
    dose: float,
    seed: int,
    tell: Callable[[str], None],
) -> SeedRecord:
    theirs = name == THEIRS
    trials = design.trials if theirs else TRIALS
    area = design.field**2
    problem = _problem(description, design, dose, trials, seed, theirs=theirs)
    base = SeedRecord(policy=name, column=column.name, seed=seed, dose=dose, budget=trials, final_electrons=dose * area)
    observations: list[Observation] = []
    while len(observations) < trials:
        policy = make_policy(problem, seed)
        policy.ingest(observations)
        suggested = policy.suggest(1)
        if not suggested:
            break
        number = len(observations) + 1
        tell(f"{dose:g} e/Å², {name}: trial {number} of {trials}")
        observations.append(_observed(evaluated, suggested[0].settings, problem, number, theirs=theirs))
    spent = sum(each.electrons for each in observations)
    policy = make_policy(problem, seed)
    policy.ingest(observations)
    taken = policy.recommend(dose * area).settings.model_copy(update={"dose": dose})
    truths = [evaluated.truth(taken, design.field, FINAL + seed * 10 + again) for again in range(2)]
    found = {
        "trials": len(observations),
        "electrons": spent,
        "step": taken.step,
        "defocus": taken.defocus,
        "truth": float(np.mean(truths)),
    }
    return base.model_copy(update=found)


def _observed(evaluated: Evaluated, settings: Settings, problem: Problem, number: int, *, theirs: bool) -> Observation:
    common = {"trial": number, "settings": settings, "electrons": settings.dose * problem.trial_area}
    edge = math.sqrt(problem.trial_area)
    try:
        if theirs:
            truth = evaluated.truth(settings, edge, number)
            return Observation(state="done", score=truth, variance=(TRUTH_SD * max(truth, 0.1)) ** 2, **common)
        score, sd, veto = evaluated.score(settings, edge, number)
        if veto is None:
            return Observation(state="done", score=score, variance=sd**2, **common)
    except (ExposureError, ArithmeticError, ValueError):
        pass
    return Observation(state="failed", **common)


def _problem(
    description: Description, design: SeedDesign, dose: float, trials: int, seed: int, *, theirs: bool
) -> Problem:
    """What either method may know, and how many electrons it has."""
    area = design.field**2
    trial = design.field if theirs else 24.0
    share = trials / (trials + 1) if theirs else SHARE
    config = CampaignConfig(
        name="study",
        electrons=dose * area / (1 - share),
        area=AreaOfInterest(height=design.field, width=design.field),
        exploration=Exploration(trials=trials, height=trial, width=trial, share=share),
        search=Search(step=STEPS, dose=(dose if theirs else dose / 16, dose), overlap=0.0, window=1.0),
        policy="seed" if theirs else "botorch",
        seed=seed,
    )
    # what a detector's frame rate would refuse is left to the methods' choice: pictures are compared
    free = description.model_copy(update={"electrons_per_pattern": (1e-3, 1e9), "electrons_per_pattern_values": None})
    return Problem(free, config, area, trial**2)


def _known(acquisition: Acquisition, truth: Truth) -> DiffractionData:
    """The counts with everything that is true of the column."""
    data = cleaned_data(acquisition).data
    n_y, n_x = data.patterns.shape[1:]
    return replace(
        data,
        defocus=truth.defocus,
        centre=(n_y // 2, n_x // 2),
        detector_to_scan=optics.detector_to_scan(truth.rotation, truth.mirrored),
        aberrations={},
    )


def _settings() -> ReconstructionSettings:
    return ReconstructionSettings(max_passes=PASSES, stop_early=False)


def told(records: Sequence[SeedRecord]) -> Iterator[str]:
    """What the study says, a sentence for each dose."""
    for dose in dict.fromkeys(record.dose for record in records):
        here = {record.policy: record for record in records if record.dose == dose}
        theirs, ours = here.get(THEIRS), here.get(OURS)
        if theirs is None or ours is None or not theirs.truth or ours.truth is None:
            continue
        yield (
            f"{dose:g} e/Å²: {ours.truth / theirs.truth:.0%} of what the seed's method reaches, with "
            f"{ours.electrons / ours.final_electrons:.2f} instead of {theirs.electrons / theirs.final_electrons:.0f} final "
            "pictures' electrons for exploration and without the truth"
        )

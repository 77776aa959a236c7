"""Policies against each other on the same columns, by the truth of the picture that they would have taken in the end.

Each column offers a grid of steps and defoci; so every choice of every policy is one of few acquisitions, which a pool keeps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from agent.aims import AreaOfInterest
from agent.config import EXPERT_SEMIANGLE, CampaignConfig, Exploration
from agent.errors import BadInputError
from agent.policy import Observation, Policy, Problem, make_policy
from agent.records import Settings
from agent.search_choice import Search
from agent.study.exposures import ExposureError, StudyColumn
from agent.study.plans import FIELD, legal_defocus
from agent.study.pool import Pool
from instrument import optics
from instrument.models import Description, Parameter, Record

POLICIES = ("botorch", "botorch-alone", "expert", "ncem", "phaser", "random", "sobol", "grid", "seed-4", "seed")
PEERS = ("ax", "ax-4", "optuna", "optuna-4", "skopt", "skopt-4")
"""Other people's optimisers, with their own defaults and with 4 starts, where they are installed; only where asked for."""
VARIANTS = ("botorch-alone", "botorch-stop")
"""`botorch-alone` has no prior; `botorch-stop` ends exploration once a trial costs more than it promises."""
EXPERT_STEP, EXPERT_DEFOCUS = 0.85, 500.0
STEPS = (0.8, 3.0)
"""Å, smallest and largest of the grid."""
TRIAL_PARTS = (1 / 16, 1 / 8, 1 / 4, 1 / 2)
"""Doses of trials, relative to the final one."""
FINAL_AREA = (2 * FIELD) ** 2
"""Å², of the final picture: four trials' fields."""
SHARE = 0.5
"""Of the electrons that exploration may take: as much as the final picture."""
FRESH = 20
"""First replica that no policy explores with: of oracle and final pictures."""


class ComparisonRecord(Record):
    """What a policy would have come to after some trials. Å, e/Å², bit/Å²."""

    study: str
    policy: str
    column: str
    seed: int
    dose: float = Field(description="of the final picture")
    budget: int = Field(description="trials allowed")
    trials: int = Field(description="trials made")
    electrons: float = Field(description="that they took")
    step: float | None = Field(default=None, description="recommended; None: nothing was")
    defocus: float | None = None
    truth: float | None = Field(default=None, description="of the recommended setting, with fresh noise")
    oracle: float | None = Field(default=None, description="of the grid's best cell, measured again with fresh noise")
    regret: float | None = Field(default=None, description="1 − truth/oracle")
    error: str | None = None


@dataclass(frozen=True)
class Design:
    """What a comparison runs.

    Attributes:
        study: its name.
        policies: names of POLICIES, or module:attribute.
        doses: of the final picture, e/Å².
        budgets: numbers of trials after which is asked what to take.
        seeds: of the policies.
        grid: how many steps and defoci a column offers.
        oracle_replicas: repetitions that the best cell is chosen from.
    """

    study: str
    policies: tuple[str, ...]
    doses: tuple[float, ...]
    budgets: tuple[int, ...]
    seeds: tuple[int, ...]
    grid: tuple[int, int]
    oracle_replicas: int = 1


DESIGNS = {
    ("policies", True): Design("policies", POLICIES, (1e3,), (0, 1, 2, 4), (0,), (3, 4)),
    ("policies", False): Design("policies", POLICIES, (1e3,), (0, 1, 2, 3, 4, 6, 8, 10), (0, 1, 2, 3, 4), (5, 8)),
    ("stop", True): Design("stop", ("botorch", "botorch-stop"), (1e3,), (2, 4, 8), (0,), (3, 4)),
    ("stop", False): Design("stop", ("botorch", "botorch-stop"), (1e3, 1e4), (2, 4, 6, 8, 10), (0, 1, 2, 3, 4), (5, 8)),
    ("dose", True): Design("dose", POLICIES, (1e2, 1e3), (4,), (0,), (3, 4)),
    ("dose", False): Design("dose", POLICIES, (1e2, 3e2, 1e3, 1e4, 1e5), (10,), (0, 1, 2), (5, 8)),
}
"""(study, quick) -> what is run."""


def compare(pool: Pool, column: StudyColumn, description: Description, design: Design) -> Iterator[ComparisonRecord]:
    """All records of a column.

    Args:
        pool: of acquisitions.
        column: of the study.
        description: of its microscope.
        design: of the study.
    """
    for dose in design.doses:
        offered = on_grid(description, dose, design.grid)
        oracle = _oracle(pool, column, offered, dose, design.oracle_replicas)
        for name in design.policies:
            for seed in design.seeds:
                yield from _campaign(pool, column, offered, design, name, seed, dose, oracle)


def on_grid(description: Description, dose: float, grid: tuple[int, int]) -> Description:
    """A microscope that offers few steps, defoci and doses.

    Args:
        description: of the whole one.
        dose: of the final picture, e/Å².
        grid: how many steps and defoci.
    """
    largest = legal_defocus(description)
    low, high = description.step.bounds
    steps = np.geomspace(max(low, STEPS[0]), min(high, STEPS[1]), grid[0])
    parts = np.linspace(-1, 1, grid[1] + 1 - grid[1] % 2)
    defoci = largest * np.sign(parts) * np.abs(parts) ** 1.5  # denser near focus, which itself is left out
    defoci = defoci[np.abs(parts) > 1e-9]
    doses = [part * dose for part in (*TRIAL_PARTS, 1.0)]
    changes = {
        "step": Parameter(kind="discrete", unit="Å", values=tuple(float(f"{s:.4g}") for s in steps)),
        "defocus": Parameter(kind="discrete", unit="Å", values=tuple(float(f"{d:.4g}") for d in defoci)),
        "dose": Parameter(kind="discrete", unit="e/Å²", values=tuple(doses)),
        # What a detector's frame rate would refuse is left to the policies' choice here: the study compares pictures.
        "electrons_per_pattern": (1e-3, 1e9),
        "electrons_per_pattern_values": None,
    }
    return description.model_copy(update=changes)


def _config(description: Description, dose: float, trials: int, name: str, seed: int) -> CampaignConfig:
    """The campaign that a policy believes to be in."""
    defoci, steps = description.defocus.values or (), description.step.values or ()
    wished = EXPERT_DEFOCUS * EXPERT_SEMIANGLE / description.semiangle  # the same width of the probe disc
    expert = (min(steps, key=lambda s: abs(math.log(s / EXPERT_STEP))), min(defoci, key=lambda d: abs(d - wished)))
    edge = math.sqrt(FINAL_AREA)
    return CampaignConfig(
        name="study",
        electrons=dose * FINAL_AREA / (1 - SHARE),
        area=AreaOfInterest(height=edge, width=edge),
        exploration=Exploration(
            trials=max(trials, 1),
            height=FIELD,
            width=FIELD,
            share=SHARE,
            stop="cost" if name == "botorch-stop" else "trials",
        ),
        search=Search(dose=(TRIAL_PARTS[0] * dose, TRIAL_PARTS[-1] * dose), overlap=0.0, window=1.0),
        policy=_policy(name),
        prior="none" if name == "botorch-alone" else "zoo",
        expert=expert,
        seed=seed,
    )


def _policy(name: str) -> str:
    """How a campaign file names it."""
    if name in PEERS:
        from agent.study.peer_generators import peer_policy

        return peer_policy(name)
    return "botorch" if name in VARIANTS else name


def _campaign(
    pool: Pool,
    column: StudyColumn,
    description: Description,
    design: Design,
    name: str,
    seed: int,
    dose: float,
    oracle: float | None,
) -> Iterator[ComparisonRecord]:
    """One policy's trials, and what it would take after each number of them that the design asks for."""
    base = ComparisonRecord(
        study=design.study, policy=name, column=column.name, seed=seed, dose=dose, budget=0, trials=0, electrons=0.0
    )
    most = max(design.budgets)
    problem = Problem(description, _config(description, dose, most, name, seed), FINAL_AREA, FIELD**2)
    observations: list[Observation] = []
    try:
        for budget in range(most + 1):
            if budget in design.budgets:
                spent = sum(o.electrons for o in observations)
                told = {"budget": budget, "trials": len(observations), "electrons": spent, "oracle": oracle}
                yield base.model_copy(update=told | _final(pool, column, problem, observations, seed, dose, oracle))
            if budget < most:
                policy = _told(problem, seed, observations)
                suggested = policy.suggest(1)
                if (failure := getattr(policy, "failure", None)) is not None:
                    msg = f"{name} failed: {failure}"  # what is drawn at random in its place is not its choice
                    raise BadInputError(msg)
                for suggestion in suggested:
                    record = pool.record(column, suggestion.settings, seed % FRESH)
                    observations.append(_observation(len(observations) + 1, suggestion.settings, record))
    except (BadInputError, ExposureError) as error:
        yield base.model_copy(update={"error": " ".join(str(error).split())})


def _told(problem: Problem, seed: int, observations: Sequence[Observation]) -> Policy:
    policy = make_policy(problem, seed)
    policy.ingest(observations)
    return policy


def _final(
    pool: Pool,
    column: StudyColumn,
    problem: Problem,
    observations: Sequence[Observation],
    seed: int,
    dose: float,
    oracle: float | None,
) -> dict[str, float | str | None]:
    """What is recommended, and its truth."""
    try:
        settings = _told(problem, seed, observations).recommend(dose * FINAL_AREA).settings
    except BadInputError as error:
        return {"error": " ".join(str(error).split())}
    taken = settings.model_copy(update={"dose": dose})
    truth = pool.record(column, taken, FRESH + seed % FRESH, final=True).truth or 0.0
    regret = None if not oracle else 1 - truth / oracle
    return {"step": taken.step, "defocus": taken.defocus, "truth": truth, "regret": regret}


def _observation(number: int, settings: Settings, record: object) -> Observation:
    from agent.study.records import ScoreRecord

    assert isinstance(record, ScoreRecord)
    common = {"trial": number, "settings": settings, "electrons": settings.dose * FIELD**2}
    if record.score is None or record.sd is None or record.veto is not None:
        return Observation(state="failed", **common)
    return Observation(state="done", score=record.score, variance=record.sd**2, **common)


def _oracle(pool: Pool, column: StudyColumn, description: Description, dose: float, replicas: int) -> float | None:
    """Truth of the grid's best cell at the final dose, measured again with fresh noise; None: nothing is seen anywhere."""
    focused = optics.probe_diameter(description.semiangle, 0.0, description.voltage)
    best, chosen = 0.0, None
    for step in description.step.values or ():
        for defocus in description.defocus.values or ():
            if step > max(focused, 2e-3 * description.semiangle * abs(defocus)):
                continue  # neighbouring probes do not touch: no policy may choose it either
            settings = Settings(step=step, defocus=defocus, dose=dose)
            truths = [pool.record(column, settings, 2 * FRESH + r, final=True).truth or 0.0 for r in range(replicas)]
            if float(np.mean(truths)) > best:
                best, chosen = float(np.mean(truths)), settings
    if chosen is None:
        return None
    return pool.record(column, chosen, 2 * FRESH + replicas, final=True).truth

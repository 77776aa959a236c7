"""The gest-api standard, both ways: our policies as its `Generator`s, and any `Generator` as the policy of a campaign.

Needs the package `gest-api`. A point is {step, defocus, dose} in Å, Å and e/Å²; the objective is `score`, bit/Å², maximised.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from agent.errors import BadInputError
from agent.plugins import load_attribute
from agent.policy.apertures import search_space
from agent.policy.base import Observation, Policy, Problem
from agent.policy.baselines import Baseline
from agent.policy.book import ObservationBook
from agent.policy.limits import NAMES, SEMIANGLE, Array
from agent.records import Settings

try:
    from gest_api.generator import Generator
    from gest_api.vocs import VOCS
except ImportError as missing:
    _WHY = "the package gest-api is missing; install it with `pip install gest-api`"
    raise BadInputError(_WHY) from missing

OBJECTIVE, DEVIATION = "score", "score_sd"
"""Names of the score, bit/Å², and of its standard deviation."""
USUAL_DEVIATION = 0.05
"""Standard deviation relative to the score, where none is told."""
PREFIX = "gest:"


def vocs_of(problem: Problem) -> VOCS:
    """Variables and objective of a campaign. Limits that couple settings cannot be said there.

    Args:
        problem: the campaign's.
    """
    space = search_space(problem.description, problem.config, problem.overheads)
    variables: dict[str, Any] = {}
    constants: dict[str, Any] = {}
    for axis in space.axes:
        if axis.fixed:
            constants[axis.name] = axis.low
        else:
            variables[axis.name] = [axis.low, axis.high] if axis.values is None else {float(v) for v in axis.values}
    return VOCS(variables=variables, constants=constants, objectives={OBJECTIVE: "MAXIMIZE"}, observables=[DEVIATION])


class PolicyGenerator(Generator):  # type: ignore[misc]  # untyped
    """A policy of ours for Xopt, libEnsemble and whatever else drives a `Generator`.

    Args:
        vocs: as `vocs_of` gives them; None: those.
        problem: what instrument and campaign allow.
        policy: that decides; the arguments are problem and seed, as `agent.policy.make_policy` takes them.
        seed: of everything random.

    Raises:
        ValueError: the variables or the objective are others.
    """

    returns_id = True

    def __init__(
        self, vocs: VOCS | None, *, problem: Problem, policy: Callable[[Problem, int], Policy], seed: int = 0
    ) -> None:
        self._problem, self.vocs = problem, vocs_of(problem) if vocs is None else vocs
        super().__init__(self.vocs)
        self._policy = policy(problem, seed)
        self._settings: dict[int, Settings] = {}

    def _validate_vocs(self, vocs: VOCS) -> None:
        """Raise ValueError where they are not those of the problem."""
        known = {*vocs.variables, *vocs.constants}
        names = _names(self._problem)
        if known != set(names) or list(vocs.objectives) != [OBJECTIVE]:
            msg = f"variables {', '.join(sorted(known))}: legal: {', '.join(names)}, and the objective {OBJECTIVE}"
            raise ValueError(msg)

    def suggest(self, num_points: int | None = None) -> list[dict[str, Any]]:
        """The next points, each pending until it is ingested.

        Args:
            num_points: how many; None: one.

        Raises:
            ValueError: the electrons pay for fewer.
        """
        wanted = 1 if num_points is None else num_points
        points: list[dict[str, Any]] = []
        for _ in range(wanted):
            suggestions = self._policy.suggest(1)
            if not suggestions:
                msg = f"exploration is over: {len(points)} of {wanted} points are left"
                raise ValueError(msg)
            number = self._next
            self._settings[number] = suggestions[0].settings
            self._policy.ingest([Observation(trial=number, settings=suggestions[0].settings, state="pending")])
            points.append(suggestions[0].settings.model_dump() | {"_id": number})
        return points

    def ingest(self, results: list[dict[str, Any]]) -> None:
        """What came of points; one whose score is not a number has failed.

        Args:
            results: with step, defocus, dose, score, perhaps score_sd, and `_id` where they are ours.

        Raises:
            ValueError: an `_id` is unknown.
        """
        for result in results:
            number = result.get("_id")
            if number is not None and number not in self._settings:
                msg = f"_id {number!r} was never suggested"
                raise ValueError(msg)
            number = self._next if number is None else number
            self._settings[number] = Settings(**{name: float(result[name]) for name in _names(self._problem)})
            self._policy.ingest([_observed(number, self._settings[number], result, self._problem.trial_area)])

    @property
    def _next(self) -> int:
        return max(self._settings, default=0) + 1


def _names(problem: Problem) -> tuple[str, ...]:
    """Of the settings that a campaign has, the aperture where it may be chosen."""
    return NAMES[: SEMIANGLE + problem.config.search.has_apertures(problem.description)]


def _observed(number: int, settings: Settings, result: dict[str, Any], area: float) -> Observation:
    score = float(result[OBJECTIVE])
    if not math.isfinite(score):
        return Observation(trial=number, settings=settings, state="failed")
    told = float(result.get(DEVIATION, math.nan))
    sd = told if math.isfinite(told) else USUAL_DEVIATION * max(abs(score), 0.1)
    electrons = settings.dose * area
    return Observation(trial=number, settings=settings, state="done", score=score, variance=sd**2, electrons=electrons)


class GeneratorPolicy(Baseline):
    """Any `Generator` as a policy: made anew with the campaign's variables for each trial and told all scores.

    A class that takes `seed` gets the campaign's. Its points are moved to the nearest legal ones; a point without a dose gets
    an even share of the electrons. Where it fails, the trial is drawn at random, and the reason says so.
    Whether a campaign can be repeated depends on whether the generator can.
    """

    name = "gest"

    def __init__(self, problem: Problem, seed: int) -> None:
        """See Baseline.

        Raises:
            BadInputError: also where the class cannot be loaded.
        """
        super().__init__(problem, seed)
        target = problem.config.policy.removeprefix(PREFIX)
        found: Any = load_attribute(target)
        if not callable(found):
            msg = f"policy {problem.config.policy!r}: {target} is no class of generators"
            raise BadInputError(msg)
        self._make = found
        self.failure: str | None = None

    def choose(self, book: ObservationBook) -> tuple[Array, str]:
        """See Baseline."""
        try:
            point, largest = self._asked(book)
        except Exception as error:  # whatever a stranger's optimiser does, the campaign goes on
            why = self.failure = " ".join(str(error).split()) or type(error).__name__
            return self.draw_one(book), f"drawn at random: the generator failed ({why[:120]})"
        return self.space.nearest(point, dose_max=largest), f"suggested by {self._make.__name__}"

    def _asked(self, book: ObservationBook) -> tuple[Array, float]:
        """(3,) what the generator wants, and the largest dose that it may have: one that it leaves open is the even share."""
        np.random.seed(self.seed + book.next_number)  # noqa: NPY002 – the only seed that a stranger's code may use
        seeded = {"seed": self.seed} if "seed" in inspect.signature(self._make).parameters else {}
        generator = self._make(vocs_of(self.problem), **seeded)
        generator.ingest(list(_results(book.scored_trials, self.problem)))
        answer = generator.suggest(1)[0]
        _, high = self.dose_range(book)
        largest = max(self.budget.largest_dose(book), self.budget.smallest_dose)
        given = {axis.name: axis.low for axis in self.space.axes if axis.fixed} | answer
        point = np.array([float(given.get(name, high)) for name in NAMES[: self.space.dimensions]])
        if not np.isfinite(point).all():
            msg = f"it suggested {answer}"
            raise ValueError(msg)
        return point, largest if "dose" in given else high


def _results(trials: Iterable[Observation], problem: Problem) -> Iterable[dict[str, float]]:
    own = {"semiangle": problem.description.semiangle} if len(_names(problem)) > SEMIANGLE else {}
    for trial in trials:
        deviation = math.sqrt(trial.variance or 0.0)
        yield own | trial.settings.model_dump() | {OBJECTIVE: trial.score or 0.0, DEVIATION: deviation}

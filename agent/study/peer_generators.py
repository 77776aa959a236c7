"""Other people's optimisers as gest-api generators, for studies only: Ax, Optuna and scikit-optimize.

They choose step and defocus. The dose is left to the door (`agent.policy.generators`), which gives every trial the same
electrons: an optimiser that knows no price would always ask for the most. None of them is a dependency.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, ClassVar

from gest_api.generator import Generator
from gest_api.vocs import VOCS

from agent.policy.generators import OBJECTIVE, PREFIX
from agent.policy.score_model import deterministic_torch

_PACKAGES = {"ax": ("ax", "ax-platform"), "optuna": ("optuna", "optuna"), "skopt": ("skopt", "scikit-optimize")}
"""Name -> module, distribution."""
_CLASSES = {
    "ax": "AxGenerator",
    "ax-4": "AxFewStartsGenerator",
    "optuna": "OptunaGenerator",
    "optuna-4": "OptunaFewStartsGenerator",
    "skopt": "SkoptGenerator",
    "skopt-4": "SkoptFewStartsGenerator",
}
FEW = 4
"""Starts that a small budget leaves something to choose."""


def peer_policy(name: str) -> str:
    """How a campaign names a peer as its policy.

    Args:
        name: out of `agent.study.comparison.PEERS`.
    """
    return f"{PREFIX}{__name__}:{_CLASSES[name]}"


def missing(name: str) -> str | None:
    """Why a peer cannot be compared with, in a sentence; None where it can.

    Args:
        name: out of `agent.study.comparison.PEERS`.
    """
    module, distribution = _PACKAGES[name.removesuffix(f"-{FEW}")]
    if find_spec(module) is not None:
        return None
    return (
        f"{name} is not installed and was left out; `pip install {distribution}` in this environment compares with it"
    )


class _Peer(Generator):  # type: ignore[misc]  # untyped
    """What they have in common: discrete variables are ordered and go by the number of their value.

    Args:
        vocs: variables and objective of the campaign.
        seed: of everything random.
    """

    starts: ClassVar[int]

    def __init__(self, vocs: VOCS, *, seed: int = 0) -> None:
        super().__init__(vocs)
        self.seed = seed
        self._levels = {
            name: sorted(each.values) if hasattr(each, "values") else None
            for name, each in vocs.variables.items()
            if name != "dose"
        }
        self._bounds = {name: tuple(vocs.variables[name].domain) for name, each in self._levels.items() if each is None}
        self._told: list[dict[str, Any]] = []

    def _validate_vocs(self, vocs: VOCS) -> None:
        """Whatever a campaign asks for is possible."""

    def ingest(self, results: list[dict[str, Any]]) -> None:
        """Note points with their scores.

        Args:
            results: with the variables and the objective.
        """
        self._told += results

    def suggest(self, num_points: int | None = None) -> list[dict[str, Any]]:
        """The next point, and no more.

        Args:
            num_points: 1 or None.
        """
        if num_points not in (None, 1):
            msg = f"one point at a time, not {num_points}"
            raise ValueError(msg)
        chosen = self._ask()
        return [{name: self._value(name, chosen[name]) for name in self._levels}]

    def _ask(self) -> dict[str, float]:
        """Coordinates of the next point."""
        raise NotImplementedError

    def _value(self, name: str, coordinate: float) -> float:
        levels = self._levels[name]
        return float(coordinate if levels is None else levels[round(coordinate)])

    def _coordinates(self, result: dict[str, Any]) -> dict[str, float]:
        """Of a point that was told."""
        found: dict[str, float] = {}
        for name, levels in self._levels.items():
            value = float(result[name])
            found[name] = value if levels is None else min(range(len(levels)), key=lambda i: abs(levels[i] - value))
        return found

    def _scores(self) -> Sequence[tuple[dict[str, float], float]]:
        return [(self._coordinates(each), float(each[OBJECTIVE])) for each in self._told]


class OptunaGenerator(_Peer):
    """Optuna's default sampler, a tree of Parzen estimators, with its defaults."""

    starts = 10

    def _ask(self) -> dict[str, float]:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        axes: dict[str, Any] = {
            name: optuna.distributions.FloatDistribution(*self._bounds[name])
            if levels is None
            else optuna.distributions.IntDistribution(0, len(levels) - 1)
            for name, levels in self._levels.items()
        }
        # made anew for each trial, it must not draw the same random start each time
        sampler = optuna.samplers.TPESampler(seed=1000 * self.seed + len(self._told), n_startup_trials=self.starts)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        for point, score in self._scores():
            study.add_trial(optuna.trial.create_trial(params=point, distributions=axes, value=score))
        asked: dict[str, float] = study.ask(axes).params
        return asked


class OptunaFewStartsGenerator(OptunaGenerator):
    """The same with few random starts."""

    starts = FEW


class SkoptGenerator(_Peer):
    """scikit-optimize's `Optimizer`, a Gaussian process with hedged acquisition, with its defaults."""

    starts = 10

    def _ask(self) -> dict[str, float]:
        from skopt import Optimizer
        from skopt.space import Integer, Real

        axes = [
            Real(*self._bounds[name]) if levels is None else Integer(0, len(levels) - 1)
            for name, levels in self._levels.items()
        ]
        optimizer = Optimizer(axes, random_state=1000 * self.seed + len(self._told), n_initial_points=self.starts)
        if told := self._scores():
            optimizer.tell([list(point.values()) for point, _ in told], [-score for _, score in told])
        return dict(zip(self._levels, optimizer.ask(), strict=True))


class SkoptFewStartsGenerator(SkoptGenerator):
    """The same with few random starts."""

    starts = FEW


class AxGenerator(_Peer):
    """Ax with the strategy that it chooses by itself: the middle, a Sobol sequence, then a Gaussian process."""

    starts = 5

    def _ask(self) -> dict[str, float]:
        from ax.api.client import Client
        from ax.api.configs import ChoiceParameterConfig, RangeParameterConfig

        for logger in [each for each in logging.root.manager.loggerDict if each.startswith("ax.")]:
            logging.getLogger(logger).setLevel(logging.ERROR)
        axes = [
            RangeParameterConfig(name=name, parameter_type="float", bounds=self._bounds[name])
            if levels is None
            else ChoiceParameterConfig(
                name=name, parameter_type="int", values=list(range(len(levels))), is_ordered=True
            )
            for name, levels in self._levels.items()
        ]
        with deterministic_torch(self.seed + len(self._told)):
            client = Client(random_seed=self.seed)
            client.configure_experiment(parameters=axes)
            client.configure_optimization(objective=OBJECTIVE)
            told = self._scores()
            begins = len(told) < self.starts
            client.configure_generation_strategy(  # with a middle to begin with it would not go on to its model at once
                initialization_budget=self.starts, initialization_random_seed=self.seed, initialize_with_center=begins
            )
            if begins:  # the same sequence each time, of which the next point is wanted
                asked = client.get_next_trials(max_trials=len(told) + 1)
            else:
                for point, score in told:
                    client.complete_trial(client.attach_trial(point), raw_data={OBJECTIVE: score})
                asked = client.get_next_trials(max_trials=1)
            chosen: dict[str, float] = asked[max(asked)]
            return chosen


class AxFewStartsGenerator(AxGenerator):
    """The same with few starts."""

    starts = FEW

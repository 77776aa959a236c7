"""Other people's searchers behind our protocol, for studies only: Optuna's default and scikit-optimize's.

Neither is a dependency. Where one is not installed the study says so and goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agent.errors import AgentError
from agent.tuning.records import TuningTrial
from agent.tuning.searcher import Proposed, Searcher
from agent.tuning.space import Dimension, Space, Value
from agent.tuning.standing import gains

PEERS = ("optuna", "skopt")
LOST = -1.0
"""Relative gain of a trial that came to nothing."""


class MissingPeerError(AgentError):
    """A searcher is not installed."""


def peer(name: str, space: Space, seed: int) -> Searcher:
    """Another searcher with its own defaults.

    Args:
        name: out of PEERS.
        space: to search.
        seed: of it.

    Raises:
        MissingPeerError: it is not installed.
    """
    try:
        return _Optuna(space, seed) if name == "optuna" else _Skopt(space, seed)
    except ImportError as error:
        package = {"optuna": "optuna", "skopt": "scikit-optimize"}[name]
        msg = f"{name} is not installed and was left out; `pip install {package}` in this environment compares with it"
        raise MissingPeerError(msg) from error


def _result(trials: Sequence[TuningTrial], number: int) -> float:
    at = gains(trials, trials[0].stage)
    return max(at[number].relative, LOST) if number in at else LOST


class _Optuna:
    def __init__(self, space: Space, seed: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._space = space
        self._study: Any = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
        self._asked: dict[int, Any] = {}

    def propose(self, trials: Sequence[TuningTrial], number: int) -> list[Proposed]:
        """See Searcher."""
        for trial in trials:
            if trial.number in self._asked and (trial.stage >= 0 or trial.error is not None):
                self._study.tell(self._asked.pop(trial.number), _result(trials, trial.number))
        found: list[Proposed] = []
        for offset in range(number):
            asked = self._study.ask()
            self._asked[len(trials) + offset] = asked
            values = {each.name: self._suggested(asked, each) for each in self._space.dimensions}
            found.append((self._space.plain(values), "drawn", "optuna"))
        return found

    @staticmethod
    def _suggested(asked: Any, each: Dimension) -> Value:
        if each.kind in ("choice", "switch"):
            value: Value = asked.suggest_categorical(each.name, list(each.levels))
            return value
        if each.kind == "integer":
            level: Value = each.levels[asked.suggest_int(each.name, 0, len(each.levels) - 1)]
            return level
        return each.value(asked.suggest_float(each.name, 0.0, 1.0))


class _Skopt:
    def __init__(self, space: Space, seed: int) -> None:
        from skopt import Optimizer
        from skopt.space import Categorical, Integer, Real

        self._space = space
        axes: list[Any] = []
        for each in space.dimensions:
            if each.kind in ("choice", "switch"):
                axes.append(Categorical(list(range(len(each.levels)))))
            else:
                axes.append(Real(0.0, 1.0) if each.kind == "number" else Integer(0, len(each.levels) - 1))
        self._optimizer: Any = Optimizer(axes, random_state=seed)
        self._asked: dict[int, list[Any]] = {}

    def propose(self, trials: Sequence[TuningTrial], number: int) -> list[Proposed]:
        """See Searcher."""
        for trial in trials:
            if trial.number in self._asked and (trial.stage >= 0 or trial.error is not None):
                self._optimizer.tell(self._asked.pop(trial.number), -_result(trials, trial.number))
        found: list[Proposed] = []
        for offset in range(number):
            asked = self._optimizer.ask()
            self._asked[len(trials) + offset] = asked
            values = {
                each.name: each.value(float(x)) if each.kind == "number" else each.levels[int(x)]
                for each, x in zip(self._space.dimensions, asked, strict=True)
            }
            found.append((self._space.plain(values), "drawn", "skopt"))
        return found

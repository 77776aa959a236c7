"""Which values are tried next: BoTorch's Gaussian process over mixed spaces, with the stage as one more coordinate.

The model is `MixedSingleTaskGP` (numbers, integers and switches under one kernel, choices under a categorical one), what it
maximises the noisy expected improvement of a whole reconstruction (Ament et al., NeurIPS 2023), over integers and choices as
such (`optimize_acqf_mixed_alternating`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from agent.tuning.records import TuningTrial
from agent.tuning.space import Space, Value
from agent.tuning.standing import gains

Origin = Literal["one changed", "drawn", "model"]
Proposed = tuple[dict[str, Value], Origin, str]
"""Values, where they come from, and why in words."""

FIT_STEPS = 40
SAMPLES, RAW, RESTARTS = 32, 32, 1
"""Of the acquisition function's maximisation: cheap beside a reconstruction."""
STEPS = {"maxiter_alternating": 3, "maxiter_discrete": 3, "maxiter_continuous": 5}
FEWEST_JUDGED = 8
"""Trials that a model needs."""
MOST_PROPOSED = 5
"""Trials that one model proposes: it knows nothing of what they will come to."""
WORST = 2.0
"""A trial that diverged counts like the worst one, so many units of the model below the start at most."""


class Searcher(Protocol):
    """What proposes values."""

    def propose(self, trials: Sequence[TuningTrial], number: int) -> list[Proposed]:
        """Values to try next.

        Args:
            trials: so far, the start first; some may not have been judged yet.
            number: how many are wanted.
        """
        ...


class RandomSearcher:
    """Draws over the whole space: what the model is compared with.

    Args:
        space: to draw from.
        seed: of the sequence.
    """

    def __init__(self, space: Space, seed: int) -> None:
        self._space, self._seed = space, seed

    def propose(self, trials: Sequence[TuningTrial], number: int) -> list[Proposed]:
        """See Searcher."""
        points = sobol(self._space, len(trials) - 1 + number, self._seed)[-number:]
        return [(self._space.values(point), "drawn", "") for point in points]


class ModelSearcher:
    """First one setting changed at a time, and draws over the whole space; then what the model promises most of.

    Args:
        space: to search.
        drawn: trials drawn at random.
        stages: of the ladder.
        seed: of draws and of the model.
    """

    def __init__(self, space: Space, drawn: int, stages: int, seed: int) -> None:
        self._space, self._stages, self._seed = space, stages, seed
        self._first = self._one_changed()
        self._first += [(space.values(point), "drawn", "") for point in sobol(space, drawn, seed)]
        self.doubts: list[str] = []

    def propose(self, trials: Sequence[TuningTrial], number: int) -> list[Proposed]:
        """See Searcher."""
        begun = len(trials) - 1
        found: list[Proposed] = list(self._first[begun : begun + number])
        missing = min(number - len(found), MOST_PROPOSED)
        judged = sum(trial.stage >= 0 for trial in trials)
        if missing and judged >= FEWEST_JUDGED:
            try:
                return found + self._modelled(trials, found, missing)
            except Exception as error:  # a fit that fails must not end a search
                self.doubts.append(f"the model could not be fitted ({type(error).__name__}); drawn at random instead")
        if (missing := number - len(found)) > 0:
            points = sobol(self._space, missing, self._seed + 1000 + begun)
            found += [(self._space.values(point), "drawn", "") for point in points]
        return found

    def _one_changed(self) -> list[Proposed]:
        """Each dimension by itself: a choice and a switch to every other value, a number or integer one way and the other."""
        found: list[Proposed] = []
        for each in self._space.dimensions:
            start = self._space.start[each.name]
            if each.kind in ("choice", "switch"):
                others = [level for level in each.levels if level != start]
            else:
                at = each.place(start)
                others = [each.value(at * 0.4)] * (at > 0.1) + [each.value(1 - (1 - at) * 0.6)] * (at < 0.9)
            for value in dict.fromkeys(others):
                whole = {**self._space.start, each.name: value}
                if each.name == "slice_spacing":
                    whole["slices"] = 2 if self._space.start.get("slices", 1) == 1 else self._space.start["slices"]
                values = self._space.plain(whole)
                if self._space.changed(values):
                    found.append((values, "one changed", f"{each.name} {value}"))
        order = np.random.default_rng(self._seed).permutation(len(found))
        return [found[i] for i in order]

    def _modelled(self, trials: Sequence[TuningTrial], also: Sequence[Proposed], number: int) -> list[Proposed]:
        import torch

        from agent.policy.score_model import deterministic_torch

        with deterministic_torch(self._seed + len(trials)):
            places, stage, target = self._observed(trials)
            model = _fitted(self._space, places, stage, target)
            waiting = [self._space.point(t.values) for t in trials if t.stage < 0 and t.error is None]
            waiting += [self._space.point(values) for values, _, _ in also]
            seen = [tuple(sorted(t.values.items(), key=str)) for t in trials]
            found: list[Proposed] = []
            for _ in range(number):
                point, promise = _best(self._space, model, places, waiting)
                waiting.append(point)
                values = self._space.values(point)
                key = tuple(sorted(values.items(), key=str))
                if key in seen:
                    continue
                seen.append(key)
                with torch.no_grad():
                    at = model.posterior(_tensor(point, 1.0)[None])
                    mean, sd = float(at.mean), float(at.variance.clamp_min(0).sqrt())
                why = f"expected {mean:+.2g} ± {sd:.2g} in the model's units (start 0), log improvement {promise:.2g}"
                found.append((values, "model", why))
            return found

    def _observed(
        self, trials: Sequence[TuningTrial]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Coordinates (m, d), stage 0 … 1 (m,), and how good each was (m,); one line for each stage of each trial."""
        lines: list[tuple[NDArray[np.float64], float, float]] = []
        for stage in range(self._stages):
            at = {number: each.relative for number, each in gains(trials, stage).items()}
            if len(at) < 2:
                continue
            scale = float(np.median(np.abs([value for number, value in at.items() if number != 0]))) or 1e-6
            # what diverged is as bad as the worst: how bad says nothing of where the best are
            good = {number: max(math.asinh(value / scale), -WORST) for number, value in at.items()}
            part = stage / max(self._stages - 1, 1) if self._stages > 1 else 1.0
            lines += [(self._space.point(trials[n].values), part, value) for n, value in good.items()]
            failed = [t for t in trials if t.error is not None and t.stage == stage - 1]
            lines += [(self._space.point(t.values), part, min(good.values())) for t in failed]
        return (
            np.array([x for x, _, _ in lines]),
            np.array([s for _, s, _ in lines]),
            np.array([y for _, _, y in lines]),
        )


def sobol(space: Space, number: int, seed: int) -> NDArray[np.float64]:
    """(number, d) coordinates of a scrambled Sobol sequence; a choice's are its numbers."""
    if number < 1:
        return np.zeros((0, len(space.dimensions)))
    from scipy.stats import qmc  # slow to import, and `ptychopilot report` does not need it

    sequence = qmc.Sobol(len(space.dimensions), rng=np.random.default_rng(seed))
    points = sequence.random_base2(max(1, math.ceil(math.log2(number))))[:number]
    for column, each in enumerate(space.dimensions):
        if each.kind == "choice":
            points[:, column] = np.minimum(np.floor(points[:, column] * len(each.levels)), len(each.levels) - 1)
    return np.asarray(points)


def _tensor(points: NDArray[np.float64], stage: Any) -> Any:
    """(m, d + 1) with the stage behind the coordinates."""
    import torch

    points = np.atleast_2d(points)
    return torch.as_tensor(np.column_stack([points, np.broadcast_to(stage, len(points))]), dtype=torch.double)


def _choices(space: Space) -> dict[int, list[float]]:
    return {i: list(each.places or ()) for i, each in enumerate(space.dimensions) if each.kind == "choice"}


def _fitted(space: Space, places: NDArray[np.float64], stage: NDArray[np.float64], target: NDArray[np.float64]) -> Any:
    import torch
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import MixedSingleTaskGP, SingleTaskGP
    from gpytorch.mlls import ExactMarginalLogLikelihood

    x, y = _tensor(places, stage), torch.as_tensor(target, dtype=torch.double)[:, None]
    choices = list(_choices(space))
    model = MixedSingleTaskGP(x, y, cat_dims=choices) if choices else SingleTaskGP(x, y)
    fit_gpytorch_mll(
        ExactMarginalLogLikelihood(model.likelihood, model), optimizer_kwargs={"options": {"maxiter": FIT_STEPS}}
    )
    return model


def _best(
    space: Space, model: Any, places: NDArray[np.float64], waiting: Sequence[NDArray[np.float64]]
) -> tuple[NDArray[np.float64], float]:
    """Coordinates (d,) of the largest expected improvement of a whole reconstruction, and its logarithm."""
    import torch
    from botorch.acquisition.logei import qLogNoisyExpectedImprovement
    from botorch.optim.optimize_mixed import optimize_acqf_mixed_alternating
    from botorch.sampling import SobolQMCNormalSampler

    d = len(space.dimensions)
    promise = qLogNoisyExpectedImprovement(
        model,
        _tensor(np.unique(places, axis=0), 1.0),
        sampler=SobolQMCNormalSampler(torch.Size([SAMPLES])),
        prune_baseline=True,
        X_pending=_tensor(np.array(waiting), 1.0) if waiting else None,
    )
    choices = _choices(space)
    ordered: Mapping[int, list[float]] = {
        i: list(each.places) for i, each in enumerate(space.dimensions) if each.places is not None and i not in choices
    }
    upper = [float(len(each.levels) - 1) if each.kind == "choice" else 1.0 for each in space.dimensions] + [1.0]
    bounds = torch.stack([torch.zeros(d + 1), torch.tensor(upper)]).double()
    point, value = optimize_acqf_mixed_alternating(
        promise, bounds, discrete_dims=ordered, cat_dims=choices, fixed_features={d: 1.0},
        q=1, raw_samples=RAW, num_restarts=RESTARTS, options=dict(STEPS),
    )  # fmt: skip
    return np.asarray(point[0, :d].detach().numpy(), np.float64), float(value)

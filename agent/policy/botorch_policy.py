"""Bayesian optimisation: Sobol start, then a Gaussian process of the score decides."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

import numpy as np

from agent.policy.apertures import search_space
from agent.policy.base import Observation, Problem
from agent.policy.baselines import DOSE_SPREAD, sobol_point
from agent.policy.best_picture import BestPicture
from agent.policy.book import ExplorationBudget, ObservationBook
from agent.policy.cheapest import Cheapest
from agent.policy.coordinates import as_settings
from agent.policy.final import recommend_best_observed
from agent.policy.limits import DOSE, Array
from agent.policy.prior import MANY, EnsembleModel, Prior, load_prior
from agent.policy.proposal import ModelGoal, PictureModel, Proposal, Stop
from agent.policy.score_model import FIT_FAILURES, ScoreModel, deterministic_torch
from agent.records import Alternative, ModelView, Recommendation, Suggestion

MINIMUM_SCORES = 2
"""Scored trials below which there is no model without a prior."""
JUDGING_SCORES = 3
"""Scored trials from which a prior is judged."""
CHECK_EVERY = 3
"""With a prior every third trial is of the Sobol sequence: a prior is judged where it would not have looked."""
REJECTION = 2.0
"""By how much the trials' leave-one-out density, ln, may be worse with the prior than without."""
ONE_SETTING = "step, defocus and dose are fixed, so these are the only settings"


class BotorchPolicy:
    """suggest/ingest around agent.policy.score_model and a goal (agent.policy.best_picture, agent.policy.cheapest).

    A suggestion is a function of the observations, the seed and the number of the trial: torch and Sobol are seeded anew
    for each. Where the fit fails the Sobol sequence goes on, and the reason says so.
    """

    name = "botorch"

    def __init__(self, problem: Problem, seed: int) -> None:
        """Prepare a campaign.

        Args:
            problem: the campaign's.
            seed: of everything random.

        Raises:
            BadInputError: where no settings are legal, or where the electrons pay for no exploration or final acquisition.
        """
        self.problem = problem
        self.seed = seed
        self.space = search_space(problem.description, problem.config, problem.overheads)
        self.budget = ExplorationBudget(problem, self.space)
        self.book = ObservationBook()
        goals: dict[str, type[BestPicture] | type[Cheapest]] = {"best_picture": BestPicture, "cheapest": Cheapest}
        self.prior = load_prior(problem)
        self.refined = load_prior(problem, problem.twins) if problem.twins else None
        self.memory = _taught(self.prior, problem)
        self.stop_reason: str | None = None
        self._fitted: PictureModel | str | None = None
        self.goal: ModelGoal = goals[problem.config.goal.kind](problem, self.space, self.budget)

    def ingest(self, observations: Iterable[Observation]) -> None:
        """See Policy."""
        self.book.ingest(observations)
        self._fitted = None
        self.goal.learn(self.book)

    def suggest(self, n_points: int = 1) -> list[Suggestion]:
        """See Policy. Each of several points is chosen as if those before it were pending."""
        book = self.book
        suggestions: list[Suggestion] = []
        while len(suggestions) < n_points and not self.budget.is_over(book):
            following = self._next(book)
            if isinstance(following, Stop):
                self.stop_reason = following.reason
                break
            suggestions.append(following)
            book = book.with_pending(following.settings)
        return suggestions

    def recommend(self, electrons_left: float) -> Recommendation:
        """See Policy: the settings that the model expects to serve the goal best; without a model the best trial."""
        with deterministic_torch(self.seed):
            model = self._model(self.book)
            if not isinstance(model, str):
                return self.goal.recommend(model, electrons_left)
        best = recommend_best_observed(self.book.scored_trials, self.problem, self.space, electrons_left)
        return best.model_copy(update={"reason": f"{best.reason}; {model}"})

    def view(self, electrons_left: float) -> ModelView | None:
        """See Policy. None before there is a model. After `suggest` or `recommend` nothing is fitted any more."""
        with deterministic_torch(self.seed):
            model = self._model(self.book)
            return None if isinstance(model, str) else self.goal.view(model, electrons_left)

    def _next(self, book: ObservationBook) -> Suggestion | Stop:
        seed = int(np.random.default_rng([self.seed, book.next_number]).integers(2**31))
        with deterministic_torch(seed):
            model = self._model(book)
            known = None if isinstance(model, str) else model
            exploration = self.problem.config.exploration
            number = len(book.exploration) + 1
            with_prior = isinstance(model, EnsembleModel)
            checks = with_prior and number % CHECK_EVERY == 0 and number < exploration.trials
            if known is not None and not checks and (with_prior or number > exploration.initial):
                proposal = self._propose(known, book, seed)
                if isinstance(proposal, Stop):
                    return proposal
                if isinstance(proposal, Proposal):
                    return self._suggestion(proposal, known, book)
                why = proposal
            elif not self.space.variables:
                return self._suggestion(Proposal(self._sobol(book), ONE_SETTING), None, book)
            elif checks:
                why = "where the prior would not have looked, to judge it"
            elif number <= exploration.initial:
                why = f"{number} of {exploration.initial} before the model chooses"
            else:
                why = str(model)
            sobol = Proposal(self._sobol(book), f"Sobol trial: {why}")
            return self._suggestion(sobol, known, book, source="sobol")

    def _propose(self, model: PictureModel, book: ObservationBook, seed: int) -> Proposal | Stop | str:
        """What the goal makes of the model; numerical trouble never ends a campaign."""
        try:
            return self.goal.propose(model, book, seed)
        except FIT_FAILURES as error:
            return f"the model could not be used ({type(error).__name__})"

    def _model(self, book: ObservationBook) -> PictureModel | str:
        """The model of everything scored, or why there is none; fitted once, since pending trials do not change it."""
        if self._fitted is None:
            self._fitted = self._fit(book)
        return self._fitted

    def _fit(self, book: ObservationBook) -> PictureModel | str:
        scored = book.scored_trials
        if not self.space.variables:
            return ONE_SETTING
        points = self.space.points(o.settings for o in scored)
        scores = np.array([o.score for o in scored], dtype=np.float64)
        variances = np.array([o.variance for o in scored], dtype=np.float64)
        knees = np.array([o.knee for o in scored if o.knee is not None], dtype=np.float64)
        with_prior = self._with_prior(points, scores, variances, knees, book.defocus_offset)
        if with_prior is not None and len(scored) < JUDGING_SCORES:
            return with_prior
        if len(scored) < MINIMUM_SCORES:
            return f"there is no model with {len(scored)} scored trials"
        try:
            alone = ScoreModel.fit(self.space.coordinates, points, scores, variances, knees)
            if with_prior is None or alone.leave_one_out() - with_prior.leave_one_out() > REJECTION:
                return alone
        except FIT_FAILURES as error:
            if with_prior is None:
                return f"the model could not be fitted ({type(error).__name__})"
        return with_prior

    def _with_prior(
        self, points: Array, scores: Array, variances: Array, knees: Array, offset: float
    ) -> EnsembleModel | None:
        """With what this column has taught, earlier or by its calibration, unless the ensemble alone foretells the trials better.

        None: without prior.
        """
        fitted: list[EnsembleModel] = []
        refined = self.refined if len(points) < MANY else None  # so many trials know more, and three fits take long
        for prior in (self.memory, refined, self.prior):
            if prior is not None:
                with suppress(*FIT_FAILURES):
                    fitted.append(EnsembleModel.fit(prior, points, scores, variances, knees, offset))
        if len(fitted) < 2 or len(points) < JUDGING_SCORES:
            return fitted[0] if fitted else None
        return max(fitted, key=lambda model: model.leave_one_out())

    def _told(self, model: PictureModel | None) -> str | None:
        """What a model is made of, for the reader."""
        if model is None:
            return None
        if self.prior is None:
            return "trials alone"
        if isinstance(model, EnsembleModel):
            if model.prior.earlier:
                return f"{model.prior.earlier} trials of an earlier campaign on this column"
            ensemble = f"the prior of {self.prior.members} simulated columns"
            if self.refined is None or len(model.points) >= MANY:
                return ensemble
            like = f"{self.refined.twins} simulated as this one was measured"
            if model.prior.twins:
                return f"{ensemble} and {like}"
            return f"{ensemble}; {like} foretell the trials worse and were left out"
        return f"trials alone: the prior of {self.prior.members} simulated columns does not fit them and was dropped"

    def _sobol(self, book: ObservationBook) -> Array:
        even, largest = self.budget.even_dose(book), self.budget.largest_dose(book)
        dose_max = max(min(DOSE_SPREAD[1] * even, largest), self.budget.smallest_dose)
        return sobol_point(self.space, book, self.seed, dose_min=DOSE_SPREAD[0] * even, dose_max=dose_max)

    def _suggestion(
        self, proposal: Proposal, model: PictureModel | None, book: ObservationBook, source: str | None = None
    ) -> Suggestion:
        points = np.stack([proposal.point, *(r.point for r in proposal.rejected)])
        settings = [as_settings(p) for p in points]
        predicted: list[float | None] = [None] * len(points)
        predicted_sd: list[float | None] = [None] * len(points)
        data_share = None
        if model is not None:
            mean, sd = model.predict(points)
            data_share = float(model.data_share(points[:1])[0])
            predicted = [float(m) for m in mean]
            predicted_sd = [float(s) for s in np.sqrt(sd**2 + model.noise.variance(points[:, DOSE]))]
        return Suggestion(
            settings=settings[0],
            source=source or self.name,
            reason=proposal.reason,
            predicted=predicted[0],
            predicted_sd=predicted_sd[0],
            constraint=self.space.active_constraint(settings[0]),
            nearest_trial=book.nearest(points[0], self.space),
            data_share=data_share,
            explore_share=proposal.explore_share,
            improvement=proposal.improvement,
            model=self._told(model),
            alternatives=tuple(
                Alternative(settings=s, predicted=m, predicted_sd=d, reason=r.reason)
                for s, m, d, r in zip(settings[1:], predicted[1:], predicted_sd[1:], proposal.rejected, strict=True)
                if m is not None and d is not None
            ),
        )


def _taught(prior: Prior | None, problem: Problem) -> Prior | None:
    """The prior after an earlier campaign; None where there was none, or too little came of it."""
    book = ObservationBook()
    book.ingest(problem.earlier)
    scored = book.scored_trials
    if prior is None or len(scored) < JUDGING_SCORES:
        return None
    with suppress(*FIT_FAILURES):
        return prior.taught(scored)
    return None

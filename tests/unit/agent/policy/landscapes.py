"""A made-up score with an optimum that is known, and campaigns that explore it without an instrument."""

import numpy as np
from examples import description

from agent.config import AreaOfInterest, CampaignConfig, Exploration
from agent.policy import Observation, Problem, make_policy
from agent.search_choice import Search

TRIAL_AREA, FINAL_AREA = 900.0, 3600.0


def problem(policy="botorch", *, trials=10, initial=4, share=0.5, instrument=None, target=None, **changes):
    values = {
        "name": "test",
        "electrons": 2e7,
        "area": AreaOfInterest(height=60, width=60),
        "exploration": Exploration(height=30, width=30, trials=trials, initial=initial, share=share),
        "search": Search(step=(0.4, 3.0), defocus=(0.0, 700.0)),
        "policy": policy,
        "prior": "none",
        "expert": (0.85, 500.0),
    }
    config = CampaignConfig(**(values | changes))
    return Problem(instrument or description(), config, FINAL_AREA, TRIAL_AREA, target)


class Landscape:
    """A smooth optimum in (log step, defocus) that differs from seed to seed; the score grows as log2(1 + D·q/D₀)."""

    def __init__(self, seed, noise=0.04, knee=500.0):
        generator = np.random.default_rng(seed)
        self.step, self.defocus = np.exp(generator.uniform(np.log(0.7), np.log(2.0))), generator.uniform(120, 350)
        self.widths = generator.uniform(0.4, 0.8), generator.uniform(100, 220)
        self.noise, self.knee = noise, knee
        self.generator = generator

    def truth(self, settings):
        a = np.log(settings.step / self.step) / self.widths[0]
        b = (settings.defocus - self.defocus) / self.widths[1]
        return float(np.log2(1 + settings.dose / self.knee * (0.15 + 0.85 / (1 + a**2 + b**2))))

    def observe(self, trial, settings, overhead=1.0):
        return Observation(
            trial=trial,
            settings=settings,
            state="done",
            score=self.truth(settings) + self.noise * float(self.generator.normal()),
            variance=self.noise**2,
            electrons=settings.dose * TRIAL_AREA * overhead,
        )


def explore(policy, landscape, overhead=1.0):
    """A campaign in which each trial is suggested while the one before is still pending. Returns what was suggested."""
    suggestions, under_way = [], []
    while len(suggestions) < policy.problem.config.exploration.trials:
        suggested = policy.suggest()
        if not suggested:
            break
        suggestions += suggested
        under_way.append((len(suggestions), suggested[0].settings))
        policy.ingest([Observation(trial=len(suggestions), settings=suggested[0].settings, state="pending")])
        if len(under_way) == 2:
            policy.ingest([landscape.observe(*under_way.pop(0), overhead)])
    policy.ingest([landscape.observe(number, settings, overhead) for number, settings in under_way])
    return suggestions


def spent(suggestions, overhead=1.0):
    return sum(s.settings.dose for s in suggestions) * TRIAL_AREA * overhead


def scored_policy(task, seed=0, count=6, landscape=None):
    policy = make_policy(task, seed)
    landscape = landscape or Landscape(2)
    for number in range(1, count + 1):
        policy.ingest([landscape.observe(number, policy.suggest()[0].settings)])
    return policy

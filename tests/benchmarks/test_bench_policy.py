"""Seconds from the last score to the next suggestion: fit of the Gaussian process and choice of the settings."""

import numpy as np
import pytest
from examples import description

from agent.config import AreaOfInterest, CampaignConfig, Exploration, Search
from agent.policy import Observation, Problem, make_policy
from agent.policy.coordinates import as_settings


@pytest.mark.parametrize("trials", [10, 50, 200])
def test_suggestion(benchmark, trials):
    config = CampaignConfig(
        name="bench",
        electrons=2e6 * (trials + 1),
        area=AreaOfInterest(height=60, width=60),
        exploration=Exploration(height=30, width=30, trials=trials + 1, initial=4),
        search=Search(step=(0.4, 3.0), defocus=(0.0, 700.0)),
    )
    policy = make_policy(Problem(description(), config, 3600.0, 900.0), 0)
    generator = np.random.default_rng(0)
    for number, point in enumerate(policy.space.draw(generator.random((trials, 3)), dose_min=300, dose_max=1000), 1):
        settings = as_settings(point)
        quality = 1 / (1 + np.log(settings.step) ** 2 + ((settings.defocus - 200) / 200) ** 2)
        score = float(np.log2(1 + settings.dose / 500 * quality) + 0.05 * generator.normal())
        policy.ingest([Observation(trial=number, settings=settings, state="done", score=score, variance=0.0025)])
    suggestion = benchmark(lambda: policy.suggest()[0])
    assert suggestion.source == "botorch"
    assert suggestion.predicted is not None
    assert "expected to improve" in suggestion.reason

"""Seconds from the last score to the next suggestion: fit of the Gaussian process and choice of the settings."""

import numpy as np
import pytest
from examples import description

from agent.config import AreaOfInterest, CampaignConfig, Exploration
from agent.policy import Observation, Problem, make_policy
from agent.policy.coordinates import as_settings
from agent.search_choice import Search


def explored(trials):
    """A policy that knows so many trials, and what it knows."""
    config = CampaignConfig(
        name="bench",
        electrons=2e6 * (trials + 1),
        area=AreaOfInterest(height=60, width=60),
        exploration=Exploration(height=30, width=30, trials=trials + 1, initial=4),
        search=Search(step=(0.4, 3.0), defocus=(0.0, 700.0)),
    )
    policy, told = make_policy(Problem(description(), config, 3600.0, 900.0), 0), []
    generator = np.random.default_rng(0)
    for number, point in enumerate(policy.space.draw(generator.random((trials, 3)), dose_min=300, dose_max=1000), 1):
        settings = as_settings(point)
        quality = 1 / (1 + np.log(settings.step) ** 2 + ((settings.defocus - 200) / 200) ** 2)
        score = float(np.log2(1 + settings.dose / 500 * quality) + 0.05 * generator.normal())
        told.append(Observation(trial=number, settings=settings, state="done", score=score, variance=0.0025))
    return policy, told


@pytest.mark.parametrize("trials", [10, 50, 200, 300])
def test_suggestion(benchmark, trials):
    policy, told = explored(trials)

    def suggest():
        policy.ingest(told)  # or it would not fit its model again
        return policy.suggest()[0]

    suggestion = benchmark(suggest)
    assert suggestion.source == "botorch"
    assert suggestion.predicted is not None
    assert "expected to improve" in suggestion.reason


@pytest.mark.parametrize("trials", [50, 300])
def test_suggestion_of_ax_from_the_same_trials(benchmark, trials):
    """The trials are handed over before the clock runs; it needs the extra `peers`."""
    client_module = pytest.importorskip("ax.api.client")
    configs = pytest.importorskip("ax.api.configs")
    policy, told = explored(trials)
    client = client_module.Client(random_seed=0)
    bounds = {axis.name: (axis.low, axis.high) for axis in policy.space.axes if axis.name != "dose"}
    client.configure_experiment(
        [configs.RangeParameterConfig(name=n, parameter_type="float", bounds=b) for n, b in bounds.items()]
    )
    client.configure_optimization(objective="score")
    client.configure_generation_strategy(initialize_with_center=False)
    for each in told:
        index = client.attach_trial({name: getattr(each.settings, name) for name in bounds})
        client.complete_trial(index, raw_data={"score": each.score})
    assert benchmark.pedantic(lambda: client.get_next_trials(max_trials=1), rounds=3)

"""What may be proposed: only what instrument and campaign allow, and a clear word where that is nothing."""

import math

import numpy as np
import pytest
from examples import description
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.config import AreaOfInterest, CampaignConfig, Exploration
from agent.errors import BadInputError
from agent.policy import SearchSpace
from agent.policy.coordinates import as_settings
from agent.records import Settings
from agent.search_choice import Search
from instrument import OutOfLimitsError, optics
from instrument.models import AcquisitionPlan, Parameter, Rectangle


def campaign(*, trials=8, field=30.0, **changes):
    values = {
        "name": "test",
        "electrons": 2e7,
        "area": AreaOfInterest(height=60, width=60),
        "exploration": Exploration(height=field, width=field, trials=trials, initial=4),
    }
    return CampaignConfig(**(values | changes))


@st.composite
def parameters(draw, low, high, unit):
    kind = draw(st.sampled_from(["continuous", "discrete", "fixed"]))
    a, b = sorted((draw(st.floats(low, high)), draw(st.floats(low, high))))
    if kind == "continuous":
        return Parameter(kind=kind, unit=unit, minimum=a, maximum=b)
    if kind == "fixed":
        return Parameter(kind=kind, unit=unit, values=(a,))
    return Parameter(kind=kind, unit=unit, values=tuple(np.linspace(a, b, draw(st.integers(1, 6)))))


@st.composite
def problems(draw):
    fewest = draw(st.just(0.0) | st.floats(1e-3, 100.0))
    most = fewest + draw(st.floats(1.0, 1e6))
    dwell = draw(st.just(0) | st.integers(1, 5))
    instrument = description(
        step=draw(parameters(0.2, 6.0, "Å")),
        defocus=draw(parameters(-900.0, 900.0, "Å")),
        dose=draw(parameters(1.0, 1e5, "e/Å²")),
        electrons_per_pattern=(fewest, most),
        electrons_per_pattern_values=tuple(np.geomspace(max(fewest, 0.1 * most), most, dwell)) if dwell else None,
        semiangle=draw(st.floats(5.0, 35.0)),
        region_dose_limit=draw(st.none() | st.floats(100.0, 1e6)),
    )
    search = Search(
        defocus=draw(st.none() | st.just((0.0, 500.0))),
        overlap=draw(st.floats(0.0, 0.9)),
        window=draw(st.floats(0.1, 1.0)),
    )
    return instrument, campaign(field=draw(st.floats(5.0, 60.0)), search=search)


def broken_limit(instrument, config, point):
    """The rules once more, written down without any of the code under test."""
    step, defocus, dose = point
    for name, value in zip(("step", "defocus", "dose"), point, strict=True):
        try:
            getattr(instrument, name).check(name, value)
        except OutOfLimitsError:
            return name
        searched = getattr(config.search, name)
        if searched and not searched[0] - 5e-4 <= value <= searched[1] + 5e-4:
            return f"search.{name}"
    few, many = instrument.electrons_per_pattern
    if not few * (1 - 1e-5) <= dose * step**2 <= many * (1 + 1e-5):
        return "electrons per pattern"
    dwell = instrument.electrons_per_pattern_values
    if dwell and not any(math.isclose(dose * step**2, value, rel_tol=1e-7) for value in dwell):
        return "dwell time"
    if (
        1 - step / optics.probe_diameter(instrument.semiangle, defocus, instrument.voltage)
        < config.search.overlap - 1e-5
    ):
        return "overlap"
    widest = optics.largest_defocus(instrument.semiangle, instrument.detector.angular_pixel, instrument.voltage)
    if abs(defocus) > config.search.window * widest * (1 + 1e-5):
        return "window"
    if dose > (instrument.region_dose_limit or np.inf) * (1 + 1e-5):
        return "region dose"
    edge = config.exploration.height
    field = Rectangle(y=0, x=0, height=edge, width=edge)
    plan = AcquisitionPlan(id="a", campaign="c", region="r", field=field, step=step, defocus=defocus, dose=dose)
    return "positions" if min(plan.shape) < 8 else None


HYPOTHESIS = settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
    derandomize=True,
)


@HYPOTHESIS
@given(problems(), st.integers(0, 1000))
def test_every_point_drawn_is_legal_and_only_empty_spaces_are_refused(problem, seed):
    instrument, config = problem
    try:
        space = SearchSpace(instrument, config)
    except BadInputError:
        axes = [
            np.array(p.values) if p.values else np.linspace(*p.bounds, 12)
            for p in (instrument.step, instrument.defocus, instrument.dose)
        ]
        grid = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 3)
        assert all(broken_limit(instrument, config, point) for point in grid[grid[:, 0] < config.exploration.height])
        return
    points = space.draw(np.random.default_rng(seed).random((64, 3)))
    assert len(points) > 0
    for point in points:
        assert broken_limit(instrument, config, point) is None
        assert space.why_illegal(as_settings(point)) is None
        assert point[2] >= space.smallest_dose * (1 - 1e-6)


def test_points_cover_the_whole_legal_range_of_each_setting():
    space = SearchSpace(description(), campaign())
    points = space.draw(np.random.default_rng(0).random((4000, 3)))
    assert len(points) == 4000
    assert points[:, 1].min() < -900
    assert points[:, 1].max() > 900
    assert points[:, 0].min() < 0.25
    assert points[:, 0].max() > 3.5
    assert points[:, 2].min() < 70
    assert points[:, 2].max() > 5e5


@pytest.mark.parametrize(
    ("settings_", "words"),
    [
        (Settings(step=3.0, defocus=50.0, dose=1000.0), "overlap: neighbouring probes overlap by -"),
        (Settings(step=0.3, defocus=200.0, dose=60.0), "electrons per pattern: dose · step² is 5.4"),
        (Settings(step=4.5, defocus=500.0, dose=100.0), "positions: a step of 4.5 Å gives 6"),
        (Settings(step=1.0, defocus=1200.0, dose=1000.0), "defocus: 1200 Å"),
        (Settings(step=1.0, defocus=200.0, dose=10.0), "dose: 10 e/Å², must be 50 … 1e+06"),
        (Settings(step=0.1, defocus=200.0, dose=1e5), "step: 0.1 Å"),
    ],
)
def test_an_illegal_setting_is_named_with_value_and_limit(settings_, words):
    assert words in SearchSpace(description(), campaign()).why_illegal(settings_)


def test_the_probe_has_to_fit_into_the_window():
    space = SearchSpace(description(semiangle=30.0), campaign(search=Search(window=0.5)))
    widest = 0.5 * optics.largest_defocus(30.0, 0.82, 80e3)
    assert space.why_illegal(Settings(step=1.0, defocus=0.99 * widest, dose=1000.0)) is None
    assert "window: the probe disc" in space.why_illegal(Settings(step=1.0, defocus=-1.01 * widest, dose=1000.0))
    assert "window" in space.active_constraint(Settings(step=1.0, defocus=0.99 * widest, dose=1000.0))
    assert space.active_constraint(Settings(step=1.0, defocus=0.5 * widest, dose=1000.0)) is None


def test_the_final_acquisition_is_free_of_what_only_concerns_trials():
    space = SearchSpace(description(), campaign(search=Search(dose=(100.0, 500.0))))
    rich = Settings(step=1.0, defocus=200.0, dose=5000.0)
    assert "dose" in space.why_illegal(rich)
    assert space.why_illegal(rich, final=True) is None


@pytest.mark.parametrize(
    ("instrument", "config", "words"),
    [
        ({}, {"search": Search(step=(6.0, 9.0))}, ["search.step 6 … 9", "0.2 … 5"]),
        ({}, {"search": Search(defocus=(-10.0, 10.0), step=(2.0, 3.0))}, ["overlap", "defocus"]),
        ({}, {"field": 1.0}, ["positions", "step"]),
        ({"electrons_per_pattern": (1e9, 2e9)}, {}, ["electrons per pattern", "dose"]),
        (
            {"step": Parameter(kind="discrete", unit="Å", values=(1.0, 2.0))},
            {"search": Search(step=(1.2, 1.8))},
            ["search.step", "1, 2"],
        ),
    ],
)
def test_an_empty_space_says_which_limits_collide(instrument, config, words):
    with pytest.raises(BadInputError) as error:
        SearchSpace(description(**instrument), campaign(**config))
    assert all(word in str(error.value) for word in words)


def test_a_fixed_defocus_is_no_variable_and_discrete_steps_are_kept():
    steps = (0.5, 1.0, 1.5)
    instrument = description(
        step=Parameter(kind="discrete", unit="Å", values=steps),
        defocus=Parameter(kind="fixed", unit="Å", values=(300.0,)),
    )
    space = SearchSpace(instrument, campaign())
    points = space.draw(np.random.default_rng(1).random((100, 3)))
    assert space.variables == ("step", "dose")
    assert set(points[:, 0]) == set(steps)
    assert set(points[:, 1]) == {300.0}
    assert space.normalize(points).shape == (100, 2)


def test_model_coordinates_know_the_dose():
    space = SearchSpace(description(), campaign())
    points = space.draw(np.random.default_rng(2).random((50, 3)))
    np.testing.assert_allclose(space.dose_of(space.normalize(points)), points[:, 2], rtol=1e-12)


def test_a_defocus_that_is_too_small_for_the_smallest_step_is_never_drawn():
    instrument = description(step=Parameter(kind="continuous", unit="Å", minimum=2.0, maximum=5.0))
    space = SearchSpace(instrument, campaign())
    points = space.draw(np.random.default_rng(3).random((500, 3)))
    assert len(points) == 500
    assert np.abs(points[:, 1]).min() >= 2.0 / 0.6 / (2e-3 * 21.4) * (1 - 1e-6)
    assert (points[:, 1] < 0).any()
    assert (points[:, 1] > 0).any()
    assert math.isclose(space.smallest_dose, 50.0)

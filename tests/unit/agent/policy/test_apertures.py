"""The convergence semi-angle as a fourth, discrete setting, where the instrument offers apertures."""

import numpy as np
import pytest
from examples import description

from agent.config import Goal
from agent.errors import BadInputError
from agent.policy import Problem, make_policy
from agent.policy.apertures import ApertureSpace, search_space
from agent.policy.coordinates import as_points, as_settings
from agent.policy.ensemble import SHIPPED, read_members
from agent.policy.prior import Prior
from agent.records import Settings
from agent.scan_prices import Overhead, Overheads
from agent.search_choice import Search
from instrument import Aperture, optics

from .landscapes import FINAL_AREA, TRIAL_AREA, Landscape, explore, problem, spent

ANGLES = (15.0, 21.4, 30.0)
SEARCH = Search(step=(0.4, 3.0), defocus=(0.0, 700.0), semiangle="auto")


def offering(*angles, **changes):
    return description(apertures=tuple(Aperture(semiangle=angle) for angle in angles or ANGLES), **changes)


class Chromatic(Landscape):
    """A landscape in which one of the apertures is better than the others."""

    def __init__(self, seed, best):
        super().__init__(seed)
        self.best = best

    def truth(self, settings):
        return super().truth(settings) * (1.0 if settings.semiangle == self.best else 0.6)


class AsColumnsAre(Chromatic):
    """The mean of the simulated columns in step, part of the window and dose, better with one of the apertures."""

    def __init__(self, seed, best):
        super().__init__(seed, best)
        self.prior = Prior(read_members(SHIPPED), offering())

    def truth(self, settings):
        u = self.prior.coordinates(as_points([settings], 21.4))
        shape = float((self.prior.weights(u) @ self.prior.mean)[0])
        return np.log2(1 + settings.dose / self.knee) * shape * (1.0 if settings.semiangle == self.best else 0.6)


@pytest.mark.parametrize(("prior", "kind"), [("none", Chromatic), ("zoo", AsColumnsAre)])
@pytest.mark.parametrize("best", [15.0, 30.0])
def test_the_policy_finds_the_aperture_that_gives_the_better_picture(best, prior, kind):
    found = []
    for seed in range(4):
        landscape = kind(seed, best)
        policy = make_policy(problem(instrument=offering(), search=SEARCH, trials=18, prior=prior), seed)
        suggestions = explore(policy, landscape)
        found.append(policy.recommend(1e7).settings.semiangle)
        assert policy.view(1e7).fixed["semiangle"] == found[-1]
        assert {s.settings.semiangle for s in suggestions} <= set(ANGLES)
    assert found.count(best) >= 3, found


VARIANTS = {
    "continuous": {},
    "fixed dwell times": {
        "electrons_per_pattern": (200.0, 20000.0),
        "electrons_per_pattern_values": (200.0, 500.0, 1000.0, 2000.0, 5000.0, 20000.0),
    },
    "saturating detector": {"electrons_per_pattern": (200.0, 1500.0)},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("goal", [Goal(), Goal(kind="cheapest")], ids=["picture", "cheapest"])
@pytest.mark.parametrize("name", ["botorch", "sobol", "random", "grid", "ncem", "phaser", "seed-4", "expert"])
def test_suggestions_keep_to_the_limits_of_their_own_aperture(name, goal, variant):
    instrument = offering(**VARIANTS[variant])
    expert = (1.0, 200.0)
    task = problem(
        name, instrument=instrument, search=SEARCH, trials=6, initial=3, goal=goal, expert=expert, target=1.0
    )
    policy = make_policy(task, 3)
    suggestions = explore(policy, Landscape(5))
    assert suggestions
    recommended = policy.recommend(task.config.electrons - spent(suggestions)).settings
    window = optics.wavelength(80e3) / (instrument.detector.angular_pixel * 1e-3)
    for settings, final in [*((s.settings, False) for s in suggestions), (recommended, True)]:
        assert policy.space.why_illegal(settings, final=final) is None
        behind = instrument.through(settings.semiangle)
        assert 2e-3 * settings.semiangle * abs(settings.defocus) <= 0.8 * window * (1 + 1e-6)
        low, high = behind.electrons_per_pattern
        assert low * (1 - 1e-6) <= settings.dose * settings.step**2 <= high * (1 + 1e-6)
        overlap = 1 - settings.step / optics.probe_diameter(settings.semiangle, settings.defocus, 80e3)
        assert overlap >= 0.4 - 1e-6


def test_what_is_legal_is_said_for_the_aperture_that_is_named():
    space = search_space(offering(), problem(search=SEARCH).config)
    wide = Settings(step=1.0, defocus=690.0, dose=1000.0, semiangle=30.0)
    assert "window" in space.why_illegal(wide)
    assert space.why_illegal(wide.model_copy(update={"semiangle": 15.0})) is None
    assert space.why_illegal(wide.model_copy(update={"semiangle": 25.0})) == (
        "semiangle: 25 mrad, must be one of 15, 21.4, 30 mrad"
    )
    # settings that name none are for the present aperture
    assert space.why_illegal(wide.model_copy(update={"semiangle": None, "defocus": 300.0})) is None


def test_a_trial_through_a_smaller_aperture_pays_less_for_flyback():
    overheads = Overheads(trial=Overhead(per_scan=100.0))
    space = search_space(offering(10.7, 21.4), problem(search=SEARCH).config, overheads)
    points = space.points(Settings(step=1.0, defocus=100.0, dose=500.0, semiangle=a) for a in (10.7, 21.4))
    np.testing.assert_allclose(space.charge(points), [525.0, 600.0])


def test_without_a_search_for_it_the_aperture_stays_and_settings_are_three_numbers():
    space = search_space(offering(), problem().config)
    assert not isinstance(space, ApertureSpace)
    suggestion = make_policy(problem(instrument=offering()), 0).suggest()[0]
    assert suggestion == make_policy(problem(), 0).suggest()[0]
    assert set(suggestion.settings.model_dump()) == {"step", "defocus", "dose"}
    assert as_settings(space.lowest_dose_trial).semiangle is None


def test_an_instrument_that_offers_no_apertures_is_asked_for_none():
    for angles in ("auto", (21.4,)):
        policy = make_policy(problem(search=SEARCH.model_copy(update={"semiangle": angles})), 0)
        assert policy.suggest()[0].settings.semiangle is None


def test_an_aperture_that_is_not_offered_is_refused_with_those_that_are():
    search = Search(semiangle=(15.0, 25.0))
    with pytest.raises(
        BadInputError, match=r"search\.semiangle of 25 mrad is not possible here; legal: 15, 21\.4, 30 mrad"
    ):
        make_policy(problem(instrument=offering(), search=search), 0)
    with pytest.raises(BadInputError, match=r"legal: 21\.4 mrad"):
        make_policy(problem(search=search), 0)
    with pytest.raises(ValueError, match="different semi-angles"):
        Search(semiangle=(15.0, 15.0))


def test_the_prior_of_an_ensemble_transfers_in_parts_of_the_window():
    task = problem(prior="zoo", instrument=offering(), search=SEARCH, trials=6)
    policy = make_policy(task, 0)
    first = policy.suggest()[0]
    assert first.predicted is not None
    prior = policy.prior
    window = optics.largest_defocus(30.0, task.description.detector.angular_pixel, 80e3)
    half = np.array([[1.0, 0.5 * window, 500.0, 30.0], [1.0, 0.5 * window * 2, 500.0, 15.0]])
    np.testing.assert_allclose(prior.coordinates(half)[:, 1], 0.5)
    explore(policy, Chromatic(1, 15.0))
    assert policy.recommend(1e7).settings.semiangle in ANGLES


def test_the_expert_keeps_to_the_usual_aperture_or_else_to_the_present_one():
    for angles, present, wanted in (((15.0, 21.4), 15.0, 21.4), ((15.0, 30.0), 30.0, 30.0)):
        instrument = offering(*angles, semiangle=present)
        task = Problem(instrument, problem("expert", search=SEARCH, expert=(1.0, 200.0)).config, FINAL_AREA, TRIAL_AREA)
        assert make_policy(task, 0).suggest()[0].settings.semiangle == wanted

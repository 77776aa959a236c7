"""Studies of policies: what each would have taken, its truth, and what the best setting would have given."""

import numpy as np
from examples import description

from agent.errors import BadInputError
from agent.records import Settings
from agent.study import score
from agent.study.comparison import Design, compare, on_grid
from agent.study.comparison_summary import summarise
from agent.study.exposures import StudyColumn, Truth
from agent.study.pool import Pool
from agent.study.records import ScoreRecord
from instrument.models import AcquisitionPlan

COLUMN = StudyColumn(0, "a-column", 3)


def landscape(settings):
    return 2.0 / (1 + (settings.step - 1.0) ** 2 + ((settings.defocus - 200) / 200) ** 2) * settings.dose / 1e3


class Answers:
    """A pool whose acquisitions need no simulator."""

    def __init__(self):
        self.asked = []
        self.finals = []

    def record(self, column, settings, replica, *, final=False):
        self.asked.append((settings, replica))
        self.finals.append(final)
        truth = landscape(settings)
        return ScoreRecord(name=column.name, seed=column.seed, score=truth, sd=0.05, truth=truth)


def records(policies=("expert", "random"), budgets=(0, 2)):
    pool = Answers()
    design = Design("policies", policies, (1e3,), budgets, (0,), (3, 4))
    return list(compare(pool, COLUMN, description(), design)), pool


def test_each_policy_has_a_record_per_budget_with_electrons_truth_and_regret():
    found, _ = records()
    assert [(r.policy, r.budget) for r in found] == [("expert", 0), ("expert", 2), ("random", 0), ("random", 2)]
    for record in found:
        if record.regret is not None:
            assert record.truth == landscape(Settings(step=record.step, defocus=record.defocus, dose=1e3))
            assert record.regret == 1 - record.truth / record.oracle
            assert record.regret >= 0
    assert found[0].electrons == 0 < found[1].electrons
    assert found[2].error.startswith("there is no scored trial")


def test_a_study_that_is_repeated_asks_for_the_same_acquisitions():
    (first, one), (second, other) = records(), records()
    assert first == second
    assert one.asked == other.asked


def test_final_pictures_and_oracle_have_noise_that_no_policy_has_seen():
    _, pool = records(("random",))
    trials = {replica for settings, replica in pool.asked if settings.dose < 1e3}
    finals = {replica for settings, replica in pool.asked if settings.dose == 1e3}
    assert trials
    assert not trials & finals


def test_what_is_compared_in_the_end_is_processed_as_a_final_picture_and_trials_are_not():
    _, pool = records()
    for (settings, _), final in zip(pool.asked, pool.finals, strict=True):
        assert final == (settings.dose == 1e3)


def test_the_grid_leaves_nothing_but_its_own_settings():
    offered = on_grid(description(), 1e3, (3, 4))
    assert len(offered.step.values) == 3
    assert len(offered.defocus.values) == 4
    assert 0.0 not in offered.defocus.values


def test_a_summary_pairs_with_random_search():
    rows = {(row.policy, row.budget): row for row in summarise(records()[0])}
    assert rows["random", 2].over_random == 1.0
    assert rows["expert", 2].band[0] <= rows["expert", 2].regret <= rows["expert", 2].band[1]


def test_what_the_pool_holds_is_not_simulated_again(tmp_path):
    pool = Pool(tmp_path, simulator=None, identity="x")
    settings = Settings(step=1.0, defocus=100.0, dose=1e3)
    kept = ScoreRecord(name="a-column", seed=3, score=1.5, sd=0.1, truth=1.4)
    path = pool._path(COLUMN, settings, 4)
    path.parent.mkdir(parents=True)
    path.write_text(kept.model_dump_json())
    assert pool.record(COLUMN, settings, 4) == kept
    assert pool.made == 0


def test_the_pool_asks_for_two_passes_at_a_place_that_belongs_to_the_replica(tmp_path):
    class Describes:
        def describe(self, column):
            return description()

    pool = Pool(tmp_path, simulator=Describes(), identity="x")
    settings = Settings(step=0.8, defocus=-123.4, dose=62.5)
    planned = {replica: pool._planned(COLUMN, settings, replica) for replica in (0, 1, 41)}
    assert len({p.plan.id for p in planned.values()}) == 3
    for each in planned.values():
        assert (each.plan.step, each.plan.defocus, each.plan.dose, each.plan.passes) == (0.8, -123.4, 62.5, 2)
        AcquisitionPlan.model_validate(each.plan.model_dump())  # model_copy has checked nothing
        field, scored, area = each.plan.field, each.scored, description().area
        assert area.y <= field.y <= scored.y
        assert scored.x + scored.width <= field.x + field.width <= area.x + area.width
    assert planned[0].plan.field != planned[1].plan.field


def test_a_trials_record_is_not_taken_for_a_final_picture_which_has_more_passes(tmp_path, monkeypatch):
    class Exposes:
        def describe(self, column):
            return description()

        def expose(self, column, planned):
            return object(), Truth(0.0, 0.0, False, np.zeros((4, 4)), 0.1)

    jobs = []

    def processed(acquisition, job):
        jobs.append(job)
        raise BadInputError("nothing comes of it")

    monkeypatch.setattr(score, "process_acquisition", processed)
    pool = Pool(tmp_path, simulator=Exposes(), identity="x")
    settings = Settings(step=1.0, defocus=100.0, dose=1e3)
    asked = [pool.record(COLUMN, settings, 4, final=final) for final in (False, True, True)]
    assert [record.error for record in asked] == ["nothing comes of it"] * 3
    trial, final = (job.reconstruction for job in jobs)
    assert not trial.stop_early
    assert final.stop_early
    assert final.passes > trial.passes

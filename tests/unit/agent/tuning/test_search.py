"""A search from its first trial to its settings file, on a scan whose positions are off: what tuning has to find."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import phantom
import pytest

from agent.config import ScoreChoice, load_settings
from agent.errors import BadInputError, StoppedError
from agent.reconstruction import ReconstructionSettings
from agent.tuning.journal import read
from agent.tuning.records import Plan, Stage
from agent.tuning.run import Tuned, tune
from agent.tuning.search import Search
from agent.tuning.searcher import ModelSearcher
from agent.tuning.space import space_of
from agent.tuning.trial import Task
from agent.tuning.workers import HereAndNow, Request
from instrument.models import Rectangle

LADDER = (Stage(positions=0.6, passes=1.0), Stage(positions=1.0, passes=1.0))
PLAN = Plan(ladder=LADDER, reconstructions=21, drawn=0, together=4, finalists=1, kept=3, seed=2)
SEARCHED = ["refine_positions", "batches", "momentum", "regularise"]


@pytest.fixture(scope="module")
def task() -> Task:
    believed = phantom.raster(1.6, 14.4)
    truly = believed + np.random.default_rng(4).normal(0, 0.35, believed.shape)
    data = phantom.experiment(
        dose=8e3, positions=believed, true_positions=truly, shape=(32, 32), angular_pixel=3.0, defocus=150.0
    )
    base = ReconstructionSettings(max_passes=9, stop_early=False)
    space = space_of(data, base, SEARCHED, own_quantities=True)
    square = (Rectangle(y=2, x=2, height=10, width=10),)
    return Task(data, base, space, LADDER, square, ScoreChoice(k_min=0.2, k_max=0.9, ring_width=0.1), 0, False)


@pytest.fixture(scope="module")
def searched(task: Task, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tuned, Path]:
    folder = tmp_path_factory.mktemp("search")
    return tune(task, PLAN, folder, {"file": "phantom"}, cores=0), folder


def test_a_search_finds_that_positions_are_off_within_its_budget(searched: tuple[Tuned, Path]) -> None:
    result, _ = searched
    assert result.trials[result.number].values["refine_positions"] == "free"
    assert result.trials[result.number].score is not None
    assert result.spent <= PLAN.reconstructions
    assert {"start", "one changed", "model"} <= {trial.origin for trial in result.trials}
    assert result.doubts == ()


def test_the_settings_file_makes_the_reconstruction_that_was_tuned(searched: tuple[Tuned, Path], task: Task) -> None:
    result, _ = searched
    choice = load_settings(result.settings)
    assert choice.chosen == ()
    _, wanted = task.whole(result.trials[result.number].values)
    assert choice.settings() == wanted


def test_the_report_shows_pictures_coordinates_and_trials(searched: tuple[Tuned, Path]) -> None:
    page = searched[0].report.read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 6
    assert "refine_positions" in page
    assert "Recommended: Fourier magnitude" in page


def test_the_same_seed_makes_the_same_search(task: Task) -> None:
    short = PLAN.model_copy(update={"reconstructions": 5.0, "finalists": 0})

    def trials() -> list[tuple[object, ...]]:
        search = Search(task, short, ModelSearcher(task.space, 2, 2, 2), HereAndNow(task))
        search.run()
        return [(trial.values, [stage.blocks for stage in trial.stages]) for trial in search.trials]

    assert trials() == trials()


def test_a_search_that_was_stopped_goes_on_where_it_was(task: Task, tmp_path: Path) -> None:
    plan = PLAN.model_copy(update={"reconstructions": 5.5, "finalists": 0})
    told: list[str] = []

    def stop_at_the_second(sentence: str) -> None:
        told.append(sentence)
        if len(told) == 2:
            raise KeyboardInterrupt

    with pytest.raises(StoppedError, match=r"stopped by Ctrl-C; go on by .* --resume"):
        tune(task, plan, tmp_path, {}, cores=0, tell=stop_at_the_second)
    _, before = read(tmp_path)
    assert (tmp_path / "tuned.yaml").exists()
    result = tune(task, plan, tmp_path, {}, cores=0, resume=True)
    judged = {trial.number: trial for trial in before if trial.stages}
    assert len(result.trials) > len(judged)
    for number, trial in judged.items():
        assert result.trials[number].stages[: len(trial.stages)] == trial.stages


def test_another_search_is_neither_gone_on_with_nor_overwritten(
    searched: tuple[Tuned, Path], task: Task, tmp_path: Path
) -> None:
    _, folder = searched
    with pytest.raises(BadInputError, match="holds a search already; go on with it by --resume"):
        tune(task, PLAN, folder, {"file": "phantom"}, cores=0)
    with pytest.raises(BadInputError, match="is of other file; resume it with what it was begun with"):
        tune(task, PLAN, folder, {"file": "another"}, cores=0, resume=True)
    with pytest.raises(BadInputError, match="holds no search"):
        tune(task, PLAN, tmp_path, {}, cores=0, resume=True)


def test_a_trial_that_cannot_be_reconstructed_is_told_and_costs_itself_only(task: Task) -> None:
    impossible = replace(task, settings=replace(task.settings, slices=2, slice_spacing=(0.0,)))
    answer = HereAndNow(impossible).submit(Request({**task.space.start, "loss": "none"}, 0)).result()
    assert answer.judged is None
    assert answer.error is not None
    assert "loss of 'none' is not possible" in answer.error

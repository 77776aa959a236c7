"""The studies of tuning and of the seed's setting: what is lost by whom, what is not installed, and the page."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np
import phantom
import pytest

from agent.reconstruction import ReconstructionSettings
from agent.study.peer_searchers import MissingPeerError, peer
from agent.study.seed import OURS, THEIRS, SeedRecord, told
from agent.study.tuning import Compared, TuningRecord, regrets
from agent.study.tuning_page import page
from agent.tuning.space import space_of

DATA = phantom.experiment(positions=phantom.raster(2.0, 8.0), shape=(32, 32), angular_pixel=4.0, dose=1e3)
SPACE = space_of(DATA, ReconstructionSettings(max_passes=10, stop_early=False), None, own_quantities=True)


def record(policy: str, truth: float | None, regret: float | None = None, **changes: Any) -> TuningRecord:
    return TuningRecord(
        policy=policy, column="c", seed=1, dose=1e4, budget=40, truth=truth, oracle=8.0, regret=regret, **changes
    )


def test_the_table_has_what_each_search_lost_at_the_median_and_at_worst() -> None:
    records = [
        record("tune", 7.9, 0.01),
        record("tune", 7.2, 0.1),
        record("tune", 7.8, 0.02),
        record("random", 4.0, 0.5),
    ]
    rows = {arm: (count, median, worst) for arm, count, median, worst, _, _ in regrets(records)}
    assert rows == {"tune": (3, 0.02, 0.1), "random": (1, 0.5, 0.5)}


@pytest.mark.parametrize(("name", "package"), [("optuna", "optuna"), ("skopt", "scikit-optimize")])
def test_a_searcher_that_is_not_installed_is_left_out_with_a_sentence(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(module: str, *arguments: Any, **options: Any) -> Any:
        if module.partition(".")[0] == name:
            raise ImportError(module)
        return real(module, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingPeerError, match=f"{name} is not installed and was left out; `pip install {package}`"):
        peer(name, SPACE, 0)


def test_the_page_shows_pictures_side_by_side_and_says_who_was_left_out() -> None:
    phase = np.random.default_rng(0).normal(size=(40, 40))
    each = Compared(
        [
            record("start", 5.0, 0.375),
            record("tune", 8.0, 0.0, changed={"loss": "amplitude", "regularise": True}),
            record("optuna", None, error="optuna is not installed and was left out"),
        ],
        {"start": (phase, (0.4, 0.4)), "tune": (phase, (0.4, 0.4))},
        (phase, 0.4),
    )
    html = page([each])
    assert html.count("data:image/png;base64,") == 1
    assert "loss amplitude, regularise on" in html
    assert "optuna is not installed" in html
    assert "37.5" in html


def test_the_seed_study_says_what_ours_reached_for_how_many_electrons() -> None:
    common: dict[str, Any] = {"column": "c", "seed": 0, "dose": 1e3, "budget": 8, "final_electrons": 1e6}
    theirs = SeedRecord(policy=THEIRS, truth=2.0, electrons=2e8, **common)
    ours = SeedRecord(policy=OURS, truth=1.9, electrons=5e5, **common)
    assert list(told([theirs, ours])) == [
        "1000 e/Å²: 95% of what the seed's method reaches, with 0.50 instead of 200 final pictures' electrons for exploration "
        "and without the truth"
    ]
    assert list(told([theirs])) == []

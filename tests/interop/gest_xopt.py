"""Xopt drives the BoTorch policy of ours: a made-up column, eight trials, the electrons of exploration kept to.

Usage: PYTHONPATH=.:tests python gest_xopt.py
"""

from __future__ import annotations

from typing import Any

import numpy as np
from xopt import Evaluator, Xopt

from agent.policy.botorch_policy import BotorchPolicy
from agent.policy.generators import PolicyGenerator, vocs_of
from agent.records import Settings
from tests.unit.agent.policy.landscapes import TRIAL_AREA, Landscape, problem

TRIALS = 8


def acquired(point: dict[str, Any]) -> dict[str, float]:
    """The score of a point, as an instrument and a reconstruction would tell it."""
    settings = Settings(**{name: float(point[name]) for name in ("step", "defocus", "dose")})
    return {"score": Landscape(1).truth(settings), "score_sd": 0.05}


def main() -> None:
    """Raises AssertionError where Xopt and our policy do not understand each other."""
    task = problem(trials=TRIALS)
    generator = PolicyGenerator(vocs_of(task), problem=task, policy=BotorchPolicy, seed=1)
    driver = Xopt(generator=generator, evaluator=Evaluator(function=acquired))
    for _ in range(TRIALS):
        driver.step()
    data = driver.data
    assert len(data) == TRIALS, f"{len(data)} of {TRIALS} trials were made"
    assert np.isfinite(data["score"].astype(float)).all()
    budget = task.config.exploration.share * task.config.electrons
    spent = float(data["dose"].sum()) * TRIAL_AREA
    assert spent <= budget * (1 + 1e-9), f"{spent:.4g} of {budget:.4g} electrons were spent"
    told = len(driver.generator._policy.book.scored_trials)
    assert told == TRIALS, f"{told} of {TRIALS} scores came back"
    print(f"Xopt: {len(data)} trials, best score {data['score'].max():.3g}, {spent / budget:.0%} of the electrons")


if __name__ == "__main__":
    main()

"""libEnsemble drives a policy of ours: a made-up column, twelve trials, the electrons of exploration kept to.

Usage: PYTHONPATH=.:tests python gest_libensemble.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from libensemble import Ensemble
from libensemble.alloc_funcs.start_only_persistent import only_persistent_gens
from libensemble.specs import AllocSpecs, ExitCriteria, GenSpecs, LibeSpecs, SimSpecs

from agent.policy.baselines import SobolPolicy
from agent.policy.generators import PolicyGenerator, vocs_of
from agent.records import Settings
from tests.unit.agent.policy.landscapes import TRIAL_AREA, Landscape, problem

TRIALS = 12


def acquired(point: dict[str, Any], **_: Any) -> dict[str, float]:
    """The score of a point, as an instrument and a reconstruction would tell it."""
    settings = Settings(**{name: float(point[name]) for name in ("step", "defocus", "dose")})
    return {"score": Landscape(1).truth(settings), "score_sd": 0.05}


def main() -> None:
    """Raises AssertionError where libEnsemble and our policy do not understand each other."""
    task = problem(trials=TRIALS)
    vocs = vocs_of(task)
    generator = PolicyGenerator(vocs, problem=task, policy=SobolPolicy, seed=1)
    with tempfile.TemporaryDirectory() as folder:
        ensemble = Ensemble(
            libE_specs=LibeSpecs(
                comms="threads",
                nworkers=2,
                gen_on_manager=True,
                disable_log_files=True,
                safe_mode=False,
                save_every_k_gens=0,
                workflow_dir_path=str(Path(folder) / "run"),
            ),
            gen_specs=GenSpecs(generator=generator, initial_batch_size=1, batch_size=1, vocs=vocs),
            sim_specs=SimSpecs(simulator=acquired, vocs=vocs),
            alloc_specs=AllocSpecs(alloc_f=only_persistent_gens),
            exit_criteria=ExitCriteria(sim_max=TRIALS),
        )
        history, _, flag = ensemble.run()
    done = history[history["sim_ended"]]
    assert flag == 0, f"libEnsemble ended with {flag}"
    assert len(done) == TRIALS, f"{len(done)} of {TRIALS} trials were made"
    assert np.isfinite(done["score"]).all()
    assert len(np.unique(np.round(done["step"], 6))) == TRIALS, "no settings are tried twice"
    budget = task.config.exploration.share * task.config.electrons
    spent = float(done["dose"].sum()) * TRIAL_AREA
    assert spent <= budget * (1 + 1e-9), f"{spent:.4g} of {budget:.4g} electrons were spent"
    told = len(generator._policy.book.scored_trials)
    assert told >= TRIALS - 2, f"{told} of {TRIALS} scores came back"
    print(
        f"libEnsemble: {len(done)} trials, best score {done['score'].max():.3g}, {spent / budget:.0%} of the electrons"
    )


if __name__ == "__main__":
    main()

"""What the prior that is shipped is worth: each of its columns left out in turn and searched with what the others teach.

The cells of the lattice at the higher dose are the pictures, those at the lower dose the trials, with noise of 10 % of the best.
Printed is the truth that the recommended cell loses, median (mean) over columns, after so many trials: with the prior, with
members whose cells were shuffled, and with random search; beside the best cell of hindsight. Cells are single pictures of the
twin, so a part of every loss is their noise; nothing here is the simulator's. No prior is rejected here.

    python tests/benchmarks/prior_left_out.py [--file zoo.jsonl] [--seed 0] [--noise 0.1] [--no-shuffled]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from agent.policy.ensemble import DOSES, PARTS, SHIPPED, STEPS, Member, lattice, read_members
from agent.policy.improvement import exact_improvement
from agent.policy.prior import EnsembleModel, Prior
from instrument.models import Description

TRIALS = (0, 2, 4, 8)
FAINTEST = 0.3
"""bit/Å² of the best picture, below which a column is left aside."""
CHECK_EVERY = 3
"""Every so many trials one is at random, as in the policy."""
SHAPE = (len(STEPS), len(PARTS), len(DOSES))


def losses(truth: np.ndarray, prior: Prior, rng: np.random.Generator, noise: float) -> list[float]:
    """Of one column, after each number of TRIALS."""
    points, picture = prior.settings_of_lattice(0.0), lattice()[:, 2] == np.log(DOSES[1])
    trials, finals = points[~picture], points[picture]
    seen, worth = truth.ravel()[~picture], truth.ravel()[picture]
    sd = noise * max(seen.max(), 0.1)
    asked, scores, found = np.zeros((0, 3)), np.zeros(0), []
    for number in range(max(TRIALS) + 1):
        model = EnsembleModel.fit(prior, asked, scores, np.full(len(scores), sd**2), np.zeros(0))
        best = int(np.argmax(model.predict(finals)[0]))
        if number in TRIALS:
            found.append(1 - worth[best] / worth.max())
        drawn = (number + 1) % CHECK_EVERY == 0
        chosen = rng.integers(len(finals)) if drawn else np.argmax(exact_improvement(model, finals[best])(finals))
        asked = np.vstack([asked, trials[chosen]])
        scores = np.append(scores, seen[chosen] + sd * rng.normal())
    return found


def shuffled(member: Member, rng: np.random.Generator) -> Member:
    """The same values at other steps and defoci."""
    values = np.array(member.values)[rng.permutation(SHAPE[0])][:, rng.permutation(SHAPE[1])]
    return Member(name=member.name, seed=member.seed, values=values.tolist())


def random_losses(truth: np.ndarray, rng: np.random.Generator, noise: float) -> list[float]:
    """Of random search that takes the best score, after each number of TRIALS; without a trial a cell at random."""
    seen, worth = truth[..., 0].ravel(), truth[..., 1].ravel()
    order = rng.permutation(len(seen))
    scores = seen[order] + noise * max(seen.max(), 0.1) * rng.normal(size=len(seen))
    return [1 - worth[order[int(np.argmax(scores[: max(n, 1)]))]] / worth.max() for n in TRIALS]


def text(name: str, found: Sequence[Sequence[float]]) -> str:
    """A line of the table."""
    cells = (f"{100 * np.median(column):5.1f} ({100 * np.mean(column):4.1f})" for column in np.transpose(found))
    return f"{name:<18}" + "  ".join(cells)


def main() -> None:
    """Print the table."""
    from examples import description

    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--file", type=Path, default=SHIPPED)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--noise", type=float, default=0.1)
    options.add_argument("--no-shuffled", action="store_true")
    chosen = options.parse_args()
    members = [m for m in read_members(chosen.file) if np.max(m.values) >= FAINTEST]
    beam: Description = description()
    print(f"{len(members)} columns; trials {', '.join(map(str, TRIALS))}: loss in %, median (mean)")
    table: dict[str, list[list[float]]] = {"prior": [], "shuffled prior": [], "random": []}
    for number, member in enumerate(members):
        rng, truth = np.random.default_rng([chosen.seed, number]), np.array(member.values)
        others = [m for m in members if m is not member]
        table["prior"].append(losses(truth, Prior(others, beam), rng, chosen.noise))
        if not chosen.no_shuffled:
            wrong = Prior([shuffled(m, rng) for m in others], beam)
            table["shuffled prior"].append(losses(truth, wrong, rng, chosen.noise))
        table["random"].append(random_losses(truth, rng, chosen.noise))
    for name, found in table.items():
        if found:
            print(text(name, found))
    pictures = np.array([np.array(m.values)[..., 1].ravel() for m in members])
    lost = 1 - pictures / pictures.max(axis=1, keepdims=True)
    print(
        f"best fixed cell of hindsight: {100 * np.median(lost, axis=0).min():.1f}; any cell: {100 * np.median(lost):.1f}"
    )


if __name__ == "__main__":
    main()

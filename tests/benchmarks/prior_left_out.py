"""What the prior that is shipped is worth: each of its columns left out in turn and searched with what the others teach.

The cells of the lattice at the higher dose are the pictures, those at the lower dose the trials, with noise of 10 % of the best.
Printed is the truth that the recommended cell loses, median (mean) over columns, after so many trials: with the prior, with
members whose cells were shuffled, and with random search; beside the best cell of hindsight. Cells are single pictures of the
twin, so a part of every loss is their noise; nothing here is the simulator's. No prior is rejected here.

With `--twin` columns of the zoo that the ensemble does not hold are searched, with its prior and with that refined by columns
drawn from a made-up calibration of each (README.md of agent.twin). Their pictures are means of three, and are kept in the file.

    PYTHONPATH=.:tests python tests/benchmarks/prior_left_out.py [--file zoo.jsonl] [--seed 0] [--noise 0.1] [--no-shuffled]
    PYTHONPATH=.:tests python tests/benchmarks/prior_left_out.py --twin pool.jsonl [--columns 8] [--twins 8] [--repeats 12]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from agent.policy.botorch_policy import CHECK_EVERY, JUDGING_SCORES
from agent.policy.ensemble import DOSES, PARTS, SHIPPED, STEPS, Member, lattice, read_members
from agent.policy.improvement import exact_improvement
from agent.policy.prior import EnsembleModel, Prior
from agent.records import Optics
from agent.study.exposures import Simulator
from agent.twin import refine
from agent.twin.column import TwinColumn, draw_column, per_radian
from agent.twin.picture import information
from agent.twin.specimens import CLASSES, draw_specimen
from instrument.models import Description

TRIALS = (0, 2, 4, 8)
FAINTEST = 0.3
"""bit/Å² of the best picture, below which a column is left aside."""
SHAPE = (len(STEPS), len(PARTS), len(DOSES))


def losses(
    truth: np.ndarray, prior: Prior, rng: np.random.Generator, noise: float, other: Prior | None = None
) -> list[float]:
    """Of one column, after each number of TRIALS. Of two priors, that which foretells the trials better, as in the policy."""
    points, picture = prior.settings_of_lattice(0.0), lattice()[:, 2] == np.log(DOSES[1])
    trials, finals = points[~picture], points[picture]
    seen, worth = truth.ravel()[~picture], truth.ravel()[picture]
    sd = noise * max(seen.max(), 0.1)
    asked, scores, found = np.zeros((0, 3)), np.zeros(0), []
    for number in range(max(TRIALS) + 1):
        fitted = [
            EnsembleModel.fit(each, asked, scores, np.full(len(scores), sd**2), np.zeros(0))
            for each in (prior, other)
            if each is not None
        ]
        judged = len(scores) >= JUDGING_SCORES and len(fitted) > 1
        model = max(fitted, key=lambda each: each.leave_one_out()) if judged else fitted[0]
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
    return f"{name:<28}" + "  ".join(cells)


FIRST_SEED = 1200
"""Of the columns that no ensemble holds."""
MEASURED_RAD, SOURCE_SD, SPREAD_SD = 0.1, 0.06, 8.0
"""Of a calibration: astigmatism and coma at the aperture's edge, rad; source, Å FWHM; focal spread, Å at 80 kV."""
PICTURES_OF_TRUTH = 3


def calibrated(beam: Description, seed: int) -> tuple[TwinColumn, Optics]:
    """A column that a campaign has measured, and what it has measured."""
    rng = np.random.default_rng([seed, 21])
    column, values, sd = draw_column(beam, rng), dict[str, float](), dict[str, float]()
    for name in ("C12", "C21"):
        m, angle, width = int(name[2]), "phi" + name[1:], MEASURED_RAD * per_radian(name, beam)
        turned = column.aberrations[name] * np.exp(1j * m * column.aberrations[angle])
        found = turned + width * (rng.normal() + 1j * rng.normal())
        values |= {name: float(abs(found)), angle: float(np.angle(found) / m)}
        sd |= {name: width, angle: float(width / m / abs(found))}
    sd |= {"source_size": SOURCE_SD, "focal_spread": SPREAD_SD * 8e4 / beam.voltage}
    source = max(column.source_size + rng.normal(0, SOURCE_SD), 0.1)
    spread = max(column.focal_spread + rng.normal(0, sd["focal_spread"]), 3.0)
    known = Optics(
        defocus=0.0,
        rotation=0.0,
        mirrored=False,
        centre=(0.0, 0.0),
        aberrations=values,
        sd=sd,
        source_size=source,
        focal_spread=spread,
    )
    return replace(column, told=values, told_source_size=source, told_focal_spread=spread), known


def simulated(seed: int, beam: Description, wanted: str, number: int) -> list[Any]:
    """The values of a column: of the true one, or of one that could have been measured so, its specimen's class told or not."""
    column, known = calibrated(beam, seed)
    kind = CLASSES[seed % len(CLASSES)]
    if wanted != "truth":
        kind = kind if wanted == "told" else refine.specimen_class(None, number + 1)
        job = refine.TwinJob(
            description=beam,
            known=known,
            specimen=kind,
            seed=seed + (100000 if wanted == "told" else 0),
            number=number + 1,
        )
        pictures = [refine.picture(job.model_copy(update={"picture": each})) for each in range(refine.PICTURES)]
        return refine.member(job, pictures).model_dump(mode="json")["values"]
    rng = np.random.default_rng([seed, 31, number])
    specimen = draw_specimen(kind, rng, 0.75 * column.window + 14)
    return [
        [
            [round(v, 3) for v in information(column, specimen, step, column.defocus(part), list(DOSES), rng)]
            for part in PARTS
        ]
        for step in STEPS
    ]


def pool(path: Path, columns: int, twins: int) -> Iterator[tuple[int, dict[str, list[list[Any]]]]]:
    """Seed and values of each column, by what they are of; what the file lacks is simulated first."""
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {(row["seed"], row["kind"], row["number"]) for row in rows}
    with Simulator(None, columns, FIRST_SEED) as simulator:
        beams = {column.seed: simulator.describe(column) for column in simulator.columns}
    wanted = [("truth", n) for n in range(PICTURES_OF_TRUTH)]
    wanted += [(kind, n) for n in range(twins) for kind in ("unknown", "told")]
    for kind, number in wanted:
        for seed, beam in beams.items():
            if (seed, kind, number) not in done:
                row = {"seed": seed, "kind": kind, "number": number, "values": simulated(seed, beam, kind, number)}
                rows.append(row)
                with path.open("a") as file:
                    file.write(json.dumps(row) + "\n")
    for seed in beams:
        mine = [row for row in rows if row["seed"] == seed and (row["kind"], row["number"]) in wanted]
        mine.sort(key=lambda row: row["number"])
        yield seed, {kind: [r["values"] for r in mine if r["kind"] == kind] for kind in ("truth", "unknown", "told")}


def print_refined(path: Path, ensemble: Sequence[Member], beam: Description, chosen: argparse.Namespace) -> None:
    """Print what the prior of the ensemble loses, and the same refined."""
    plain = Prior(ensemble, beam)
    table: dict[str, list[list[float]]] = {}
    columns = list(pool(path, chosen.columns, chosen.twins))
    for place, (seed, values) in enumerate(columns):
        truth = np.mean(values["truth"], axis=0)
        if truth.max() < FAINTEST:
            continue
        priors: dict[str, Prior | None] = {"prior": None}
        for kind in ("unknown", "told"):
            for count in (c for c in (2, 4, 8, 16) if c <= chosen.twins):
                like = [Member(name="twin", seed=n, values=v) for n, v in enumerate(values[kind][:count])]
                priors[f"{count} twins, {kind}"] = Prior(ensemble, beam, like)
        other_told = columns[(place + 1) % len(columns)][1]["told"]
        wrong = [Member(name="twin", seed=n, values=v) for n, v in enumerate(other_told)]
        priors["of another column and class"] = Prior(ensemble, beam, wrong)
        for name, prior in priors.items():
            rngs = [np.random.default_rng([chosen.seed, seed, each]) for each in range(chosen.repeats)]
            other = None if prior is None else plain
            runs = [losses(truth, prior or plain, rng, chosen.noise, other) for rng in rngs]
            table.setdefault(name, []).append(np.mean(runs, axis=0).tolist())
    print(f"{len(table['prior'])} columns; trials {', '.join(map(str, TRIALS))}: loss in %, median (mean)")
    for name, found in table.items():
        print(text(name, found), flush=True)


def main() -> None:
    """Print the table."""
    from examples import description

    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--file", type=Path, default=SHIPPED)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--noise", type=float, default=0.1)
    options.add_argument("--no-shuffled", action="store_true")
    options.add_argument("--twin", type=Path)
    options.add_argument("--columns", type=int, default=8)
    options.add_argument("--twins", type=int, default=8)
    options.add_argument("--repeats", type=int, default=12)
    chosen = options.parse_args()
    members = [m for m in read_members(chosen.file) if np.max(m.values) >= FAINTEST]
    beam: Description = description()
    if chosen.twin is not None:
        print_refined(chosen.twin, members, beam, chosen)
        return
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

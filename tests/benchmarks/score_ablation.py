"""What makes a score too high: one fault at a time added to a column without any, true optics told, score beside the truth.

    python tests/benchmarks/score_ablation.py [--seed 111] [--material 2h-wse2] [--dose 1e4] [--step 1.5] [--defocus 100]

Two passes over 24 Å, 10 passes of the engine, a square of 18 Å. `thin`: all atoms in one plane, so that one slice is right.
`no room`: the detector is not extended. Columns: the score, its standard deviation, that of halves thinned from both passes, the
true information in the picture, and score over truth.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path[:0] = [str(Path(__file__).parents[1])]

import examples  # noqa: E402

from agent.config import ScoreChoice  # noqa: E402
from agent.reconstruction import DiffractionData, ReconstructionSettings  # noqa: E402
from agent.scoring.halves import judge  # noqa: E402
from agent.scoring.regions import crop  # noqa: E402
from agent.scoring.truth import true_information  # noqa: E402
from instrument.models import AcquisitionPlan, Rectangle  # noqa: E402
from sim_instrument import Column, build_specimen, simulate, true_phase  # noqa: E402
from sim_instrument.specimen import Specimen  # noqa: E402
from sim_instrument.zoo import random_column, random_specimen  # noqa: E402

FIELD, SCORED, PIXEL = 24.0, 18.0, 0.1
FAULTLESS: dict[str, Any] = {
    "rotation": 0.0, "rotation_error": 0.0, "mirrored": False, "defocus_offset": 0.0, "defocus_scale": 1.0, "drift": 0.0,
    "point_spread": 0.0, "dead_pixels": 0, "hot_pixels": 0, "jitter": 0.0, "max_defocus": 1e6, "source_size": 0.0,
    "energy_spread": 0.0, "aberrations": {}, "knock_on": 0.0,
}  # fmt: skip
ADDED = ("aberrations", "energy_spread", "source_size", "point_spread", "drift", "jitter")
SETTINGS = ReconstructionSettings(max_passes=10, stop_early=False, device="cpu")
NO_ROOM = replace(SETTINGS, padding=1.0)


def flattened(specimen: Specimen) -> Specimen:
    """The specimen with all its atoms in its middle plane."""
    return replace(specimen, layer=np.zeros_like(specimen.layer), layer_depth=(specimen.middle_depth,))


def told(plan: AcquisitionPlan, column: Column, counts: NDArray[np.uint16], defocus: float) -> DiffractionData:
    """The acquisition with the true optics; `defocus` is that of the specimen's middle, Å."""
    return DiffractionData(
        counts.reshape(-1, *counts.shape[2:]),
        plan.scan_positions(),
        column.voltage,
        column.semiangle,
        column.angular_pixel,
        defocus,
        aberrations=dict(column.aberrations),
        area_integration=column.pixel_area,
        point_spread=column.point_spread,
        source_size=column.source_size,
        focal_spread=column.focal_spread,
        pass_index=plan.pass_index(),
    )


def row(
    name: str,
    chosen: argparse.Namespace,
    faults: tuple[str, ...],
    settings: ReconstructionSettings = SETTINGS,
    *,
    thin: bool = False,
    blind: bool = False,
) -> None:
    """Simulate, score and print one line; `blind`: source and focal spread are not told."""
    column = random_column(chosen.seed)
    column = column.model_copy(update={k: v for k, v in FAULTLESS.items() if k not in faults})
    options = random_specimen(chosen.seed).model_copy(update={"material": chosen.material, "thickness": None})
    specimen = build_specimen(options)
    size = np.ceil(FIELD / chosen.step) * chosen.step
    corner = options.size / 2 - size / 2
    defocus = chosen.defocus + specimen.middle_depth
    plan = examples.plan(
        "ablation", size, corner, corner, step=chosen.step, defocus=defocus, dose=chosen.dose, passes=2
    )
    counts = simulate(plan, flattened(specimen) if thin else specimen, column, seed=chosen.seed)
    data = told(plan, column, counts, chosen.defocus)
    if blind:
        data = replace(data, source_size=0.0, focal_spread=0.0)
    edge = options.size / 2 - SCORED / 2
    square = Rectangle(y=edge, x=edge, height=SCORED, width=SCORED)
    judged = judge(data, settings, [square], ScoreChoice(field=SCORED), chosen.seed)
    picture, score = judged.reconstruction, judged.score
    image = crop(picture.phase, picture.origin, picture.pixel_size, square)
    phase = true_phase(specimen, square.grown(2.5), PIXEL, column.voltage).astype(np.float64)
    truth = true_information(image, picture.pixel_size, phase, PIXEL, ScoreChoice(field=SCORED))
    thinned = np.nan if score.thinned is None else score.thinned
    print(
        f"{name:34}{score.value:7.2f} ± {score.sd:4.2f}{thinned:9.2f}{truth:8.2f}{score.value / truth:8.2f}  "
        f"{'' if score.veto is None else 'vetoed'}",
        flush=True,
    )


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=111, help="of the column, below 1000")
    parser.add_argument("--material", default="2h-wse2")
    parser.add_argument("--dose", type=float, default=1e4)
    parser.add_argument("--step", type=float, default=1.5)
    parser.add_argument("--defocus", type=float, default=100.0, help="of the specimen's middle, Å")
    chosen = parser.parse_args()
    print("                                    score     sd  thinned   truth   ratio")
    row("thin, no room", chosen, (), NO_ROOM, thin=True)
    row("thin", chosen, (), thin=True)
    row("thin, 40 passes", chosen, (), replace(SETTINGS, max_passes=40), thin=True)
    row("thick", chosen, ())
    for fault in ADDED:
        row(f"thick, {fault.replace('_', ' ')}", chosen, (fault,))
    row("thick, source size, not told", chosen, ("source_size",), blind=True)
    row("thick, all, no room", chosen, ADDED, NO_ROOM)
    row("thick, all", chosen, ADDED)


if __name__ == "__main__":
    main()

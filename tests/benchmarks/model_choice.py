"""How much model held-out counts ask for, and what that does to the truth, on columns of the zoo with one fault each.

For each case: what was chosen with the difference that decided, the seconds that it took, and the information that a picture of
ten passes has of the true phase (bit/Å²) with the default model and with the one chosen. The engine is told the true optics.

    python tests/benchmarks/model_choice.py [NAME …] [--dose 1e4]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from agent.config import ScoreChoice
from agent.processing.column import measure_column
from agent.processing.process import cleaned_data
from agent.reconstruction import DiffractionData, ReconstructionSettings, choose_model, reconstruct
from agent.scoring.regions import crop
from agent.scoring.truth import true_information
from agent.storage.acquisition_file import Acquisition
from agent.study.exposures import Simulator, StudyColumn, Truth
from agent.study.plans import Planned
from instrument import optics
from instrument.models import AcquisitionPlan, Rectangle
from sim_instrument.zoo.files import make_entry

SMALL = {"detector_pixels": 64, "angular_pixel": 3.2}
MONO = {"zoo": "mono-80", "jitter": 0}
CASES: dict[str, dict[str, Any]] = {
    "thin": {
        "specimen": "graphene",
        "column": MONO | {"source_size": 0.1, "energy_spread": 0.02, "point_spread": 0},
    },
    "jitter": {"specimen": "2h-mos2", "column": MONO | {"jitter": 0.2}},
    "haze": {"specimen": "2h-mos2", "column": MONO},
    "flicker": {"specimen": "2h-mos2", "column": MONO | {"flicker": 0.15}},
    "bilayer": {"specimen": "2h-wse2", "column": {"zoo": "schottky-200"} | SMALL | {"angular_pixel": 2.4}},
    "lamella": {"specimen": "srtio3", "column": {"zoo": "cold-200", "jitter": 0} | SMALL},
}
"""Name -> specimen and column; seeds 310 and on."""
FIELD, SCORED, STEP, DEFOCUS, HAZE = 20.0, 14.0, 1.0, 120.0, 0.03
"""Å, Å, Å, Å (set-point), and part of the counts."""


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CASES)}; all where none is given")
    parser.add_argument("--dose", type=float, default=1e4)
    given = parser.parse_args()
    names = given.names or list(CASES)
    entries = [{"name": name, "seed": 310 + list(CASES).index(name), **CASES[name]} for name in names]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "columns.yaml"
        file.write_text(yaml.safe_dump(entries), encoding="utf-8")
        with Simulator(file, 0, 0) as simulator:
            for column, entry in zip(simulator.columns, entries, strict=True):
                _show(simulator, column, entry, given.dose)


def _show(simulator: Simulator, column: StudyColumn, entry: dict[str, Any], dose: float) -> None:
    area = simulator.describe(column).area
    middle = (area.y + area.height / 2, area.x + area.width / 2)
    field, scored = (
        Rectangle(y=middle[0] - edge / 2, x=middle[1] - edge / 2, height=edge, width=edge) for edge in (FIELD, SCORED)
    )
    plan = AcquisitionPlan(
        id="a", campaign="benchmark", region="a", field=field, step=STEP, defocus=DEFOCUS, dose=dose, passes=1
    )
    acquisition, truth = simulator.expose(column, Planned(plan, scored))
    data = _told(acquisition, truth, entry)
    settings = ReconstructionSettings(max_passes=10, stop_early=False, quantitative=False)
    started = time.process_time()
    choice = choose_model(data, settings)
    print(f"{entry['name']}: {choice.runs} reconstructions, {time.process_time() - started:.1f} s of processor time")
    for each in choice.tried:
        taken = "taken" if each.taken else "     "
        print(f"  {taken} {each.label:36} gain {1e4 * each.gain:8.2f} ± {1e4 * each.sd:5.2f} · 10⁻⁴ a pixel")
    default = _information(data, settings, truth, scored)
    chosen = _information(replace(data, **choice.data), replace(settings, **choice.settings), truth, scored)
    print(f"  truth: default {default:.2f}, chosen {chosen:.2f} bit/Å²", flush=True)


def _told(acquisition: Acquisition, truth: Truth, entry: dict[str, Any]) -> DiffractionData:
    """The data with the true optics, the defocus that of the specimen's middle."""
    if entry["name"] == "haze":
        acquisition = replace(acquisition, patterns=_hazy(acquisition.patterns))
    cleaned, column = cleaned_data(acquisition), make_entry(entry).column
    measured = measure_column(
        cleaned.data,
        acquisition.description,
        raster=cleaned.raster,
        known=None,
        enabled=False,
        on_progress=lambda _: None,
    )
    return replace(
        measured.data,
        defocus=truth.defocus,
        detector_to_scan=optics.detector_to_scan(truth.rotation, truth.mirrored),
        aberrations=dict(column.aberrations),
        source_size=column.source_size,
        focal_spread=column.focal_spread,
    )


def _hazy(patterns: Any) -> Any:
    """With a wide halo that no coherent model explains."""
    n, n_y, n_x = patterns.shape
    y, x = np.mgrid[:n_y, :n_x]
    halo = np.exp(-((y - n_y / 2) ** 2 + (x - n_x / 2) ** 2) / (2 * (0.3 * n_y) ** 2))
    halo *= HAZE * patterns.sum() / n / halo.sum()
    return patterns + np.random.default_rng(3).poisson(halo, patterns.shape).astype(patterns.dtype)


def _information(data: DiffractionData, settings: ReconstructionSettings, truth: Truth, scored: Rectangle) -> float:
    """Bit/Å² that a picture has of the truth."""
    assert truth.phase is not None
    picture = reconstruct(data, settings)
    image = crop(picture.phase, picture.origin, picture.pixel_size, scored).astype(np.float64)
    return true_information(image, picture.pixel_size, truth.phase, truth.pixel, ScoreChoice(field=SCORED))


if __name__ == "__main__":
    main()

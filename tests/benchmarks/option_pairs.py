"""Every pair of the engine's options on scans that are known: does any end worse than its best pass?

For each pair: the deviance per pixel at its best and at its last full pass, with nothing that holds the passes back, that of
what `reconstruct` returns, and the errors of its phase (relative, rms) and of its worst position (Å). What ends clearly worse
is marked.

    python tests/benchmarks/option_pairs.py [--scans steady …] [--passes 20 40] [--only intensity free …]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

sys.path[:0] = [str(Path(__file__).parent.parent / "physics")]

import unsteady  # noqa: E402

from agent.reconstruction import DiffractionData, ReconstructionSettings, reconstruct  # noqa: E402
from agent.reconstruction.calibration.finding import measure  # noqa: E402
from agent.reconstruction.solver.passes import make_pass, planned  # noqa: E402
from agent.reconstruction.solver.reconstructor import Reconstructor  # noqa: E402
from agent.reconstruction.solver.schedule import FINAL_OFFSET  # noqa: E402
from agent.reconstruction.solver.state import deviances  # noqa: E402

SCANS = {
    "steady": lambda: unsteady.scan(),
    "flickering": lambda: unsteady.scan(jitter=0.2, flicker=0.3),
    "drifting": unsteady.drifting,
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "intensity": {"refine_intensity": True},
    "free": {"refine_positions": "free"},
    "lines": {"refine_positions": "lines"},
    "linear": {"refine_positions": "linear"},
    "held probe": {"refine_probe": False},
    "optics": {"refine_optics": ("defocus", "C12")},
    "variable": {"variable_modes": 1},
    "three modes": {"probe_modes": 3},
    "two slices": {"slices": 2, "slice_spacing": 5.0},
    "regularised": {"regularise": True},
    "no background": {"background": False},
    "phase": {"object_type": "phase"},
    "complex": {"object_type": "complex"},
}
WORSE = 1.01
"""Last over best deviance from which a line is marked."""


def pairs(only: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, settings) of every option, and of every two that can be had together."""
    for one, other in combinations(OPTIONS, 2):
        chosen = {one, other} - {"plain"}
        if not set(OPTIONS[one]) & set(OPTIONS[other]) and (not only or chosen <= set(only)):
            yield " + ".join(name for name in (one, other) if name in chosen), {**OPTIONS[one], **OPTIONS[other]}


def unchecked(data: DiffractionData, settings: ReconstructionSettings) -> list[float]:
    """Deviance of every full pass that has the last one's count offset."""
    if settings.refine_optics:
        data = measure(data, settings, {}).data
    solver = Reconstructor(data, settings)
    for step in planned(solver.experiment, solver.state):
        make_pass(solver.experiment, solver.state, step, want_deviance=step.offset_fraction == FINAL_OFFSET)
    return list(deviances(solver.experiment, solver.state))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", nargs="+", choices=list(SCANS), default=list(SCANS))
    parser.add_argument("--passes", nargs="+", type=int, default=[20, 40])
    parser.add_argument("--only", nargs="+", choices=list(OPTIONS), default=[])
    arguments = parser.parse_args()
    base = ReconstructionSettings(stop_early=False, quantitative=False, device="cpu")
    print(f"{'scan':11} {'options':30} passes    best    last  result  phase position")
    for name in arguments.scans:
        scan = SCANS[name]()
        for options, changes in pairs(arguments.only):
            for passes in arguments.passes:
                settings = replace(base, max_passes=passes, **changes)
                values = unchecked(scan.data, settings)
                result = reconstruct(scan.data, settings)
                best, last, end = np.min(values), values[-1], result.deviance[-1]
                mark = "" if last <= WORSE * best else " <-" if end <= WORSE * best else " <- and so ends"
                print(
                    f"{name:11} {options:30} {passes:6d} {best:7.4f} {last:7.4g} {end:7.4f} "
                    f"{scan.phase_error(result):6.3f} {scan.position_error(result):8.2f}{mark}",
                    flush=True,
                )


if __name__ == "__main__":
    main()

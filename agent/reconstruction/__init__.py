"""Patterns to object: `reconstruct(DiffractionData, ReconstructionSettings) -> Reconstruction`, over arrays only.

`calibrate` finds the geometry of a scan that nobody has calibrated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agent.reconstruction.model.data import DiffractionData
from agent.reconstruction.model.settings import ReconstructionSettings
from agent.reconstruction.run import reconstruct
from agent.reconstruction.solver.reconstructor import Reconstructor
from agent.reconstruction.solver.result import Reconstruction

if TYPE_CHECKING:
    from agent.reconstruction.calibration.calibrate import Calibration, calibrate

__all__ = [
    "Calibration",
    "DiffractionData",
    "Reconstruction",
    "ReconstructionSettings",
    "Reconstructor",
    "calibrate",
    "reconstruct",
]


def __getattr__(name: str) -> Any:
    """Calibration brings SciPy in, which a reconstruction does not need: only who asks for it waits for it."""
    if name in ("Calibration", "calibrate"):
        from agent.reconstruction.calibration import calibrate as calibration

        return getattr(calibration, name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)

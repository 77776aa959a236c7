"""Patterns to object: `reconstruct(DiffractionData, ReconstructionSettings) -> Reconstruction`, over arrays only.

The only door of this room: every other room imports from here, never from the modules behind it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agent.reconstruction.backends.choice import gpu_reason
from agent.reconstruction.counts.patterns import selected
from agent.reconstruction.counts.survey import Survey, survey
from agent.reconstruction.counts.thinning import halves, thin
from agent.reconstruction.model.checks import SMALLEST_DETECTOR, check_data
from agent.reconstruction.model.counting import expected_deviance
from agent.reconstruction.model.data import DiffractionData
from agent.reconstruction.model.geometry import paste
from agent.reconstruction.model.settings import PARTS, Bounds, ReconstructionSettings
from agent.reconstruction.model.start import choose_padding
from agent.reconstruction.model.windows import tukey, window_of
from agent.reconstruction.run import carried_probe, reconstruct
from agent.reconstruction.solver.learned import Learned
from agent.reconstruction.solver.oddities import in_the_corners
from agent.reconstruction.solver.reconstructor import Reconstructor
from agent.reconstruction.solver.result import Reconstruction

if TYPE_CHECKING:
    from agent.reconstruction.calibration.bright_field import BrightFieldDisc, fit_disc
    from agent.reconstruction.calibration.calibrate import Calibration, calibrate
    from agent.reconstruction.calibration.expectation import deviance_of_part
    from agent.reconstruction.calibration.finding import DEFOCUS_REPEATS, FINE_POSITIONS, Tuned, find
    from agent.reconstruction.calibration.held_out import HeldOut, Prediction
    from agent.reconstruction.calibration.model_choice import ModelChoice, choose_model
    from agent.reconstruction.calibration.parameters import (
        DEFOCUS_WIDTH,
        deviations,
        members,
        widths,
        with_usual_coherence,
    )

_CALIBRATION = {
    "BrightFieldDisc": "bright_field",
    "Calibration": "calibrate",
    "DEFOCUS_REPEATS": "finding",
    "DEFOCUS_WIDTH": "parameters",
    "FINE_POSITIONS": "finding",
    "HeldOut": "held_out",
    "ModelChoice": "model_choice",
    "Prediction": "held_out",
    "Tuned": "finding",
    "calibrate": "calibrate",
    "choose_model": "model_choice",
    "deviance_of_part": "expectation",
    "deviations": "parameters",
    "find": "finding",
    "fit_disc": "bright_field",
    "members": "parameters",
    "widths": "parameters",
    "with_usual_coherence": "parameters",
}
__all__ = [
    "DEFOCUS_REPEATS",
    "DEFOCUS_WIDTH",
    "FINE_POSITIONS",
    "PARTS",
    "SMALLEST_DETECTOR",
    "Bounds",
    "BrightFieldDisc",
    "Calibration",
    "DiffractionData",
    "HeldOut",
    "Learned",
    "ModelChoice",
    "Prediction",
    "Reconstruction",
    "ReconstructionSettings",
    "Reconstructor",
    "Survey",
    "Tuned",
    "calibrate",
    "carried_probe",
    "check_data",
    "choose_model",
    "choose_padding",
    "deviance_of_part",
    "deviations",
    "expected_deviance",
    "find",
    "fit_disc",
    "gpu_reason",
    "halves",
    "in_the_corners",
    "members",
    "paste",
    "reconstruct",
    "selected",
    "survey",
    "thin",
    "tukey",
    "widths",
    "window_of",
    "with_usual_coherence",
]


def __getattr__(name: str) -> Any:
    """Calibration brings SciPy in, which a reconstruction does not need: only who asks for it waits for it."""
    if name in _CALIBRATION:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.calibration.{_CALIBRATION[name]}"), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)

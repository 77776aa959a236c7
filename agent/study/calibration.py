"""What the product's own calibration makes of a first acquisition, beside what is true."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator

from agent.errors import StoppedError
from agent.processing.column import Measured, measure_column
from agent.processing.process import cleaned_data
from agent.storage.acquisition_file import Acquisition
from agent.study.exposures import Exposed, Truth
from agent.study.records import CalibrationRecord
from instrument import optics


def calibrated(acquisition: Acquisition) -> Measured:
    """The acquisition as a campaign's first one, with everything about its column that the counts tell.

    Raises:
        BadInputError: the scan does not tell what it has to.
    """
    cleaned = cleaned_data(acquisition)
    return measure_column(
        cleaned.data,
        acquisition.description,
        raster=cleaned.raster,
        known=None,
        enabled=True,
        on_progress=lambda fraction: None,
    )


def calibration_records(exposed: Iterable[Exposed]) -> Iterator[CalibrationRecord]:
    """One record for each acquisition.

    Args:
        exposed: first acquisitions of their columns.
    """
    for each in exposed:
        base = CalibrationRecord.asked(each.column, each.planned).model_copy(update={"error": each.error})
        if each.acquisition is None or each.truth is None:
            yield base
            continue
        base = base.model_copy(update={"true_defocus": each.truth.defocus, "defocus": base.nominal_defocus})
        started = time.perf_counter()
        try:
            found = _compared(calibrated(each.acquisition), each.truth)
            seconds = round(time.perf_counter() - started, 3)
            record = CalibrationRecord.model_validate({**base.model_dump(), "seconds": seconds, **found})
        except StoppedError:
            raise
        except Exception as error:  # one column that fails must not end a study, nor a number that is none
            record = base.model_copy(update={"error": " ".join(str(error).split()) or type(error).__name__})
        yield record


def _compared(measured: Measured, truth: Truth) -> dict[str, object]:
    """The fields that hold what was measured."""
    rotation, mirrored = optics.rotation_and_hand(measured.state.matrix)
    sd, rotation_sd = measured.state.sd.get("defocus"), measured.state.sd.get("rotation")
    return {
        "defocus": float(measured.data.defocus),
        "defocus_sd": None if sd is None else float(sd),
        "found": sd is not None,
        "rotation_error": degrees_between(rotation, truth.rotation),
        "rotation_sd": None if rotation_sd is None else math.degrees(rotation_sd),
        "right_hand": mirrored == truth.mirrored,
        "notes": measured.notes,
    }


def degrees_between(angle: float, reference: float) -> float:
    """`angle` less `reference`, both rad, in degrees within ± 180."""
    return math.degrees(math.remainder(angle - reference, 2 * math.pi))

"""The probe to start from, where a person has one in a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agent.errors import BadInputError
from agent.reconstruction import DiffractionData, carried_probe
from agent.storage.reconstruction_file import read_reconstruction
from instrument.errors import NUMPY_REFUSES

OTHER_APERTURE = 0.02
"""Relative difference of semi-angles from which a probe is that of another aperture."""


def initial_probe(path: Path, data: DiffractionData) -> NDArray[np.complexfloating] | None:
    """Waves for `DiffractionData.probe`; None: those of the file went through another aperture, and are no start here.

    Args:
        path: a reconstruction file, whose probe is taken from its optics to those of the data, or a .npy file with waves
            (modes, y, x) or (y, x) over the window of a pattern, which are taken as they are.
        data: with the optics that they were taken with.

    Returns:
        (modes, y, x), real space, centred at N//2.

    Raises:
        BadInputError: it cannot be read, or is of another window.
    """
    if path.suffix.lower() != ".npy":
        try:
            stored = read_reconstruction(path)
            if abs(stored.description.semiangle / data.semiangle - 1) > OTHER_APERTURE:
                return None
            return carried_probe(stored.reconstruction, data)
        except BadInputError as error:
            msg = f"the probe cannot be taken from {path} ({error}); reconstruction files and .npy are read"
            raise BadInputError(msg) from error
    try:
        waves = np.load(path, allow_pickle=False)
    except NUMPY_REFUSES as error:
        msg = f"{path}: no probe can be read from it ({error})"
        raise BadInputError(msg) from error
    window = data.patterns.shape[1:]
    if waves.ndim not in (2, 3) or waves.shape[-2:] != window or waves.dtype.kind != "c":
        msg = (
            f"{path}: holds {waves.dtype} of shape {waves.shape}; complex waves (modes, {window[0]}, {window[1]}) are expected, "
            f"in real space, centred"
        )
        raise BadInputError(msg)
    found: NDArray[np.complexfloating] = waves if waves.ndim == 3 else waves[None]
    return found

# SPDX-License-Identifier: GPL-3.0-or-later
"""Projected potentials of a window of the specimen, made by abTEM (Lobato & Van Dyck parametrization).

Windows are computed when they are needed: a window of 90 Å takes a fraction of a second, the whole flake many.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.fft import next_fast_len

from instrument.models import Rectangle
from sim_instrument.specimen import Specimen

RIM = 5.0
"""Å beyond a window from which atoms still contribute; a projected Lobato potential has decayed below 1e-3 there."""
_IMPORTING = threading.Lock()


def import_abtem() -> Any:
    """The module abtem. What it compiles is kept on disk: by itself it compiles for 2.5 s in every process."""
    with _IMPORTING:
        if "abtem" not in sys.modules:
            import numba

            decorators = {name: getattr(numba, name) for name in ("jit", "njit", "vectorize", "guvectorize")}
            try:
                for name, decorator in decorators.items():
                    setattr(numba, name, _keeping(decorator))
                importlib.import_module("abtem")
            finally:
                for name, decorator in decorators.items():
                    setattr(numba, name, decorator)
        return sys.modules["abtem"]


def _keeping(decorator: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator of numba's with `cache=True`, where there is a folder that can be written."""

    def keeping(*arguments: Any, **options: Any) -> Any:
        if inspect.isfunction(arguments[0] if arguments else None):  # without brackets
            return keeping(**options)(*arguments)

        def compiled(function: Callable[..., Any]) -> Any:
            try:
                return decorator(*arguments, **{**options, "cache": True})(function)
            except RuntimeError:
                return decorator(*arguments, **options)(function)

        return compiled

    return keeping


def projected_potentials(
    specimen: Specimen,
    frame: NDArray[np.float64],
    origin: NDArray[np.float64],
    shape: tuple[int, int],
    pixel: float,
    positions: NDArray[np.float64] | None = None,
    present: NDArray[np.bool_] | None = None,
) -> NDArray[np.float32]:
    """The potential of each layer, projected along the beam.

    Args:
        specimen: the atoms.
        frame: orthogonal 2 × 2 matrix that takes a specimen position (y, x) to the window's frame.
        origin: (2,) of pixel (0, 0) in the window's frame, (y, x), Å.
        shape: (y, x) pixels.
        pixel: Å.
        positions: (n, 3) atoms displaced from `specimen.positions`, Å; None: at rest.
        present: (n,) which atoms are there; None: all.

    Returns:
        (layers, y, x), V Å.
    """
    rim = int(np.ceil(RIM / pixel))
    padded = tuple(next_fast_len(n + 2 * rim) for n in shape)
    atoms = specimen.positions if positions is None else positions
    local = atoms[:, :2] @ frame.T - (origin - rim * pixel)
    inside = np.all((local >= 0) & (local < np.array(padded) * pixel), axis=1)
    if present is not None:
        inside &= present
    out = np.zeros((len(specimen.layer_depth), *shape), dtype=np.float32)
    local, numbers, layer = local[inside], specimen.numbers[inside], specimen.layer[inside]
    before: tuple[NDArray[np.float64], NDArray[np.int64]] | None = None
    for index in range(len(out)):
        chosen = layer == index
        now = local[chosen], numbers[chosen]
        if before is not None and np.array_equal(now[0], before[0]) and np.array_equal(now[1], before[1]):
            out[index] = out[index - 1]
        elif chosen.any():
            whole = _one_slice(*now, padded, pixel)
            out[index] = whole[rim : rim + shape[0], rim : rim + shape[1]]
        before = now
    return out


def _one_slice(
    positions: NDArray[np.float64], numbers: NDArray[np.int64], shape: Sequence[int], pixel: float
) -> NDArray[np.float32]:
    """Potential of atoms at (y, x) in a periodic box of `shape` pixels, V Å. abTEM's first axis is our y."""
    from ase import Atoms

    abtem = import_abtem()
    thickness = 1.0
    box = Atoms(
        numbers=numbers,
        positions=np.column_stack([positions, np.full(len(positions), thickness / 2)]),
        cell=[shape[0] * pixel, shape[1] * pixel, thickness],
        pbc=True,
    )
    potential = abtem.Potential(
        box, gpts=tuple(shape), slice_thickness=thickness, parametrization="lobato", projection="infinite"
    )
    slices = np.asarray(potential.build(lazy=False).array, dtype=np.float32)
    projected: NDArray[np.float32] = slices.sum(axis=0)
    return projected


def true_potential(
    specimen: Specimen, rectangle: Rectangle, pixel: float, present: NDArray[np.bool_] | None = None
) -> NDArray[np.float32]:
    """The projected potential of all layers.

    Args:
        specimen: the atoms, at rest.
        rectangle: window, Å, specimen frame.
        pixel: Å.
        present: (n,) which atoms are there; None: all.

    Returns:
        (y, x), V Å, at rectangle.y + i · pixel, rectangle.x + j · pixel.
    """
    shape = round(rectangle.height / pixel), round(rectangle.width / pixel)
    origin = np.array([rectangle.y, rectangle.x])
    layers = projected_potentials(specimen, np.eye(2), origin, shape, pixel, present=present)
    whole: NDArray[np.float32] = layers.sum(axis=0)
    return whole

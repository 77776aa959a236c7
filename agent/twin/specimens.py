"""Thin specimens of a class, drawn by seed: the projected phase of their atoms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from agent.aims import SpecimenClass
from agent.errors import BadInputError
from instrument import optics

CLASSES: tuple[SpecimenClass, ...] = get_args(SpecimenClass)
_FORWARD_SCATTERING = {"C": 2.51, "O": 1.98, "S": 5.16, "Ti": 8.78, "Mo": 10.26, "Sr": 13.1, "W": 10.95}
"""f_e(0) of the elements, Å."""
_VOLT = 47.88
"""h²/(2π m e), V Å²: potential of an atom, integrated over space, per Å of f_e(0)."""


@dataclass(frozen=True)
class Specimen:
    """Atoms seen along the beam.

    Attributes:
        places: (n, 2), (y, x), Å.
        strength: (n,) projected potential, integrated over the plane, V Å³.
        width: standard deviation of an atom's projected potential with its vibrations, Å.
    """

    places: NDArray[np.float64]
    strength: NDArray[np.float64]
    width: float

    def phase(self, y: NDArray[np.float64], x: NDArray[np.float64], voltage: float) -> NDArray[np.float64]:
        """The projected phase.

        Args:
            y: (n,) rows, Å.
            x: (m,) columns, Å.
            voltage: eV.

        Returns:
            (n, m) rad.
        """
        rows = np.exp(-((y[None] - self.places[:, :1]) ** 2) / (2 * self.width**2))
        columns = np.exp(-((x[None] - self.places[:, 1:]) ** 2) / (2 * self.width**2))
        scale = optics.interaction_parameter(voltage) / (2 * np.pi * self.width**2)
        phase: NDArray[np.float64] = scale * (rows * self.strength[:, None]).T @ columns
        return phase


def checked_classes(text: str) -> tuple[str, ...]:
    """The classes of an option, with commas between.

    Args:
        text: as given.

    Raises:
        BadInputError: a class is unknown.
    """
    named = tuple(part.strip() for part in text.split(","))
    for kind in named:
        if kind not in CLASSES:
            msg = f"specimen class {kind!r} is unknown; legal: {', '.join(CLASSES)}"
            raise BadInputError(msg)
    return named


def draw_specimen(kind: str, rng: np.random.Generator, reach: float) -> Specimen:
    """A specimen of a class.

    Args:
        kind: one of CLASSES.
        rng: that draws it.
        reach: Å from the middle, in every direction, to which there are atoms.

    Raises:
        BadInputError: the class is unknown.
    """
    if kind == "layered":
        heavy, lattice = str(rng.choice(["Mo", "W"])), rng.uniform(3.1, 3.4)
        basis = [(0.0, 0.0, heavy), (1 / 3, 1 / 3, "S"), (1 / 3, 1 / 3, "S")]
        layers = [_lattice(lattice, 120.0, basis, rng, reach) for _ in range(int(rng.integers(1, 3)))]
    elif kind == "light":
        basis = [(0.0, 0.0, "C"), (1 / 3, 1 / 3, "C")]
        layers = [_lattice(2.46, 120.0, basis, rng, reach) for _ in range(int(rng.integers(1, 5)))]
    elif kind == "crystal":
        basis = [(0.0, 0.0, "Sr"), (0.5, 0.5, "Ti"), (0.5, 0.5, "O"), (0.0, 0.5, "O"), (0.5, 0.0, "O")]
        layers = [_lattice(3.905, 90.0, basis, rng, reach)] * int(rng.integers(3, 8))
    elif kind == "amorphous":
        count = int(rng.uniform(0.8, 3.0) * (2 * reach) ** 2)
        layers = [(rng.uniform(-reach, reach, (count, 2)), rng.choice(["C", "C", "C", "O", "S"], count))]
    else:
        msg = f"specimen class {kind!r} is unknown; legal: {', '.join(CLASSES)}"
        raise BadInputError(msg)
    places = np.concatenate([place for place, _ in layers])
    elements = np.concatenate([element for _, element in layers])
    strength = np.array([_VOLT * _FORWARD_SCATTERING[element] for element in elements])
    return Specimen(places, strength, rng.uniform(0.26, 0.36))


def _lattice(
    length: float, angle: float, basis: list[tuple[float, float, str]], rng: np.random.Generator, reach: float
) -> tuple[NDArray[np.float64], NDArray[np.str_]]:
    """Atoms of a turned and shifted crystal within `reach` of the middle, with one atom in fifty missing."""
    n = int(np.ceil(2 * reach / length)) + 2
    i, j = (index.ravel() for index in np.meshgrid(np.arange(-n, n + 1), np.arange(-n, n + 1), indexing="ij"))
    turn, gamma, shift = rng.uniform(0, 2 * np.pi), np.deg2rad(angle), rng.uniform(0, length, 2)
    first = length * np.array([np.cos(turn), np.sin(turn)])
    second = length * np.array([np.cos(turn + gamma), np.sin(turn + gamma)])
    places = np.concatenate([(i + u)[:, None] * first + (j + v)[:, None] * second + shift for u, v, _ in basis])
    elements = np.repeat([element for _, _, element in basis], len(i))
    kept = (np.abs(places) <= reach).all(axis=1) & (rng.random(len(places)) > 0.02)
    return places[kept], elements[kept]
